"""Network architectures: plain ``nn.Module`` classes that know nothing of Lightning."""

from .base import Network
from .hrnet import HRNet
from .unet import UNet

__all__ = ["HRNet", "Network", "UNet"]
