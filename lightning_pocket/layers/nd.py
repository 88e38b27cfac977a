"""The only place that knows the 2D classes of torch from the 3D ones."""

from collections.abc import Sequence

from torch import nn

from lightning_pocket.errors import PocketError

#: Layers that hold a kernel, for whoever initializes, counts or removes weights.
KERNEL_LAYERS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_GLOBAL_MEAN_POOL: dict[int, type[nn.Module]] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}


def conv_class(spatial_dims: int) -> type[nn.Module]:
    """Return the convolution class for ``(B, C, H, W)`` or ``(B, C, D, H, W)``."""
    return _pick(_CONV, spatial_dims)


def conv_transpose_class(spatial_dims: int) -> type[nn.Module]:
    """Return the transposed convolution class."""
    return _pick(_CONV_TRANSPOSE, spatial_dims)


def batch_norm_class(spatial_dims: int) -> type[nn.Module]:
    """Return the batch normalization class."""
    return _pick(_BATCH_NORM, spatial_dims)


def instance_norm_class(spatial_dims: int) -> type[nn.Module]:
    """Return the instance normalization class."""
    return _pick(_INSTANCE_NORM, spatial_dims)


def max_pool_class(spatial_dims: int) -> type[nn.Module]:
    """Return the max-pooling class."""
    return _pick(_MAX_POOL, spatial_dims)


def global_mean_pool_class(spatial_dims: int) -> type[nn.Module]:
    """Return the class of mean pooling to a given size."""
    return _pick(_GLOBAL_MEAN_POOL, spatial_dims)


def dropout_class(spatial_dims: int) -> type[nn.Module]:
    """Return the class of dropout that zeroes whole channels."""
    return _pick(_DROPOUT, spatial_dims)


def upsample_mode(spatial_dims: int) -> str:
    """Return what torch calls linear interpolation along every axis."""
    _pick(_CONV, spatial_dims)
    return {2: "bilinear", 3: "trilinear"}[spatial_dims]


def per_axis(value: int | Sequence[int], spatial_dims: int, key: str) -> tuple[int, ...]:
    """Return one positive integer per spatial axis.

    Args:
        value: One number for all axes, or one per axis.
        spatial_dims: Number of spatial axes, 2 or 3.
        key: Name of the setting, for the error message.

    Raises:
        PocketError: If ``spatial_dims`` is neither 2 nor 3, there is not one number per axis, or one is below 1.
    """
    _pick(_CONV, spatial_dims)
    sizes = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(sizes) != spatial_dims or min(sizes) < 1:
        raise PocketError(
            f"{key}: found {value}, expected {spatial_dims} integers of at least 1, one per spatial axis "
            f"(spatial_dims is {spatial_dims})."
        )
    return sizes


def _pick(classes: dict[int, type[nn.Module]], spatial_dims: int) -> type[nn.Module]:
    if spatial_dims not in classes:
        raise PocketError(f"spatial_dims: found {spatial_dims}, expected 2 (slices) or 3 (volumes).")
    return classes[spatial_dims]
