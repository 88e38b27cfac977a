"""Choose the levers of inference on the windows of real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .choice import Choice, pick, synchronize
from .levers import Levers

Predict = Callable[[Tensor], Tensor]


class WindowChooser:
    """Predicts windows with one combination of levers after the other, then with the fastest.

    Nothing is computed twice: each window is predicted once, and all combinations agree within rounding. The
    combinations take turns, so that a machine that slows down slows all of them.

    Args:
        make: Makes what predicts windows ``(B, C, *S)`` with given levers.
        candidates: Plain first.
        rounds: Batches of windows that each combination is judged by, besides a first one that is not counted.

    Attributes:
        choice: What was chosen; None until it was.
    """

    def __init__(self, make: Callable[[Levers], Predict], candidates: Sequence[Levers], rounds: int = 3) -> None:
        self.choice: Choice | None = None
        self._make = make
        self._rounds = rounds
        keeping = [levers for levers in candidates if levers.keep_memory]
        others = [levers for levers in candidates if not levers.keep_memory]
        self._waiting = [*others * (rounds + 1), *keeping * (rounds + 1)]  # kept memory cannot be given back completely
        self._made: dict[Levers, Predict] = {}
        self._times: dict[Levers, list[float]] = {levers: [] for levers in candidates}
        self._notes: dict[Levers, str] = {}
        self._shape: torch.Size | None = None

    @property
    def batches(self) -> int:
        """Batches of windows until the choice is made."""
        return len(self._waiting)

    def use(self, choice: Choice) -> None:
        """Go on with levers that were chosen before."""
        self.choice = choice
        self._waiting = []
        self._made = {levers: made for levers, made in self._made.items() if levers == choice.levers}

    def __call__(self, crops: Tensor) -> Tensor:
        """Return the output of windows."""
        if self.choice is not None:
            return self._predictor(self.choice.levers)(crops)
        if self._shape not in (None, crops.shape):
            return self._predictor(self._plain)(crops)  # a last smaller batch tells nothing
        self._shape = crops.shape
        levers = self._waiting.pop(0)
        output = self._timed(levers, crops)
        if not self._waiting:
            times = {levers: found[1:] for levers, found in self._times.items() if levers not in self._notes}
            self.use(pick(times, self._notes, "batches of windows"))
        return output

    def _timed(self, levers: Levers, crops: Tensor) -> Tensor:
        try:
            predict = self._predictor(levers)
            synchronize(crops.device)
            started = time.perf_counter()
            output = predict(crops)
            synchronize(crops.device)
        except RuntimeError as error:
            if levers == self._plain:
                raise
            self._notes[levers] = f"failed: {next(iter(str(error).splitlines()), '')[:120]}"
            self._made.pop(levers, None)
            self._waiting = [waiting for waiting in self._waiting if waiting != levers]
            return self._predictor(self._plain)(crops)
        self._times[levers].append(time.perf_counter() - started)
        return output

    @property
    def _plain(self) -> Levers:
        return next(iter(self._times))

    def _predictor(self, levers: Levers) -> Predict:
        if levers not in self._made:
            self._made[levers] = self._make(levers)
        return self._made[levers]
