"""What TensorBoard shows of a run beside its curves: pictures, charts, and a row in the table of runs."""

import json
import logging

import numpy as np
import pytest
from image_datasets import write_classes
from interruption import kill_after
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from lightning_pocket.callbacks.chart_pictures import draw_confusion, draw_roc
from lightning_pocket.cli import main


def events(run):
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    return EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()


def table(found):
    """Return settings and metrics of the tab HPARAMS."""
    content = {}
    for tag in ("experiment", "session_start_info"):
        (data,) = [
            found.SummaryMetadata(name).plugin_data.content
            for name in found.PluginTagToContent("hparams")
            if name.endswith(tag)
        ]
        content[tag] = plugin_data_pb2.HParamsPluginData.FromString(data)
    settings = {
        key: getattr(value, value.WhichOneof("kind"))
        for key, value in content["session_start_info"].session_start_info.hparams.items()
    }
    return settings, [info.name.tag for info in content["experiment"].experiment.metric_infos]


@pytest.mark.e2e
def test_a_segmentation_has_pictures_and_a_row_in_the_table_of_runs(options, tmp_path):
    run = tmp_path / "run"
    main(["fit", *options])
    main(["test", f"--run_dir={run}"])
    found = events(run)
    tested = [line.partition(",")[0] for line in (run / "test" / "cases.csv").read_text().splitlines()[1:]]
    pictures = found.Tags()["images"]
    assert {f"test_pictures/{case}" for case in tested} <= set(pictures)
    assert [name for name in pictures if name.startswith("pictures/")]
    assert found.Images(f"test_pictures/{tested[0]}")[0].step == 7

    settings, metrics = table(found)
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert settings["network"] == "UNet"
    assert settings["size"] == "pocket"
    assert settings["model.network.widths.base"] == 4
    assert settings["model.optimizer"] == "Adam"
    assert settings["model.optimizer.lr"] == pytest.approx(1e-3)
    assert settings["data.patch_size"] == "[8, 16, 16]"
    wanted = ["val/dice", "test/dice", "val/loss", "profile/parameters", "profile/peak_rss_mib", "profile/step_ms"]
    assert metrics == wanted
    for name in metrics:  # the table reads the last value of the series of the same name
        assert found.Scalars(name), name
    assert found.Scalars("profile/parameters")[-1].value == manifest["parameters"]


@pytest.mark.e2e
def test_a_run_that_continues_keeps_its_row_with_the_settings_that_were_chosen(options, tmp_path):
    chosen = [*options, "--trainer.logger.hyperparameters=[seed*, model.init_args.network.init_args.*.initializer]"]
    kill_after(["fit", *chosen])
    main(["fit", *chosen])
    found = events(tmp_path / "run")
    settings, metrics = table(found)
    labels = {"data": "blobs", "task": "segmentation", "network": "UNet", "dims": "3D", "size": "pocket", "fold": 0}
    assert settings == labels | {"seed": 0, "seed_everything": 0, "model.network.layers.initializer": "torch"}
    assert metrics[0] == "val/dice"
    assert [event.step for event in found.Scalars("val/dice")] == [3, 7]


@pytest.mark.e2e
def test_a_classification_has_its_charts(tmp_path):
    write_classes(tmp_path / "raw", {"well": 12, "ill": 12})
    main(["prepare", str(tmp_path / "raw"), f"--output={tmp_path / 'cache'}", "--size=[32,32]", "--workers=1"])
    run = tmp_path / "run"
    small = ["--model.init_args.network.init_args.depth=2", "--model.init_args.network.init_args.widths.base=4"]
    options = [f"--data.init_args.cache={tmp_path / 'cache'}", f"--run_dir={run}", "--trainer.max_epochs=1", *small]
    main(["fit", "--config=classify_images", *options, "--trainer.enable_progress_bar=false"])
    main(["test", f"--run_dir={run}"])
    found = events(run)
    assert set(found.Tags()["images"]) == {"test/roc", "test/confusion_matrix"}
    assert table(found)[1][:2] == ["val/accuracy", "test/accuracy"]


def test_a_confusion_matrix_is_darker_where_there_is_more():
    picture = draw_confusion(np.array([[9, 1], [0, 0]]), ["a name that is longer than there is room for", "b"])
    assert picture.dtype == np.uint8
    cell = max(64, 360 // 2)
    left, top = picture.shape[1] - 22 - 2 * cell, 44
    corners = [
        [picture[top + cell * row + 5, left + cell * column + 5].tolist() for column in range(2)] for row in range(2)
    ]
    blue = np.array([0, 114, 178])
    for share, found in ((0.9, corners[0][0]), (0.1, corners[0][1]), (0.0, corners[1][0]), (0.0, corners[1][1])):
        assert found == pytest.approx((1 - share) * 255 + share * blue, abs=1)


def test_a_perfect_curve_goes_through_the_upper_left_corner():
    perfect = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    chance = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    left, top, side = 64, 32, 360
    drawn = {name: draw_roc({"ill": curve}) for name, curve in (("perfect", perfect), ("chance", chance))}
    coloured = {name: picture.max(axis=2).astype(int) - picture.min(axis=2) > 60 for name, picture in drawn.items()}
    for shift in (0.25, 0.5, 0.75):
        at = round(shift * side)
        assert coloured["perfect"][top + at, left]  # along the left edge
        assert coloured["perfect"][top, left + at]  # along the upper edge
        assert not coloured["chance"][top + at, left]
        assert coloured["chance"][top + at, left + side - at]  # along the diagonal
