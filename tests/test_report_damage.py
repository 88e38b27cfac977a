"""Reports of folders in which something is damaged or odd: a page or one line, never a traceback."""

import json
import shutil

import pytest
from reported_runs import scores_of, write_reported

from lightning_pocket.cli import main
from lightning_pocket.commands.synthesize import synthesize
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.comparison_page import write_comparison
from lightning_pocket.reports.report_kinds import kind_of
from lightning_pocket.reports.report_table import read_experiments


@pytest.fixture
def run(tmp_path):
    return write_reported(tmp_path / "run", scores_of(3, 0))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", "[1]"),
        ("manifest.json", "{}"),
        ("manifest.json", '{"parameters": 5, "data": [1]}'),
        ("metrics.csv", "step,train/loss\n1,2\n"),
        ("metrics.csv", "epoch,step,train/loss\n0,1,\ufffd\n"),
        ("test/cases.csv", "subject,dice,dice_liver\na,0.4,0.5\nb,0.3\n"),
        ("crossval.json", "{}"),
        ("error.json", '{"type": "X"}'),
        ("error.json", '{"type": "X", "message": "m", "epoch": null, "step": null, "at": "x", "frames": null}'),
    ],
)
def test_a_damaged_run_ends_in_one_line(run, file, content, fails, tmp_path):
    (run / file).write_text(content, encoding="utf-8")
    if file == "error.json":
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        (run / "manifest.json").write_text(json.dumps(manifest | {"finished": False}), encoding="utf-8")
    said = fails(["report", str(run), f"--output={tmp_path / 'page.html'}"])
    assert str(run) in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "a: [1\n"),
        ("config.yaml", "model: x\n"),
        ("config.yaml", "model: {init_args: [1]}\n"),
        ("manifest.json", '{"parameters": 5, "data": null, "hardware": null, "versions": null, "finished": false}'),
        ("metrics.csv", ""),
        ("test/cases.csv", "subject,dice\n"),
    ],
)
def test_what_a_page_can_do_without_is_not_needed(run, file, content, tmp_path):
    (run / file).write_text(content, encoding="utf-8")
    page = tmp_path / "page.html"
    main(["report", str(run), f"--output={page}"])
    assert "How it was made" in page.read_text(encoding="utf-8")


def test_pictures_that_cannot_be_read_are_named(run, tmp_path):
    for file in (run / "test" / "pictures").glob("*.png"):
        file.write_bytes(b"no picture")
    page = tmp_path / "page.html"
    main(["report", str(run), f"--output={page}"])
    assert page.read_text(encoding="utf-8").count("cannot be read as a picture") == 3
    write_comparison(page, [run], "Runs", [], [])
    assert page.read_text(encoding="utf-8").count("cannot be read as a picture") == 3


def test_runs_of_a_table_that_cannot_be_read_are_told(tmp_path):
    folder = tmp_path / "table"
    write_reported(folder / "runs" / "good", scores_of(3, 0))
    (write_reported(folder / "runs" / "bad", {}) / "metrics.csv").write_text("a\n1\n2,3\n", encoding="utf-8")
    (folder / "runs" / "bad" / "manifest.json").write_text("{}", encoding="utf-8")
    crossval = folder / "runs" / "cv"
    crossval.mkdir()
    record = {"command": "pocket crossval", "folds": [0], "runs": {}}
    (crossval / "crossval.json").write_text(json.dumps(record), encoding="utf-8")
    (crossval / "fold_0.log").write_text("pocket: error: no disk\n", encoding="utf-8")
    runs, failures = read_experiments(folder)
    assert [result.name for result in runs] == ["good"]
    assert sorted(failures) == ["bad", "cv"]
    assert f"no fold of this cross-validation is done; see {crossval / 'fold_0.log'}" in failures["cv"].why
    (folder / "table.csv").write_text("row,state,metric,mean\ngood,done,dice,0.5\n", encoding="utf-8")
    page = tmp_path / "page.html"
    main(["report", str(folder), f"--output={page}"])
    assert "Failures and warnings" in page.read_text(encoding="utf-8")
    (folder / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SystemExit):
        main(["report", str(folder), f"--output={page}"])


def test_a_folder_of_results_is_told_from_one_without(run, tmp_path):
    with pytest.raises(PocketError, match=r"holds some\. Name them \(run\), or show all of them with `pocket serve"):
        kind_of(tmp_path)
    with pytest.raises(PocketError, match="is a file; expected the folder"):
        kind_of(run / "config.yaml")
    shutil.rmtree(run)
    with pytest.raises(PocketError, match="holds none of"):
        kind_of(tmp_path)


def test_pictures_of_a_cross_validation_are_compared_too(tmp_path):
    for name in ("full", "pocket"):
        write_reported(tmp_path / name / "fold_0", scores_of(3, 0))
        shutil.copy(tmp_path / name / "fold_0" / "test" / "cases.csv", tmp_path / name / "cases.csv")
        record = {"command": "pocket crossval", "folds": [0], "runs": {"0": {"run": "fold_0"}}}
        (tmp_path / name / "crossval.json").write_text(json.dumps(record), encoding="utf-8")
    page = tmp_path / "page.html"
    write_comparison(page, [tmp_path / "full", tmp_path / "pocket"], "Runs", [], [])
    assert page.read_text(encoding="utf-8").count("<img ") == 6


def test_a_place_below_a_file_is_told_in_a_line(tmp_path, fails):
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    assert f"--output {file / 'demo'}: cannot be made (Not a directory)" in fails(["demo", f"--output={file / 'demo'}"])
    with pytest.raises(PocketError, match=r"cannot be written \(Not a directory\)\. Name another folder"):
        synthesize(file / "data", cases=1)


def test_a_damaged_run_names_what_is_wrong_with_it(run):
    (run / "manifest.json").write_text('{"parameters": 5, "hardware": "x86"}', encoding="utf-8")
    with pytest.raises(PocketError, match="hardware holds 'x86', expected a mapping"):
        read_run(run)
