"""The layout of the package is a promise; these tests keep it."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lightning_pocket"

#: What each subpackage may import from the rest of the package, as module prefixes.
COMMON = {"__version__", "errors", "processes", "storage", "types"}
ALLOWED: dict[str, set[str]] = {
    "layers": set(),
    "networks": {"layers"},
    "losses": set(),
    "metrics": set(),
    "regularizers": set(),
    "inference": set(),
    "data": {"machine.limits"},
    "speed": {"layers"},
    "compact": {"networks.base", "profiling", "regularizers.rings", "speed"},
    "tasks": {"layers", "networks", "inference", "losses", "metrics", "speed"},
    "analyses": {"layers"},
    "callbacks": {"analyses", "compact", "layers", "metrics", "regularizers", "reports", "speed"},
    "reports": {"metrics"},
    "profiling": set(),
    "machine": set(),
    "expansion": {"layers", "networks.base", "tasks"},
    "costs": {
        "commands.train",
        "launch",
        "layers",
        "losses",
        "networks",
        "profiling",
        "reports",
        "run_folder",
        "speed",
        "studies",
        "tasks",
    },
    "frontier": {
        "compact.latency",
        "launch",
        "layers",
        "networks.base",
        "profiling",
        "regularizers",
        "reports",
        "run_folder",
        "speed",
        "sweeps",
        "tasks",
    },
    "serving": {"loopback", "reports"},
    "sweeps": {
        "costs",
        "commands.settings_process",
        "launch",
        "locks",
        "loopback",
        "networks.base",
        "reports",
        "run_folder",
        "studies",
        "tasks",
    },
    "studies": {
        "analyses",
        "data",
        "inference",
        "launch",
        "layers",
        "locks",
        "metrics",
        "networks.base",
        "reports",
        "run_folder",
        "tasks",
    },
}
#: Only loading a checkpoint must know every network and loss: the classes that may be rebuilt are those imported.
EXCEPTIONS = {"tasks/loading.py": {"compact", "losses", "networks"}}
MAX_LINES = 400
MAX_MEDIAN = 135
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the package that ``path`` imports, without the package's own name."""
    prefix = "lightning_pocket."
    yield from (name.removeprefix(prefix) for name in every_import(path) if name.startswith(prefix))


def every_import(path: Path) -> Iterator[str]:
    """Yield everything that ``path`` imports, relative names resolved."""
    package = ("lightning_pocket", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from names


@pytest.mark.parametrize("path", [p for p in modules() if p.relative_to(ROOT).parts[0] in ALLOWED], ids=name_of)
def test_imports_point_downwards(path):
    subpackage = path.relative_to(ROOT).parts[0]
    allowed = ALLOWED[subpackage] | COMMON | {subpackage} | EXCEPTIONS.get(name_of(path), set())
    forbidden = [name for name in imported(path) if not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)]
    assert not forbidden, f"{name_of(path)} may not import {forbidden}; allowed: {sorted(allowed)}"


def test_tasks_know_only_what_every_network_promises():
    for path in (ROOT / "tasks").glob("*.py"):
        if name_of(path) in EXCEPTIONS:
            continue
        networks = {name for name in imported(path) if name.startswith("networks")}
        assert networks <= {"networks.base.Classifier", "networks.base.Network"}, f"{name_of(path)} imports {networks}"


def test_only_data_imports_torchio():
    for path in modules():
        if path.relative_to(ROOT).parts[0] != "data":
            assert not {name for name in every_import(path) if name.split(".")[0] == "torchio"}, name_of(path)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_file_is_short_and_named_after_what_it_does(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines; split it by responsibility"
    assert path.stem not in FORBIDDEN_NAMES


def test_median_file_is_short():
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in modules()) <= MAX_MEDIAN


@pytest.mark.parametrize(
    "package",
    ["layers", "networks", "losses", "metrics", "regularizers", "inference", "tasks", "callbacks", "data"],
)
def test_every_public_name_exists_and_is_documented(package):
    module = __import__(f"lightning_pocket.{package}", fromlist=["__all__"])
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
