"""Apply what was drawn to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .intensity import add_noise, blur, change_gamma, multiply_bias
from .steps import BiasField, Blur, Flip, Gamma, Noise, Recipe
from .warp import warp

_ON_IMAGES: dict[type, Callable[[Tensor, Sequence[Any]], None]] = {
    Noise: add_noise,
    Blur: blur,
    Gamma: change_gamma,
    BiasField: multiply_bias,
}


@torch.no_grad()
def augment(image: Tensor, label: Tensor | None, recipes: Sequence[Recipe]) -> None:
    """Transform a batch in place, on the device it is on.

    Args:
        image: ``(B, C, D, H, W)`` float32; slices have one voxel along D.
        label: ``(B, D, H, W)`` integers, moved along with the image; None where there are none.
        recipes: What was drawn for each sample.
    """
    for column in zip(*(recipe.steps for recipe in recipes), strict=True):
        chosen = [place for place, step in enumerate(column) if step is not None]
        if not chosen:
            continue
        steps = [column[place] for place in chosen]
        if isinstance(steps[0], Flip):
            _flip(image, label, column)
            continue
        images, labels = _take(image, chosen), None if label is None else _take(label, chosen)
        change = _ON_IMAGES.get(type(steps[0]))
        if change is not None:
            change(images, steps)
        else:
            warp(images, labels, steps)
            _give_back(label, labels, chosen)
        _give_back(image, images, chosen)


def _flip(image: Tensor, label: Tensor | None, column: Sequence[Any]) -> None:
    for place, step in enumerate(column):
        if step is not None:
            image[place] = image[place].flip([axis + 1 for axis in step.axes])
            if label is not None:
                label[place] = label[place].flip(list(step.axes))


def _take(whole: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return the chosen samples; all of them as they are, since they are changed in place."""
    if len(chosen) == len(whole):
        return whole
    if len(chosen) == 1:
        return whole[chosen[0] : chosen[0] + 1]
    return torch.stack([whole[place] for place in chosen])  # a list as index would wait for the GPU


def _give_back(whole: Tensor | None, part: Tensor | None, chosen: Sequence[int]) -> None:
    if whole is None or part is None or len(chosen) in (1, len(whole)):
        return  # already changed in place
    for place, sample in zip(chosen, part, strict=True):
        whole[place] = sample
