"""What commands print at their end, against files written by hand and against commands that then run."""

import csv
import json
import shlex

import pytest

from lightning_pocket.cli import main
from lightning_pocket.reports.run_summary import (
    Summary,
    show_memory,
    summarize_folds,
    summarize_test,
    summarize_training,
)
from lightning_pocket.storage import sha256, write_csv, write_json, write_text

CONFIG = "model:\n  init_args:\n    network:\n      class_path: lightning_pocket.networks.UNet\n"


def write_run(run, **changes):
    """Write a run of 4 epochs whose third was the best."""
    manifest = {
        "parameters": 117939,
        "epochs": 4,
        "best_epoch": 3,
        "best_monitor": "val/dice",
        "best_score": 0.875,
        "train_seconds": 754.0,
        "finished": True,
        "finished_at": "2026-01-01T00:00:00+00:00",
        "data": {"split": {"test": ["a", "b"]}},
    }
    write_json(run / "manifest.json", manifest | changes)
    write_text(run / "config.yaml", CONFIG)
    dice, peaks = (0.5, 0.7, 0.875, 0.8), (900.0, 1400.0, 1200.0, 1100.0)
    rows = [
        {"epoch": epoch, "step": 10 * epoch + 9, "val/dice": dice[epoch], "profile/peak_rss_mib": peaks[epoch]}
        for epoch in range(4)
    ]
    columns = [*rows[0], "profile/test_peak_rss_mib"]
    write_csv(run / "metrics.csv", columns, [*rows[:-1], {**rows[-1], "profile/test_peak_rss_mib": 640.0}])
    return run


def write_test(run, checkpoint):
    write_csv(
        run / "test" / "cases.csv", ["subject", "dice"], [{"subject": "a", "dice": 0.8}, {"subject": "b", "dice": 0.9}]
    )
    write_json(
        run / "test" / "test.json",
        {
            "checkpoint": checkpoint,
            "seconds": 75.0,
            "trained": "2026-01-01T00:00:00+00:00",
            "epochs": 4,
            "data": None,
            "split": ["a", "b"],
            "cases_sha256": sha256(run / "test" / "cases.csv"),
        },
    )


def test_the_end_of_a_training(tmp_path):
    run = write_run(tmp_path / "my run")
    assert str(summarize_training(run)).splitlines() == [
        f"  run folder   {run}",
        "  network      UNet, 117,939 parameters",
        "  best score   val/dice 0.8750, epoch 3 of 4",
        "  last score   val/dice 0.8000, epoch 4",
        "  peak memory  1,400 MiB resident in the process",
        "  wall time    13 min for 4 epochs",
        "next:",
        f"  pocket test '--run_dir={run}'",
        f"  pocket report '{run}'",
    ]


def test_a_sparse_network_can_be_shrunk_next(tmp_path):
    run = write_run(tmp_path / "sparse")
    text = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    (run / "metrics.csv").write_text("\n".join([f"{text[0]},sparsity/alive", *(f"{line},7" for line in text[1:])]))
    assert f"  pocket shrink {run} --output={run}.shrunk" in str(summarize_training(run)).splitlines()


def test_nothing_is_invented_where_a_run_does_not_tell(tmp_path):
    run = write_run(tmp_path / "old", best_epoch=2, data={"split": {"test": []}}, train_seconds=None)
    content = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    for key in ("best_monitor", "best_score", "train_seconds"):
        del content[key]
    write_json(run / "manifest.json", content)
    (run / "metrics.csv").unlink()
    (run / "config.yaml").unlink()
    assert str(summarize_training(run)).splitlines() == [
        f"  run folder  {run}",
        "  network     117,939 parameters",
        "  best score  epoch 2 of 4",
        "next:",
        "  No case is held out for a test.",
        f"  pocket report {run}",
    ]


@pytest.mark.parametrize(
    ("checkpoint", "epoch", "best", "other"),
    [("last", 4, 3, "best"), ("best", 3, 3, "last"), ("last", 4, 4, None), ("other.ckpt", None, 3, None)],
)
def test_the_end_of_a_test(tmp_path, checkpoint, epoch, best, other):
    run = write_run(tmp_path / "run", best_epoch=best)
    write_test(run, checkpoint)
    summary = summarize_test(run)
    assert summary.rows["tested"] == (f"{checkpoint}, epoch {epoch} of 4" if epoch else checkpoint)
    assert summary.rows["scores"] == "Dice 0.8500 ± 0.0707, 2 cases"  # 0.1 / sqrt(2)
    assert summary.rows["peak memory"] == "640 MiB resident in the process"
    assert summary.rows["wall time"] == "1 min 15 s for 2 cases"
    again = [["test", f"--run_dir={run}", f"--ckpt_path={other}"]] if other else []
    assert summary.commands == [["report", str(run)], *again]


def test_the_end_of_a_cross_validation(tmp_path):
    for number, (score, epoch) in enumerate([(0.8, 4), (0.9, 2)]):
        run = write_run(tmp_path / f"fold_{number}", best_score=score, best_epoch=epoch, train_seconds=100.0)
        write_test(run, "last")
    runs = {str(number): {"run": f"fold_{number}"} for number in range(2)}
    record = {"folds": [0, 1, 2], "runs": runs, "checkpoint": "last", "command": "pocket crossval"}
    write_json(tmp_path / "crossval.json", record)
    rows = [{"subject": name, "fold": fold, "dice": dice} for name, fold, dice in [("a", 0, 0.8), ("b", 1, 0.9)]]
    write_csv(tmp_path / "cases.csv", ["subject", "fold", "dice"], rows)
    summary = summarize_folds(tmp_path, 130.0, [["crossval", "--run_dir=x y"]])
    assert summary.rows == {
        "run folder": str(tmp_path),
        "folds": "2 of 3 done, last checkpoints tested",
        "scores": "Dice 0.8500 ± 0.0707, 2 cases",
        "best scores": "val/dice 0.8000 to 0.9000, epochs 2 to 4",
        "network": "UNet, 117,939 parameters",
        "peak memory": "1,400 MiB resident in the process",
        "wall time": "2 min 10 s; training took 3 min 20 s in all",
    }
    assert str(summary).splitlines()[-1] == "  pocket crossval '--run_dir=x y'"


def test_memory_says_of_what_it_is():
    assert show_memory({"peak_cuda_mib": 12345.6, "peak_cuda_reserved_mib": 2e4}) == "12,346 MiB on the GPU"
    assert show_memory({"peak_rss_mib": 512.0}) == "512 MiB resident in the process"
    assert show_memory({}) == ""


def test_rows_without_a_value_are_left_out():
    assert str(Summary({"a": "", "long": "1", "b": "2"})) == "  long  1\n  b     2"


def test_a_training_records_its_best_score(trained):
    manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
    with (trained / "metrics.csv").open(encoding="utf-8", newline="") as file:
        scores = {int(row["epoch"]) + 1: float(row["val/dice"]) for row in csv.DictReader(file) if row["val/dice"]}
    assert manifest["best_monitor"] == "val/dice"
    assert manifest["best_score"] == pytest.approx(max(scores.values()))
    assert scores[manifest["best_epoch"]] == max(scores.values())


@pytest.mark.e2e
def test_the_end_of_a_segmentation_scores_it_where_the_truth_is_beside(trained, blobs, tmp_path, capsys):
    main(["infer", str(trained), str(blobs / "imagesTr"), f"--output={tmp_path / 'label maps'}"])
    said = capsys.readouterr().out.splitlines()
    rows = dict(line.split(maxsplit=1) for line in said if line.startswith("  ") and "pocket" not in line)
    assert rows["network"].endswith("parameters")
    assert "10 images" in "\n".join(said)
    following = said[said.index("next:") + 1 :]
    assert len(following) == 1
    main(shlex.split(following[0])[1:])
    with (tmp_path / "label maps" / "scores.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    main(["infer", str(trained), str(blobs / "imagesTr" / "case_01.nii.gz"), f"--output={tmp_path / 'one'}"])
    assert "next:" not in capsys.readouterr().out  # nobody knows where its truth is
