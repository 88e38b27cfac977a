"""A killed run continues and ends with the same weights."""

import json
import os
import signal
import sys
import time

import pytest
import torch
from interruption import kill_after
from started import TRAINING, Started, start_pocket

from lightning_pocket.cli import main

pytestmark = pytest.mark.e2e

#: Dropout, a schedule that acts at once, and augmentation: everything that could come out differently.
DELICATE = [
    "--config=strong_augmentation",
    "--trainer.max_epochs=4",
    "--data.init_args.patches_per_epoch=12",
    "--model.init_args.network.init_args.layers.dropout=0.2",
    "--model.init_args.lr_scheduler.init_args.patience=0",
    "--model.init_args.lr_scheduler.init_args.threshold=10",  # nothing counts as progress
]


def state(run_dir):
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    moments = [value for entry in checkpoint["optimizer_states"][0]["state"].values() for value in entry.values()]
    rate = checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]
    return [*checkpoint["state_dict"].values(), *moments], rate, checkpoint["epoch"], checkpoint["global_step"]


def kill_after_first_checkpoint(arguments, run_dir):
    process = start_pocket(arguments)
    last = run_dir / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 50
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_ends_bit_equal_to_an_uninterrupted_one(options, tmp_path, capsys):
    """Killed from outside while workers load its data, and given up in this process without any."""
    whole = tmp_path / "whole"
    main(["fit", *options, *DELICATE, f"--run_dir={whole}", "--data.init_args.num_workers=0"])
    expected = state(whole)
    assert expected[1] < 0.001  # the schedule did act
    assert expected[2] == 4
    for workers in (0, 2):
        killed = tmp_path / f"killed_{workers}"
        arguments = ["fit", *options, *DELICATE, f"--run_dir={killed}", f"--data.init_args.num_workers={workers}"]
        if workers:
            kill_after_first_checkpoint(arguments, killed)
        else:
            kill_after(arguments)
        assert torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] < 4
        capsys.readouterr()
        main(arguments)
        assert "continuing from" in capsys.readouterr().out
        found = state(killed)
        assert all(torch.equal(a, b) for a, b in zip(expected[0], found[0], strict=True)), workers
        assert expected[1:] == found[1:]
        assert metrics(whole) == metrics(killed)


def metrics(run_dir):
    """What was learned; time and memory differ between runs."""
    header, *lines = [line.split(",") for line in (run_dir / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    kept = [index for index, name in enumerate(header) if not name.startswith("profile/")]
    return [[row[index] for index in kept] for row in [header, *lines]]


def test_ctrl_c_says_how_to_continue(options):
    process = start_pocket(["fit", *options, "--trainer.max_epochs=1000"])
    while "parameters; run folder" not in process.read()[0]:
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues where it stopped" in errors
    assert "Traceback" not in errors


def test_two_processes_share_the_work_and_report_every_case_once(options, tmp_path):
    """Both commands in the same two processes; Lightning starts the second one as it starts that of ``pocket``."""
    fit = ["fit", *options, "--trainer.devices=2", "--trainer.strategy=ddp"]
    commands = json.dumps([fit, ["test", f"--run_dir={tmp_path / 'run'}"]])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = Started("several_commands:run", [commands], env=environment, imports=TRAINING)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    split = manifest["data"]["split"]
    assert manifest["finished"] is True
    assert manifest["steps"] == 2 * -(-(len(split["train"]) // 2) // 2)  # two epochs of half the patches, two a step
    rows = (tmp_path / "run" / "test" / "cases.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == sorted(split["test"])
