"""What the head of a trained network is given: the mean of each channel over the test cases (PocketNet, figure 4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Network
from lightning_pocket.reports.activation_page import ChannelMeans
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.tasks import BaseTask, SegmentationTask, load_task
from lightning_pocket.tasks.head import head_layers

from .run_data import load_data


class HeadInputs:
    """Maps images to the features that the head of a network turns into logits.

    Args:
        network: Any network; its head is what :func:`~lightning_pocket.tasks.head.head_layers` finds.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seen: list[Tensor] = []
        for name in head_layers(network):
            network.get_submodule(name).register_forward_pre_hook(self._keep)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the features of images.

        Args:
            image: ``(B, in_channels, *S)``.

        Returns:
            ``(B, C, *S)``, or ``(B, C)`` where the head works on pooled features. Features of a coarser resolution are
            brought to that of the image by repeating voxels, which keeps their mean.

        Raises:
            PocketError: If the network does not use its head.
        """
        self._seen.clear()
        self._network(image)
        if not self._seen:
            raise PocketError(f"{type(self._network).__name__}: no layer that makes the logits was used.")
        features = self._seen.pop()  # of several heads the last one makes the finest logits
        if features.ndim > 2 and features.shape[2:] != image.shape[2:]:
            features = F.interpolate(features, image.shape[2:], mode="nearest")
        return features

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen.append(inputs[0])


def measure_activations(run: Path, name: str, checkpoint: str = "last") -> ChannelMeans:
    """Return the mean of each channel before the head, for every test case of a run.

    Whole volumes are covered by the task's sliding window: a voxel's features are the weighted mean of those of all
    windows that contain it, so every voxel counts once.

    Args:
        run: Folder that ``pocket fit`` wrote.
        name: What to call it.
        checkpoint: ``last`` or ``best``.

    Raises:
        PocketError: If there is no such run or checkpoint, its data changed, or it has no test cases.
    """
    data = load_data(run)
    task = load_task(str(RunFolder(run).checkpoint("test", checkpoint)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.network.to(device)
    features = HeadInputs(task.network)
    subjects: list[str] = []
    rows: list[np.ndarray] = []
    data.setup("test")
    with torch.inference_mode():
        for batch in data.test_dataloader():
            subjects += batch["subject"]
            rows.append(channel_means(task, features, batch["image"].to(device)).cpu().numpy())
    counted = np.array([bool(subject) for subject in subjects])
    mean_2NC = np.concatenate(rows, axis=1)[:, counted]
    return ChannelMeans(name, [s for s in subjects if s], mean_2NC[0], mean_2NC[1])


def channel_means(task: BaseTask, features: HeadInputs, image: Tensor) -> Tensor:
    """Return the means over all voxels of the features of images, and those of their absolute values.

    Args:
        task: Says how images are covered with windows; those of other tasks than segmentation are taken whole.
        features: Of the task's network.
        image: ``(B, in_channels, *S)``.

    Returns:
        ``(2, B, C)`` float64.
    """
    if not isinstance(task, SegmentationTask):
        found = features(image)
        return _sums(found) / _voxels(found)
    window = replace(task.inference, flips=False)
    slabs = [_sums(slab) for _, slab in window.slabs(features, image, task.info.patch_size)]
    return torch.stack(slabs).sum(0) / _voxels(image)


def _sums(features: Tensor) -> Tensor:
    features_BCV = features.reshape(*features.shape[:2], -1).double()
    return torch.stack([features_BCV.sum(2), features_BCV.abs().sum(2)])


def _voxels(features: Tensor) -> int:
    return features[0, 0].numel()
