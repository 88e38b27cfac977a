"""What a report claims of runs, and what it must not."""

import json
import os
import re
import socket

import pytest
from reported_runs import scores_of, write_reported

from lightning_pocket.cli import main
from lightning_pocket.reports.charts import line_chart
from lightning_pocket.reports.classification_charts import confusion_chart
from lightning_pocket.reports.collect import read_run, read_runs
from lightning_pocket.reports.comparison_tables import minutes, origin_rows, result_rows, scores_caption
from lightning_pocket.reports.failures import failures_of
from lightning_pocket.reports.run_charts import curve_charts
from lightning_pocket.reports.statistics import doubt_of
from lightning_pocket.reports.svg import number
from lightning_pocket.reports.verdict import caveats, sentences

TWO_CLASSES = "subject,target,prob_no,prob_yes\n"


def html_of(output, *paths):
    main(["report", *map(str, paths), f"--output={output}"])
    return output.read_text(encoding="utf-8")


def hold(run):
    content = {"host": socket.gethostname(), "pid": os.getpid(), "since": "2026-01-02T03:04:05.000+00:00"}
    (run / ".lock").write_text(json.dumps(content), encoding="utf-8")


def write_classified(path, rows):
    run = write_reported(path, {"x": [0.5, 0.5]}, pictures=0)
    (run / "test" / "cases.csv").write_text(TWO_CLASSES + rows, encoding="utf-8")
    return run


def write_crossval(path, folds=2, done=2):
    for fold in range(done):
        run = write_reported(path / f"fold_{fold}", scores_of(2, fold))
        text = (run / "metrics.csv").read_text(encoding="utf-8")
        (run / "metrics.csv").write_text(text.replace(",50", f",{50 + 10 * fold}"), encoding="utf-8")
    runs = {str(fold): {"run": f"fold_{fold}"} for fold in range(done)}
    record = {"command": "pocket crossval", "folds": list(range(folds)), "runs": runs}
    (path / "crossval.json").write_text(json.dumps(record), encoding="utf-8")
    return path


def test_a_run_that_trains_is_not_said_to_have_stopped(tmp_path):
    run = write_reported(tmp_path / "going", {}, finished=False, epochs=2)
    hold(run)
    html = html_of(tmp_path / "page.html", run)
    assert "stopped" not in html
    assert "going: training goes on; the figures are those of this moment." in html
    assert "pocket test --run_dir" not in html  # it is too early
    (run / ".lock").unlink()
    html = html_of(tmp_path / "page.html", run)
    assert "going: training stopped after 2 epochs and 20 steps. It was interrupted or killed" in html
    assert "not tested yet" not in html


def test_a_fold_that_trains_has_not_failed(tmp_path):
    crossval = write_crossval(tmp_path / "cv", folds=4)
    hold(write_reported(crossval / "fold_2", {}, finished=False))
    (crossval / "fold_3").mkdir()
    assert list(failures_of(read_run(crossval))) == ["cv, fold 3"]
    hold(crossval / "fold_3")
    assert failures_of(read_run(crossval)) == {}


def test_a_run_without_a_test_has_no_score_in_the_verdict(tmp_path):
    tested = write_reported(tmp_path / "tested", scores_of(3, 0), 1000)
    small = write_reported(tmp_path / "small", {}, 50)
    large = write_reported(tmp_path / "large", {}, 20_000)
    none = write_reported(tmp_path / "none", {}, 0)
    said = sentences(read_runs([tested, small, large, none]))
    assert said[1].startswith("small: a network with 50 parameters, 5.0 % of tested's; not tested; ")
    assert said[2].startswith("large: a network with 20,000 parameters, 20 times tested's; not tested; ")
    assert sentences(read_runs([none, tested]))[1].startswith("tested: Dice 0.")  # nothing is divided by 0


def test_a_single_case_has_no_deviation(tmp_path):
    result = read_run(write_reported(tmp_path / "run", {"a": [0.5, 0.75]}))
    assert dict(result_rows([result]))["Dice"] == "0.625"
    assert scores_caption([result]).startswith("Test scores are means ± standard deviations over 1 case; ")
    two = read_run(write_reported(tmp_path / "two", {"a": [0.5, 0.75], "b": [0.5, 0.5]}))
    assert dict(result_rows([two]))["Dice"] == "0.562 ± 0.088"
    assert doubt_of(1, 0.0, 0.1) == "1 case, a verdict takes 10"
    assert doubt_of(1, 0.0, 0.1, "images of a class").startswith("1 image of a class, ")
    assert doubt_of(2, 0.0, 0.1).startswith("2 cases, ")


def test_a_case_is_called_the_best_only_of_the_run_of_which_it_is(tmp_path):
    first = write_reported(tmp_path / "first", {"a": [0.9, 0.9], "b": [0.5, 0.5], "c": [0.7, 0.7]}, pictures=3)
    other = write_reported(tmp_path / "other", {"a": [0.2, 0.2], "b": [0.8, 0.8], "c": [0.7, 0.7]}, pictures=3)
    html = html_of(tmp_path / "page.html", first, other)
    headings = re.findall(r"<h3>(.*?)</h3>", html)
    assert headings == ["b: worst case of first", "c: median case of first", "a: best case of first"]
    partial = write_reported(tmp_path / "partial", {"a": [0.9, 0.9], "b": [0.5, 0.5], "c": [0.95, 0.95]}, pictures=2)
    headings = re.findall(r"<h3>(.*?)</h3>", html_of(tmp_path / "page.html", partial))
    assert headings == ["b: worst case of partial with a picture", "a: median case of partial with a picture"]


def test_a_volume_is_called_the_best_of_the_run_of_which_it_is(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    import numpy as np

    cache = tmp_path / "cache"
    volume = nibabel.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3, np.eye(4))
    (cache / "cases" / "a").mkdir(parents=True)
    nibabel.save(volume, cache / "a.nii.gz")
    (cache / "dataset.json").write_text('{"classes": ["background", "liver", "tumour"]}', encoding="utf-8")
    sources = json.dumps({"sources": [{"path": str(cache / "a.nii.gz")}] * 2})
    (cache / "cases" / "a" / "case.json").write_text(sources, encoding="utf-8")
    runs = []
    for name, dice in (("first", 0.75), ("other", 0.25)):
        runs.append(write_reported(tmp_path / name, {"a": [dice, dice]}, data={"cache": str(cache)}, pictures=0))
        (runs[-1] / "test" / "predictions").mkdir()
        nibabel.save(volume, runs[-1] / "test" / "predictions" / "a.nii.gz")
    html = html_of(tmp_path / "page.html", *runs)
    captions = re.findall(r"<figcaption>(a, .*?)</figcaption>", html)
    assert captions == [
        "a, first. Dice 0.750; the worst case of first.",
        "a, other. Dice 0.250; the worst case of first.",
    ]


def test_a_run_has_one_mark_in_all_charts(tmp_path):
    bare = write_reported(tmp_path / "bare", {})  # neither tested nor logged
    (bare / "metrics.csv").unlink()
    runs = [
        bare,
        *(write_reported(tmp_path / name, scores_of(3, seed)) for seed, name in enumerate(["full", "pocket"])),
    ]
    html = html_of(tmp_path / "page.html", *runs)
    marks = {}
    for series, title in re.findall(r'<g class="mark s(\d)"[^>]*><title>([^<]+)</title>', html):
        marks.setdefault(next(name for name in ("full", "pocket") if name in title), set()).add(series)
    assert marks == {"full": {"1"}, "pocket": {"2"}}
    assert len(re.findall(r"<title>Dice, mean of classes, pocket, case_\d+: ", html)) == 6  # scores, and differences


def test_figures_of_folds_are_said_to_be_joined(tmp_path):
    crossval = read_run(write_crossval(tmp_path / "cv"))
    caption = curve_charts([crossval], {"val/dice": "validation Dice"})[0][1]
    assert caption == "Validation Dice by epoch, the mean of the folds."
    html = html_of(tmp_path / "page.html", tmp_path / "cv")
    assert "Of a cross-validation: the median over the folds of the steps, the sum of the training" in html
    assert crossval.peak_mib["process"] == 603  # the highest; the curve ends at the mean, 553
    assert "peak process memory (MiB) against epoch: cv ends at 553." in html
    assert "cases to train, validate, test" not in html  # of a cross-validation there is no such row
    alone = html_of(tmp_path / "page.html", tmp_path / "cv" / "fold_0")
    assert "mean of the folds" not in alone
    assert "Of a cross-validation" not in alone


def test_what_is_not_known_is_no_difference(tmp_path):
    first = write_reported(tmp_path / "first", scores_of(30, 0))
    bare = write_reported(tmp_path / "bare", scores_of(30, 1))
    (bare / "manifest.json").write_text('{"parameters": 5, "hardware": null, "data": null}', encoding="utf-8")
    results = read_runs([first, bare])
    assert caveats(results) == []
    assert ["GPUs", "none", "n/a"] in origin_rows(results)
    other = write_reported(tmp_path / "other", scores_of(30, 1), epochs=9, data={"hash": "cd"}, hardware={"cpu": "arm"})
    assert caveats(read_runs([bare, first, other])) == [
        "The runs were trained on differently prepared data.",
        "The runs were trained on different machines: times and memory cannot be compared directly.",
        "The runs were trained for different numbers of epochs: first 4, other 9.",
    ]


def test_a_network_that_knows_one_class_alone_is_told(tmp_path):
    one = write_classified(tmp_path / "one", "i,no,0.6,0.4\nj,yes,0.55,0.45\n")
    both = write_classified(tmp_path / "both", "i,no,0.6,0.4\nj,yes,0.45,0.55\n")
    said = caveats(read_runs([one, both]))
    assert [text for text in said if "taken for" in text] == ["one: all 2 test images are taken for no."]


def test_captions_say_which_way_is_better(tmp_path):
    classified = read_run(write_classified(tmp_path / "c", "i,no,0.6,0.4\nj,yes,0.45,0.55\n"))
    segmented = read_run(write_reported(tmp_path / "s", scores_of(3, 0)))
    assert scores_caption([classified]) == (
        "Test scores over 2 cases; more is better, but of the calibration error less."
    )
    caption = scores_caption([segmented, classified])
    assert "less is better for HD95 (mm); of classifications more is better" in caption
    assert caption.startswith("Test scores are means ± standard deviations over 2 or 3 cases; ")
    assert scores_caption([read_run(write_reported(tmp_path / "u", {}))]) == "No run has been tested."


@pytest.mark.parametrize(("confidence", "shown"), [(0.95, "95 %"), (0.999, "99.9 %"), (0.975, "97.5 %")])
def test_the_confidence_of_an_interval_is_not_rounded(tmp_path, confidence, shown, capsys):
    runs = [write_reported(tmp_path / name, scores_of(12, len(name))) for name in ("full", "pocket")]
    main(["compare", *map(str, runs), f"--confidence={confidence}"])
    said = capsys.readouterr().out
    assert f"({shown} interval of the difference" in said
    assert f"  {shown} interval  " in said


def test_the_contents_stand_below_the_verdict(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    rows = "row,state,metric,mean\na,done,dice,0.5\na,done,hd95_mm,5\n"
    (folder / "table.csv").write_text(rows, encoding="utf-8")
    html = html_of(tmp_path / "page.html", folder)
    assert html.index("1 of 1 rows have a result") < html.index("<nav") < html.index("<h2")
    assert html.count("<nav") == 1


def test_short_times_are_not_zero(tmp_path):
    assert [minutes(seconds) for seconds in (0, 0.6, 2, 10, 90, 600)] == ["0.0", "0.01", "0.03", "0.2", "1.5", "10.0"]
    run = write_reported(tmp_path / "run", {}, train_seconds=2.0)
    assert "training took 2 s" in html_of(tmp_path / "page.html", run)


def test_names_that_begin_alike_differ_in_the_legend():
    names = ["a/long/path/of/experiments/of/this/year/" + end for end in ("full", "pocket")]
    chart = line_chart({name: [(1, 0.5)] for name in names}, "epoch", "loss", "Loss")
    shown = re.findall(r'text-anchor="start">([^<]*)</text>', chart)
    assert [name[-8:] for name in shown] == ["ear/full", "r/pocket"]
    assert max(map(len, shown)) <= 40


@pytest.mark.parametrize(("value", "label"), [(3e33, "3e33"), (-2e12, "-2e12"), (5e11, "500G")])
def test_labels_of_huge_ticks_are_short(value, label):
    assert number(value) == label


def test_a_confusion_matrix_can_be_heard():
    import numpy as np

    chart = confusion_chart(np.array([[3, 1], [0, 2]]), ["well", "ill"], "Confusion")
    assert (
        "<desc>5 of 6 images are classified correctly; well taken for well: 3 of 4; well taken for ill: 1 of 4; ill "
        "taken for ill: 2 of 2.</desc>" in chart
    )


def test_a_page_that_can_be_mailed_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = write_reported(tmp_path / "run", scores_of(2, 0), pictures=0)
    (run / "config.yaml").write_text(f"hub_token: hunter2hunter2\ncache: {tmp_path}/cache\n", encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["command"] = f"pocket fit --hub_token=hunter2hunter2 --run_dir={tmp_path}/run"
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    html = html_of(tmp_path / "page.html", run)
    assert "hunter2" not in html
    assert "hub_token: &#x27;***&#x27;" in html
    assert "cache: ~/cache" in html
    assert "pocket fit --hub_token=*** --run_dir=~/run" in html
