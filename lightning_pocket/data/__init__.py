"""From raw images to batches of patches; the only package that imports TorchIO."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .volumes import VolumeDataModule

__all__ = ["VolumeDataModule"]


def __getattr__(name: str) -> Any:
    """Import torch and TorchIO only when a data module is asked for: preparing data needs neither."""
    if name in __all__:
        from . import volumes

        return getattr(volumes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
