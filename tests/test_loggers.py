"""The same series in metrics.csv, in TensorBoard and in an offline W&B run."""

import csv
import json
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from started import Started
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_pocket.callbacks import WandbRun
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.tasks import SegmentationTask

wandb = pytest.importorskip("wandb")

SERIES = ("train/loss", "val/dice", "profile/step_ms", "profile/peak_rss_mib", "profile/val_peak_rss_mib")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A machine that is not logged in to W&B, and whose home is a temporary folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path / "home"
    wandb.teardown()


def csv_series(run, name):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]


def tensorboard_series(run, name):
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what a restart supersedes
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@cache
def wandb_records(folder):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def wandb_series(run, name):
    found = []
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        items = [record["history"]["item"] for record in wandb_records(folder) if record["type"] == "history"]
        found += [(item["trainer/global_step"], item[name]) for item in items if name in item]
    return found


def close(found, expected):
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


@pytest.mark.e2e
def test_every_logger_holds_the_same_series(options, tmp_path, elsewhere, capfd):
    main(["fit", *options, "--config=wandb"])
    printed = capfd.readouterr()
    assert "wandb:" not in printed.out + printed.err
    assert printed.out.count("wandb sync ") == 1
    leftovers = [path for path in elsewhere.rglob("*") if path.is_file() and "logs" not in path.parts]
    assert leftovers == []  # nothing but W&B's own debug logs outside the run folder
    run = tmp_path / "run"
    for name in SERIES:
        expected = csv_series(run, name)
        assert [step for step, _ in expected] == [3, 7], name
        close(tensorboard_series(run, name), expected)
        close(wandb_series(run, name), expected)
    assert csv_series(run, "profile/peak_rss_mib")[0][1] > 100
    assert {path.name for path in (run / "tensorboard").iterdir() if "tfevents" not in path.name} == set()

    (folder,) = (run / "wandb").glob("offline-run-*")
    records = wandb_records(folder)
    update = {}
    for record in records:
        if record["type"] == "config":
            update |= record["config"]["update"]
    saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert update["model"] == saved["model"]
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert update["manifest"]["finished"] is True
    assert update["manifest"]["git_commit"] == manifest["git_commit"]
    assert update["manifest"]["versions"]["wandb"] == wandb.__version__
    assert "split" in manifest["data"]
    assert "split" not in update["manifest"]["data"]
    summary = {}
    for record in records:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    assert summary["val/dice"]["max"] == pytest.approx(max(value for _, value in csv_series(run, "val/dice")))
    assert summary["train/loss"]["min"] == pytest.approx(min(value for _, value in csv_series(run, "train/loss")))
    assert summary["profile/step_ms"]["last"] == pytest.approx(csv_series(run, "profile/step_ms")[-1][1])
    assert records[1]["run"]["display_name"] == "run"
    assert records[1]["run"]["run_id"] == (run / "wandb" / "run_id.txt").read_text(encoding="utf-8").strip()


@pytest.mark.e2e
def test_a_run_that_continues_continues_its_curves(options, tmp_path, monkeypatch):
    step = SegmentationTask.training_step
    attempts = []

    def logs_and_fails_once(self, *args, **kwargs):
        if self.global_step == 6 and len(attempts) == 1:
            raise RuntimeError("power cut")
        self.log("train/at", float(100 * len(attempts) + self.global_step))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SegmentationTask, "training_step", logs_and_fails_once)
    run = tmp_path / "run"
    arguments = ["fit", *options, "--config=wandb", "--trainer.log_every_n_steps=1"]
    attempts.append("first")
    with pytest.raises(RuntimeError, match="power cut"):
        main(arguments)
    assert [number for number, _ in csv_series(run, "train/at")] == list(range(6))
    before = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert before["finished"] is False
    assert before["finished_at"] is None
    attempts.append("second")
    main(arguments)
    main(["test", f"--run_dir={run}"])
    main(["validate", f"--run_dir={run}", "--ckpt_path=best"])

    expected = [(number, number + (100.0 if number < 4 else 200.0)) for number in range(8)]
    assert csv_series(run, "train/at") == tensorboard_series(run, "train/at") == expected
    # W&B cannot take back what was logged: steps that are run again, with the same result, are not logged again.
    once = [(number, number + (100.0 if number < 6 else 200.0)) for number in range(8)]
    assert wandb_series(run, "train/at") == once
    assert [number for number, _ in csv_series(run, "val/dice")] == [3, 7]
    for read in (csv_series, tensorboard_series, wandb_series):
        assert [number for number, _ in read(run, "test/dice")] == [7]
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0"] * 4 + ["1"] * 4
    folders = list((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 3  # validate leaves the curves alone
    # Called offline-run-TIME-ID, with a number behind it in the same second.
    assert len({folder.name.split("-")[3] for folder in folders}) == 1

    after = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert after["started_at"] == before["started_at"] <= after["finished_at"]
    assert after["train_seconds"] > before["train_seconds"] > 0

    old = (run / "wandb" / "run_id.txt").read_text(encoding="utf-8")
    main([*arguments, "--fresh"])
    assert (run / "wandb" / "run_id.txt").read_text(encoding="utf-8") != old
    assert len(list((run / "wandb").glob("offline-run-*"))) == len(list((run / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("presets", [["wandb", "full"], ["full", "wandb", "validate_patches"]])
def test_the_preset_adds_to_the_default_loggers(options, capsys, presets):
    with pytest.raises(SystemExit):
        main(["fit", *options, *[f"--config={name}" for name in presets], "--print_config"])
    loggers = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    names = [logger["class_path"].rpartition(".")[2] for logger in loggers]
    assert names == ["MetricsFile", "TensorBoardEvents", "WandbRun"]


def test_without_wandb_the_error_says_what_to_install(options, tmp_path, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = fails(["fit", *options, "--config=wandb"])
    assert 'pip install "lightning-pocket[wandb]"' in message
    assert not (tmp_path / "run").exists()


def test_online_without_an_account_is_one_clear_error(tmp_path):
    with pytest.raises(PocketError, match=r"W&B: No API key configured\..* keep the run on this machine"):
        _ = WandbRun(str(tmp_path), mode="online", on_failure="stop").experiment


def test_an_offline_run_by_choice_is_silent_too(tmp_path, capfd):
    logger = WandbRun(str(tmp_path / "run"), mode="offline", tags=["a"], group="b", name="c")
    logger.log_metrics({"train/loss": 1.0}, step=0)
    run = logger.experiment
    assert (run.name, run.group, run.tags, run.project) == ("c", "b", ("a",), "lightning-pocket")
    logger.finalize("success")
    assert capfd.readouterr() == ("", "")


def test_a_disabled_run_writes_nothing_of_wandb(tmp_path):
    logger = WandbRun(str(tmp_path / "run"), mode="disabled")
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.finalize("success")
    assert not list(tmp_path.rglob("*.wandb"))


def print_modes():
    def mode(chosen="auto"):
        return WandbRun(".", mode=chosen)._session._resolve_mode()

    modes = [mode()]
    os.environ["WANDB_API_KEY"] = 40 * "0"
    modes.append(mode())
    os.environ["WANDB_MODE"] = "offline"
    sys.stdout.write(repr([*modes, mode(), mode("online")]))


def test_the_mode_is_chosen_without_asking_anyone():
    process = Started(f"{Path(__file__).stem}:print_modes", [])
    output, _ = process.communicate(timeout=60)
    assert output == "['offline', 'online', 'offline', 'online']"


def test_default_runs_import_neither_wandb_nor_tensorboard_before_they_log():
    code = "import sys, lightning_pocket.callbacks; print({'wandb', 'tensorboard'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == "set()"
