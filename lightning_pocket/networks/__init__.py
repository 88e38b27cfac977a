"""Network architectures: plain ``nn.Module`` classes that know nothing of Lightning."""

from .base import Classifier, Network
from .encoder_classifier import EncoderClassifier
from .hrnet import HRNet
from .unet import UNet

__all__ = ["Classifier", "EncoderClassifier", "HRNet", "Network", "UNet"]
