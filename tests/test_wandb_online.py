"""Online W&B runs against a stand-in for the service, and what happens where it cannot be used."""

import json
import subprocess
import sys
import time

import pytest
from wandb_reader import OfflineRun
from wandb_stub import KEY

from lightning_pocket.callbacks import WandbRun
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError

wandb = pytest.importorskip("wandb")


def log(folder, steps, **settings):
    """Log some steps, and return what the logger said of where the run is."""
    logger = WandbRun(str(folder), **settings)
    run = logger.experiment
    said = logger._session.describe(run)
    for step in steps:
        logger.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    logger.finalize("success")
    return said


@pytest.mark.e2e
def test_an_online_run_is_trained_tested_and_tells_nothing_of_the_machine(
    wandb_service, options, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("DATABASE_PASSWORD", "correct-horse-battery")
    monkeypatch.setattr(sys, "argv", ["pocket", "fit", *options, "--storage=mysql://ann:tr0ub4dor@host/db"])
    main(["fit", *options, "--config=wandb"])
    main(["test", f"--run_dir={tmp_path / 'run'}"])
    printed = capfd.readouterr()
    (run,) = wandb_service.history
    assert printed.out.count(f"W&B: {wandb_service.url}/team/lightning-pocket/runs/{run}") == 2
    assert "wandb:" not in printed.out + printed.err.replace(
        "wandb: WARNING Artifact", ""
    )  # the same table, says the service

    rows = list(wandb_service.history[run].values())
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert [row["trainer/global_step"] for row in rows if "val/dice" in row] == [3, 7]
    assert [row["trainer/global_step"] for row in rows if "test/dice" in row] == [7]
    assert any("test/cases" in row for row in rows)
    config = {key: entry["value"] for key, entry in json.loads(wandb_service.configs[run]).items()}
    assert config["labels"]["size"] == "pocket"
    assert config["manifest"]["finished"] is True
    labels = config["_wandb"]["mask/class_labels"]
    for key in ("pictures/val", "pictures/test"):  # those of the training are still there after the test
        assert labels[f"{key}_wandb_delimeter_prediction"]["value"]["2"] == "core"

    everything = "\n".join(wandb_service.sent)
    for secret in (KEY, "correct-horse-battery", "tr0ub4dor", str(tmp_path / "home_of_ann")):
        assert secret not in everything
    assert not {
        name for name in wandb_service.files[run] if "requirements" in name or "metadata" in name or "output" in name
    }


def test_a_run_that_goes_on_is_continued_and_an_offline_one_is_uploaded_in_order(wandb_service, tmp_path):
    log(tmp_path / "online", range(3))
    log(tmp_path / "online", range(3, 5))
    for steps in (range(3), range(3, 5)):
        log(tmp_path / "offline", steps, mode="offline")
        time.sleep(1.1)  # W&B orders attempts by the second in which they began
    folders = [str(folder) for folder in OfflineRun(tmp_path / "offline").attempts]
    subprocess.run([sys.executable, "-m", "wandb", "sync", *folders], check=True, capture_output=True, timeout=60)
    assert len(wandb_service.history) == 2
    for rows in wandb_service.history.values():
        assert [(row["_step"], row["trainer/global_step"]) for row in rows.values()] == [(n, n) for n in range(5)]


@pytest.mark.parametrize("how", ["dead", "refused"])
def test_where_the_service_cannot_be_used_the_run_is_kept_offline(wandb_service, tmp_path, capfd, how):
    if how == "dead":
        wandb_service.stop()
    else:
        wandb_service.refuse = "permission denied"
    began = time.monotonic()
    said = log(tmp_path / "run", range(2), timeout_s=2)
    assert time.monotonic() - began < 10
    assert said.count("\n") == 0
    assert ("connection refused" if how == "dead" else "permission denied") in said
    assert f"kept offline; `wandb sync {tmp_path / 'run' / 'wandb'}/offline-run-*` uploads it" in said
    deadline = time.monotonic() + 10  # another process writes the file
    while not (losses := OfflineRun(tmp_path / "run").series("train/loss")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [number for number, _ in losses] == [0, 1]
    assert not list((tmp_path / "run" / "wandb").glob("run-*"))
    assert capfd.readouterr() == ("", "")


def test_where_the_service_cannot_be_used_the_run_stops_or_goes_on_without_as_set(wandb_service, tmp_path, capfd):
    wandb_service.refuse = "permission denied"
    with pytest.raises(PocketError, match=r"W&B: .*permission denied\. Mend it, or keep the run on this machine"):
        log(tmp_path / "stops", range(2), on_failure="stop")
    said = log(tmp_path / "disabled", range(2), on_failure="disabled")
    assert "permission denied; disabled, the run is not recorded there" in said
    assert not list(tmp_path.rglob("*.wandb"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.e2e
def test_a_training_that_is_to_stop_ends_with_one_line_and_leaves_nothing(wandb_service, options, tmp_path, fails):
    wandb_service.refuse = "permission denied"
    said = fails(["fit", *options, "--config=wandb", "--trainer.logger.on_failure=stop"])
    assert "W&B: Error initializing run: input: permission denied. Mend it" in said
    assert not (tmp_path / "run").exists()


def test_a_project_that_cannot_be_is_one_clear_error(wandb_service, tmp_path):
    with pytest.raises(PocketError, match=r"W&B: Invalid project name 'a/b:c'"):
        log(tmp_path / "run", range(2), project="a/b:c")
    assert wandb_service.queries == []


def test_nobody_is_logged_in(wandb_service, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    assert "not logged in (`wandb login`); kept offline" in log(tmp_path / "auto", range(2))
    assert "No API key configured" in log(tmp_path / "online", range(2), mode="online")
    assert wandb_service.queries == []


def test_the_end_of_a_run_does_not_wait_for_a_service_that_is_gone(wandb_service, tmp_path, capfd):
    logger = WandbRun(str(tmp_path / "run"), upload_s=1)
    logger.log_metrics({"train/loss": 1.0}, 0)
    wandb_service.stop()
    logger.log_metrics({"train/loss": 0.5}, 1)
    began = time.monotonic()
    logger.finalize("success")
    assert time.monotonic() - began < 8
    (folder,) = (tmp_path / "run" / "wandb").glob("run-*")
    said = capfd.readouterr().err
    assert f"not all was uploaded within 1 s; `wandb sync --include-online {folder}` uploads the rest" in said


@pytest.mark.usefixtures("wandb_service")
def test_an_error_of_wandb_in_the_middle_of_a_training_is_said_once_or_stops_it(tmp_path, capfd, monkeypatch):
    for on_failure in ("offline", "stop"):
        logger = WandbRun(str(tmp_path / on_failure), mode="offline", on_failure=on_failure)
        monkeypatch.setattr(type(logger.experiment), "log", lambda *_args, **_more: 1 / 0)
        if on_failure == "offline":
            for step in range(2):
                logger.log_metrics({"train/loss": 1.0}, step)
            assert capfd.readouterr().err == "W&B: could not log train/loss (division by zero); the run goes on\n"
        else:
            with pytest.raises(PocketError, match=r"could not log train/loss .* Mend it, or let the run go on"):
                logger.log_metrics({"train/loss": 1.0}, 0)
        logger.finalize("success")


@pytest.mark.parametrize("setting", ["mode", "on_failure"])
@pytest.mark.e2e
def test_a_run_goes_on_where_wandb_is_not_installed_if_it_may(options, tmp_path, monkeypatch, setting):
    monkeypatch.setitem(sys.modules, "wandb", None)
    main(["fit", *options, "--config=wandb", f"--trainer.logger.{setting}=disabled", "--trainer.max_epochs=1"])
    assert (tmp_path / "run" / "metrics.csv").is_file()
    assert not (tmp_path / "run" / "wandb").exists()


def test_a_mode_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(PocketError, match=r"WANDB_MODE: found 'of'; expected online, offline or disabled"):
        _ = WandbRun(str(tmp_path)).experiment


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"timeout_s": -1}, {"upload_s": -1}])
def test_a_wait_that_cannot_be_is_refused(tmp_path, settings):
    with pytest.raises(PocketError, match=r"WandbRun\.\w+: found .*; expected a positive number of seconds"):
        WandbRun(str(tmp_path), **settings)
