"""What a W&B logger is told of the trial that a run is of."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import sweep_stand_in
import yaml
from started import tied
from sweep_stand_in import GRID

from lightning_pocket.cli import main
from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.runs import TrialRuns, wandb_options
from lightning_pocket.sweeps.start import open_study

CSV = {"class_path": "lightning_pocket.callbacks.MetricsFile", "init_args": {"save_dir": "."}}
WANDB = {"class_path": "lightning_pocket.callbacks.WandbRun", "init_args": {"save_dir": ".", "group": None}}
LR = "model.init_args.optimizer.init_args.lr"


def logging(*loggers):
    return {"trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": list(loggers)}}


@pytest.mark.parametrize("loggers", [None, True, False, [], [CSV], CSV])
def test_without_wandb_nothing_is_said(loggers):
    assert wandb_options(loggers, {"group": "a"}) == []


def test_what_the_settings_say_themselves_stays():
    mine = WANDB | {"init_args": {"group": "mine", "name": None}}
    assert wandb_options([CSV, mine], {"group": "a", "name": "b"}) == ["--trainer.logger.name=b"]
    assert wandb_options(WANDB, {"group": "a b", "config": {"trial": 3}}) == [
        "--trainer.logger.group=a b",
        '--trainer.logger.config={"trial": 3}',
    ]
    (moved,) = wandb_options([WANDB, CSV], {"group": "a"})
    name, _, value = moved.partition("=")
    assert name == "--trainer.logger"
    assert json.loads(value) == [CSV, {**WANDB, "init_args": {"save_dir": ".", "group": "a"}}]


def test_a_study_with_wandb_tells_each_run_of_its_trial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POCKET_SWEEP_STORAGE", raising=False)
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setattr("lightning_pocket.studies.jobs.start_tied", tied("sweep_stand_in:main"))
    monkeypatch.setattr("lightning_pocket.sweeps.start.resolve", sweep_stand_in.resolve)
    monkeypatch.setattr(sweep_stand_in, "SETTINGS", {"model": {"init_args": {}}} | logging(CSV, WANDB))
    Path("grid.yaml").write_text(yaml.safe_dump(GRID | {"seeds": [0, 1]}), encoding="utf-8")
    main(["sweep", "grid.yaml", "--trials=2"])
    _, outcome = outcomes(open_study(Path("runs/grid"), None)[0])
    fits = [command for command in outcome.trial.user_attrs["commands"] if command[1] == "fit"]
    for seed, command in enumerate(fits):
        assert [option for option in command if option.startswith("--trainer.logger")] == [
            "--trainer.logger.group=grid",
            "--trainer.logger.job_type=trial",
            f"--trainer.logger.name=trial 1 seed_{seed}",
            '--trainer.logger.config={"trial": 1, "parameters": {"x": 0.1, "y": 0.5}}',
        ]
    assert len(fits) == 2
    capsys.readouterr()
    main(["sweep", "best", "runs/grid"])
    assert "trainer.logger" not in capsys.readouterr().out, "a repeated run is none of the study"
    main(["sweep", "grid.yaml", "--dry_run"])
    printed = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("pocket fit")]
    assert [set(command) for command in printed[2:4]] == [set(command[1:]) for command in fits]
    monkeypatch.setattr(sweep_stand_in, "SETTINGS", {"model": {"init_args": {}}} | logging(CSV))
    main(["sweep", "grid.yaml", "--dry_run"])
    assert "trainer.logger" not in capsys.readouterr().out


@pytest.mark.e2e
def test_an_offline_run_holds_study_trial_and_parameters(options, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    content = {
        "title": "One",
        "configs": ["segment_volumes", "pocket", "wandb"],
        "options": dict(
            option.removeprefix("--").split("=", 1) for option in options if option[:8] not in ("--config", "--run_di")
        ),
        "space": {LR: {"type": "categorical", "choices": [0.01, 0.02]}},
        "objectives": [{"metric": "val/dice", "direction": "maximize"}],
    }
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    runs = TrialRuns(read_sweep(file), tmp_path / "rates", 1, {LR: 0.02}, (), logging(CSV, WANDB))
    main([*runs.commands()[0], "--trainer.max_epochs=1"])
    (folder,) = (runs.path / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    printed = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    records = [json.loads(line) for line in printed.splitlines()]
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("rates", "trial", "trial 1")
    config = run["config"]["update"]
    assert config["trial"] == 1
    assert config["parameters"] == {"lr": 0.02}
