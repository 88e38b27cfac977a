"""Make a network sparse while it is trained: fewer kernels, or smaller ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import last_factor
from lightning_pocket.regularizers import (
    AlphaMax,
    Complexity,
    LayerChoice,
    LayerPenalty,
    PhasePlan,
    Phases,
    Regularizer,
    Sparsifier,
    choose_layers,
    make_penalties,
    table,
    trace,
)
from lightning_pocket.speed import Runner, untouched

from .best_checkpoint import BestCheckpoint
from .choose_speed import Trainable
from .sparsity_checks import (
    check_connected,
    check_expanded,
    check_strength,
    check_surroundings,
    image_shape,
    plain_copy,
    tell_degenerate,
    without_decay,
)

log = logging.getLogger(__name__)


class StructuredSparsity(Callback):
    r"""Adds a structured sparsity regularizer to the training of any task: ``loss + alpha * Omega``.

    The run has phases: warm-up, sparsify, and, with what is zero frozen, fine-tuning. When zeros are frozen, the best
    checkpoint is chosen anew, so that it is a sparse one. The weights in the checkpoints have exact zeros, and nothing
    else changes: the network is as large and as slow as before, until it is shrunk.

    The proximal step is taken when the optimizer has made its own: it follows schedules, accumulated batches, clipped
    gradients and mixed precision, and is the same in all processes of a distributed training. Weight decay that is part
    of the gradient is switched off for regularized kernels; decoupled decay comes before the proximal step.

    Of expanded layers (``layers.expansion``) the rows of the last factor are penalized, one for each kernel of the
    layer that it stands for; sizes of kernels have no such counterpart and are refused.

    Args:
        regularizer: What is to become sparse: ``KernelNumber`` or ``KernelSize``.
        alpha: Strength of the penalty. Give it or ``alpha_relative``.
        alpha_relative: Strength as a share of ``alpha_max``, at which all kernels die; it is measured and printed when
            training begins.
        solver: ``proximal`` makes exact zeros; ``subgradient`` is the paper's, with a threshold.
        tau: Threshold of the subgradient on the l2 norm of groups; null takes the radius of their swing around zero.
        norm_aware: What is done about a norm behind a convolution: ``none``, as in the paper; ``joint`` counts its
            scale and shift to the kernel; ``unit`` keeps kernels at norm 1 and lets scale and shift tell which die.
            ``auto`` is ``joint`` for numbers and ``unit`` for sizes.
        phases: Lengths of warm-up and fine-tuning.
        include: Patterns of names of layers that take part although they are stems, heads or pointwise.
        exclude: Patterns of layers that do not.
        batches: Batches from which ``alpha_max`` is measured; where ``alpha_relative`` needs it, they are warm-up.

    Attributes:
        alpha_max: Strength that kills all kernels; None before it is measured.
        steps: Optimizer steps so far.
        solved: How many of them the penalty took part in.

    Raises:
        PocketError: If settings are out of range or contradict each other.
    """

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        regularizer: Regularizer,
        alpha: float | None = None,
        alpha_relative: float | None = None,
        solver: Literal["proximal", "subgradient"] = "proximal",
        tau: float | None = None,
        norm_aware: Literal["auto", "none", "joint", "unit"] = "auto",
        phases: Phases = Phases(),
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        batches: int = 4,
    ) -> None:
        check_strength(alpha, alpha_relative, solver, tau, batches)
        self.regularizer = regularizer
        self.alpha = alpha
        self.alpha_relative = alpha_relative
        self.solver: Literal["proximal", "subgradient"] = solver
        self.tau = tau
        self.norm_aware = regularizer.norm_aware if norm_aware == "auto" else norm_aware
        self.phases = phases
        self.include, self.exclude = include or [], exclude or []
        self.batches = batches
        self.alpha_max: float | None = None
        self.steps = self.solved = 0
        self.plan: PhasePlan | None = None
        self._strength = 0.0
        self._zeros: dict[str, Tensor] | None = None
        self._image: tuple[int, ...] = ()
        self._choices: dict[str, LayerChoice] = {}
        self._penalties: list[LayerPenalty] = []
        self._sparsifier: Sparsifier | None = None
        self._measure: AlphaMax | None = None
        self._undo: list[Callable[[], None]] = []

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(regularizer=type(self.regularizer).__name__)

    @property
    def strength(self) -> float:
        """Alpha of the step that follows: 0 in warm-up and fine-tuning, and while it is not known."""
        if self.plan is None or self.plan.phase(self.steps) != "sparsify":
            return 0.0
        if self.alpha is not None:
            return self.alpha
        return (self.alpha_relative or 0.0) * (self.alpha_max or 0.0)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        check_surroundings(self, trainer)
        task = cast("Trainable", pl_module)
        network = task.network
        compact = plain_copy(network)  # an expanded layer is followed as the one layer that it stands for
        self._image = image_shape(pl_module)
        flow = trace(compact, (2, *self._image))
        choices = choose_layers(compact, flow, self.include, self.exclude)
        check_expanded(network, [name for name, choice in choices.items() if choice.taken], self.regularizer)
        self._penalties, self._choices = make_penalties(
            network, flow, choices, self.regularizer, self.norm_aware, last_factor
        )
        self._complexity = Complexity(
            self.regularizer.complexity, self.regularizer.lagged, self._penalties, flow, compact
        )
        kept = {parameter for penalty in self._penalties for parameter in penalty.parameters}
        make = task.make_optimizer
        task.make_optimizer = lambda parameters: without_decay(make, parameters, kept)
        self._undo.append(lambda: setattr(task, "make_optimizer", make))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = cast("Trainable", pl_module).network
        for penalty in self._penalties:  # the device is known only now
            penalty.to(next(network.parameters()).device)
        self._sparsifier = Sparsifier(self._penalties, self._complexity, self.solver, self.tau)
        optimizer, *others = trainer.optimizers
        if others:
            raise PocketError(
                f"StructuredSparsity: {type(pl_module).__name__} has {len(others) + 1} optimizers, expected one, whose "
                "steps the penalty follows. Train with one optimizer."
            )
        self._sparsifier.attach(optimizer)
        trainer.print(f"sparsity: {type(self.regularizer).__name__}, {self.solver}\n{table(self._choices)}")
        warning = tell_degenerate(self._penalties)
        if warning and trainer.is_global_zero:
            log.warning(warning)
        if self.plan is None:
            steps = float(trainer.estimated_stepping_batches)
            per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
            self.plan = self.phases.plan(steps, per_epoch)
        trainer.print(f"sparsity: {self.plan}")
        if self.alpha_max is None:
            count = int(min(self.batches, trainer.num_training_batches))
            self._measure = AlphaMax(network, self._penalties, count)
        handle: RemovableHandle = optimizer.register_step_post_hook(lambda *_: self._after_step(trainer))
        self._undo.append(handle.remove)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._measure is None or self._sparsifier is None:
            return
        task = cast("Trainable", pl_module)
        runner = task.runner
        if runner.levers.compiled:  # whether the network compiles is found out later
            task.runner = Runner(task.network, replace(runner.levers, compiled=False))
        with untouched(pl_module), torch.enable_grad():
            self._measure.rewind()
            with trainer.precision_plugin.train_step_context():
                loss = task.training_loss(batch)
            self._measure.add(loss)
            if self._measure.complete:
                self._tell_alpha_max(trainer, self._measure, self._sparsifier)
        task.runner = runner

    def _tell_alpha_max(self, trainer: Trainer, measure: AlphaMax, sparsifier: Sparsifier) -> None:
        gradients = [trainer.strategy.reduce(gradient, reduce_op="mean") for gradient in measure.gradients]
        found = measure.strengths(cast("list[Tensor]", gradients), sparsifier.weights())
        self.alpha_max = max(found.values())
        self._measure = None
        if not self.alpha_max > 0:
            raise PocketError("StructuredSparsity: alpha_max is 0, the loss does not depend on the penalized kernels.")
        alpha = self.alpha if self.alpha is not None else (self.alpha_relative or 0.0) * self.alpha_max
        weakest, strongest = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        trainer.print(
            f"sparsity: alpha_max {self.alpha_max:.4g} ({strongest}; the least {found[weakest]:.3g}, {weakest}), "
            f"alpha {alpha:.4g}, {alpha / self.alpha_max:.3g} of it"
        )

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._sparsifier is not None:
            self._strength = self.strength
            self._sparsifier.before_step(self._strength)
            self.steps += 1  # as the trainer counts: those too that mixed precision leaves out

    def _after_step(self, trainer: Trainer) -> None:
        """Take the proximal step, freeze zeros after the last of them, and keep them afterwards."""
        if self._sparsifier is None:
            return
        if self._strength > 0:
            self._sparsifier.after_step(self._strength)
            self.solved += 1
        if self._zeros is not None:
            self._sparsifier.keep(self._zeros)
        self._freeze_in_time(trainer, self._sparsifier)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._sparsifier is not None:  # the last step may have been left out
            self._freeze_in_time(trainer, self._sparsifier)

    def _freeze_in_time(self, trainer: Trainer, sparsifier: Sparsifier) -> None:
        if self._zeros is None and self.plan is not None and self.plan.phase(self.steps) == "finetune":
            self._freeze(trainer, sparsifier, self._strength)

    def _freeze(self, trainer: Trainer, sparsifier: Sparsifier, strength: float) -> None:
        warning = sparsifier.freeze(strength)
        if warning and trainer.is_global_zero:
            log.warning(warning)
        self._zeros = sparsifier.zeros()
        kernels = sum(len(zeros) for zeros in self._zeros.values())
        dead = {p.name: int((self._zeros[p.name] == p.groups).sum()) for p in self._penalties}
        trainer.print(f"sparsity: frozen at step {self.steps}: {sum(dead.values())} of {kernels} kernels are zero")
        gone = [p.name for p in self._penalties if dead[p.name] == p.conv.out_channels]
        if gone:
            trainer.print(f"sparsity: no kernel is left of {', '.join(gone)}")
            share = "" if not self.alpha_max else f", {strength / self.alpha_max:.3g} of alpha_max"
            network = cast("Trainable", trainer.lightning_module).network
            check_connected(network, gone, self._image, f"alpha {strength:.4g}{share}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BestCheckpoint):
                callback.restart()  # what was best before is not sparse

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._sparsifier is None:
            return
        found = self._sparsifier.values()
        logged = {f"sparsity/{key}/{name}": value for name, values in found.items() for key, value in values.items()}
        logged["sparsity/omega"] = sum(values["omega"] for values in found.values())
        logged["sparsity/alive"] = sum(values["alive"] for values in found.values())
        pl_module.log_dict(logged, rank_zero_only=True)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._detach()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._detach()

    def _detach(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._sparsifier = self._measure = None

    @override
    def state_dict(self) -> dict[str, Any]:
        plan = None if self.plan is None else [self.plan.begin, self.plan.end, self.plan.steps]
        counts = {"steps": self.steps, "solved": self.solved}
        return {"plan": plan, "alpha_max": self.alpha_max, "zeros": self._zeros, **counts}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.plan = None if state_dict["plan"] is None else PhasePlan(*state_dict["plan"])
        self.alpha_max, self._zeros = state_dict["alpha_max"], state_dict["zeros"]
        self.steps, self.solved = state_dict["steps"], state_dict["solved"]
