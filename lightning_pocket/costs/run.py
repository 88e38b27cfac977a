"""Compute what the rows of a profile cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from lightning_pocket import __version__
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import deployed_parameters
from lightning_pocket.profiling.macs import count_macs, count_macs_ptflops
from lightning_pocket.profiling.memory import Device, predict_inference, predict_training
from lightning_pocket.profiling.out_of_memory import recognise

from .plan import Candidate, Grid, Plan, Size
from .recipe import Recipe, has_data
from .records import Records, Values

Say = Callable[[str], None]
#: What a network, a batch or a patch that does not suit raises in torch.
_REFUSED = (PocketError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Settings:
    """How a profile is made.

    Args:
        precision: Precision; None for what the settings of each network say.
        measure: Measure too, and not only predict.
        device: ``cpu`` or ``cuda``, to measure on.
        predict_for: ``cpu`` or ``cuda``, on which the memory is predicted; they need different workspaces.
        steps: Steps of a measurement.
        seconds: How long each stage of loading is measured.
    """

    precision: str | None = None
    measure: bool = False
    device: Device = "cpu"
    predict_for: Device = "cuda"
    steps: int = 5
    seconds: float = 1.0


@dataclass(frozen=True)
class Row:
    """A network with one batch and patch.

    Args:
        grid: Number of its grid.
        candidate: The network.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.
        precision: Of the training.
        predicted: Parameters, MACs of one patch, and memory in MiB, by column; empty where it was not predicted.
        measured: Memory and time, by column; empty where it was not measured.
        timeline: Moments of a training step and the MiB held then, as predicted.
        problem: Why something is missing.
    """

    grid: int
    candidate: Candidate
    batch: int
    patch: Size
    precision: str
    predicted: Values = field(default_factory=dict)
    measured: Values = field(default_factory=dict)
    timeline: tuple[tuple[str, float], ...] = ()
    problem: str = ""

    @property
    def size(self) -> str:
        """The patch as text."""
        return "x".join(map(str, self.patch))

    def value(self, column: str) -> float | None:
        """Return a number of the row, None where it is not known."""
        found = self.predicted.get(column, self.measured.get(column))
        return None if found is None else float(found)


class Profiler:
    """Predicts and measures the rows of a plan, each at most once.

    Args:
        plan: What to compare.
        settings: How.
        records: What was computed before.
        say: Told what is computed now.
    """

    def __init__(self, plan: Plan, settings: Settings, records: Records, say: Say) -> None:
        self.plan = plan
        self.settings = settings
        self.records = records
        self.say = say
        self._recipes: dict[Candidate, Recipe] = {}

    def recipe(self, candidate: Candidate) -> Recipe:
        """Return what a candidate stands for.

        Raises:
            PocketError: If its settings are wrong.
        """
        if candidate not in self._recipes:
            self._recipes[candidate] = self._resolve(candidate)
        return self._recipes[candidate]

    def _resolve(self, candidate: Candidate) -> Recipe:
        if candidate.run is not None:
            return Recipe.from_run(candidate.run)
        return Recipe.from_options(candidate.options, self.plan.in_channels, self.plan.num_classes)

    def rows(self) -> list[Row]:
        """Return every row, predicted, and measured where that was asked for."""
        return [row for index, grid in enumerate(self.plan.grids) for row in self._rows(index, grid)]

    def _rows(self, index: int, grid: Grid) -> Iterator[Row]:
        predicted = {(c, b, p) for c in grid.candidates for b, p in self.points(c, grid.batches, grid.patches)}
        measured = set()
        cpu = self.settings.device == "cpu"
        if self.settings.measure and not (cpu and grid.cpu_skip):
            batches = (cpu and grid.cpu_batches) or grid.batches
            patches = (cpu and grid.cpu_patches) or grid.patches
            measured = {(c, b, p) for c in grid.candidates for b, p in self.points(c, batches, patches)}
        order = {candidate: place for place, candidate in enumerate(grid.candidates)}
        for candidate, batch, patch in sorted(predicted | measured, key=lambda key: (key[2], order[key[0]], key[1])):
            row = self._predict(Row(index, candidate, batch, patch, self._precision(candidate)))
            yield self._measure(row) if (candidate, batch, patch) in measured and not row.problem else row

    def points(
        self, candidate: Candidate, batches: tuple[int, ...], patches: tuple[Size, ...]
    ) -> list[tuple[int, Size]]:
        """Return every batch with every patch, those of the candidate's settings where none are given.

        Raises:
            PocketError: If nobody tells the size of the patches.
        """
        recipe = self.recipe(candidate)
        sizes = patches or ((recipe.patch_size,) if recipe.patch_size else ())
        if not sizes:
            raise PocketError(
                f"{candidate.label}: its settings do not tell the size of the images. Give --patch 256x256."
            )
        return [(batch, size) for size in sizes for batch in batches or (recipe.batch_size,)]

    def _precision(self, candidate: Candidate) -> str:
        return self.settings.precision or self.recipe(candidate).precision

    def _key(self, row: Row, kind: str) -> dict[str, Any]:
        what = {"kind": kind, "batch": row.batch, "patch": list(row.patch), "precision": row.precision}
        versions = {"lightning_pocket": __version__, "torch": torch.__version__}
        return what | versions | {"network": self.recipe(row.candidate).identity}

    def _predict(self, row: Row) -> Row:
        values = self._prediction(row, self.settings.predict_for)
        timeline = tuple((str(label), float(mib)) for label, mib in values.pop("timeline", []))
        problem = values.pop("problem", "")
        return replace(row, predicted=values, timeline=timeline, problem=problem)

    def _prediction(self, row: Row, device: Device) -> Values:
        recipe = self.recipe(row.candidate)
        key = self._key(row, "predicted") | {"for": device}
        if device == "cpu":
            key["threads"] = torch.get_num_threads()

        def compute() -> Values:
            self.say(f"predicting {_describe(row)}, on a {'GPU' if device == 'cuda' else 'CPU'}")
            return predict(recipe, row.batch, row.patch, row.precision, device)

        return dict(self.records.get(key, lambda: _attempt(compute)))

    def _waiting(self, row: Row, images_per_s: float) -> Values:
        """Return the share of a step that waits for data, where the settings name some."""
        from .loading import measure_loading, wait_share

        recipe = self.recipe(row.candidate)
        if not has_data(recipe):
            return {}
        stages, workers = measure_loading(recipe, row.batch, row.patch, self.settings.seconds)
        return {"data_wait_share": wait_share(stages, workers, images_per_s)}

    def _measure(self, row: Row) -> Row:
        recipe, settings = self.recipe(row.candidate), self.settings
        where = {"device": device_name(settings.device), "steps": settings.steps}
        data: Any = recipe.settings["data"] if has_data(recipe) else None

        def compute() -> Values:
            self.say(f"measuring {_describe(row)}: {where['device']}")
            found = measure(recipe, row.batch, row.patch, row.precision, settings)
            return found | self._waiting(row, found["train_images_per_s"])

        values = dict(self.records.get(self._key(row, "measured") | where | {"data": data}, lambda: _attempt(compute)))
        problem = values.pop("problem", "")
        if not problem:
            same = settings.device == settings.predict_for
            expected = row.predicted if same else self._prediction(row, settings.device)
            values |= {f"expected_{column}": expected.get(column) for column in ("train_mib", "infer_mib")}
        return replace(row, measured=values, problem=problem)


def predict(recipe: Recipe, batch: int, patch: Size, precision: str, device: Device) -> Values:
    """Predict what a batch costs, without allocating it.

    Args:
        recipe: What is trained.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.
        precision: As Lightning names it.
        device: Where it would be trained.

    Returns:
        Parameters, MACs of one patch, memory in MiB by column, and the timeline of a training step.

    Raises:
        PocketError: If the network cannot process such images.
    """
    shape = (batch, recipe.in_channels, *patch)
    with torch.device("meta"):
        network, deployed = recipe.make_network(), recipe.make_deployed()
    training = predict_training(
        lambda: network, recipe.loss, recipe.make_optimizer, shape, recipe.num_classes, precision, device
    )
    causes = {name: value for name, value in asdict(training).items() if name not in {"timeline", "peak_mib"}}
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "deployed_parameters": deployed_parameters(network),
        "macs": count_macs(network, shape) // batch,  # what does not grow with the batch is shared by it
        "macs_ptflops": count_macs_ptflops(network, (1, *shape[1:])),
        **causes,
        "train_mib": training.peak_mib,
        "infer_mib": predict_inference(lambda: deployed, shape, precision, device).peak_mib,
        "timeline": [list(moment) for moment in training.timeline],
    }


def measure(recipe: Recipe, batch: int, patch: Size, precision: str, settings: Settings) -> Values:
    """Train and use a network for a few steps on random images.

    Args:
        recipe: What is trained.
        batch: Patches or images per step.
        patch: Voxels along each spatial axis.
        precision: As Lightning names it.
        settings: Where, and for how many steps.

    Returns:
        Memory in MiB and times by column.

    Raises:
        PocketError: If the memory does not suffice.
    """
    from lightning_pocket.profiling.measure import measure_inference, measure_training

    shape = (batch, recipe.in_channels, *patch)
    training = measure_training(
        recipe.make_network, recipe.loss, recipe.make_optimizer, shape, recipe.num_classes, precision,
        device=settings.device, steps=settings.steps,
    )  # fmt: skip
    inference = measure_inference(recipe.make_deployed, shape, precision, device=settings.device, steps=settings.steps)
    return {
        "measured_train_mib": training.peak_mib,
        "measured_reserved_mib": training.reserved_mib,
        "train_step_ms": training.step_ms,
        "train_images_per_s": training.images_per_s,
        "measured_infer_mib": inference.peak_mib,
        "infer_ms": inference.step_ms,
        "infer_images_per_s": inference.images_per_s,
    }


def device_name(device: str) -> str:
    """Return what a device is called: the GPU's name, or the number of cores in use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'}"


def _attempt(compute: Callable[[], Values]) -> Values:
    """Return the result, or why there is none; what a user must mend before anything works is raised."""
    try:
        return compute()
    except _REFUSED as error:
        if recognise(error) == "memory":
            return {"problem": "out of memory. Take a smaller batch or patch; --fit says what fits."}
        return {"problem": next(iter(str(error).strip().splitlines()), type(error).__name__)}


def _describe(row: Row) -> str:
    return f"{row.candidate.label}, batch {row.batch}, {row.size}"
