"""The table that compares runs."""

import pytest
from scored_runs import write_run

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run, read_runs


def test_runs_are_compared_with_the_first(tmp_path, capsys):
    full = write_run(tmp_path / "full", 2000, [0.5, 0.7])
    pocket = write_run(tmp_path / "pocket", 50, [0.6, 0.8])
    main(["compare", str(full), str(pocket)])
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:2] == ["run", "parameters"]
    assert rows[0][:4] == ["full", "2,000", "100.0%", "20.5"]
    assert rows[1][:4] == ["pocket", "50", "2.5%", "20.5"]
    assert rows[1][4:7] == ["0.7000", "±", "0.1414"]  # sample standard deviation: 0.2 / sqrt(2)
    assert rows[1][7:9] == ["(0.7000)", "0.3500"]


def test_a_run_that_was_not_tested_says_so(tmp_path, capsys):
    full = write_run(tmp_path / "full", 10, [0.5])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "manifest.json").write_text('{"parameters": 5}', encoding="utf-8")
    main(["compare", str(full), str(tmp_path / "new")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].count("not tested") == 2
    assert lines[4] == f"new: not tested yet; run `pocket test --run_dir {tmp_path / 'new'}`."
    assert len(lines) == 5  # one tested run: nothing that chance could make differ


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(PocketError, match=r"nothing: no run here \(no manifest.json\)"):
        read_run(tmp_path / "nothing")


def test_other_metrics_show_their_means_only(tmp_path, capsys):
    run = write_run(tmp_path / "full", 10, [0.5])
    (run / "test" / "cases.csv").write_text(
        "subject,dice,dice_a,hd95_mm,hd95_mm_a,asd_mm,surface_dice,voxels_a\nx,0.5,0.5,4,4,1,0.9,7\n", encoding="utf-8"
    )
    main(["compare", str(run)])
    header = capsys.readouterr().out.splitlines()[0].split()
    assert header[5:] == ["ms", "test/dice", "test/dice_a", "test/hd95_mm", "test/asd_mm", "test/surface_dice"]


def test_a_run_is_read_with_its_curves_memory_and_time(tmp_path):
    run = write_run(tmp_path / "full", 10, [0.5, 0.7])
    (run / "metrics.csv").write_text(
        "epoch,step,profile/peak_cuda_mib,profile/step_ms,train/loss,val/dice\n"
        "0,5,100,20,0.9,\n0,9,,,0.8,0.1\n1,19,120,10,0.5,0.4\n1,19,110,,,\n",
        encoding="utf-8",
    )
    result = read_run(run)
    assert result.curves == {"train/loss": [(1, 0.8), (2, 0.5)], "val/dice": [(1, 0.1), (2, 0.4)]}
    assert result.peak_mib == {"GPU": 120}
    assert result.by_case("dice") == {"case_0": 0.5, "case_1": 0.7}
    assert result.train_s is None
    (run / "manifest.json").write_text('{"parameters": 1, "steps": 300, "train_seconds": 9.5}', encoding="utf-8")
    assert read_run(run).train_s == 9.5


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [write_run(tmp_path / folder / "net", 10, [0.5]) for folder in ("a", "b")]
    assert [result.name for result in read_runs(paths)] == [path.as_posix() for path in paths]


def test_a_cell_that_is_no_number_is_named(tmp_path):
    run = write_run(tmp_path / "full", 10, [0.5])
    (run / "test" / "cases.csv").write_text("subject,dice\nx,much\n", encoding="utf-8")
    with pytest.raises(PocketError, match=r"cases.csv: column dice holds 'much', expected a number"):
        read_run(run)
