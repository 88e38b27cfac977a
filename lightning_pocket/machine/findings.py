"""What is wrong with a machine, and how to mend it: pure rules over :class:`Facts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from .facts import Facts, Gpu, Requirement

Level = Literal["error", "warning", "note"]

_GIB = 1024  # MiB
#: Oldest driver on Linux of each major version of CUDA (CUDA release notes, minor version compatibility).
_OLDEST_DRIVER = {"11": (450, 80), "12": (525, 60), "13": (580, 65)}
#: Why a version of a package is refused, by package and the beginning of the version.
_BAD_VERSIONS = {
    ("torch", "2.9."): "Conv3d under mixed precision is about four times slower than in other versions",
    ("pytorch-lightning", "2.6.2"): "this upload was malicious: change the passwords and keys that the machine holds",
    ("pytorch-lightning", "2.6.3"): "this upload was malicious: change the passwords and keys that the machine holds",
}
_SMALL_SHM_MIB = 1024
_FEW_FILES = 1024
_LITTLE_RAM_MIB = 4 * _GIB


@dataclass(frozen=True)
class Finding:
    """Something about the machine that a user should know.

    Args:
        level: ``error`` where a training would fail or not use the hardware, ``warning`` where it would be slow or
            fail later, ``note`` for what is only good to know.
        subject: What it is about.
        found: What is the case.
        remedy: What to do.
    """

    level: Level
    subject: str
    found: str
    remedy: str


def find_faults(facts: Facts) -> list[Finding]:
    """Return what is wrong, the worst first.

    Args:
        facts: What the machine has.
    """
    found = [finding for rule in _RULES for finding in rule(facts)]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _packages(facts: Facts) -> Iterator[Finding]:
    for needed in facts.requirements:
        install = f"pip install '{needed.name}{needed.wanted}'"
        if needed.installed is None:
            yield Finding("error", needed.name, "is not installed", install)
        elif not needed.fits:
            yield Finding("error", needed.name, _why(needed), install)
    if "lightning" in facts.extras:
        yield Finding(
            "note",
            "lightning",
            "is installed beside pytorch-lightning; callbacks of one do not work in the other",
            "Import only pytorch_lightning in code of your own.",
        )


def _why(needed: Requirement) -> str:
    version = needed.installed or ""
    for (name, begin), reason in _BAD_VERSIONS.items():
        if needed.name == name and version.startswith(begin):
            return f"{version}: {reason}"
    return f"{version}; expected {needed.wanted}"


def _torch_and_driver(facts: Facts) -> Iterator[Finding]:
    torch = facts.torch
    if torch.problem and torch.threads is None:
        yield Finding("error", "torch", f"cannot be imported: {torch.problem}", "Install it again: pip install torch")
        return
    if not facts.nvidia_gpus:
        yield Finding("note", "GPU", "none", "Train small networks with --config laptop, or on a machine with a GPU.")
        return
    if torch.cuda is None:
        remedy = "Install the CUDA build: see pytorch.org/get-started, or pip install torch from its usual index."
        yield Finding("error", "torch", f"is a CPU build, beside {facts.nvidia_gpus} NVIDIA GPU(s)", remedy)
    elif facts.gpus:
        return
    elif facts.variables.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        hidden = f"CUDA_VISIBLE_DEVICES={facts.variables['CUDA_VISIBLE_DEVICES']!r} hides every GPU"
        yield Finding("warning", "GPU", hidden, "Unset it, or name a GPU: CUDA_VISIBLE_DEVICES=0.")
    elif _is_too_old(facts):
        oldest = ".".join(map(str, _OLDEST_DRIVER[torch.cuda.partition(".")[0]]))
        yield Finding(
            "error",
            "driver",
            f"{facts.driver} is too old for CUDA {torch.cuda}, which torch was built for",
            f"Install driver {oldest} or newer, or a torch that was built for an older CUDA.",
        )
    elif facts.driver is None:
        remedy = "Install the driver; in a container, start it with --gpus all and the NVIDIA container toolkit."
        yield Finding("error", "driver", "an NVIDIA GPU, but nvidia-smi does not answer", remedy)
    else:
        said = f": {torch.problem}" if torch.problem else ""
        remedy = "Run nvidia-smi; restart the machine after an update of the driver; check CUDA_VISIBLE_DEVICES."
        yield Finding("error", "GPU", f"torch cannot use it{said}", remedy)


def _is_too_old(facts: Facts) -> bool:
    oldest = _OLDEST_DRIVER.get((facts.torch.cuda or "").partition(".")[0])
    if oldest is None or facts.driver is None:
        return False
    parts = [int(part) for part in facts.driver.split(".")[:2] if part.isdecimal()]
    return tuple(parts) < oldest


def _gpus(facts: Facts) -> Iterator[Finding]:
    for index, gpu in enumerate(facts.gpus):
        name = f"GPU {index}"
        runs = not facts.torch.architectures or _has_code(gpu, facts.torch.architectures)
        if not runs:
            yield Finding(
                "error",
                name,
                f"{gpu.name} has compute capability {_dotted(gpu)}, for which torch {facts.torch.cuda} has no code",
                "Install a build of torch for this GPU: older ones need an older CUDA, new ones a newer.",
            )
        if gpu.free_mib < 0.5 * gpu.memory_mib:
            used = (
                f"other processes use {(gpu.memory_mib - gpu.free_mib) / _GIB:.1f} of {gpu.memory_mib / _GIB:.1f} GiB"
            )
            yield Finding("warning", name, used, "See who with nvidia-smi; choose with CUDA_VISIBLE_DEVICES.")
        if runs and gpu.capability < (8, 0):
            said = f"{gpu.name} has no bfloat16 units"
            yield Finding("note", name, said, "Take --config mixed_precision (float16) rather than bfloat16.")
    if facts.gpus and facts.torch.cudnn is None:
        yield Finding("error", "cuDNN", "is missing: convolutions would be slow", "Install torch with its own cuDNN.")


def _has_code(gpu: Gpu, architectures: tuple[str, ...]) -> bool:
    """Whether a build runs on a GPU: machine code of the same major version, or portable code that is not newer."""
    major, minor = gpu.capability
    for name in architectures:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdecimal():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
        if kind == "compute" and built <= (major, minor):
            return True
    return False


def _dotted(gpu: Gpu) -> str:
    return ".".join(map(str, gpu.capability))


def _memory(facts: Facts) -> Iterator[Finding]:
    limit, total = facts.memory_limit_mib, facts.ram_mib
    if limit is not None and total is not None and limit < 0.95 * total:
        said = f"the container may use {limit / _GIB:.1f} of {total / _GIB:.1f} GiB"
        yield Finding("note", "memory", said, "The limit counts: a process above it is killed. Raise it if you can.")
    available = min(amount for amount in (limit, facts.ram_available_mib, 1e12) if amount is not None)
    if available < _LITTLE_RAM_MIB:
        said = f"{available / _GIB:.1f} GiB available"
        yield Finding("warning", "memory", said, "Close programs, or keep patches, batches and workers few.")
    shared = facts.shared_memory_mib
    if shared is not None and shared < _SMALL_SHM_MIB:
        yield Finding(
            "warning",
            "shared memory",
            f"/dev/shm has {shared:.0f} MiB; workers of a loader die there with a bus error",
            "Start the container with --shm-size=8g or --ipc=host, or keep data.init_args.num_workers at 0.",
        )


def _files(facts: Facts) -> Iterator[Finding]:
    if facts.open_files is not None and 0 <= facts.open_files[0] < _FEW_FILES:
        now, most = facts.open_files
        said = f"a process may open {now}: loaders with workers need more"
        target = 4096 if most < 0 else min(4096, most)
        yield Finding("warning", "open files", said, f"Run `ulimit -n {target}` first.")
    for disk in facts.disks:
        if disk.free_gib < 10:
            level: Level = "error" if disk.free_gib < 1 else "warning"
            said = f"{disk.free_gib:.1f} GiB free at {disk.path}"
            remedy = "Free some, or set TMPDIR." if disk.use == "temporary files" else "Free some, or use another disk."
            yield Finding(level, f"disk for {disk.use}", said, remedy)


def _processor(facts: Facts) -> Iterator[Finding]:
    granted = min(float(facts.cores), facts.cpu_quota or float(facts.cores))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = facts.variables.get(name, "")
        if value.isdecimal() and int(value) > granted:
            said = f"{name}={value}, but there are {granted:g} cores: threads wait for each other"
            yield Finding("warning", "threads", said, f"Set {name}={max(1, int(granted))} or unset it.")
    threads = facts.torch.threads or 0
    if facts.cpu_quota is not None and threads > facts.cpu_quota + 0.5 and "OMP_NUM_THREADS" not in facts.variables:
        said = f"torch takes {threads}, but the container grants {facts.cpu_quota:g} cores"
        yield Finding("warning", "threads", said, f"Set OMP_NUM_THREADS={max(1, int(facts.cpu_quota))}.")
    fast = {"avx512_bf16", "amx_bf16", "bf16"} & set(facts.cpu_flags)
    if facts.cpu_flags and not fast and not facts.gpus:
        said = "the processor has no bfloat16 instructions"
        yield Finding("note", "half precision", said, "Train in float32 here; bfloat16 would save memory, not time.")
    if "avx512f" in facts.cpu_flags and not facts.gpus:
        said = "torch computes wrong bfloat16 gradients on AVX-512 where a 3D kernel is longer than its input"
        yield Finding("note", "bfloat16", said, "Such trainings are refused; patches whose first axis is long are not.")


def _tools(facts: Facts) -> Iterator[Finding]:
    if facts.compiler is None:
        said = "there is no C++ compiler, which torch.compile needs"
        yield Finding("note", "compiler", said, "Install g++ (apt-get install g++), or leave compiling off.")
    if facts.gpus and "triton" not in facts.extras:
        yield Finding("note", "triton", "is not installed; torch.compile needs it on a GPU", "pip install triton")
    if "wandb" in facts.extras and not facts.wandb_key and facts.variables.get("WANDB_MODE") != "offline":
        said = "not logged in: --config wandb would stop and ask for a key"
        yield Finding("note", "W&B", said, "Run `wandb login`, or set WANDB_MODE=offline.")
    for name, effect in (
        ("CUDA_LAUNCH_BLOCKING", "each kernel is waited for"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "memory is asked from the driver each time"),
    ):
        if facts.gpus and facts.variables.get(name, "0") not in {"", "0"}:
            yield Finding("warning", name, f"is set: {effect}, which is slow", f"unset {name}")


_RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _packages, _torch_and_driver, _gpus, _memory, _files, _processor, _tools,
)  # fmt: skip
