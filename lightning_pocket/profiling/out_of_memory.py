"""What to change when memory runs out: recognise it, and say which batch or patch would fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_pocket.errors import PocketError

from .largest import Peak, largest_batch, largest_patch

Kind = Literal["memory", "shared memory", "worker"]

#: What torch, Python and C++ say; the last one is what oneDNN makes of it.
_SAID: dict[Kind, tuple[str, ...]] = {
    "shared memory": ("out of shared memory", "unable to allocate shared memory", "/dev/shm", "shm_open"),
    "worker": ("is killed by signal: Killed",),
    "memory": (
        "CUDA out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "can't allocate memory",
        "not enough memory",
        "Cannot allocate memory",
        "std::bad_alloc",
    ),
}
_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
#: MiB of addresses that threads reserve when training starts: two stacks of 8, two arenas of glibc's allocator of 64.
_THREADS_MIB = 144


@dataclass(frozen=True)
class Settings:
    """What a training is made of, by its config keys.

    Args:
        batch_size: Images per step and process.
        patch_size: Voxels along each spatial axis.
        divisor: What each size of a patch must be a multiple of.
        batch_key: Config key of the batch size.
        patch_key: Config key of the patch size.
        keeps_memory: Whether the setting ``keep_memory`` is on and works.
    """

    batch_size: int
    patch_size: Sequence[int]
    divisor: Sequence[int]
    batch_key: str = "data.init_args.batch_size"
    patch_key: str = "data.init_args.patch_size"
    keeps_memory: bool = False


def recognise(error: BaseException) -> Kind | None:
    """Tell whether an error, or what caused it, is a lack of memory.

    Args:
        error: What was raised.

    Returns:
        ``memory`` of the device that trains, ``shared memory`` through which batches come, ``worker`` where the system
        ended a process that prepares batches; None for every other error.
    """
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return "memory"
        if isinstance(cause, RuntimeError | OSError):
            for kind, phrases in _SAID.items():
                if any(phrase in str(cause) for phrase in phrases):
                    return kind
    return None


def explain(
    kind: Kind,
    settings: Settings,
    predict: Callable[[int, Sequence[int]], Peak],
    budget_mib: float | None,
    device: str,
) -> PocketError:
    """Return an error of one line that says which setting to change, and what would fit.

    Args:
        kind: What ran out, see :func:`recognise`.
        settings: The training.
        predict: Memory of a batch of so many patches of such a size.
        budget_mib: Memory that tensors may take, in MiB, see :func:`available_mib`; None where nobody knows.
        device: ``cpu`` or ``cuda``.
    """
    if kind != "memory":
        ran_out = "shared memory ran out" if kind == "shared memory" else "memory ran out"
        return PocketError(
            f"{ran_out} while other processes prepared the batches: lower data.init_args.num_workers, 0 needs none, "
            "or give the container more (docker run --shm-size=8g)."
        )
    need = predict(settings.batch_size, settings.patch_size).peak_mib
    short = budget_mib is not None and need > budget_mib
    # A training may fail although the prediction would fit: other processes and gaps between blocks take memory too.
    budget = budget_mib if short and budget_mib is not None else 0.8 * need
    there = f"of {budget_mib:,.0f} MiB" if short else "and did not get them"
    return PocketError(
        f"out of memory on {'the GPU' if device == 'cuda' else 'the CPU'}: {settings.batch_key} {settings.batch_size} "
        f"and {settings.patch_key} {list(settings.patch_size)} need about {need:,.0f} MiB {there}. "
        f"{_remedy(settings, predict, budget)}"
    )


def available_mib(device: str) -> float | None:
    """Return the memory that this process can still take.

    Args:
        device: ``cuda``: what is free on the GPU, and what torch holds there without using it. Otherwise the least of
            the machine's free memory, what the control group leaves, and what the limit of the address space leaves.

    Returns:
        MiB; None where the system does not tell.
    """
    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return (free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / _MIB
    return min(_limits(), default=None)


def _remedy(settings: Settings, predict: Callable[[int, Sequence[int]], Peak], budget: float) -> str:
    batch = largest_batch(lambda count: predict(count, settings.patch_size), budget, limit=settings.batch_size)
    sizes = settings.patch_size
    patch = largest_patch(lambda size: predict(settings.batch_size, size), sizes, settings.divisor, budget, sizes)
    fitting = [f"{settings.batch_key} {batch}"] if batch else []
    if patch is not None:
        fitting.append(f"{settings.patch_key} {list(patch)}")
    if not fitting:
        return "No batch and no patch fits: take a smaller network, say --config pocket or a smaller widths.base."
    advice = [f"What fits: {' or '.join(fitting)}."]
    if settings.keeps_memory:
        advice.append("model.init_args.keep_memory false takes a third less.")
    if settings.batch_size > 1:
        advice.append("--config accumulate keeps the batch that the optimizer sees.")
    return " ".join([*advice, "--config checkpoint_activations takes less memory and more time."])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _limits() -> Iterator[float]:
    """Yield what each limit of the system leaves to this process, in MiB."""
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) / 1024
    most, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if most.isdecimal() and used.isdecimal():
        yield (int(most) - int(used)) / _MIB
    pages = _read(Path("/proc/self/statm")).split()
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and pages:
        yield (limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")) / _MIB - _THREADS_MIB


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
