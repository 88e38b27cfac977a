"""Network architectures: plain ``nn.Module`` classes that know nothing of Lightning."""

from .alexnet import AlexNet
from .all_cnn import AllCNN
from .base import Classifier, Network
from .basic_resnet import BasicResNet
from .deeplab import DeepLabV3Plus
from .encoder_classifier import EncoderClassifier
from .fcn import FCN
from .hrnet import HRNet
from .lenet import LeNet5
from .lighter_unet import BilinearUNet
from .mobilenet import MobileNet
from .mobilenet_v2 import MobileNetV2
from .resnet import ResNet
from .shufflenet_v2 import ShuffleNetV2
from .small_net import SmallNet
from .unet import UNet
from .vgg import VGG

__all__ = [
    "FCN",
    "VGG",
    "AlexNet",
    "AllCNN",
    "BasicResNet",
    "BilinearUNet",
    "Classifier",
    "DeepLabV3Plus",
    "EncoderClassifier",
    "HRNet",
    "LeNet5",
    "MobileNet",
    "MobileNetV2",
    "Network",
    "ResNet",
    "ShuffleNetV2",
    "SmallNet",
    "UNet",
]
