"""The viewer of volumes: what a page holds, and what a browser makes of it."""

import base64
import gzip
import io
import json
import re

import nibabel
import numpy as np
import pytest
from browser import Browser, needs_browser
from PIL import Image

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.page import Page
from lightning_pocket.reports.viewer import ViewedCase, add_viewer
from lightning_pocket.reports.viewer_volumes import encode_case

CLASSES = ["background", "left & <b>", "core"]
SHAPE = (24, 20, 12)  # to the right, to the front, up
#: Axes that run to the back, up and to the left: nothing is where a reader expects it.
AFFINE = np.array([[0, 0, -1.5, 30], [-1.0, 0, 0, 9], [0, 2.0, 0, -7], [0, 0, 0, 1]])


def turned(array):
    """Store an array (right, front, up) in the order of AFFINE (back, up, left)."""
    return array[::-1, ::-1].transpose(1, 2, 0)


def blocks():
    """A dim ramp with a bright block at the patient's right, at the front, below."""
    image = np.add.outer(np.add.outer(np.arange(24), 2 * np.arange(20)), 3 * np.arange(12)).astype(np.int16)
    truth = np.zeros(SHAPE, np.uint8)
    truth[15:22, 12:18, 2:6] = 1
    return image + 400 * truth.astype(np.int16), truth, np.roll(truth, -3, axis=0)


def write(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def stored(parts, name):
    return gzip.decompress(base64.b64decode(parts[name]))


def volume_of(parts):
    return nibabel.Nifti1Image.from_bytes(stored(parts, "image"))


def label_of(parts, name, shape):
    return np.frombuffer(stored(parts, name), np.uint8).reshape(shape, order="F")


@pytest.fixture
def case(tmp_path):
    image, truth, predicted = (turned(array) for array in blocks())
    names = [write(tmp_path / f"{n}.nii.gz", a) for n, a in zip("itp", (image, truth, predicted), strict=True)]
    return ViewedCase("case <1> & more", *names, CLASSES, "Dice 0.5 </script>")


def written(tmp_path, cases, **options):
    page = Page("Volumes")
    add_viewer(page, cases, tmp_path / "out" / "page.html", **options)
    page.write(tmp_path / "out" / "page.html")
    return tmp_path / "out" / "page.html"


def test_axes_run_to_the_right_front_and_up_and_every_voxel_stays_where_it_was(case):
    encoded = encode_case(case)
    volume = volume_of(encoded.parts)
    assert encoded.shape == volume.shape == SHAPE
    assert encoded.spacing == (1.5, 1.0, 2.0)
    np.testing.assert_array_equal(np.asarray(volume.dataobj), blocks()[0])
    original = nibabel.load(case.image)
    for voxel in ((0, 0, 0), (3, 5, 7), (19, 11, 23)):
        mm = original.affine @ (*voxel, 1)
        here = np.rint(np.linalg.inv(volume.affine) @ mm).astype(int)[:3]
        assert volume.dataobj[tuple(here)] == original.dataobj[voxel]


def test_label_maps_hold_the_class_of_each_voxel(case):
    _, truth, predicted = blocks()
    values = np.array([0, 4, 0])[truth]
    values[0, 0, 0] = 9  # no class
    write(case.truth, turned(values).astype(np.int32))
    parts = encode_case(ViewedCase(**(vars(case) | {"prediction": None, "values": [0, 4, 5]}))).parts
    expected = truth.copy()
    expected[0, 0, 0] = 255
    np.testing.assert_array_equal(label_of(parts, "truth", SHAPE), expected)
    assert "prediction" not in parts
    np.testing.assert_array_equal(label_of(encode_case(case).parts, "prediction", SHAPE), predicted)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(60).reshape(3, 4, 5).astype(np.float32), np.uint8),
        (np.arange(-30, 30).reshape(3, 4, 5).astype(np.int32), np.int16),
        (np.linspace(-1e5, 3e5, 60).reshape(3, 4, 5).astype(np.int32), np.int16),
        (np.linspace(0, 1e-3, 60).reshape(3, 4, 5), np.int16),
        (np.full((3, 4, 5), 0.3), np.int16),
    ],
)
def test_intensities_become_one_or_two_bytes(tmp_path, array, kind):
    path = write(tmp_path / "i.nii", array, np.eye(4))
    volume = volume_of(encode_case(ViewedCase("a", path, None, None, ["background"], "")).parts)
    assert volume.get_data_dtype() == kind
    step = np.ptp(array) / 65534
    np.testing.assert_allclose(volume.get_fdata(), array, atol=max(step, 1e-6 * np.abs(array).max()))


def test_voxels_that_are_no_numbers_are_as_dark_as_the_darkest(tmp_path):
    image = np.linspace(2.0, 3.0, 60).reshape(3, 4, 5)
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    path = write(tmp_path / "i.nii", image, np.eye(4))
    found = volume_of(encode_case(ViewedCase("a", path, None, None, ["background"], "")).parts).get_fdata()
    least = np.nanmin(image[np.isfinite(image)])
    np.testing.assert_allclose(found[0, 0, :3], least, atol=1e-4)
    np.testing.assert_allclose(found[1:], image[1:], atol=1e-4)


def test_the_planes_cross_where_most_of_the_truth_is(case):
    encoded = encode_case(case)
    truth = blocks()[1]
    for axis, index in enumerate(encoded.start):
        others = tuple(a for a in range(3) if a != axis)
        assert truth.sum(axis=others)[index] == truth.sum(axis=others).max()


def test_large_volumes_are_thinned_out_and_the_page_says_so(case, tmp_path, monkeypatch):
    encoded = encode_case(case, most_voxels=24 * 20 * 12 // 3)
    step = encoded.step
    assert step[1] >= step[0] >= step[2]  # voxels are closest along the second axis
    assert np.prod(encoded.shape) <= 24 * 20 * 12 // 3
    kept = blocks()[0][:: step[0], :: step[1], :: step[2]]
    volume = volume_of(encoded.parts)
    np.testing.assert_array_equal(np.asarray(volume.dataobj), kept)
    np.testing.assert_array_equal(
        label_of(encoded.parts, "truth", kept.shape), blocks()[1][:: step[0], :: step[1], :: step[2]]
    )
    last = np.array(kept.shape) - 1
    whole = volume_of(encode_case(case).parts)
    np.testing.assert_allclose(volume.affine @ (*last, 1), whole.affine @ (*(last * step), 1))
    monkeypatch.setattr(encode_case, "__defaults__", (1000,))
    assert "Thinned out: one voxel of" in written(tmp_path, [case]).read_text(encoding="utf-8")


def test_refused_with_the_name_of_the_file(case, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 1
    write(tmp_path / "moved.nii.gz", turned(blocks()[1]), moved)
    write(tmp_path / "flat.nii.gz", np.zeros((5, 5), np.uint8))
    (tmp_path / "broken.nii.gz").write_bytes(b"no volume")
    (tmp_path / "cut.nii.gz").write_bytes(case.image.read_bytes()[:200])
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    write(tmp_path / "rgb.nii.gz", turned(colours))
    for field, name in (
        ("image", "rgb"),
        ("truth", "moved"),
        ("image", "flat"),
        ("image", "broken"),
        ("image", "cut"),
        ("image", "no"),
    ):
        with pytest.raises(PocketError, match=f"{name}.nii.gz: ") as caught:
            encode_case(ViewedCase(**(vars(case) | {field: tmp_path / f"{name}.nii.gz"})))
        assert "\n" not in str(caught.value)


def test_names_are_text_and_no_cases_add_nothing(case, tmp_path):
    html = written(tmp_path, [case]).read_text(encoding="utf-8")
    assert "case &lt;1&gt; &amp; more" in html
    assert "<1>" not in html
    assert html.count("</script></section>") == 1  # nothing between what is held
    entries = json.loads(re.search(r'class="viewer-cases">(.*?)</script>', html)[1])
    assert entries[0]["name"] == case.name
    assert entries[0]["caption"].endswith("Dice 0.5 </script>")
    page = Page("None")
    add_viewer(page, [], tmp_path / "none.html")
    assert page.html() == Page("None").html()


def test_what_is_too_much_for_the_page_lies_beside_it(case, tmp_path):
    folder = tmp_path / "out" / "page_files"
    other = ViewedCase(**(vars(case) | {"image": write(tmp_path / "o.nii.gz", turned(blocks()[0] + 1))}))
    first, second = encode_case(case), encode_case(other)
    html = written(tmp_path, [case, other, case], inline_bytes=first.size).read_text(encoding="utf-8")
    held = re.findall(r'data-key="(\w+)">([^<]*)</script>', html)
    assert [text for _, text in held] == list(first.parts.values())  # each once
    assert "Large volumes lie in page_files" in html
    (file,) = folder.iterdir()  # the label maps are those of the first case
    call = re.fullmatch(r'pocketVolumes\("([0-9a-f]{16})", "(.*)"\);\n', file.read_text(encoding="utf-8"))
    assert call[2] == second.parts["image"]
    assert file.name == f"volumes_{call[1]}.js"
    assert f'"file": "page_files/{file.name}"' in html
    (folder / "mine.txt").write_text("stays", encoding="utf-8")
    written(tmp_path, [case])  # nothing beside it any more
    assert [entry.name for entry in folder.iterdir()] == ["mine.txt"]


def pixels(browser, selector=".viewer-stage"):
    return np.asarray(Image.open(io.BytesIO(browser.screenshot(selector))).convert("RGB")).astype(int)


def settle(browser):
    browser.run("new Promise(d => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(d, 60, true))))")


def open_viewer(browser, path):
    browser.open(path)
    browser.run("document.querySelector('.viewer-open').click()")
    browser.until("!document.querySelector('.viewer-app').hidden && document.querySelector('.viewer-open').hidden")
    settle(browser)


def press(browser, key, text=""):
    browser.run("document.querySelector('.viewer-stage').focus()")
    browser.key(key, text=text)
    settle(browser)


def errors_of(browser):
    """Return what the console says, but that drawing without a graphics card is slow."""
    return [line for line in browser.errors if "GPU stall due to ReadPixels" not in line]


def text_of(browser, name):
    return browser.run(f"document.querySelector('.viewer-{name}').textContent")


def slices_of(browser):
    return browser.run("[...document.querySelectorAll('.viewer-slices input')].map(i => +i.value)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@needs_browser
def test_scrolls_and_toggles(case, tmp_path, browser):
    page = written(tmp_path, [case, ViewedCase(**(vars(case) | {"name": "second", "truth": None}))])
    browser.open(page)
    assert browser.run("typeof niivue") == "undefined"  # nothing is decoded before the viewer is opened
    assert browser.run("document.querySelector('.viewer-stills img').naturalWidth") > 0
    open_viewer(browser, page)
    first = pixels(browser)
    assert len(np.unique(first)) > 20

    axial, coronal, sagittal = slices_of(browser)
    press(browser, "ArrowUp")
    press(browser, "PageDown")
    press(browser, "ArrowRight")
    assert slices_of(browser) == [axial + 1, coronal - 1, sagittal - 1]
    moved = pixels(browser)
    assert (moved != first).any()
    for key in ("ArrowDown", "PageUp", "ArrowLeft"):
        press(browser, key)
    np.testing.assert_array_equal(pixels(browser), first)

    press(browser, "t", "t")
    without_truth = pixels(browser)
    press(browser, "p", "p")
    neither = pixels(browser)
    press(browser, "t", "t")
    without_prediction = pixels(browser)
    pictures = [first, without_truth, neither, without_prediction]
    assert all((a != b).any() for place, a in enumerate(pictures) for b in pictures[place + 1 :])
    browser.run(
        "(i => { i.value = 0; i.dispatchEvent(new Event('input')); })(document.querySelector('.viewer-opacity'))"
    )
    settle(browser)
    np.testing.assert_array_equal(pixels(browser), neither)
    browser.run(
        "(i => { i.value = 50; i.dispatchEvent(new Event('change')); })(document.querySelector('.viewer-high'))"
    )
    settle(browser)
    assert pixels(browser).mean() > neither.mean() + 5  # a lower white makes the picture brighter

    press(browser, "n", "n")
    browser.until("document.querySelector('.viewer-caption').textContent.startsWith('second')")
    assert browser.run("document.querySelector('.viewer-truth').disabled")
    assert "truth" not in text_of(browser, "place")
    assert errors_of(browser) == []
    assert browser.foreign_requests == []


@needs_browser
def test_another_run_is_shown_at_the_same_place(case, tmp_path, browser):
    other = tmp_path / "other.nii.gz"
    image = nibabel.load(case.image)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj)[::-1], image.affine), other)
    names = {"of a run": case.image, "of another": case.image, "another": other}
    cases = [ViewedCase(**(vars(case) | {"name": name, "image": file})) for name, file in names.items()]
    open_viewer(browser, written(tmp_path, cases))
    start = slices_of(browser)
    press(browser, "ArrowUp")
    low = "document.querySelector('.viewer-low')"
    browser.run(f"{low}.value = -7; {low}.dispatchEvent(new Event('change'))")
    moved = slices_of(browser)
    assert moved != start
    for name, place in (("of another", moved), ("another", start)):
        press(browser, "n", "n")
        browser.until(f"document.querySelector('.viewer-caption').textContent.startsWith('{name}.')")
        settle(browser)
        assert slices_of(browser) == place
        assert browser.run(f"Number({low}.value) === -7") == (name == "of another")
    assert errors_of(browser) == []


@needs_browser
def test_shows_every_voxel_at_its_place(case, tmp_path, browser):
    """The block is at the right, at the front, below: so at the left, at the top, at the bottom of the planes."""
    open_viewer(browser, written(tmp_path, [ViewedCase(**(vars(case) | {"prediction": None}))]))
    image = blocks()[0]
    sagittal, coronal, axial = (slices_of(browser)[place] - 1 for place in (2, 1, 0))
    place = text_of(browser, "place")
    assert place == f"At the cross: intensity {image[sagittal, coronal, axial]}; truth: left & <b>"

    with_truth = pixels(browser)
    press(browser, "t", "t")
    plain = pixels(browser)
    drawn = np.abs(with_truth - plain).max(axis=2) > 40
    scale = (drawn.shape[1] - 12) / (
        2 * 36 + 20
    )  # pixels for a mm: axial, coronal, sagittal side by side, 6 pixels apart
    top = (drawn.shape[0] - 24 * scale) / 2
    columns = np.flatnonzero(drawn[:, : int(36 * scale)].any(axis=0)) / scale
    rows = (np.flatnonzero(drawn[:, : int(36 * scale)].any(axis=1)) - top) / scale
    assert (columns.min(), columns.max()) == pytest.approx((1.5 * (24 - 22), 1.5 * (24 - 15)), abs=0.5)  # right is left
    assert (rows.min(), rows.max()) == pytest.approx((20 - 18, 20 - 12), abs=0.5)
    coronal = drawn[:, int(36 * scale) + 6 : int(72 * scale) + 6]
    rows = (np.flatnonzero(coronal.any(axis=1)) - top) / scale
    assert (rows.min(), rows.max()) == pytest.approx((2 * (12 - 6), 2 * (12 - 2)), abs=0.5)
    columns = np.flatnonzero(drawn[:, int(72 * scale) + 12 :].any(axis=0)) / scale
    assert (columns.min(), columns.max()) == pytest.approx((20 - 18, 20 - 12), abs=0.5)  # the front is at the left
    bright = plain.min(axis=2) > 200  # the block itself, as NiiVue draws it
    assert (drawn & bright).sum() > 0.7 * bright.sum()


@needs_browser
def test_volumes_beside_a_page_from_disk_are_loaded_and_missed(case, tmp_path, browser):
    page = written(tmp_path, [case], inline_bytes=0)
    open_viewer(browser, page)
    assert text_of(browser, "place").startswith("At the cross: intensity")
    assert errors_of(browser) == []
    assert browser.foreign_requests == []
    for file in (tmp_path / "out" / "page_files").iterdir():
        file.unlink()
    browser.open(page)
    browser.run("document.querySelector('.viewer-open').click()")
    browser.until("document.querySelector('.viewer-message').textContent.includes('is missing')")
    assert browser.run("document.querySelector('.viewer-stills').checkVisibility()")


@needs_browser
def test_without_webgl2_the_pictures_stay(case, tmp_path, browser):
    browser.open(written(tmp_path, [case]))
    browser.run("HTMLCanvasElement.prototype.getContext = () => null")
    browser.run("document.querySelector('.viewer-open').click()")
    browser.until("document.querySelector('.viewer-message').textContent.includes('no WebGL2')")
    assert browser.run("document.querySelector('.viewer-stills img').checkVisibility()")
    assert not browser.run("document.querySelector('.viewer-app').checkVisibility()")


@needs_browser
def test_without_scripts_a_line_says_so(case, tmp_path, browser):
    page = written(tmp_path, [case])
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.send("Page.navigate", url=page.resolve().as_uri())
        browser.wait_for("Page.loadEventFired")
        browser.until("document.querySelector('noscript p')?.checkVisibility() ?? false")
        assert not browser.run("document.querySelector('.viewer-open').checkVisibility()")
        assert browser.run("document.querySelector('.viewer-stills img').checkVisibility()")
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


@needs_browser
def test_every_control_has_a_name(case, tmp_path, browser):
    open_viewer(browser, written(tmp_path, [case, case]))
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "combobox", "slider", "spinbutton"}
    controls = [n for n in nodes if n.get("role", {}).get("value") in roles]
    assert len(controls) >= 12
    assert all(node["name"].get("value", "").strip() for node in controls)
