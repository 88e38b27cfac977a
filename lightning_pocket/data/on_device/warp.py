"""Affine and elastic deformation in one resampling: image linear, label nearest, with ITK's conventions.

A voxel's centre has its integer index; an image reaches half a voxel beyond its outer centres, where the outer values
go on, and is filled beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from .steps import Affine, Elastic, Warp

Coordinates = tuple[Tensor, Tensor, Tensor]  # each broadcasts to (n, D, H, W), in voxels along D, H, W

#: Degree of the B-splines.
_DEGREE = 3
#: How far the domain of the B-splines reaches beyond the image, in voxels (ITK's BSplineTransformInitializer).
_MARGIN = 0.125
#: Voxels resampled at once: coordinates take some 60 bytes each.
_AT_ONCE = 2**23


def warp(image: Tensor, label: Tensor | None, steps: Sequence[Warp]) -> None:
    """Deform samples in place.

    Args:
        image: ``(n, C, D, H, W)`` float.
        label: ``(n, D, H, W)`` integers, or None.
        steps: One per sample, with parts of the same kinds.
    """
    shape = image.shape[2:]
    together = max(1, _AT_ONCE // shape.numel())
    for first in range(0, len(steps), together):
        chosen = slice(first, first + together)
        part = steps[chosen]
        coordinates = _coordinates(part, shape, image.device)
        inside = _inside(coordinates, shape, 0.5)
        if label is not None:
            filling = _label_filling(label[chosen], part)
            label[chosen] = torch.where(inside, _nearest(label[chosen], coordinates), filling)
        moved = _linear(image[chosen], coordinates)
        image[chosen] = torch.where(inside[:, None], moved, _image_filling(image[chosen], part))


def affine_matrix(step: Affine, shape: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what takes the index of a voxel of the result to that of the image it comes from.

    Args:
        step: What was drawn.
        shape: Voxels along D, H, W.

    Returns:
        Matrix ``(3, 3)`` and offset ``(3,)``: ``source = matrix @ index + offset``.
    """
    scales, degrees = np.array(step.scales), np.array(step.degrees)
    if shape[2] == 1:  # what TorchIO takes for a 2D image
        scales[2], degrees[:2] = 1, 0
    spacing = np.array(step.spacing)
    centre = spacing * (np.array(shape) - 1) / 2 if step.centered else np.zeros(3)
    rotation = _turn(2, degrees[2]) @ _turn(0, degrees[0]) @ _turn(1, degrees[1])
    back = np.linalg.inv(_shear(step.shears)) @ rotation.T
    to_mm = back / scales  # back from the result: unscale, shift back, turn back, straighten
    offset = centre - to_mm @ centre - back @ np.array(step.translation)
    return to_mm * spacing / spacing[:, None], offset / spacing


def displacement(steps: Sequence[Elastic | None], shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the displacement ``(n, 3, D, H, W)`` in voxels at each voxel; zero where there is no step."""
    count = next(step.control_points.shape for step in steps if step is not None)
    points = np.zeros((len(steps), *count), np.float64)
    for place, step in enumerate(steps):
        if step is not None:
            points[place] = step.control_points / np.array(step.spacing)
    points = points[:, ::-1, ::-1].copy()  # L and P, along which ITK places control points, run against D and H
    points[..., :2] *= -1
    if shape[2] == 1:  # what TorchIO takes for a 2D image
        points[..., 2] = 0
    field = np.moveaxis(points, -1, 1)
    weights = [_spline_weights(size, number) for size, number in zip(shape, count[:3], strict=True)]
    for axis, weight in enumerate(weights[:2]):  # small so far: the last axis makes it large, on the device
        field = np.moveaxis(np.tensordot(field, weight, (axis + 2, 1)), -1, axis + 2)
    last = torch.from_numpy(weights[2].T.astype(np.float32)).to(device)
    return torch.from_numpy(np.ascontiguousarray(field, np.float32)).to(device) @ last


def _coordinates(steps: Sequence[Warp], shape: Sequence[int], device: torch.device) -> Coordinates:
    """Return where each voxel of the results comes from.

    The last transform is undone first: what it takes voxel x from is where the one before is asked.
    """
    d, h, w = (torch.arange(size, device=device, dtype=torch.float32) for size in shape)
    coordinates: Coordinates = (d[:, None, None], h[:, None], w)
    on_grid = True
    for column in reversed(list(zip(*(step.parts for step in steps), strict=True))):
        affines = [part if isinstance(part, Affine) else None for part in column]
        elastics = [part if isinstance(part, Elastic) else None for part in column]
        if any(affines):
            coordinates, on_grid = _through_affine(coordinates, affines, shape), False
        elif any(elastics):
            coordinates, on_grid = _through_elastic(coordinates, elastics, shape, on_grid), False
    size = (len(steps), *shape)
    return coordinates[0].expand(size), coordinates[1].expand(size), coordinates[2].expand(size)


def _through_affine(coordinates: Coordinates, steps: Sequence[Affine | None], shape: Sequence[int]) -> Coordinates:
    identity = np.eye(3), np.zeros(3)
    found = [affine_matrix(step, shape) if step else identity for step in steps]
    rows = np.stack([np.concatenate([matrix, offset[:, None]], 1) for matrix, offset in found])
    # (3, 4, n, 1, 1, 1): row, column, sample
    entry = torch.from_numpy(rows.astype(np.float32)).to(coordinates[0].device).permute(1, 2, 0)[..., None, None, None]
    d, h, w = coordinates
    sources = [e[0] * d + e[1] * h + e[2] * w + e[3] for e in entry]
    return sources[0], sources[1], sources[2]


def _through_elastic(
    coordinates: Coordinates, steps: Sequence[Elastic | None], shape: Sequence[int], on_grid: bool
) -> Coordinates:
    field = displacement(steps, shape, coordinates[0].device)
    if not on_grid:  # the field is smooth: interpolating it errs by some thousandths of a voxel
        inside = _inside(coordinates, shape, 0.5 + _MARGIN)
        field = torch.where(inside[:, None], _linear(field, coordinates), 0)
    d, h, w = coordinates
    return d + field[:, 0], h + field[:, 1], w + field[:, 2]


def _inside(coordinates: Coordinates, shape: Sequence[int], margin: float) -> Tensor:
    """Return ``(n, D, H, W)``: which coordinates lie at most ``margin`` voxels beyond the outer centres."""
    d, h, w = ((axis >= -margin) & (axis < size - 1 + margin) for axis, size in zip(coordinates, shape, strict=True))
    return d & h & w


def _linear(image: Tensor, coordinates: Coordinates) -> Tensor:
    sizes = image.shape[2:]
    scaled = [(2 * axis + 1) / size - 1 for axis, size in zip(coordinates, sizes, strict=True)]
    grid = torch.stack(scaled[::-1], -1)
    return grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _nearest(label: Tensor, coordinates: Coordinates) -> Tensor:
    # Halves are rounded up, as ITK does; grid_sample would round them to even.
    places = [
        (axis + 0.5).floor().clamp(0, size - 1).long() for axis, size in zip(coordinates, label.shape[1:], strict=True)
    ]
    index = (places[0] * label.shape[2] + places[1]) * label.shape[3] + places[2]
    return label.flatten(1).gather(1, index.flatten(1)).view_as(label)


def _image_filling(image: Tensor, steps: Sequence[Warp]) -> Tensor:
    """Return ``(n, C, 1, 1, 1)``: what lies around each channel."""
    values = []
    for sample, step in zip(image, steps, strict=True):
        pad = next((part.pad for part in step.parts if isinstance(part, Affine)), "minimum")
        if isinstance(pad, int | float):
            values.append(sample.new_full(sample.shape[:1], pad))
        elif pad == "mean":
            faces = [sample.select(axis, end).flatten(1) for axis in (1, 2, 3) for end in (0, -1)]
            values.append(torch.cat(faces, 1).mean(1))
        else:
            values.append(sample.amin((1, 2, 3)))
    return torch.stack(values)[..., None, None, None]


def _label_filling(label: Tensor, steps: Sequence[Warp]) -> Tensor:
    """Return ``(n, 1, 1, 1)``: what lies around each label."""
    values = []
    for sample, step in zip(label, steps, strict=True):
        pad = next((part.label_pad for part in step.parts if isinstance(part, Affine)), None)
        values.append(sample.min() if pad is None else sample.new_full((), int(pad)))
    return torch.stack(values)[:, None, None, None]


def _turn(axis: int, degrees: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(3)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _shear(degrees: tuple[float, float]) -> NDArray[np.float64]:
    """Return what leans W towards H, and H towards W."""
    matrix = np.eye(3)
    matrix[1, 2], matrix[2, 1] = np.tan(np.deg2rad(degrees))
    return matrix


def _spline_weights(size: int, number: int) -> NDArray[np.float64]:
    """Return ``(size, number)``: the share of each control point in the displacement of each voxel along an axis.

    Cubic B-splines on ``number - 3`` equal cells; the first control point lies one cell before the domain.
    """
    cells = (np.arange(size) + 0.5 + _MARGIN) / (size + 2 * _MARGIN) * (number - _DEGREE)
    distance = np.abs(cells[:, None] - (np.arange(number) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clip(0) ** 3 / 6
    weights: NDArray[np.float64] = np.where(distance < 1, near, far)
    return weights
