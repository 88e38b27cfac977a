"""A report as a browser shows it: nothing is loaded, charts answer to the pointer, the keyboard and the wheel."""

import csv
import json
import re

import pytest
from browser import Browser, needs_browser
from reported_runs import scores_of, write_reported

from lightning_pocket.cli import main
from lightning_pocket.reports.charts import Point, line_chart, scatter_chart
from lightning_pocket.reports.page import Page

pytestmark = [pytest.mark.e2e, needs_browser]

TICKS = "[...document.querySelectorAll('svg.chart')[{0}].querySelectorAll('.ticks.{1} text')].map(t => t.textContent)"
READ = "(() => {{ const o = document.querySelectorAll('.readout')[{0}]; return o.hidden ? '' : o.textContent }})()"
LEFT, RIGHT, WIDTH = 64, 420, 440  # of a plot, in the units of a chart


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two charts with known values: a curve of 60 points, and three sizes on a logarithmic axis."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    page = Page("Charts")
    page.interactive()
    curve = [(epoch, epoch / 100) for epoch in range(61)]
    sizes = [Point(100, 0.25, "small"), Point(1000, 0.5, "middle"), Point(10000, 0.75, "large", 0.1)]
    page.charts(
        [
            (line_chart({"run": curve}, "epoch", "Dice", "Curve"), "A curve."),
            (scatter_chart(sizes, "parameters", "Dice", "Sizes"), "Sizes."),
        ]
    )
    page.code("pocket fit\npocket test")
    page.write(file)
    return file


@pytest.fixture
def shown(browser, page):
    browser.media("light")
    browser.resize(1100)
    browser.open(page)
    return browser


def at(browser, index, x, y):
    """Return where in the window a pixel of a chart is, after scrolling to it."""
    box = f"document.querySelectorAll('svg.chart')[{index}]"
    browser.run(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    script = (
        f"(() => {{ const p = new DOMPoint({x}, {y}).matrixTransform({box}.getScreenCTM()); return [p.x, p.y] }})()"
    )
    return browser.run(script)


def mark(browser, index, selector):
    """Return the middle of an element of a chart in the window."""
    script = f"""(() => {{ const box = document.querySelectorAll('svg.chart')[{index}]
        .querySelector({json.dumps(selector)}).getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2] }})()"""
    return browser.run(script)


def test_the_nearest_value_is_read_out(shown):
    chart = shown.run("document.querySelector('svg.chart polyline.line[data-values]').getAttribute('points')")
    (px, py) = map(float, chart.split()[37].split(","))
    shown.mouse("mouseMoved", *at(shown, 0, px + 1, py + 3))
    assert shown.run(READ.format(0)) == "run, epoch 37: 0.37"
    shown.mouse("mouseMoved", *at(shown, 1, LEFT + (RIGHT - LEFT) / 2, 160))
    assert shown.run(READ.format(0)) == ""
    assert shown.run(READ.format(1)).startswith("middle: 0.5 with 1,000")
    shown.mouse("mouseMoved", 5, 5)
    assert shown.run(READ.format(1)) == ""


def test_the_wheel_zooms_with_ctrl_alone_and_a_double_click_resets(shown):
    before = [shown.run(TICKS.format(0, axis)) for axis in "xy"]
    place = at(shown, 0, LEFT + (RIGHT - LEFT) / 2, 160)
    shown.mouse("mouseWheel", *place, deltaX=0, deltaY=-200)
    shown.run("new Promise(done => setTimeout(() => done(true), 100))")
    assert shown.run(TICKS.format(0, "x")) == before[0], "scrolls the page"
    place = at(shown, 0, LEFT + (RIGHT - LEFT) / 2, 160)
    shown.mouse("mouseWheel", *place, deltaX=0, deltaY=-500, modifiers=2)
    shown.until("document.querySelector('svg.chart .plot.zoomed') !== null")
    ticks = list(map(float, shown.run(TICKS.format(0, "x"))))
    assert ticks != list(map(float, before[0]))
    assert 10 < ticks[0] < 30 < ticks[-1] < 50  # twice as large around 30
    assert shown.run(TICKS.format(0, "y")) != before[1]
    shown.click(*at(shown, 0, LEFT + 100, 160), count=2)
    shown.until("document.querySelector('svg.chart .plot.zoomed') === null")
    assert [shown.run(TICKS.format(0, axis)) for axis in "xy"] == before


def test_marks_stay_at_their_values_while_zoomed(shown):
    place = at(shown, 1, LEFT + (RIGHT - LEFT) / 2, 160)
    shown.mouse("mouseWheel", *place, deltaX=0, deltaY=-300, modifiers=2)
    shown.until("document.querySelectorAll('svg.chart')[1].querySelector('.plot.zoomed') !== null")
    ticks = shown.run(
        """[...document.querySelectorAll('svg.chart')[1].querySelectorAll('.ticks.x text')]
           .map(t => { const box = t.getBoundingClientRect(); return [t.textContent, box.x + box.width / 2] })"""
    )
    sizes = {"k": 1e3, "M": 1e6}
    values = {float(t[:-1]) * sizes[t[-1]] if t[-1] in sizes else float(t): x for t, x in ticks}
    middle, _ = mark(shown, 1, ".marks .s1 path")
    assert len(values) > 1
    assert middle == pytest.approx(values[1000], abs=1)


def test_dragging_moves_what_is_seen(shown):
    place = at(shown, 0, LEFT + (RIGHT - LEFT) / 2, 160)
    shown.mouse("mouseWheel", *place, deltaX=0, deltaY=-500, modifiers=2)
    shown.until("document.querySelector('svg.chart .plot.zoomed') !== null")
    first = list(map(float, shown.run(TICKS.format(0, "x"))))
    shown.mouse("mousePressed", *place, button="left", buttons=1, clickCount=1)
    for step in range(1, 5):
        shown.mouse("mouseMoved", place[0] + 20 * step, place[1], button="left", buttons=1)
    shown.mouse("mouseReleased", place[0] + 80, place[1], button="left", clickCount=1)
    assert min(map(float, shown.run(TICKS.format(0, "x")))) < first[0]


def test_the_keyboard_reads_zooms_and_resets(shown):
    before = shown.run(TICKS.format(1, "x"))
    shown.run("document.querySelectorAll('svg.chart')[1].focus()")
    for key, expected in (
        ("ArrowRight", "small"),
        ("ArrowRight", "middle"),
        ("ArrowRight", "large"),
        ("ArrowLeft", "middle"),
    ):
        shown.key(key)
        assert shown.run(READ.format(1)).startswith(expected)
    shown.key("+", 187, "+")
    shown.until("document.querySelectorAll('svg.chart')[1].querySelector('.plot.zoomed') !== null")
    assert shown.run(TICKS.format(1, "x")) != before
    shown.key("Escape")
    assert shown.run(TICKS.format(1, "x")) == before
    assert shown.run("document.querySelector('.readout').getAttribute('aria-live')") == "polite"
    assert shown.run("document.querySelectorAll('svg.chart')[1].getAttribute('aria-label')") == "Sizes"


def test_commands_can_be_copied(shown):
    shown.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    box = shown.place(".copy")
    shown.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown.until("document.querySelector('.copy').textContent === 'Copied'")
    assert shown.run("navigator.clipboard.readText()") == "pocket fit\npocket test"


def test_the_page_prints_without_what_is_only_for_screens(shown):
    shown.media(media="print")
    for element in (".hint", ".copy"):
        assert shown.run(f"getComputedStyle(document.querySelector('{element}')).display") == "none"
    shown.media()
    assert shown.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("width", [400, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_of_a_hundred_cases_fits_and_is_drawn_quickly(browser, tmp_path, width, scheme):
    names = ["full", "a <b>'\"ü", "pocket"]
    runs = [write_reported(tmp_path / name, scores_of(100, seed), pictures=100) for seed, name in enumerate(names)]
    file = tmp_path / "report.html"
    main(["report", *map(str, runs), f"--output={file}"])
    browser.resize(width)
    browser.media(scheme)
    seconds = browser.open(file)
    assert browser.foreign_requests == []
    assert browser.errors == []
    assert seconds < 3
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('.interactive svg.chart').length") > 5
    assert browser.run("document.querySelectorAll('main b').length") == 0
    colours = "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()"
    text, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in browser.run(colours))
    assert (text < paper) == (scheme == "light")


@pytest.fixture(scope="module")
def trained_pair(blobs_cache, tmp_path_factory):
    """A full and a pocket run that were really trained and tested, with label maps."""
    folder = tmp_path_factory.mktemp("pair")
    options = {
        "data.init_args.cache": blobs_cache,
        "data.init_args.patch_size": [8, 16, 16],
        "data.init_args.patches_per_epoch": 16,
        "model.init_args.network.init_args.depth": 2,
        "model.init_args.network.init_args.widths.base": 4,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
    }
    for name in ("full", "pocket"):
        configs = [f"--config={entry}" for entry in ("segment_volumes", name, "no_augmentation", "prediction_files")]
        main(["fit", *configs, f"--run_dir={folder / name}", *(f"--{key}={value}" for key, value in options.items())])
        main(["test", f"--run_dir={folder / name}", "--trainer.enable_progress_bar=false"])
    return [folder / "full", folder / "pocket"]


def test_a_real_comparison_opens_from_disk(browser, trained_pair, tmp_path):
    file = tmp_path / "report.html"
    main(["report", *map(str, trained_pair), f"--output={file}"])
    browser.resize(1100)
    browser.open(file)
    assert browser.foreign_requests == []
    assert browser.errors == []
    titles = browser.run("[...document.querySelectorAll('svg.chart')].map(s => s.getAttribute('aria-label'))")
    assert {"Training loss by epoch", "Dice of each case", "Difference of Dice to full"} <= set(titles)
    assert browser.run("document.querySelectorAll('.viewer').length") == 1
    with (trained_pair[1] / "metrics.csv").open(encoding="utf-8", newline="") as log:
        losses = [float(row["train/loss"]) for row in csv.DictReader(log) if row["train/loss"]]
    index = titles.index("Training loss by epoch")
    browser.run(f"document.querySelectorAll('svg.chart')[{index}].focus()")
    read = set()
    for _ in range(4):
        browser.key("ArrowRight")
        read.add(browser.run(READ.format(index)))
    assert {f"pocket, epoch {epoch}: {loss:.4g}" for epoch, loss in enumerate(losses, 1)} <= read


def test_a_crash_of_a_real_training_is_told(options, tmp_path, monkeypatch):
    from lightning_pocket.tasks.segmentation import SegmentationTask

    step = SegmentationTask.training_step

    def fails_in_the_second_epoch(self, batch, index):
        if self.trainer.current_epoch == 1:
            raise OSError("the disk is full")
        return step(self, batch, index)

    arguments = ["fit", *options, "--data.init_args.patches_per_epoch=8"]
    with monkeypatch.context() as patched:
        patched.setattr(SegmentationTask, "training_step", fails_in_the_second_epoch)
        with pytest.raises(OSError, match="disk is full"):
            main(arguments)
    run = tmp_path / "run"
    main(["report", str(run)])
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "run: training stopped in epoch 2, after step " in html
    assert "OSError: the disk is full" in html
    assert "fails_in_the_second_epoch" in html
    main(arguments)  # goes on
    assert not (run / "error.json").exists()
    main(["report", str(run)])
    assert "training stopped" not in (run / "report.html").read_text(encoding="utf-8")
