"""Files of studies that tests write, and what their trials came to."""

from pathlib import Path

import yaml

from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.start import open_study

#: Two objectives.
TWO = [{"metric": "dice", "direction": "maximize"}, {"metric": "parameters", "direction": "minimize"}]


def write(content, path="study.yaml"):
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def found(folder="runs/study"):
    return outcomes(open_study(Path(folder), None)[0])


def trained():
    return [line for line in Path("log").read_text(encoding="utf-8").splitlines() if line.startswith("trained")]
