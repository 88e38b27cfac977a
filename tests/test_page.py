"""The HTML page and its charts."""

import base64
import io
import json
import re

import numpy as np
import pytest
from page_reader import parse
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.charts import Point, dot_chart, line_chart, scatter_chart
from lightning_pocket.reports.comparison_page import write_comparison
from lightning_pocket.reports.page import Page
from lightning_pocket.reports.pictures import write_png
from lightning_pocket.reports.svg import Scale, log_ticks, marker, nice_ticks, number

HOSTILE = "<script>alert('x')</script>"


def write_run(path, parameters, dice, seconds, **manifest):
    content = {"parameters": parameters, "finished": True, "seed": 7, "versions": {"torch": "2.13.0"}, "steps": 40}
    hardware = {"cpu": "x86", "cores": 2, "gpus": []}
    data = {"hash": "ab" * 32, "split": {"train": ["x"] * 5, "val": ["y"], "test": sorted(dice)}}
    content["git_commit"] = {"lightning_pocket": "0123456789abcdef-dirty"}
    content |= {"command": f"pocket fit --run_dir={path.name}", "hardware": hardware, "data": data} | manifest
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    (path / "metrics.csv").write_text(
        "epoch,step,profile/data_wait_share,profile/peak_rss_mib,profile/step_ms,train/loss,val/dice\n"
        f"0,19,0.2,500,100,0.8,0.3\n1,39,0.2,{parameters},{1000 * seconds},0.4,0.6\n",
        encoding="utf-8",
    )
    (path / "config.yaml").write_text("seed_everything: 7\n", encoding="utf-8")
    head = f"subject,dice,hd95_mm,surface_dice,dice_{HOSTILE},dice_b,hd95_mm_b,voxels_b\n"
    rows = "".join(f"{subject},{value},{10 * value},{value},{value},{value},1,20\n" for subject, value in dice.items())
    (path / "test").mkdir()
    (path / "test" / "cases.csv").write_text(head + rows, encoding="utf-8")
    for subject in dice:
        write_png(path / "test" / "pictures" / f"{subject}.png", np.full((4, 4, 3), parameters % 250, np.uint8))
    return path


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "full", 2000, {"p": 0.9, "q": 0.5, "r": 0.7}, seconds=0.2),
        write_run(tmp_path / "pocket", 50, {"p": 0.8, "q": 0.6, "r": 0.6}, seconds=0.15),
    ]


@pytest.fixture
def html(runs, tmp_path):
    path = tmp_path / "page" / "index.html"
    write_comparison(path, runs, "Full & pocket", ["A note."], ["pocket demo"])
    return path.read_text(encoding="utf-8")


def test_the_page_is_valid_and_loads_nothing(html):
    parsed = parse(html)
    assert html.startswith("<!DOCTYPE html>")
    assert parsed.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in parsed.all("meta")
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))
    assert "http" not in html
    assert "url(" not in html
    assert not parsed.all("script")
    assert not parsed.all("link")
    assert all(image["src"].startswith("data:image/webp;base64,") for image in parsed.all("img"))
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_names_from_files_are_escaped(html):
    assert "<script>" not in html
    assert "&lt;script&gt;alert(" in html
    assert "<h1>Full &amp; pocket</h1>" in html


def test_the_verdict_says_what_the_folders_hold(html):
    text = " ".join(parse(html).texts)
    assert "full: Dice 0.700 with 2,000 parameters." in text
    assert (
        "pocket: Dice 0.667 with 50 parameters, 2.5 % of full's; Dice 0.033 lower, and lower in 2 of 3 test cases; "
        "steps take 25 % less time" in text
    )
    assert "With 3 test cases, small differences in Dice may be chance." in text
    assert text.index("pocket: Dice") < text.index("A note.") < text.index("Results")


def cells(html, name):
    """Return the cells of the table row with a given name."""
    row = re.search(rf'<th scope="row">{re.escape(name)}</th>(.*?)</tr>', html)
    return re.findall(r"<td[^>]*>(.*?)</td>", row.group(1)) if row else None


def test_the_table_holds_means_and_spreads(html):
    assert cells(html, "Dice") == ["0.700 ± 0.200", "0.667 ± 0.115"]
    assert cells(html, "HD95 (mm)") == ["7.00 ± 2.00", "6.67 ± 1.15"]
    assert cells(html, "surface Dice") == ["0.700 ± 0.200", "0.667 ± 0.115"]
    assert cells(html, "Dice, b") == ["0.700 ± 0.200", "0.667 ± 0.115"]
    assert cells(html, "HD95 (mm), b") is None
    assert cells(html, "training step (ms)") == ["200.0", "150.0"]
    assert cells(html, "training (min)") == ["0.2", "0.1"]  # 40 steps of 0.2 s and a fifth of the time waiting: 10 s
    assert cells(html, "peak process memory (MiB)") == ["2,000", "500"]
    assert cells(html, "seed") == ["7", "7"]
    assert cells(html, "git commit") == ["0123456789ab-dirty"] * 2
    assert html.index(">Dice, b<") < html.index(">HD95 (mm)<")
    assert '<th scope="col" class="number">pocket</th>' in html


def test_the_worst_median_and_best_case_of_the_first_run_are_shown_for_every_run(html):
    parsed = parse(html)
    assert re.findall(r"<h3>(.*?)</h3>", html) == [
        "q: worst case of full",
        "r: median case of full",
        "p: best case of full",
    ]
    assert [image["alt"] for image in parsed.all("img")][:2] == [
        "Image, ground truth and prediction of full for q, Dice 0.500",
        "Image, ground truth and prediction of pocket for q, Dice 0.600",
    ]
    greys = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))[0, 0, 0]
        for image in parsed.all("img")
    ]
    assert greys == pytest.approx([2000 % 250, 50] * 3, abs=2)  # a lossy format


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    first = write_run(tmp_path / "a" / "net", 10, {"p": 0.9}, seconds=0.2)
    second = write_run(
        tmp_path / "b" / "net",
        10,
        {"q": 0.9},
        seconds=0.1,
        finished=False,
        hardware={"cpu": "arm"},
        data={"hash": "cd"},
    )
    untested = tmp_path / "new"
    untested.mkdir()
    (untested / "manifest.json").write_text('{"parameters": 5}', encoding="utf-8")
    write_comparison(tmp_path / "page.html", [first, second, untested], "Runs", [], [])
    text = " ".join(parse((tmp_path / "page.html").read_text(encoding="utf-8")).texts)
    assert f"{second.as_posix()}: training has not finished." in text
    assert "new: not tested yet" in text
    assert "were not tested on the same cases" in text
    assert "trained on different machines" in text
    assert "trained on differently prepared data" in text
    assert "less time" not in text
    assert "pocket fit --run_dir=net" in text  # the recorded commands


def test_a_run_that_left_only_its_manifest_still_gives_a_page(tmp_path):
    (tmp_path / "manifest.json").write_text('{"parameters": 5}', encoding="utf-8")
    write_comparison(tmp_path / "page.html", [tmp_path], "One run", [], [])
    assert "a network with 5 parameters; not tested." in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_case_without_a_finite_score_is_neither_worst_nor_best(runs, tmp_path):
    table = runs[0] / "test" / "cases.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("\nq,0.5,", "\nq,nan,"), encoding="utf-8")
    write_comparison(tmp_path / "page.html", runs, "Runs", [], [])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["r: worst case of full", "p: median case of full"]


def test_a_curve_without_a_finite_value_is_left_out(runs, tmp_path):
    for run in runs:
        log = (run / "metrics.csv").read_text(encoding="utf-8")
        (run / "metrics.csv").write_text(re.sub(r",[^,]*$", ",nan", log, flags=re.M).replace("nan", "val/dice", 1))
    write_comparison(tmp_path / "page.html", runs, "Runs", [], [])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Training loss by epoch" in html
    assert "Validation Dice by epoch" not in html


def test_compare_writes_the_page(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    main(["compare", *map(str, runs), f"--output={page}"])
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {page}"
    assert "<title>full and pocket compared</title>" in page.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["compare", str(runs[0]), f"--output={tmp_path}"])
    assert f"--output {tmp_path}: is a folder" in capsys.readouterr().err


def test_texts_pictures_and_tables_of_a_page(tmp_path):
    page = Page(HOSTILE)
    page.section(HOSTILE)
    page.subsection(HOSTILE)
    page.paragraph(HOSTILE, "note")
    page.table(["name", "value", "word"], [["a", "1.5 ± 0.1", HOSTILE], ["b", "n/a", "x"]], HOSTILE)
    page.pictures([(b"not looked at", f'" onload="{HOSTILE}', HOSTILE)])
    page.details(HOSTILE, HOSTILE)
    page.code(HOSTILE)
    page.charts([(line_chart({HOSTILE: [(0, 1)]}, HOSTILE, HOSTILE, HOSTILE), HOSTILE)])
    page.write(tmp_path / "new" / "page.html")
    html = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    parsed = parse(html)
    assert not parsed.all("script")
    assert set(parsed.all("img")[0]) == {"alt", "src"}
    assert [head.get("class") for head in parsed.all("th") if head["scope"] == "col"] == [None, "number", None]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.91, 0.97, [0.9, 0.92, 0.94, 0.96, 0.98]), (1, 12, [0, 5, 10, 15])],
)
def test_ticks_are_round_and_cover_the_values(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_ticks_of_a_single_value_surround_it():
    for value in (0.0, 3.0, -2.0):
        ticks = nice_ticks(value, value)
        assert ticks[0] < value < ticks[-1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(30e3, 350e3, [2e4, 5e4, 1e5, 2e5, 5e5]), (100, 100, [100, 200]), (3, 1e5, [1, 10, 100, 1e3, 1e4, 1e5])],
)
def test_logarithmic_ticks(low, high, expected):
    assert log_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "label"), [(0.92, "0.92"), (25, "25"), (2000, "2k"), (350000, "350k"), (5e6, "5M"), (1234, "1234")]
)
def test_labels_of_ticks(value, label):
    assert number(value) == label


def test_scales_map_by_closed_form():
    assert Scale(2, 4, 100, 200)(2.5) == pytest.approx(125)
    assert Scale(0, 1, 300, 100)(0.25) == pytest.approx(250)
    assert Scale(10, 1000, 0, 100, log=True)(100) == pytest.approx(50)


def coordinates(chart, title):
    """Return the centre of the circle with a given tooltip."""
    pattern = rf'<title>{re.escape(title)}</title><circle (?:class="open" )?cx="([\d.]+)" cy="([\d.]+)"'
    return tuple(map(float, re.search(pattern, chart).groups()))


def test_points_of_a_curve_lie_where_their_values_say():
    chart = line_chart({"run": [(0, 0.0), (5, 0.5), (10, 1.0), (7, float("nan"))]}, "epoch", "Dice", "Curve")
    left, bottom = coordinates(chart, "run, epoch 0: 0")
    middle = coordinates(chart, "run, epoch 5: 0.5")
    right, top = coordinates(chart, "run, epoch 10: 1")
    assert left == 64
    assert right == 440 - 20
    assert middle == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=0.1)
    assert top < bottom
    assert "nan" not in chart


def test_points_of_a_scatter_chart_lie_by_their_logarithm():
    chart = scatter_chart([Point(100, 0.5, "a"), Point(10000, 0.9, "b", 0.05)], "parameters", "Dice", "Size")
    x, _ = coordinates(chart, "a: 0.5 with 100")
    assert x == 64
    assert re.search(r"<title>b: 0\.9 with 10,000</title><path", chart)  # another mark


def test_the_mean_of_a_strip_lies_between_its_dots():
    cases = {"p": 0.25, "q": 0.75, "bad": float("nan")}
    chart = dot_chart({"liver": {"run": cases, "other": {}}}, "Dice", "Cases")
    (low, y), (high, _) = (coordinates(chart, f"liver, run, {case}: {cases[case]}") for case in ("p", "q"))
    mean = re.search(r'<g class="mean"><title>liver, run: mean 0.5</title><path d="M([\d.]+) ([\d.]+)', chart)
    assert float(mean.group(1)) == pytest.approx((low + high) / 2, abs=0.11)
    assert float(mean.group(2)) == pytest.approx(y - 9)


def test_charts_say_what_they_show_without_being_seen():
    chart = line_chart({"a": [(1, 2.0)], "b": [(1, 3.0)]}, "epoch", "loss", "Loss by epoch")
    svg = parse(chart).all("svg")[0]
    assert svg["role"] == "img"
    assert svg["aria-label"] == "Loss by epoch"
    assert "<desc>loss against epoch: a ends at 2; b ends at 3.</desc>" in chart


def test_series_differ_by_more_than_colour():
    marks = [re.sub(r"s\d", "", marker(index, 5, 5, "")) for index in range(6)]
    assert len(set(marks)) == 6
    assert len({marker(index, 5, 5, "") for index in range(30)}) == 30


@pytest.mark.parametrize(
    "draw",
    [
        lambda: line_chart({"a": []}, "x", "y", "Empty"),
        lambda: dot_chart({"a": {"b": {"c": float("inf")}}}, "x", "Empty"),
        lambda: scatter_chart([], "x", "y", "Empty"),
    ],
)
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(PocketError, match=r"chart 'Empty': there is no finite value"):
        draw()
