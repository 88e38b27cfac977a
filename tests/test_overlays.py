"""`pocket overlays`: contours of truth and prediction, several networks side by side."""

import base64
import csv
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.commands.overlays import _named
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.reports.overlay import PREDICTION, TRUTH, draw_contours
from lightning_pocket.reports.overlay_page import Contours, draw_case, write_overlays
from lightning_pocket.reports.slices import slice_case
from lightning_pocket.studies import overlays
from lightning_pocket.studies.overlays import choose_cases, predict_overlays

RED, GREEN = TRUTH, PREDICTION


def square(low, high, size=40):
    label = np.zeros((size, size), np.uint8)
    label[low:high, low:high] = 1
    return label


def rings(label, width):
    """Pixels of each class within ``width`` steps of another class or of the outside, by brute force."""
    found = np.zeros(label.shape, bool)
    for y, x in np.argwhere(label > 0):
        for dy in range(-width, width + 1):
            for dx in range(abs(dy) - width, width - abs(dy) + 1):
                v, u = y + dy, x + dx
                inside = 0 <= v < label.shape[0] and 0 <= u < label.shape[1]
                if not inside or label[v, u] != label[y, x]:
                    found[y, x] = True
    return found


def test_the_truth_is_red_and_the_prediction_green_above_it():
    pixels = np.full((40, 40, 3), 90, np.uint8)
    truth, predicted = square(4, 30), square(12, 37)
    predicted[20:24, 20:24] = 2
    drawn = draw_contours(pixels, truth, predicted)
    green = rings(predicted, 2)
    red = rings(truth, 4) & ~green
    assert (drawn[green] == GREEN).all()
    assert (drawn[red] == RED).all()
    assert (drawn[~green & ~red] == 90).all()
    assert (pixels == 90).all()
    both = draw_contours(pixels, truth, truth)  # where they coincide both are seen
    assert {tuple(map(int, p)) for p in both[15, 4:8]} == {RED, GREEN}


def with_hole():
    label = np.ones((40, 40), np.uint8)
    label[12:20, 8:30] = 0
    return label


@pytest.mark.parametrize("predicted", [square(0, 40), square(0, 17), square(25, 40), with_hole()])
def test_a_contour_is_closed_where_the_picture_cuts_the_region(predicted):
    pixels = np.full((40, 40, 3), 90, np.uint8)
    drawn = draw_contours(pixels, np.zeros_like(predicted), predicted)
    assert ((drawn == GREEN).all(axis=2) == rings(predicted, 2)).all()
    drawn = draw_contours(pixels, predicted, np.zeros_like(predicted))
    assert ((drawn == RED).all(axis=2) == rings(predicted, 4)).all()


def contours(truth, predicted, dice, spacing=(1.0, 1.0)):
    image = np.linspace(0, 1, truth.size, dtype=np.float32).reshape(1, *truth.shape)
    return Contours(slice_case(image, truth, predicted, spacing), dice)


def colours(picture):
    return {tuple(map(int, pixel)) for pixel in np.unique(picture.reshape(-1, 3), axis=0)}


def test_panels_are_side_by_side_up_to_four_in_a_row():
    truth = square(5, 30)
    sizes = []
    for count in (1, 2, 4, 5, 10):
        found = {f"run {index}": contours(truth, truth, 0.5) for index in range(count)}
        height, width, _ = draw_case(found, 2, panel=100).shape
        sizes.append(((width - 10) // 110, (height - 10) // 132))
    assert sizes == [(1, 1), (2, 1), (4, 1), (3, 2), (4, 3)]


def test_each_panel_shows_its_own_prediction_with_square_pixels():
    truth, elsewhere = square(5, 30), square(0, 0)
    found = {"found": contours(truth, truth, 1.0, (2.0, 1.0)), "missed": contours(truth, elsewhere, 0.0, (2.0, 1.0))}
    picture = draw_case(found, 2, panel=200)
    assert picture.shape == (10 + 22 + 200 + 10, 3 * 10 + 2 * 100, 3)  # 80 mm high, 40 mm wide
    assert {RED, GREEN} <= colours(picture[:, :115])
    assert RED in colours(picture[:, 115:])
    assert GREEN not in colours(picture[:, 115:])


def test_labels_that_are_no_class_have_no_contour():
    truth = np.full((40, 40), 255, np.uint8)
    truth[:20] = 0
    assert not {RED, GREEN} & colours(draw_case({"run": contours(truth, np.zeros_like(truth), 1.0)}, 2))


def test_captions_tell_an_empty_prediction_from_a_full_one(tmp_path):
    truth, predictions = square(5, 30), {"a": square(0, 0), "b": square(0, 40), "c": square(0, 39)}
    found = {name: contours(truth, predicted, 0.25) for name, predicted in predictions.items()}
    page = tmp_path / "page.html"
    write_overlays(page, {"c1": found}, 2, [], "pocket")
    html = page.read_text(encoding="utf-8")
    assert "Dice: a 0.250 (nothing predicted), b 0.250 (whole image predicted), c 0.250." in html
    assert "<title>Contours of a, b and c</title>" in html
    volume = np.zeros((3, 40, 40), np.uint8)
    volume[1] = truth
    found = {"v": Contours(slice_case(volume.astype(np.float32), volume, 2 * (volume < 9), None, 2), 0.0)}
    write_overlays(page, {"c1": found}, 2, [], "pocket")  # the predicted value is no class
    html = page.read_text(encoding="utf-8")
    assert "Dice: v 0.000 (nothing predicted in this slice)." in html
    assert "<title>Contours of v</title>" in html


def result(name, dice):
    return RunResult(name, 1, None, {"dice": list(dice.values())}, subjects=list(dice))


def test_cases_are_chosen_from_the_worst_to_the_best():
    first = result("a", {f"c{i}": i / 10 for i in range(10)} | {"only_a": 0.0})
    second = result("b", {f"c{i}": i / 10 for i in range(10)})
    assert choose_cases([first, second], [], 4) == ["c0", "c3", "c6", "c9"]
    assert choose_cases([first, second], [], 5) == ["c0", "c2", "c4", "c7", "c9"]
    assert choose_cases([first, second], [], 1) == ["c0"]
    assert len(choose_cases([first, second], [], 99)) == 10
    assert choose_cases([first, second], ["x", "c1", "x"], 1) == ["x", "c1"]
    with pytest.raises(PocketError, match="no case was tested by all"):
        choose_cases([first, result("b", {"other": 1.0})], [], 3)
    with pytest.raises(PocketError, match="has no test scores by which to choose"):
        choose_cases([RunResult("a", 1, None)], [], 3)


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory):
    """Two tested runs on volumes: the second is the first with weights that predict something else."""
    import torch

    root = tmp_path_factory.mktemp("overlays")
    first, second = root / "good", root / "worse"
    shutil.copytree(trained, first)
    shutil.copytree(trained, second)
    file = second / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    head = [name for name in checkpoint["state_dict"] if name.startswith("network.heads")]
    generator = torch.Generator().manual_seed(0)
    for name in head:
        shape = checkpoint["state_dict"][name].shape
        checkpoint["state_dict"][name] += 0.5 * torch.randn(shape, generator=generator)
    torch.save(checkpoint, file)
    for run in (first, second):
        main(["test", f"--run_dir={run}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    return first, second


def pictures(page):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def scores(run):
    with (run / "test" / "cases.csv").open(encoding="utf-8") as file:
        return {row["subject"]: float(row["dice"]) for row in csv.DictReader(file)}


@pytest.mark.e2e
def test_a_page_of_volumes(tested, tmp_path, capsys):
    page = tmp_path / "overlays.html"
    main(["overlays", *map(str, tested), f"--output={page}", "--max_cases=2"])
    assert f"page: {page}" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    dice = [scores(run) for run in tested]
    for subject in dice[0]:  # the networks predict again what they predicted in the test
        assert f"<h3>{subject}</h3>" in html
        assert f"Dice: good {dice[0][subject]:.3f}, worse {dice[1][subject]:.3f}." in html
    worst, best = re.findall("<h3>(.*?)</h3>", html)
    assert sum(d[worst] for d in dice) <= sum(d[best] for d in dice)
    drawn = pictures(html)
    assert len(drawn) == 2
    assert all({RED, GREEN} <= colours(picture) for picture in drawn)
    assert "evenly spaced in rank" in html
    assert f"--cases={worst},{best}" in html
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)


@pytest.mark.e2e
def test_islands_are_removed_where_the_test_removed_them(tested, monkeypatch):
    assert overlays._load(tested[0], None).largest_component is False
    monkeypatch.setattr(overlays, "read_tested", lambda _run: {"checkpoint": "best", "largest_component": True})
    assert overlays._load(tested[0], None).largest_component is True
    assert overlays._load(tested[0], "last").largest_component is False


@pytest.mark.e2e
def test_predictions_are_those_of_the_tested_weights(tested):
    first, second = (read_run(run) for run in tested)
    subject = first.subjects[0]
    found = predict_overlays([first, second], [subject], None).cases[subject]
    good, worse = (found[name].shown.slices[0] for name in ("good", "worse"))
    assert (good.truth == worse.truth).all()
    assert (good.image == worse.image).all()
    assert (good.predicted != worse.predicted).any()
    assert good.plane == "axial"
    with pytest.raises(PocketError, match=r"--cases case_xx: is no test case of .*good. One is case_"):
        predict_overlays([first], ["case_xx"], None)


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    def names(*folders, given=()):
        runs = [RunResult("x", 1, None, path=tmp_path / folder) for folder in folders]
        return [result.name for result in _named(runs, given)]

    assert names("runs/unet") == ["unet"]
    assert names("runs/unet", "runs/light") == ["unet", "light"]
    assert names("t/runs/unet/seed_0", "t/runs/light/seed_0") == ["unet", "light"]
    assert names("unet/seed_0", "unet/seed_1") == ["seed_0", "seed_1"]
    assert names("unet/seed_0", "light/seed_1") == ["unet/seed_0", "light/seed_1"]
    assert names("runs", "runs/deeper") == ["runs", "deeper"]
    assert names("a", "b", given=["U-Net", "Light"]) == ["U-Net", "Light"]
    with pytest.raises(PocketError, match="--names U-Net: expected 2 different names"):
        names("a", "b", given=["U-Net"])
    with pytest.raises(PocketError, match="a folder is named twice"):
        names("a", "b/../a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--output: is missing; name a file"),
        (["--output=."], "--output .: is a folder"),
        ([f"--output={__file__}/page.html"], "cannot be written"),
        (["--output=/proc/x/page.html"], "--output /proc/x/page.html: cannot be written"),
        (["--output=x.html", "--max_cases=0"], "--max_cases 0: expected 1 or more"),
        (["--output=x.html"], "no run here"),
    ],
)
def test_bad_options_are_named(tmp_path, fails, options, message):
    assert message in fails(["overlays", str(tmp_path / "run"), *options])
