"""Generated images of two classes, as a data module: with and without a bright disc."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_pocket.types import DatasetInfo


def disc_images(count: int, classes: int, size: int, seed: int) -> list[dict[str, Any]]:
    """Return noise with as many bright discs as the index of the image's class says."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    items = []
    for index in range(count):
        image = torch.randn(size, size, generator=generator)
        for _ in range(index % classes):
            row, column = (int(torch.randint(4, size - 4, (), generator=generator)) for _ in range(2))
            image += 3.0 * ((rows - row) ** 2 + (columns - column) ** 2 < 10)
        items.append({"image": image[None], "target": torch.tensor(index % classes), "subject": f"image_{index:03d}"})
    return items


class Discs(LightningDataModule):
    """The images of :func:`disc_images`, others for training, validation and test."""

    def __init__(
        self,
        classes: list[str] = ["empty", "one disc"],  # noqa: B006 (never changed)
        count: int = 64,
        size: int = 16,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.count, self.size, self.batch_size = count, size, batch_size
        self.in_channels, self.num_classes = 1, len(classes)
        self.info = DatasetInfo(["grey"], classes, [size, size]).to_dict()

    def _loader(self, seed: int) -> DataLoader[dict[str, Tensor]]:
        items = disc_images(self.count, self.num_classes, self.size, seed)
        return DataLoader(items, self.batch_size, shuffle=seed == 0)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(0)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(2)
