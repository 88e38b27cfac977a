"""The Dockerfile, the compose file and .dockerignore as data, and the steps that need neither Docker nor a network."""

import fnmatch
import os
import re
import shutil
import subprocess
import venv
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"


@dataclass
class Stage:
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, *names: str) -> list[str]:
        return [text for name, text in self.steps if name in names]


def read_stages() -> dict[str, Stage]:
    """Return the stages of the Dockerfile by name, in order, with build arguments in ``FROM`` replaced."""
    lines = [line for line in read("Dockerfile").splitlines() if line and not line.startswith("#")]
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, text = line.split(maxsplit=1)
        if name == "FROM":
            base, _, stage = text.partition(" AS ")
            stages[stage] = Stage(re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base))
        elif not stages:
            assert name == "ARG"
            arguments.update([text.split("=", 1)])
        else:
            list(stages.values())[-1].steps.append((name, text))
    return stages


def read(name: str) -> str:
    return (DOCKER / name).read_text(encoding="utf-8")


def ancestry(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and what it is built from, the last first."""
    found = [stages[name]]
    while found[-1].base in stages:
        found.append(stages[found[-1].base])
    return found


def compose() -> dict:
    """Return the compose file with every variable at its default."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", read("compose.yaml")))


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file into the build; the last pattern that fits it or a folder above it decides."""
    kept = True
    above = ["/".join(path.split("/")[: i + 1]) for i in range(path.count("/") + 1)]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            names = {pattern, pattern.removeprefix("**/")}
            if any(fnmatch.fnmatchcase(part, name) for part in above for name in names):
                kept = line.startswith("!")
    return kept


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}


def replay(root: Path, steps: list[tuple[str, str]]) -> list[str]:
    """Carry out ``COPY`` and those ``RUN`` that need no network; the packages are those of the tests' environment."""
    venv.create(root / "opt" / "pocket")
    site = next((root / "opt" / "pocket").glob("lib/*/site-packages"))
    (site / "outer.pth").write_text(f"{Path(yaml.__file__).parents[1]}\n", encoding="utf-8")
    (build := root / "build").mkdir()
    path = f"{root}/opt/pocket/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PIP_NO_INDEX": "1"}
    environment.pop("PYTHONPATH", None)
    done = []
    for name, text in steps:
        if name == "RUN" and "--no-deps" in text:
            command = re.sub(r"(?<=\s)/(wheels|install)\b", rf"{root}/\1", text.replace("pip ", "python -m pip "))
            subprocess.run(["sh", "-c", command], cwd=build, env=environment, check=True, capture_output=True)
        elif name == "COPY" and not text.startswith("--from"):
            *sources, target = text.split()
            (build / target).mkdir(parents=True, exist_ok=True)  # each target is a folder
            for source in sources:
                copy_context(source, build / target)
        elif name == "COPY" and text.startswith("--from=package "):
            source, target = text.split()[1:]
            shutil.copytree(root / source.strip("/"), root / target.strip("/"), dirs_exist_ok=True, symlinks=True)
        else:
            continue
        done.append(name)
    return done


def copy_context(source: str, target: Path) -> None:
    """Copy a file, or all that .dockerignore lets into the build, to where ``COPY`` puts it."""
    if source != ".":
        shutil.copyfile(ROOT / source, target / Path(source).name)
        return
    kept = re.findall(r"(?m)^!([^/\n]+)", (ROOT / ".dockerignore").read_text(encoding="utf-8"))
    found = [file for name in set(kept) for file in (ROOT / name, *(ROOT / name).rglob("*"))]
    for path in found:
        inside = path.relative_to(ROOT).as_posix()
        if path.is_file() and in_context(inside):
            shutil.copyfile(path, make_parents(target / inside))


def make_parents(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
