"""`pocket serve` in a browser."""

import os

import numpy as np
import pytest
from browser import Browser, needs_browser

pytest.importorskip("starlette", reason="needs starlette: pip install 'lightning-pocket[serve]'")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'lightning-pocket[serve]'")

from served_results import Server, hold, log, make_results, write_run

from lightning_pocket.reports.page import Page


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory)


@pytest.fixture(scope="module")
def served(results):
    with Server(results) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@needs_browser
def test_in_a_browser_curves_grow_while_looked_at(served, results, browser):
    run = write_run(results / "watched", 12, [], finished=False)
    hold(run, os.getpid())
    browser.open(f"{served.address}run/watched")
    points = "document.querySelectorAll('[data-live] svg')[0].textContent"
    assert "epoch 3" not in browser.run(points)
    log(run, 3)
    browser.until(f"{points}.includes('epoch 3')")
    assert browser.errors == []
    assert {address.split("/")[2] for address in browser.requests if address.startswith("http")} == {
        f"127.0.0.1:{served.port}"
    }
    (run / "manifest.json").unlink()


@needs_browser
def test_in_a_browser_two_are_chosen_and_compared_while_a_third_trains(served, results, browser):
    browser.open(f"{served.address}")
    assert browser.run("getComputedStyle(document.querySelector('.filter')).display") == "flex"
    for name in ("deep/pocket", "going"):
        browser.run(f"document.querySelector('input[value=\"{name}\"]').click()")
    run = write_run(results / "new one", 13, [])
    browser.until("document.querySelector('tr[data-run=\"new one\"]') !== null")  # without loading the page again
    assert browser.run("document.querySelectorAll('input[name=run]:checked').length") == 2
    (run / "manifest.json").unlink()
    browser.errors.clear()
    browser.run("document.querySelector('.compare button').click()")
    browser.until("document.title.includes('compared')")
    assert "deep/pocket and going compared" in browser.run("document.title")
    assert browser.run("document.querySelectorAll('svg').length") > 0
    assert browser.errors == []


@needs_browser
def test_in_a_browser_pages_of_the_folder_cannot_read_the_server(served, results, browser):
    script = """<script>
      const found = [];
      const tries = [fetch('/').then(() => 'fetched', () => 'refused')];
      try { localStorage.length; found.push('stored'); } catch { found.push('refused'); }
      found.push(origin === 'null' ? 'refused' : 'origin');
      Promise.all(tries).then(all => { document.title = [...found, ...all].join(' '); });
    </script>"""
    (results / "curious.html").write_text(f"<!DOCTYPE html><title>-</title>{script}", encoding="utf-8")
    browser.open(f"{served.address}files/curious.html")
    browser.until("document.title !== '-'")
    assert browser.run("document.title") == "refused refused refused"


@needs_browser
def test_in_a_browser_a_viewer_loads_the_volumes_beside_it(served, results, browser):
    nibabel = pytest.importorskip("nibabel")
    from lightning_pocket.reports.viewer import ViewedCase, add_viewer

    image = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), results / "image.nii.gz")
    page = Page("Volumes")
    case = ViewedCase("one", results / "image.nii.gz", None, None, ["background"], "")
    add_viewer(page, [case], results / "volumes.html", inline_bytes=0)
    page.write(results / "volumes.html")
    browser.open(f"{served.address}files/volumes.html")
    browser.run("document.querySelector('.viewer-open').click()")
    browser.until("document.querySelector('.viewer-open').hidden")
    assert browser.run("document.querySelector('.viewer-place').textContent").startswith("At the cross: intensity")
