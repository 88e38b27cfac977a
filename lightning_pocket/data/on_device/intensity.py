"""Noise, blur, gamma and bias field for several samples at once, each with parameters of its own.

Images are ``(n, C, D, H, W)`` float and are changed in place; steps are one per sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .steps import BiasField, Blur, Gamma, Noise

#: Standard deviations after which the Gaussian is cut off (scipy.ndimage.gaussian_filter).
_TRUNCATE = 4.0


def add_noise(image: Tensor, steps: Sequence[Noise]) -> None:
    """Add Gaussian noise, drawn on the image's device from the seed of each sample."""
    generator = torch.Generator(image.device)
    for sample, step in zip(image, steps, strict=True):
        generator.manual_seed(step.seed)
        noise = torch.randn(sample.shape, generator=generator, device=image.device)
        sample.add_(noise.mul_(step.std).add_(step.mean))


def blur(image: Tensor, steps: Sequence[Blur]) -> None:
    """Blur along D, H and W in turn; beyond its border an image is mirrored."""
    for axis in range(3):
        weights = _gaussians([step.std[axis] for step in steps])
        if weights.shape[1] > 1:
            _convolve(image, torch.from_numpy(weights).to(image), axis + 2)


def change_gamma(image: Tensor, steps: Sequence[Gamma]) -> None:
    """Raise magnitudes to a power; signs stay."""
    powers = torch.tensor([step.powers for step in steps], device=image.device)[..., None, None, None]
    sign = image.sign()
    image.abs_().pow_(powers).mul_(sign)


def multiply_bias(image: Tensor, steps: Sequence[BiasField]) -> None:
    """Multiply by the exponential of a polynomial in the coordinates, which run from -1 to 1 along each axis."""
    order = steps[0].order
    d, h, w = (_powers(size, order) for size in image.shape[2:])
    on_plane = np.einsum("nabc,da,hb->ndhc", np.stack([_coefficients(step) for step in steps]), d, h)
    exponent = torch.from_numpy(on_plane.astype(np.float32)).to(image) @ torch.from_numpy(w.T.copy()).to(image)
    image.mul_(exponent.exp_()[:, None])


def _gaussians(stds: Sequence[float]) -> NDArray[np.float64]:
    """Return ``(n, R + 1)``: the weights of a voxel and its neighbours on one side, zero beyond each one's reach."""
    reach = [int(_TRUNCATE * std + 0.5) for std in stds]
    weights = np.zeros((len(stds), max(reach) + 1))
    for row, std, far in zip(weights, stds, reach, strict=True):
        row[0] = 1
        if far > 0:
            row[: far + 1] = np.exp(-0.5 * (np.arange(far + 1) / std) ** 2)
        row /= row[0] + 2 * row[1:].sum()
    return weights


def _convolve(image: Tensor, weights: Tensor, axis: int) -> None:
    """Convolve each sample with its symmetric weights ``(n, R + 1)`` along an axis."""
    size, reach = image.shape[axis], weights.shape[1] - 1
    period = np.arange(-reach, size + reach) % (2 * size)
    mirrored = torch.from_numpy(np.where(period < size, period, 2 * size - 1 - period)).to(image.device)
    padded = image.index_select(axis, mirrored)
    column = weights[:, :, None, None, None, None].unbind(1)
    image.mul_(column[0])
    for distance in range(1, reach + 1):
        both = padded.narrow(axis, reach - distance, size) + padded.narrow(axis, reach + distance, size)
        image.addcmul_(both, column[distance])


def _powers(size: int, order: int) -> NDArray[np.float64]:
    """Return ``(size, order + 1)``: powers of the coordinate of each voxel along an axis."""
    places = np.arange(size) - (size - 1) / 2
    powers: NDArray[np.float64] = np.stack(
        [(places / max(places.max(), 0.5)) ** power for power in range(order + 1)], 1
    )
    return powers


def _coefficients(step: BiasField) -> NDArray[np.float64]:
    """Return the coefficients as an array ``(order + 1,) * 3`` of the powers of D, H and W."""
    cube = np.zeros((step.order + 1,) * 3)
    values = iter(step.coefficients)
    for d in range(step.order + 1):
        for h in range(step.order + 1 - d):
            for w in range(step.order + 1 - d - h):
                cube[d, h, w] = next(values)
    return cube
