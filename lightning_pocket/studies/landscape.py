"""The loss of a trained network around its weights, along random directions with the norms of its filters."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_pocket.analyses.directions import Slice, filter_directions
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import contract, is_expanded
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import read_json, sha256, write_csv, write_json
from lightning_pocket.tasks import BaseTask, load_task

from .run_data import load_data

_COLUMNS = ("space", "x", "y", "loss")
#: Points after which what was computed is written.
_WRITE_EVERY = 10
Point = tuple[str, float, float]


@dataclass(frozen=True)
class Grid:
    """Where the loss is computed.

    Args:
        dims: 1 for a line, 2 for a plane.
        steps: Points along each axis; odd, so that the centre is one of them.
        extent: Largest coordinate: how many times the length of the weights.
        batches: Training batches that the loss is the mean of.
        seed: Of the directions.

    Raises:
        PocketError: If a number is out of range.
    """

    dims: int = 2
    steps: int = 21
    extent: float = 1.0
    batches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dims not in (1, 2):
            raise PocketError(f"--dims {self.dims}: expected 1 for a line, or 2 for a plane.")
        if self.steps < 3 or self.steps % 2 == 0:
            raise PocketError(f"--steps {self.steps}: expected an odd number from 3, so that the centre is a point.")
        if not 0 < self.extent < math.inf or self.batches < 1:
            raise PocketError(
                f"--extent {self.extent:g} and --batches {self.batches}: expected more than 0, and at least 1."
            )

    def coordinates(self) -> list[float]:
        """Return the coordinates along an axis, from ``-extent`` to ``extent``; the middle one is 0."""
        half = self.steps // 2
        return [self.extent * place / half for place in range(-half, half + 1)]

    def points(self) -> Iterator[tuple[float, float]]:
        """Yield all points, the nearest to the centre first."""
        along = self.coordinates()
        found = [(x, y) for x in along for y in (along if self.dims == 2 else [0.0])]
        yield from sorted(found, key=lambda point: (math.hypot(*point), point))


class Landscape:
    """The losses around the weights of a run, computed once and kept in a folder.

    Expanded networks are looked at in two spaces, each with filters of its own: that of the ``factors``, and that of
    the ``contracted`` kernels. Norms use their running statistics.

    Args:
        run: Folder that ``pocket fit`` wrote.
        folder: Where ``landscape.csv`` is kept, which the same call continues.
        grid: Where the loss is computed.
        checkpoint: ``last`` or ``best``.

    Raises:
        PocketError: If there is no such run, its data changed, or the folder holds another landscape.
    """

    def __init__(self, run: Path, folder: Path, grid: Grid, checkpoint: str = "last") -> None:
        self.grid = grid
        self._data = load_data(run)
        path = Path(str(RunFolder(run).checkpoint("test", checkpoint)))
        self._task = load_task(path)
        self._file = folder / "landscape.csv"
        settings = {"run": run.name, "checkpoint": path.stem, "sha256": sha256(path), **asdict(grid)}
        self._check(folder / "landscape.json", settings)

    def _check(self, file: Path, settings: dict[str, Any]) -> None:
        """Refuse a folder with other losses; begin one that is new."""
        if file.is_file() and read_json(file) != settings:
            found = read_json(file)
            other = [key for key in settings if found.get(key) != settings[key]]
            raise PocketError(
                f"{file.parent}: holds a landscape with another {', '.join(other)}. Name another folder, or delete it."
            )
        write_json(file, settings)

    def spaces(self) -> list[str]:
        """Return the spaces that the network has."""
        return ["contracted", "factors"] if is_expanded(self._task.network) else ["contracted"]

    def compute(self, say: Callable[[str], None]) -> dict[Point, float]:
        """Return the loss at each point of each space; what is on disk is not computed again.

        Args:
            say: Told how far it is.
        """
        known = self._read()
        wanted = [(space, x, y) for space in self.spaces() for x, y in self.grid.points()]
        missing = [point for point in wanted if point not in known]
        if missing:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            batches = self._batches(device)
            for space in self.spaces():
                points = [point for point in missing if point[0] == space]
                for done, (point, loss) in enumerate(self._losses(space, points, batches, device), start=1):
                    known[point] = loss
                    if done % _WRITE_EVERY == 0 or done == len(points):
                        self._write(known)
                        say(f"{space}: {done} of {len(points)} points")
        return {point: known[point] for point in wanted}

    def _batches(self, device: torch.device) -> list[Any]:
        """Return the training batches of the loss, the same ones at each call."""
        self._data.setup("fit")
        torch.manual_seed(self.grid.seed)
        found = []
        for batch in islice(self._data.train_dataloader(), self.grid.batches):
            moved = self._task.transfer_batch_to_device(batch, device, 0)
            found.append(self._data.on_after_batch_transfer(moved, 0))
        return found

    def _losses(
        self, space: str, points: list[Point], batches: list[Any], device: torch.device
    ) -> Iterator[tuple[Point, float]]:
        if not points:
            return
        task: BaseTask = self._task
        network: nn.Module = task.network
        if space == "contracted":
            task = copy.deepcopy(self._task)
            contract(task.network)
            network = task.network
        task.to(device).eval()
        moved = Slice(network, filter_directions(network, self.grid.dims, self.grid.seed))
        for point in points:
            _, x, y = point
            moved.move_to(*((x, y) if self.grid.dims == 2 else (x,)))
            yield point, mean_loss(task, batches)
        moved.restore()

    def _read(self) -> dict[Point, float]:
        if not self._file.is_file():
            return {}
        with self._file.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {(row["space"], float(row["x"]), float(row["y"])): float(row["loss"]) for row in rows}

    def _write(self, known: dict[Point, float]) -> None:
        write_csv(
            self._file, _COLUMNS, [dict(zip(_COLUMNS, (*point, loss), strict=True)) for point, loss in known.items()]
        )


@torch.no_grad()
def mean_loss(task: BaseTask, batches: list[Any]) -> float:
    """Return the mean training loss of batches, in evaluation mode; images count alike.

    Args:
        task: Its network as it is now.
        batches: As a training gets them.
    """
    sizes = [len(batch["image"]) for batch in batches]
    losses = [float(task.training_loss(batch)) for batch in batches]
    return sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)
