"""The table that compares runs."""

import json

import pytest

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run


def write_run(path, parameters, scores):
    (path / "test").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"parameters": parameters}), encoding="utf-8")
    (path / "metrics.csv").write_text("epoch,step,profile/step_ms\n0,1,\n0,2,31.0\n1,3,20.5\n", encoding="utf-8")
    rows = "".join(f"case_{index},{score},{score / 2}\n" for index, score in enumerate(scores))
    (path / "test" / "cases.csv").write_text(f"subject,dice,dice_liver\n{rows}", encoding="utf-8")
    return path


def test_runs_are_compared_with_the_first(tmp_path, capsys):
    full = write_run(tmp_path / "full", 2000, [0.5, 0.7])
    pocket = write_run(tmp_path / "pocket", 50, [0.6, 0.8])
    main(["compare", str(full), str(pocket)])
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:2] == ["run", "parameters"]
    assert rows[0][:4] == ["full", "2,000", "100.0%", "20.5"]
    assert rows[1][:4] == ["pocket", "50", "2.5%", "20.5"]
    assert rows[1][4:7] == ["0.7000", "±", "0.1414"]  # sample standard deviation: 0.2 / sqrt(2)
    assert rows[1][7] == "0.3500"


def test_a_run_that_was_not_tested_says_so(tmp_path, capsys):
    full = write_run(tmp_path / "full", 10, [0.5])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "manifest.json").write_text('{"parameters": 5}', encoding="utf-8")
    main(["compare", str(full), str(tmp_path / "new")])
    assert capsys.readouterr().out.splitlines()[-1].count("not tested") == 2


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(PocketError, match=r"nothing: no run here \(no manifest.json\)"):
        read_run(tmp_path / "nothing")
