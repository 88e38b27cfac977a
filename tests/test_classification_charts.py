"""Charts and pages of classifications."""

import json
import re

import numpy as np
import pytest

from lightning_pocket.callbacks import ClassificationPlots
from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import calibration
from lightning_pocket.reports.classification_charts import confusion_chart, reliability_chart, roc_chart
from lightning_pocket.reports.classified import print_classified, read_classified
from lightning_pocket.reports.comparison_page import write_comparison

HOSTILE = "<script>"
PLOT = (64, 420)  # pixels of 0 and 1 on the horizontal axis


def polyline(chart, series):
    """Return the points of a series in the plot; the first line of each series is that of the legend."""
    lines = re.findall(rf'<polyline class="line s{series}"[^>]*points="([^"]*)"', chart)
    return [tuple(map(float, point.split(","))) for point in lines[1].split()]


def floor(chart):
    """Return the pixels of 0 and 1 on the vertical axis: where the diagonal begins and ends."""
    line = re.search(r'class="chance" x1="(.*?)" y1="(.*?)" x2="(.*?)" y2="(.*?)"', chart)
    x1, y1, x2, y2 = map(float, line.groups())
    assert (x1, x2) == PLOT
    assert y1 - y2 == x2 - x1  # a square
    return y1, y2


def test_a_roc_curve_lies_where_its_rates_say():
    # From the highest score down: positive, negative, positive, negative.
    score, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    chart = roc_chart({"pocket & co": (score, positive), "worse": (-score, positive)}, "ROC")
    zero, one = floor(chart)
    left, right = PLOT
    middle, half = (left + right) / 2, (zero + one) / 2
    assert polyline(chart, 0) == [(left, zero), (left, half), (middle, half), (middle, one), (right, one)]
    assert polyline(chart, 1) == [(left, zero), (middle, zero), (middle, half), (right, half), (right, one)]
    assert "pocket &amp; co: AUC 0.750" in chart
    assert "worse: AUC 0.250" in chart


def test_large_curves_stay_small_files():
    rng = np.random.default_rng(0)
    positive = rng.random(20_000) < 0.5
    assert len(roc_chart({"run": (rng.normal(size=20_000) + positive, positive)}, "ROC")) < 100_000


def test_the_confusion_matrix_shows_counts_and_shares():
    chart = confusion_chart(np.array([[3, 1], [0, 0]]), ["healthy", HOSTILE], "Confusion")
    assert HOSTILE not in chart
    assert "<title>healthy taken for &lt;script&gt;: 1 of 4</title>" in chart
    assert re.findall(r">([\d.]+%)<", chart) == ["75.0%", "25.0%"]
    opacity = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', chart)]
    assert opacity[0] > opacity[1] > opacity[2] == opacity[3]
    assert "3 of 4 images are classified correctly" in chart
    many = confusion_chart(np.eye(12, dtype=int), [f"a long name of class {k}" for k in range(12)], "Confusion")
    assert many.count("<rect") == 144
    assert "%" not in many


def test_reliability_points_lie_where_confidence_and_accuracy_say():
    probability = np.array([[0.5, 0.5], [0.2, 0.8], [0.2, 0.8], [0.0, 1.0]])
    chart = reliability_chart({"run": calibration(probability, np.array([0, 1, 0, 1]), bins=5)}, "Reliability")
    zero, one = floor(chart)
    points = polyline(chart, 0)
    assert [round((x - 64) / 356, 2) for x, _ in points] == [0.5, 0.8, 1.0]
    assert [round((y - zero) / (one - zero), 2) for _, y in points] == [1.0, 0.5, 1.0]
    assert "run: 2 images, confidence 0.800, accuracy 0.500" in chart
    assert "ECE 0.275" in chart  # (0.5 + 2 * 0.3 + 0) / 4


def test_nothing_to_draw_is_an_error():
    for draw in (roc_chart, reliability_chart):
        with pytest.raises(PocketError, match=r"chart 'Empty': there is nothing to draw"):
            draw({}, "Empty")
    with pytest.raises(PocketError, match=r"found \(2, 3\) counts for 2 classes"):
        confusion_chart(np.ones((2, 3)), ["a", "b"], "Confusion")


def write_run(path, parameters, lines, header="subject,target,predicted,prob_ill,prob_well"):
    (path / "test").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"parameters": parameters, "finished": True}), encoding="utf-8")
    (path / "test" / "cases.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


GOOD = ["p,ill,ill,0.9,0.1", "q,well,well,0.2,0.8", "r,well,well,0.4,0.6", "s,ill,well,0.3,0.7"]
BAD = ["p,ill,well,0.1,0.9", "q,well,well,0.2,0.8", "r,well,ill,0.6,0.4", "s,ill,ill,0.8,0.2"]


def test_the_page_of_classifications(tmp_path):
    runs = [write_run(tmp_path / "full", 2000, GOOD), write_run(tmp_path / "pocket", 50, BAD)]
    write_comparison(tmp_path / "page.html", runs, "Runs", [], [])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "full: AUC 0.750 with 2,000 parameters." in html
    assert (
        "pocket: AUC 0.500 with 50 parameters, 2.5 % of full&#x27;s; AUC 0.250 lower; right in 1 test image that full "
        "gets wrong, and wrong in 2 that it gets right" in html
    )
    rows = dict(re.findall(r'<th scope="row">([^<]*)</th>((?:<td[^>]*>[^<]*</td>)+)', html))
    cells = {name: re.findall(r">([^<]+)<", row) for name, row in rows.items()}
    assert cells["AUC"] == ["0.750", "0.500"]
    assert cells["accuracy"] == ["0.750", "0.500"]
    assert cells["sensitivity"] == ["1.000", "0.500"]
    assert cells["specificity"] == ["0.500", "0.500"]
    assert cells["p"] == ["ill", "well", "0.900"]  # the surest error of pocket
    assert html.index('scope="row">p<') < html.index('scope="row">r<')
    assert "Test scores over 4 cases" in html
    assert html.count('aria-label="Confusion of') == 2
    assert html.count('aria-label="ROC') == 1


def test_several_classes_have_a_curve_each_and_one_class_has_none(tmp_path):
    header = "subject,target,predicted,prob_a,prob_b,prob_c"
    lines = ["p,a,a,0.8,0.1,0.1", "q,b,b,0.1,0.8,0.1", "r,b,a,0.5,0.3,0.2"]
    run = write_run(tmp_path / "three", 5, lines, header)
    write_comparison(tmp_path / "page.html", [run], "Run", [], [])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'aria-label="(ROC[^"]*)"', html) == ["ROC of a against the rest", "ROC of b against the rest"]
    assert "specificity, c" in html
    assert "sensitivity, c" not in html  # no image is of class c
    single = write_run(tmp_path / "single", 5, GOOD[1:3])
    write_comparison(tmp_path / "page.html", [single], "Run", [], [])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "AUC not defined" in html
    assert 'aria-label="ROC' not in html
    assert "every image is classified correctly" in html


def test_the_printed_summary(tmp_path, capsys):
    print_classified(read_classified(write_run(tmp_path, 5, GOOD) / "test" / "cases.csv"), "the title")
    title, header, scores, *rest = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert title == ["the", "title"]
    assert header == ["auc", "accuracy", "sensitivity", "specificity", "f1", "ece"]
    assert scores[:6] == ["4", "images", "0.7500", "0.7500", "1.0000", "0.5000"]
    assert rest[-2:] == [["ill", "1", "1", "2"], ["well", "0", "2", "2"]]


def test_tables_of_other_tasks_are_left_alone_and_damaged_ones_named(tmp_path):
    table = write_run(tmp_path / "run", 5, ["p,0.5"], "subject,dice") / "test" / "cases.csv"
    assert read_classified(table) is None
    assert read_classified(tmp_path / "nothing.csv") is None
    for line, message in (
        ("p,sick,ill,0.9,0.1", "the class 'sick' has no column prob_sick"),
        ("p,ill,ill,much,0.1", "a probability is no number"),
        ("p,ill,ill,0.9", "a probability is no number"),
    ):
        table.write_text(f"subject,target,predicted,prob_ill,prob_well\n{line}\n", encoding="utf-8")
        with pytest.raises(PocketError, match=f"cases.csv: {message}"):
            read_classified(table)


def test_the_callback_draws_what_the_table_holds(tmp_path):
    class Tested:
        default_root_dir = str(tmp_path)
        loggers = ()

    folder = write_run(tmp_path / "x", 5, GOOD).rename(tmp_path / "y") / "test"
    folder.rename(tmp_path / "test")
    ClassificationPlots().on_test_end(Tested(), None)
    drawn = tmp_path / "test"
    assert sorted(path.name for path in drawn.glob("*.svg")) == ["confusion.svg", "reliability.svg", "roc.svg"]
    assert "well: AUC 0.750" in (drawn / "roc.svg").read_text(encoding="utf-8")
    lines = ["subject,target,predicted,prob_ill,prob_well", *GOOD[1:3]]
    (drawn / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ClassificationPlots().on_test_end(Tested(), None)
    assert sorted(path.name for path in drawn.glob("*.svg")) == ["confusion.svg", "reliability.svg"]
    for path in drawn.glob("*.svg"):
        path.unlink()
    (drawn / "cases.csv").write_text("subject,dice\np,0.5\n", encoding="utf-8")
    ClassificationPlots().on_test_end(Tested(), None)
    assert not list(drawn.glob("*.svg"))
