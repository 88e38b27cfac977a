"""How a report lies on phones and on paper, whatever its runs and cases are called."""

import pytest
from browser import Browser, needs_browser
from reported_runs import scores_of, write_reported

from lightning_pocket.cli import main

pytestmark = [pytest.mark.e2e, needs_browser]

PHONE, PAPER = 390, 718  # pixels: a common phone, and A4 without its margins
TOO_WIDE = """(width => [...document.querySelectorAll('h1, h2, h3, p, nav, caption, figcaption, summary')]
    .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.textContent.slice(0, 60)))"""
CUT = """(() => [...document.querySelectorAll('svg.chart')].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(text => {
        const {left, right} = text.getBoundingClientRect();
        return left < box.left - 1 || right > box.right + 1;
    }).map(text => text.textContent);
}))()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two runs with long names, one of which diverged, and a classification of images with long names."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_reported(folder / ("a" * 80 + end), scores_of(12, len(end))) for end in ("_full", "_pocket")]
    log = "epoch,step,train/loss,val/dice\n0,1,1e30,0.5\n1,2,3e33,1e-9\n"
    (runs[1] / "metrics.csv").write_text(log, encoding="utf-8")
    main(["report", *map(str, runs), f"--output={folder / 'page.html'}"])
    return folder / "page.html"


def test_nothing_is_wider_than_a_phone(browser, page):
    browser.resize(PHONE, 844, mobile=True)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= PHONE
    assert browser.run(f"{TOO_WIDE}({PHONE})") == []  # what is said below a table does not scroll with it
    assert browser.run(CUT) == []


def test_nothing_is_wider_than_paper(browser, tmp_path):
    runs = [write_reported(tmp_path / name, scores_of(12, len(name))) for name in ("full", "pocket")]
    image = "CR.1.2.840.113564.1722810170.20200416105826265860.1003000225002.png"
    table = runs[0] / "test" / "cases.csv"
    for run in runs:
        table = run / "test" / "cases.csv"
        table.write_text(table.read_text(encoding="utf-8").replace("case_000", image), encoding="utf-8")
    main(["report", *map(str, runs), f"--output={tmp_path / 'page.html'}", "--per_class"])
    browser.resize(PAPER, 1040)
    browser.media(media="print")
    browser.open(tmp_path / "page.html")
    browser.run("document.querySelectorAll('details').forEach(e => { e.open = !e.textContent.includes('class_path') })")
    assert browser.run("document.documentElement.scrollWidth") <= PAPER
    sizes = "[...document.querySelectorAll('tbody th, tbody td')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert max(browser.run(sizes)) < 14  # no larger than the text
    browser.media()
