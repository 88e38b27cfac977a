"""From raw images to batches; the only package that imports TorchIO."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .image_module import ImageDataModule
    from .image_stream import StreamedImageDataModule
    from .volumes import VolumeDataModule

__all__ = ["ImageDataModule", "StreamedImageDataModule", "VolumeDataModule"]

_MODULES = {
    "ImageDataModule": "image_module",
    "StreamedImageDataModule": "image_stream",
    "VolumeDataModule": "volumes",
}


def __getattr__(name: str) -> Any:
    """Import torch and TorchIO only when a data module is asked for: preparing data needs neither."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
