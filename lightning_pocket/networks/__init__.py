"""Network architectures: plain ``nn.Module`` classes that know nothing of Lightning."""

from .base import Classifier, Network
from .basic_resnet import BasicResNet
from .deeplab import DeepLabV3Plus
from .encoder_classifier import EncoderClassifier
from .fcn import FCN
from .hrnet import HRNet
from .lighter_unet import BilinearUNet
from .unet import UNet

__all__ = [
    "FCN",
    "BasicResNet",
    "BilinearUNet",
    "Classifier",
    "DeepLabV3Plus",
    "EncoderClassifier",
    "HRNet",
    "Network",
    "UNet",
]
