"""Peak memory of a training step or of inference, predicted: nothing is computed, and no memory is taken.

The network runs on tensors that have shapes but no values, while every storage is followed from the operation that
makes it to the moment it is freed; see :mod:`.live_storages`. What operations need besides is modelled; see
:mod:`.workspace`. Not counted are what libraries take for themselves (the CUDA context, code) and what an allocator
loses between the blocks that it hands out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_pocket.errors import PocketError

from .fake_network import apply, fake_tensors, make_blank, make_image, make_target, parse_precision, without_memory
from .largest import largest_batch, largest_patch
from .live_storages import LiveStorages
from .workspace import CuDNN, OneDNN

__all__ = ["Device", "Memory", "largest_batch", "largest_patch", "predict_inference", "predict_training"]

Device = Literal["cpu", "cuda"]
MakeNetwork = Callable[[], nn.Module]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
Loss = Callable[[Any, Tensor], Tensor]

_MIB = 2**20
#: Blocks of the allocators, in bytes.
_GRANULARITY = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Memory:
    """What is held when most is held, in MiB.

    Args:
        weights_mib: Parameters and buffers.
        gradients_mib: Gradients of the parameters that are there at that moment.
        optimizer_mib: State of the optimizer.
        activations_mib: What the forward pass keeps for the backward pass.
        inputs_mib: Images and labels.
        workspace_mib: Gradients of activations, and what operations take while they run.
        peak_mib: The sum.
        timeline: ``(label, MiB)``: the most that is held during each layer of the forward and of the backward pass,
            and during the optimizer's step, in the order of time.
    """

    weights_mib: float
    gradients_mib: float
    optimizer_mib: float
    activations_mib: float
    inputs_mib: float
    workspace_mib: float
    peak_mib: float
    timeline: tuple[tuple[str, float], ...] = ()


def predict_training(
    make_network: MakeNetwork,
    loss: Loss,
    make_optimizer: MakeOptimizer,
    shape: Sequence[int],
    num_classes: int,
    precision: str = "32-true",
    device: Device = "cpu",
    threads: int | None = None,
) -> Memory:
    """Return the peak memory of a training step, once the optimizer has its state.

    The step is that of Lightning: forward pass, old gradients deleted, backward pass, optimizer.

    Args:
        make_network: Returns the network, new or not; it is copied, and left as it is.
        loss: Scalar of what the network gives, a list where it has several heads, and the labels.
        make_optimizer: Makes the optimizer of some parameters.
        shape: ``(B, C, *S)`` of a batch.
        num_classes: Number of logits.
        precision: As ``trainer.precision``.
        device: Where it will be trained; a GPU need not be there.
        threads: Threads of a training on a CPU; by default as many as torch uses here.

    Raises:
        PocketError: If a setting is wrong, or the network cannot be trained on such a batch.
    """
    blank = make_blank(make_network)
    with fake_tensors(), _tracker(device, threads) as tracker:
        network = _place(blank, precision, tracker).train()
        optimizer = make_optimizer([p for p in network.parameters() if p.requires_grad])
        if device == "cuda":
            _use_foreach(optimizer)
        step = _Step(tracker, network, loss, optimizer, parse_precision(precision)[1])
        tracker.cause = "inputs"
        image = make_image(network, shape, parse_precision(precision)[0], "cpu")
        try:
            target = step.first(image, num_classes)
            tracker.restart()
            step(image, target)
        except PocketError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise PocketError(f"A batch of shape {tuple(shape)} cannot be trained: {reason}") from error
        return _summary(tracker)


def predict_inference(
    make_network: MakeNetwork,
    shape: Sequence[int],
    precision: str = "32-true",
    device: Device = "cpu",
    threads: int | None = None,
) -> Memory:
    """Return the peak memory of one forward pass in evaluation.

    Args:
        make_network: Returns the network, new or not; it is copied, and left as it is.
        shape: ``(B, C, *S)`` of the images.
        precision: As ``trainer.precision``.
        device: Where it will run; a GPU need not be there.
        threads: Threads on a CPU; by default as many as torch uses here.

    Raises:
        PocketError: If a setting is wrong, or the network refuses such images.
    """
    blank = make_blank(make_network)
    with fake_tensors(), _tracker(device, threads) as tracker, torch.no_grad():
        network = _place(blank, precision, tracker).eval()
        dtype, cast_to = parse_precision(precision)
        tracker.cause = "inputs"
        image = make_image(network, shape, dtype, "cpu")
        tracker.restart()
        tracker.cause = "activations"
        _label_layers(network, tracker)
        with torch.autocast("cpu", cast_to, enabled=cast_to is not None):
            network(image)
        return _summary(tracker)


class _Step:
    """A training step, on fake tensors."""

    def __init__(
        self,
        tracker: LiveStorages,
        network: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        cast_to: torch.dtype | None,
    ) -> None:
        self.tracker = tracker
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.cast_to = cast_to
        _label_layers(network, tracker)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._keep)  # type: ignore[no-untyped-call]

    def first(self, image: Tensor, num_classes: int) -> Tensor:
        """Run the step that makes the optimizer's state, and return labels for the images."""
        with torch.no_grad(), torch.autocast("cpu", self.cast_to, enabled=self.cast_to is not None):
            output = apply(self.network, image)
        self.tracker.cause = "inputs"
        target = make_target(output, num_classes)
        del output
        self(image, target)
        return target

    def __call__(self, image: Tensor, target: Tensor) -> None:
        self.tracker.cause = "activations"
        with torch.autocast("cpu", self.cast_to, enabled=self.cast_to is not None):
            output = apply(self.network, image)
            self.tracker.label("loss")
            loss = self.loss(output, target)
        del output
        self.optimizer.zero_grad()
        self.tracker.in_backward = True
        self.tracker.label("backward loss")
        loss.backward()  # type: ignore[no-untyped-call]
        self.tracker.in_backward = False
        self.tracker.cause = "workspace" if self.optimizer.state else "optimizer"  # the first step makes the state
        self.tracker.label("optimizer")
        self.optimizer.step()

    def _keep(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.tracker.mark(parameter.grad, "gradients")


def _tracker(device: Device, threads: int | None) -> LiveStorages:
    if device not in _GRANULARITY:
        raise PocketError(f"device: found {device!r}; choose 'cpu' or 'cuda'.")
    transient = CuDNN() if device == "cuda" else OneDNN(threads or torch.get_num_threads())
    return LiveStorages(transient, _GRANULARITY[device])


def _place(blank: nn.Module, precision: str, tracker: LiveStorages) -> nn.Module:
    """Return the network without memory, its weights as the precision asks."""
    network = without_memory(blank, parse_precision(precision)[0])
    for tensor in (*network.parameters(), *network.buffers()):
        tracker.mark(tensor, "weights")
    return network


def _use_foreach(optimizer: Optimizer) -> None:
    """Let the optimizer work on all parameters at once, as torch chooses on a GPU by itself."""
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True


def _label_layers(network: nn.Module, tracker: LiveStorages) -> None:
    """Name the moments of a step after the layers."""

    def follow(name: str, layer: nn.Module) -> None:
        def before(*_: Any) -> None:
            tracker.label(f"{'backward' if tracker.in_backward else 'forward'} {name}")

        def after(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(lambda _: tracker.label(f"backward {name}"))  # type: ignore[no-untyped-call]

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)

    for name, layer in network.named_modules():
        if not any(layer.children()):
            follow(name, layer)


def _summary(tracker: LiveStorages) -> Memory:
    causes = {f"{cause}_mib": size / _MIB for cause, size in tracker.peak.items()}
    timeline = tuple((label, size / _MIB) for label, size in tracker.moments)
    return Memory(**causes, peak_mib=sum(tracker.peak.values()) / _MIB, timeline=timeline)
