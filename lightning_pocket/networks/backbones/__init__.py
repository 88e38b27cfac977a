"""Image classifiers without their classifier, named as in torchvision so that their ImageNet weights fit."""

from .base import Backbone
from .mobilenet import MobileNetV2
from .resnet import ResNet101
from .vgg import VGG16
from .weights import load_backbone
from .xception import Xception

__all__ = ["VGG16", "Backbone", "MobileNetV2", "ResNet101", "Xception", "load_backbone"]
