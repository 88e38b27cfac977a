"""`pocket serve`: links that lead outside, damaged runs, and pages that stay true while they are looked at."""

import re

import numpy as np
import pytest
from browser import Browser, needs_browser

pytest.importorskip("starlette", reason="needs starlette: pip install 'lightning-pocket[serve]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'lightning-pocket[serve]'")

from served_results import SECRET, Server, rows_of, write_run

from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.pictures import write_png
from lightning_pocket.serving.folder import ServedFolder
from lightning_pocket.serving.runs import state_of
from lightning_pocket.storage import write_json

CASES = list(np.linspace(0.5, 0.9, 12))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs that hold links to a folder that nobody may read, and to what is hidden."""
    base = tmp_path_factory.mktemp("links")
    outside = write_run(base / "outside", 5, [0.1], command=SECRET)
    (outside / "secret.txt").write_text(SECRET, encoding="utf-8")
    root = base / "results"
    (root / ".hidden").mkdir(parents=True)
    (root / ".hidden" / "secret.txt").write_text(SECRET, encoding="utf-8")
    write_run(root / "plain", 100, CASES)
    noted = write_run(root / "noted", 100, CASES)
    (noted / "notes.txt").symlink_to(outside / "secret.txt")
    for name, target in (("config", outside / "secret.txt"), ("hidden", root / ".hidden" / "secret.txt")):
        (write_run(root / name, 100, CASES) / "config.yaml").symlink_to(target)
    pictured = write_run(root / "pictured", 100, CASES)
    (pictured / "test" / "pictures" / "case_0.png").unlink()
    (pictured / "test" / "pictures" / "case_0.png").symlink_to(outside / "test" / "pictures" / "case_0.png")
    scored = write_run(root / "scored", 100, [])
    (scored / "test").symlink_to(outside / "test")
    claimed = root / "claimed"
    claimed.mkdir()
    (claimed / "manifest.json").symlink_to(outside / "manifest.json")
    runs = {"0": {"run": "../../outside"}}
    write_json(root / "cv" / "crossval.json", {"runs": runs, "folds": [0], "command": "x"})
    write_json(
        root / "absolute" / "crossval.json", {"runs": {"0": {"run": str(outside)}}, "folds": [0], "command": "x"}
    )
    return root


@pytest.fixture(scope="module")
def served(results):
    with Server(results) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("noted", "noted/notes.txt"),
        ("config", "config/config.yaml"),
        ("hidden", "hidden/config.yaml"),
        ("pictured", "pictured/test/pictures/case_0.png"),
        ("scored", "scored/test"),
    ],
)
def test_a_run_is_shown_without_what_leads_outside(served, name, link):
    assert rows_of(served.get("/"))[name][2] == "finished"
    page = served.get(f"/run/{name}")
    assert f"Not read, since these links lead outside the folder: {link}." in page
    assert "Validation" in page or "dice by epoch" in page
    assert SECRET not in page
    compared = served.get(f"/compare?run=plain&run={name}")
    assert SECRET not in compared
    assert "How it was made" in compared
    status, _, body = served.ask(f"/files/{link}")
    assert status == 404
    assert SECRET not in body


def test_scores_and_pictures_that_lead_outside_are_not_there(served):
    assert rows_of(served.get("/"))["scored"][5] == "n/a"
    page = served.get("/run/pictured")
    assert "case_0.png" not in re.sub(r"Not read.*?</p>", "", page)
    assert served.get("/compare?run=plain&run=pictured").count("<img ") == 1  # of the first run alone


@pytest.mark.parametrize("name", ["cv", "absolute"])
def test_folds_elsewhere_are_not_read(served, name):
    assert rows_of(served.get("/"))[name][2] == "unreadable"
    page = served.get(f"/run/{name}")
    assert SECRET not in page
    assert "no run here" in page
    status, _, body = served.ask(f"/compare?run=plain&run={name}")
    assert status == 400
    assert SECRET not in body


def test_a_manifest_elsewhere_is_no_run(served):
    assert rows_of(served.get("/")).get("claimed", ["", "", "unreadable"])[2] == "unreadable"
    status, _, body = served.ask("/run/claimed")
    assert status == 404
    assert SECRET not in body


def test_what_leads_outside_is_absent_to_whoever_reads(results):
    folder = ServedFolder(results)
    inside = folder.path / "config" / "config.yaml"
    assert not inside.is_file()
    with pytest.raises(FileNotFoundError):
        inside.read_text(encoding="utf-8")
    assert not (folder.path / "scored" / "test").is_dir()
    assert not (folder.path / ".." / "outside" / "secret.txt").is_file()
    assert (folder.path / "plain" / "manifest.json").is_file()
    (results / "plain" / ".lock").write_text("{}", encoding="utf-8")
    assert (folder.path / "plain" / ".lock").is_file()
    assert read_run(folder.path / "scored").subjects == []


@pytest.mark.parametrize("content", [{"parameters": 5, "data": None, "hardware": None, "finished": False}, [1], {}])
def test_damaged_runs_have_a_page_all_the_same(served, results, content):
    write_json(results / "damaged" / "manifest.json", content)
    write_json(results / "damaged" / "error.json", {"type": "X", "message": "m", "epoch": None, "step": 1, "at": ""})
    served.get("/run/damaged")
    assert served.ask("/compare?run=plain&run=damaged")[0] in (200, 400)


def test_a_cross_validation_fails_with_its_folds(tmp_path):
    write_json(tmp_path / "crossval.json", {"runs": {}, "folds": [0], "command": "x"})
    assert state_of(tmp_path, {}) == "stopped"
    write_json(tmp_path / "fold_0" / "error.json", {})
    assert state_of(tmp_path, {}) == "failed"


def test_pages_that_compare_are_small(served, results):
    pixels = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    for name in ("big", "large"):
        run = write_run(results / name, 100, CASES)
        for case in range(3):
            write_png(run / "test" / "pictures" / f"case_{case}.png", pixels)
    page = served.get("/compare?run=big&run=large")
    assert page.count("<img ") == 6
    assert len(page) < 6 * pixels.size / 4


@needs_browser
def test_in_a_browser_the_first_run_appears_and_is_counted(tmp_path, browser):
    with Server(tmp_path) as started:
        browser.open(started.address)
        assert "no runs here yet" in browser.run("document.body.textContent")
        write_run(tmp_path / "first", 11, [])
        browser.until("document.querySelector('tr[data-run=first]') !== null")
        write_run(tmp_path / "second", 11, [])
        browser.until("document.querySelector('tr[data-run=second]') !== null")
        assert browser.run("document.querySelector('.lead').textContent") == "2 runs: 2 finished."
        assert browser.run("document.querySelector('caption').textContent").startswith("2 of 2 runs.")


@needs_browser
def test_in_a_browser_a_page_says_that_its_server_has_ended(tmp_path, browser):
    write_run(tmp_path / "run", 11, [])
    old = "[...document.querySelectorAll('[role=status]')].some(p => !p.hidden && p.textContent.includes('no longer'))"
    with Server(tmp_path) as started:
        browser.open(f"{started.address}run/run")
        assert not browser.run(old)
    browser.until(old)
