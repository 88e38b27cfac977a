"""Peak memory and time of training steps and of inference, measured.

On a CPU the measurement runs in a process of its own, whose allocator gives memory back as soon as it is free, so that
the peak of resident memory is that of the tensors. A first round, which is not counted, loads the libraries and lets
them make what they keep; the peak is then that of a new network above what was resident before it.
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError

from .fake_network import apply, make_image, make_target, parse_precision
from .memory import Device, Loss, MakeNetwork, MakeOptimizer
from .resident import giving_memory_back, peak_bytes, start_peak

_MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Args:
        peak_mib: Most memory that was held, in MiB: on CUDA by tensors; on a CPU resident, above what was there before.
        step_ms: Median time of a step in ms.
        images_per_s: Images per second at that time.
        reserved_mib: On CUDA, what the allocator took from the device, in MiB.
    """

    peak_mib: float
    step_ms: float
    images_per_s: float
    reserved_mib: float | None = None


def measure_training(
    make_network: MakeNetwork,
    loss: Loss,
    make_optimizer: MakeOptimizer,
    shape: Sequence[int],
    num_classes: int,
    precision: str = "32-true",
    device: Device = "cpu",
    steps: int = 3,
) -> Measured:
    """Train on random images for some steps, and return peak memory and time.

    Args:
        make_network: Makes the network.
        loss: Scalar of what the network gives, a list where it has several heads, and the labels.
        make_optimizer: Makes the optimizer of some parameters.
        shape: ``(B, C, *S)`` of a batch.
        num_classes: Number of logits.
        precision: As ``trainer.precision``.
        device: Where to train. On a CPU all arguments are sent to another process: they must be picklable.
        steps: Steps that are measured, at least 2: the optimizer makes its state in the first, which is not timed.

    Raises:
        PocketError: If a setting is wrong or memory does not suffice.
    """
    if steps < 2:
        raise PocketError(f"steps: found {steps}, expected at least 2.")
    job = _Training(make_network, tuple(shape), precision, device, steps, loss, make_optimizer, num_classes)
    return _measure(job)


def measure_inference(
    make_network: MakeNetwork,
    shape: Sequence[int],
    precision: str = "32-true",
    device: Device = "cpu",
    steps: int = 3,
) -> Measured:
    """Run a network on random images in evaluation, and return peak memory and time.

    Args:
        make_network: Makes the network.
        shape: ``(B, C, *S)`` of the images.
        precision: As ``trainer.precision``.
        device: Where to run. On a CPU all arguments are sent to another process: they must be picklable.
        steps: How many times to run, at least 2; the first is not timed.

    Raises:
        PocketError: If a setting is wrong or memory does not suffice.
    """
    if steps < 2:
        raise PocketError(f"steps: found {steps}, expected at least 2.")
    return _measure(_Inference(make_network, tuple(shape), precision, device, steps))


@dataclass(frozen=True)
class _Inference:
    """What to run, as it is sent to another process."""

    make_network: MakeNetwork
    shape: tuple[int, ...]
    precision: str
    device: Device
    steps: int

    def make_step(self) -> Callable[[], Any]:
        network = self.network().eval()
        image = self.image(network)

        def step() -> None:
            with torch.inference_mode(), self.autocast():
                network(image)

        return step

    def network(self) -> nn.Module:
        return self.make_network().to(device=self.device, dtype=parse_precision(self.precision)[0])

    def image(self, network: nn.Module) -> Tensor:
        return make_image(network, self.shape, parse_precision(self.precision)[0], self.device)

    def autocast(self) -> torch.autocast:
        cast_to = parse_precision(self.precision)[1]
        return torch.autocast(self.device, cast_to, enabled=cast_to is not None)


@dataclass(frozen=True)
class _Training(_Inference):
    loss: Loss
    make_optimizer: MakeOptimizer
    num_classes: int

    def make_step(self) -> Callable[[], Any]:
        network = self.network().train()
        optimizer = self.make_optimizer([p for p in network.parameters() if p.requires_grad])
        image = self.image(network)
        target: Tensor | None = None

        def step() -> None:
            nonlocal target
            with self.autocast():
                output = apply(network, image)
                if target is None:
                    target = make_target(output, self.num_classes)
                loss = self.loss(output, target)
            del output
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step


def _measure(job: _Inference) -> Measured:
    parse_precision(job.precision)
    if job.device == "cuda":
        if not torch.cuda.is_available():
            raise PocketError("device: found 'cuda', but torch sees no such device. Measure on 'cpu'.")
        return _on_cuda(job)
    if job.device != "cpu":
        raise PocketError(f"device: found {job.device!r}; choose 'cpu' or 'cuda'.")
    return _in_fresh_process(job)


def _on_cuda(job: _Inference) -> Measured:
    for _ in range(2):  # libraries take what they keep
        _times_on_cuda(job, 1)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    times = _times_on_cuda(job, job.steps)
    return _result(
        job,
        times,
        (torch.cuda.max_memory_allocated() - allocated) / _MIB,
        (torch.cuda.max_memory_reserved() - reserved) / _MIB,
    )


def _times_on_cuda(job: _Inference, steps: int) -> list[float]:
    """Return the time of each step in ms, by the clock of the device."""
    step = job.make_step()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]  # type: ignore[no-untyped-call]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(events)]


def _in_fresh_process(job: _Inference) -> Measured:
    try:
        pickle.dumps(job)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise PocketError(
            f"The arguments cannot be sent to another process ({error}). Give functions of a module, or "
            "functools.partial of them, instead of lambdas and nested functions."
        ) from error
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(send, job, torch.get_num_threads()), daemon=True)
    with giving_memory_back():
        process.start()
    send.close()
    try:
        result = receive.recv()
    except EOFError:
        process.join()
        raise PocketError(
            f"The measuring process died (status {process.exitcode}), probably for lack of memory. Take a smaller "
            "batch or patch."
        ) from None
    process.join()
    if isinstance(result, str):
        raise PocketError(result)
    return result


def _answer(send: Connection, job: _Inference, threads: int) -> None:
    """Measure in this process, and send the result or one line that says what is wrong."""
    torch.set_num_threads(threads)
    try:
        send.send(_on_cpu(job))
    except PocketError as error:
        send.send(str(error))
    except (RuntimeError, ValueError, MemoryError) as error:
        send.send(f"A batch of shape {job.shape} cannot be measured: {str(error).splitlines()[0]}")


def _on_cpu(job: _Inference) -> Measured:
    step = job.make_step()
    step()
    del step
    gc.collect()
    before = start_peak()
    step = job.make_step()
    times = []
    for _ in range(job.steps):
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return _result(job, times, (peak_bytes() - before) / _MIB, None)


def _result(job: _Inference, times: list[float], peak_mib: float, reserved_mib: float | None) -> Measured:
    step_ms = statistics.median(times[1:])
    return Measured(peak_mib, step_ms, 1000 * job.shape[0] / step_ms, reserved_mib)
