"""Look at this machine: versions, devices, memory and limits, and what would spoil a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.machine.facts import Facts, read_facts
from lightning_pocket.machine.findings import Finding, find_faults
from lightning_pocket.reports.tables import print_table
from lightning_pocket.storage import to_json

_GIB = 1024  # MiB


def doctor(folder: str = ".", json: bool = False) -> None:
    """Show what the machine has, and each finding with its remedy; the exit status is 1 where there is an error.

    Args:
        folder: Where caches and runs are to be kept; its disk is looked at.
        json: Print everything as JSON, for programs.

    Raises:
        PocketError: If there is no such folder.
        SystemExit: With status 1 where an error was found.
    """
    if not Path(folder).is_dir():
        raise PocketError(f"--folder {folder}: no such folder. Name one that exists.")
    facts = read_facts(Path(folder))
    findings = find_faults(facts)
    if json:
        print(to_json({"facts": asdict(facts), "findings": [asdict(finding) for finding in findings]}), end="")
    else:
        _print(facts, findings)
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(1)


def _print(facts: Facts, findings: Sequence[Finding]) -> None:
    print_table(["what", "found"], [[name, value] for name, value in describe(facts) if value])
    print()
    if findings:
        print_table(["", "about", "finding", "remedy"], [[f.level, f.subject, f.found, f.remedy] for f in findings])
    else:
        print("Nothing to mend.")


def describe(facts: Facts) -> list[tuple[str, str]]:
    """Return each fact as a name and a short text, empty where it is not known.

    Args:
        facts: What the machine has.
    """
    versions = {entry.name: entry.installed or "missing" for entry in facts.requirements} | facts.extras
    torch = facts.torch
    cuda = f"CUDA {torch.cuda}, cuDNN {torch.cudnn or 'missing'}" if torch.cuda else "CPU build"
    limit = "" if facts.memory_limit_mib is None else f", container's limit {_gib(facts.memory_limit_mib)}"
    quota = "" if facts.cpu_quota is None else f", container's share {facts.cpu_quota:g}"
    files = "" if facts.open_files is None else f"{_count(facts.open_files[0])} of {_count(facts.open_files[1])}"
    threads = "" if torch.threads is None else f", torch takes {torch.threads} threads"
    return [
        ("python", facts.python),
        ("system", facts.system),
        *((name, version + (f", {cuda}" if name == "torch" else "")) for name, version in versions.items()),
        ("NVIDIA driver", facts.driver or ""),
        *((f"GPU {index}", _gpu_line(facts, index)) for index in range(len(facts.gpus))),
        ("cores", f"{facts.cores}{quota}{threads}"),
        ("memory", f"{_gib(facts.ram_mib)}, {_gib(facts.ram_available_mib)} available{limit}"),
        ("shared memory", _gib(facts.shared_memory_mib)),
        ("open files", files),
        *((f"disk for {disk.use}", f"{disk.free_gib:.1f} GiB free at {disk.path}") for disk in facts.disks),
        ("C++ compiler", facts.compiler or "none"),
        *facts.variables.items(),
    ]


def _gpu_line(facts: Facts, index: int) -> str:
    gpu = facts.gpus[index]
    capability = ".".join(map(str, gpu.capability))
    return f"{gpu.name}, {_gib(gpu.memory_mib)}, {_gib(gpu.free_mib)} free, compute capability {capability}"


def _count(number: int) -> str:
    return "any number" if number < 0 else f"{number:,}"


def _gib(mib: float | None) -> str:
    return "" if mib is None else f"{mib / _GIB:.1f} GiB"
