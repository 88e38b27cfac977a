"""What trials come to before any of them runs: all their settings, and networks that are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_pocket.errors import PocketError

from .study_storage import SECRETS


@dataclass(frozen=True)
class Resolved:
    """Options of ``pocket fit``, resolved.

    Args:
        settings: Every setting, as a run records it.
        identity: Hash of everything that a training depends on, the network as it is built: two options that build the
            same network have the same.
        parameters: Trainable parameters of the network.
        metrics: What the task logs while it trains.
        classifies: Whether the task judges images as a whole.
        problem: Why ``pocket fit`` would refuse the options; then the rest is empty.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    identity: str = ""
    parameters: int = 0
    metrics: list[str] = field(default_factory=list)
    classifies: bool = False
    problem: str = ""


def resolve(options: Sequence[Sequence[str]]) -> list[Resolved]:
    """Resolve options of ``pocket fit`` in a process of its own, so that this one stays small: it may live for days.

    Args:
        options: Several lists of options.

    Returns:
        One result for each.

    Raises:
        PocketError: If the process fails.
    """
    command = [sys.executable, "-m", "lightning_pocket.sweeps.resolve_process"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **dict.fromkeys(SECRETS, "")}
    given = json.dumps([list(entry) for entry in options])
    result = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", env=environment, check=False)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise PocketError(f"the settings of the trials cannot be resolved: {said[-1]}")
    return [Resolved(**entry) for entry in json.loads(result.stdout.splitlines()[-1])]
