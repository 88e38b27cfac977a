"""What a report says, and what it does not."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from page_reader import PageReader, parse
from reported_runs import scores_of, write_reported
from scipy.stats import wilcoxon

import lightning_pocket
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.failures import failures_of, record_failure
from lightning_pocket.reports.page import Page
from lightning_pocket.reports.pictures import write_png
from lightning_pocket.reports.report_cases import thumbnail
from lightning_pocket.reports.report_kinds import kind_of

HOSTILE = "<script>alert('ü \"x\"')</script>"
REPORTS = Path(lightning_pocket.__file__).parent / "reports"


class Read(PageReader):
    """Reads a page as a reader does: headings and words, without scripts."""

    def __init__(self):
        super().__init__()
        self.headings = []

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            return
        super().handle_data(data)
        if self.open and self.open[-1] in ("h2", "h3", "h4"):
            self.headings.append((self.open[-1], data))

    def table(self, first):
        """Return the rows of the table whose first column has this head, by their name."""
        found = next(table for table in self.tables if table[0][0] == first)
        return {row[0]: dict(zip(found[0][1:], row[1:], strict=True)) for row in found[1:]}


def report(*paths, output, **options):
    main(["report", *map(str, paths), f"--output={output}", *(f"--{k}={v}" for k, v in options.items())])
    return parse(output.read_text(encoding="utf-8"), Read)


@pytest.fixture
def pair(tmp_path):
    """A full and a pocket run, tested on the same twelve cases."""
    return [
        write_reported(tmp_path / "full", scores_of(12, 0), 4000),
        write_reported(tmp_path / "pocket", scores_of(12, 1, -0.02), 250),
    ]


def column(run, name):
    with (run / "test" / "cases.csv").open(encoding="utf-8", newline="") as file:
        return {row["subject"]: float(row[name]) for row in csv.DictReader(file)}


def test_one_run_has_every_section_and_the_verdict_first(pair, tmp_path):
    page = report(pair[0], output=tmp_path / "page.html")
    dice = list(column(pair[0], "dice").values())
    assert [text for level, text in page.headings if level == "h2"] == [
        "Results",
        "Learning curves",
        "Scores of every case",
        "Memory and time",
        "Cases",
        "How it was made",
    ]
    first = f"full: Dice {fmean(dice):.3f} with 4,000 parameters."
    assert page.text.index(first) < page.text.index("Results")
    assert (
        "full: UNet trained for 4 epochs (40 steps) on 5 cases and tested on 12 cases. On x86: a step takes 203 ms"
        in (page.text)
    )
    assert "Nothing is compared here" in page.text
    assert "pocket fit --run_dir=full" in page.text
    assert "class_path: b.UNet" in page.text


def test_every_number_is_that_of_the_files(pair, tmp_path):
    page = report(*pair, output=tmp_path / "page.html")
    results, costs, cases = page.table(""), page.tables, page.table("case")
    for run in pair:
        for shown, name, form in (
            ("Dice", "dice", ".3f"),
            ("Dice, tumour", "dice_tumour", ".3f"),
            ("HD95 (mm)", "hd95_mm", ".2f"),
        ):
            values = list(column(run, name).values())
            assert results[shown][run.name] == f"{fmean(values):{form}} ± {stdev(values):{form}}"
        assert {row: cells[f"Dice, {run.name}"] for row, cells in cases.items()} == {
            subject: f"{value:.3f}" for subject, value in column(run, "dice").items()
        }
    full, pocket = (list(column(run, "dice").values()) for run in pair)
    tests = page.table("run")["pocket"]  # the last row of the run: HD95
    hd95 = [list(column(run, "hd95_mm").values()) for run in pair]
    assert tests["p"] == f"{wilcoxon(hd95[1], hd95[0]).pvalue:.3f}"
    p = wilcoxon(pocket, full).pvalue
    row = next(row for table in costs for row in table if row[:2] == ["pocket", "Dice"])
    assert row[2] == f"{fmean(pocket) - fmean(full):+.4f}"
    assert row[4] == (f"{p:.3f}" if p >= 0.001 else f"{p:.1e}")
    memory = next(t for t in costs if any(r[0] == "median step (ms)" for r in t))
    assert ["median step (ms)", "203.0", "203.0"] in memory
    assert ["share of time waiting for data", "10.0%", "10.0%"] in memory
    assert ["peak process memory (MiB)", "503", "503"] in memory


def test_points_of_charts_are_the_values_of_the_files(pair, tmp_path):
    report(*pair, output=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for run in pair:
        for subject, value in column(run, "dice_liver").items():
            assert f"<title>liver, {run.name}, {subject}: {value:.4g}</title>" in html
        for epoch in range(4):
            assert f"<title>{run.name}, epoch {epoch + 1}: {1 / (epoch + 1):.4g}</title>" in html
    full, pocket = (column(run, "dice") for run in pair)
    for subject in full:
        difference = pocket[subject] - full[subject]
        assert f"<title>Dice, mean of classes, pocket, {subject}: {difference:.4g}</title>" in html


def test_the_worst_and_the_best_case_with_a_picture_are_shown(pair, tmp_path):
    page = report(*pair, output=tmp_path / "page.html")
    scores = {subject: value for subject, value in column(pair[0], "dice").items() if subject <= "case_002"}
    ranked = sorted(scores, key=scores.get)
    assert [text for level, text in page.headings if level == "h3"] == [
        f"{ranked[0]}: worst case of full with a picture",
        f"{ranked[1]}: median case of full with a picture",
        f"{ranked[2]}: best case of full with a picture",
    ]
    assert "3 of the 12 test cases have a picture" in page.text
    assert len(page.all("img")) == 6
    assert 'src="data:image/webp;base64,' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_runs_of_other_cases_are_compared_on_those_they_share(tmp_path):
    first = write_reported(tmp_path / "a", scores_of(12, 0))
    other = write_reported(tmp_path / "b", dict(list(scores_of(14, 1).items())[2:]))
    page = report(first, other, output=tmp_path / "page.html")
    assert "Compared on the 10 cases that all runs share, of 12 of a, 12 of b." in page.text
    strange = write_reported(tmp_path / "c", {f"x{i}": [0.5, 0.5] for i in range(3)})
    page = report(first, strange, output=tmp_path / "page.html")
    assert "share no test case" in page.text
    assert "Statistics" not in page.text


def test_a_crash_is_told_with_its_place_and_its_reason(tmp_path):
    run = write_reported(tmp_path / "crashed", {}, finished=False, epochs=2)
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError as error:
        record_failure(run, error, PocketError("lower the batch size."), epoch=2, step=27)
    page = report(run, output=tmp_path / "page.html")
    assert "crashed: training stopped in epoch 3, after step 27, on " in page.text
    assert f"Lower the batch size. (RuntimeError: {HOSTILE})" in page.text
    assert page.text.index("training stopped in epoch 3") < page.text.index("Failures and warnings")
    assert "test_report.py:" in page.text
    assert "in test_a_crash_is_told_with_its_place_and_its_reason: raise RuntimeError(HOSTILE)" in page.text
    assert str(Path(__file__).parents[1]) not in json.dumps(
        json.loads((run / "error.json").read_text(encoding="utf-8"))
    )


def test_a_run_that_was_killed_says_how_far_it_came(tmp_path):
    run = write_reported(tmp_path / "killed", {}, finished=False, epochs=3)
    assert failures_of(read_run(run))["killed"].where == "after 3 epochs and 30 steps"
    finished = write_reported(tmp_path / "finished", {})
    assert failures_of(read_run(finished)) == {}


def test_a_failure_is_recorded_only_where_there_is_a_run(tmp_path):
    record_failure(tmp_path, ValueError("x"), None, 0, 0)
    assert not list(tmp_path.iterdir())


def test_folds_that_failed_are_named_with_the_end_of_their_log(tmp_path):
    cv = tmp_path / "cv"
    write_reported(cv / "fold_0", {})
    write_reported(cv / "fold_1", {}, finished=False, epochs=1)
    (cv / "fold_1.log").write_text(
        "".join(f"line {i}\n" for i in range(100)) + "pocket: error: no disk\n", encoding="utf-8"
    )
    record = {"command": "pocket crossval", "folds": [0, 1, 2], "runs": {"0": {"run": "fold_0"}}}
    (cv / "crossval.json").write_text(json.dumps(record), encoding="utf-8")
    page = report(cv, output=tmp_path / "page.html")
    assert "cv, fold 1: training stopped after 1 epoch and 10 steps." in page.text
    assert "cv, fold 2: training stopped before its first step." in page.text
    assert "pocket: error: no disk" in page.text
    assert "line 40" not in page.text
    assert "in each of 1 fold" in page.text


def test_names_and_texts_are_never_markup(tmp_path):
    name = "a <b>'\"&ü"
    run = write_reported(tmp_path / name, scores_of(3, 0) | {HOSTILE: [0.5, 0.6]}, command=f"pocket {HOSTILE}")
    html = tmp_path / "page.html"
    page = report(run, output=html)
    assert HOSTILE in page.text
    assert name in page.text
    assert "<script>alert" not in html.read_text(encoding="utf-8")
    assert not page.all("b")


def test_the_page_loads_nothing_and_names_the_licence_of_what_it_holds(pair, tmp_path):
    report(*pair, output=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    without = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "http" not in without
    assert "url(" not in without
    assert not re.search(r"<(link|iframe|object)|<script[^>]+src", html)
    assert "THE SOFTWARE IS PROVIDED" in html
    assert html.count("<script>") == 3  # the library, the charts and the button, once each


def test_a_script_can_not_end_its_element():
    page = Page("x")
    with pytest.raises(ValueError, match="script of a page"):
        page.script("'</SCRIPT>'")
    page.script("let a")
    page.script("let a")
    assert page.html().count("let a") == 1


def test_a_table_of_experiments_is_read_from_its_files(tmp_path):
    folder = tmp_path / "table"
    write_reported(folder / "runs" / "full", scores_of(5, 0), 4000)
    write_reported(folder / "runs" / "small", {}, 50, finished=False)
    columns = "row,task,label,state,parameters,metric,cases,mean,std,median,published,compared_with,"
    columns += "difference,low,high,p,p_holm,non_inferior"
    lines = [
        "full,X,Full,done,4000,dice,5,0.81,0.02,0.82,0.9,,,,,,,",
        "pocket,X,Pocket,done,250,dice,5,0.80,0.03,0.80,0.89,full,-0.01,-0.02,0.005,0.3,0.6,no",
        "worse,X,Worse,done,50,dice,5,0.50,0.03,0.50,,full,-0.31,-0.4,-0.2,0.001,0.002,no",
        "other,X,Other,not run,,dice,,,,,0.7,,,,,,,",
    ]
    (folder / "table.csv").write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    page = report(folder, output=tmp_path / "page.html")
    assert "3 of 4 rows have a result of ours." in page.text
    assert (
        "Pocket is not shown to be no worse than Full in Dice: difference -0.0100, 95 % interval -0.0200 to 0.0050, "
        "p 0.600 after Holm." in page.text
    )
    assert "Worse scores worse than Full in Dice" in page.text
    assert page.table("row")["Full"]["ours"] == "0.810 ± 0.020 (0.820)"
    assert page.table("row")["Other"]["ours"] == "not run"
    assert "small" in page.table("run")  # the failures
    assert "Dice against parameters" in page.text


def test_a_study_is_shown_with_its_trials(tmp_path):
    import yaml
    from sweep_stand_in import GRID

    from lightning_pocket.storage import write_json
    from lightning_pocket.sweeps.claims import Claims
    from lightning_pocket.sweeps.measures import Measured, as_plain
    from lightning_pocket.sweeps.read import read_sweep
    from lightning_pocket.sweeps.study import SweepStudy
    from lightning_pocket.sweeps.study_storage import open_storage

    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump(GRID), encoding="utf-8")
    write_json(folder / "study.json", {"name": "grid", "file": "x", "more": [], "grace_s": 300.0, "storage": ""})
    sweep = read_sweep(folder / "sweep.yaml", is_record=True)
    study = SweepStudy(sweep, "grid", folder, open_storage(None, folder, 300.0))
    study.begin(sweep.identity([]), {}, [])
    claims = Claims(study)
    for slot in range(2):
        claimed = claims.claim()
        claims.note(claimed, results=as_plain({"dice": Measured([0.25 + 0.5 * slot])}))
        claims.complete(claimed, [0.25 + 0.5 * slot])
        write_reported(folder / "trials" / f"{slot:03d}", scores_of(3, slot))
    write_reported(folder / "trials" / "002", {}, finished=False)
    page = report(folder, output=tmp_path / "page.html")
    assert page.text.index("The best is trial 1") < page.text.index("Failures and warnings") < page.text.index("Tables")
    assert "Dice 0.75" in page.text
    assert list(page.table("run")) == ["002"]
    assert "Each trial's Dice by its number" in page.text
    assert page.table("")["median step (ms)"] == {"000": "203.0", "001": "203.0", "002": "203.0"}


@pytest.mark.parametrize(
    ("file", "kind"),
    [("manifest.json", "run"), ("crossval.json", "run"), ("study.json", "study"), ("table.csv", "table")],
)
def test_a_folder_is_known_by_its_files(tmp_path, file, kind):
    (tmp_path / file).write_text("")
    assert kind_of(tmp_path) == kind
    assert kind_of(tmp_path / file) == kind


def test_what_is_no_result_is_refused(tmp_path, fails, pair):
    assert "no such folder" in fails(["report", str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    assert "holds none of crossval.json" in fails(["report", str(tmp_path / "empty")])
    assert "is a folder" in fails(["report", str(pair[0]), f"--output={tmp_path}"])
    assert "--volumes -1: expected 0 or more" in fails(["report", str(pair[0]), "--volumes=-1"])
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    assert "has no column 'row'" in fails(["report", str(tmp_path)])


def test_the_report_lies_in_the_folder_and_the_run_goes_on_to_be_one(pair, tmp_path, monkeypatch, capsys):
    main(["report", str(pair[0])])
    assert capsys.readouterr().out == f"report: {pair[0] / 'report.html'}\n"
    monkeypatch.chdir(tmp_path)
    main(["report", "full", "pocket"])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "pocket report full pocket</pre>" in html


def test_several_kinds_are_parts_of_one_page(pair, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "table.csv").write_text("row,state,metric,mean\na,done,dice,0.5\n", encoding="utf-8")
    page = report(folder, *pair, output=tmp_path / "page.html")
    assert [text for level, text in page.headings if level == "h2"] == ["Runs", "Table tables"]
    assert ("h3", "Results") in page.headings


def test_a_hundred_cases_stay_below_fifteen_megabytes(tmp_path):
    runs = [write_reported(tmp_path / name, scores_of(100, seed), pictures=4) for seed, name in enumerate("abcd")]
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)  # nothing is larger as a picture
    for file in (file for run in runs for file in (run / "test" / "pictures").iterdir()):
        write_png(file, noise)
    report(*runs, output=tmp_path / "page.html")
    assert 16 * noise.size / 15 < (tmp_path / "page.html").stat().st_size < 15_000_000


def test_thumbnails_are_small_pictures(tmp_path):
    import io

    from PIL import Image

    write_png(tmp_path / "x.png", np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (900, 5, 3)))
    with Image.open(io.BytesIO(thumbnail(tmp_path / "x.png"))) as image:
        assert (image.format, image.size) == ("WEBP", (720, 648))


def test_help_does_not_import_torch():
    code = (
        "import sys; from lightning_pocket.cli import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: print({'torch', 'PIL', 'nibabel', 'optuna'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.endswith("set()\n")


def test_the_library_is_the_published_one():
    import hashlib

    digest = hashlib.sha256((REPORTS / "vendor" / "d3-7.9.0.min.js").read_bytes()).hexdigest()
    assert digest == "f2094bbf6141b359722c4fe454eb6c4b0f0e42cc10cc7af921fc158fceb86539"


def test_runs_that_cannot_be_compared_are_shown_all_the_same(tmp_path):
    runs = []
    for name, truth in (("a", "no"), ("b", "yes")):
        run = write_reported(tmp_path / name, {"x": [0.5, 0.5]}, pictures=0)
        rows = f"subject,target,prob_no,prob_yes\ni,{truth},0.25,0.75\nj,yes,0.25,0.75\n"
        (run / "test" / "cases.csv").write_text(rows, encoding="utf-8")
        runs.append(run)
    page = report(*runs, output=tmp_path / "page.html")
    assert "The runs are not compared. a and b: the true class of 1 cases differs, such as 'i'." in page.text
    assert page.table("")["accuracy"] == {"a": "0.500", "b": "1.000"}
    assert ("h2", "Cases") not in page.headings  # a classification has those that it got wrong
