"""Pictures that a run leaves, and what its loggers get."""

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import PredictionImages, logged_results
from lightning_pocket.callbacks.logged_results import square_panels
from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.overlay import class_colour
from lightning_pocket.reports.slices import slice_case
from lightning_pocket.types import DatasetInfo

CALLBACK = "lightning_pocket.callbacks.PredictionImages"


class Copycat(LightningModule):
    """Predicts the label, but never on the first row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.info = DatasetInfo(["MRI", "CT"], ["background", "organ"], [8, 8], [1.0, 1.0])

    def training_step(self, _batch):
        return self.layer(torch.ones(1)).square()

    def validation_step(self, batch):
        predicted = batch["label"].long().clone()
        predicted[:, 0] = 0
        return {"predicted": predicted}

    def test_step(self, batch):
        return self.validation_step(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def items(subjects):
    label = torch.zeros(16, 16, dtype=torch.uint8)
    label[:8, 4:12] = 1
    return DataLoader([{"image": torch.rand(2, 16, 16), "label": label, "subject": name} for name in subjects], 2)


def trainer(tmp_path, callback, epochs=1, logger=False):
    return Trainer(
        default_root_dir=tmp_path,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_nth_epoch_and_the_last_are_drawn(tmp_path):
    cases = items(["a", "b", "c"])
    trainer(tmp_path, PredictionImages(every_n_epochs=2, max_cases=1), epochs=5).fit(Copycat(), cases, cases)
    assert names(tmp_path / "pictures") == ["epoch_0002_a.png", "epoch_0004_a.png", "epoch_0005_a.png"]


def test_no_picture_is_drawn_when_switched_off_or_only_validating(tmp_path):
    cases = items(["a"])
    trainer(tmp_path, PredictionImages(every_n_epochs=0), epochs=2).fit(Copycat(), cases, cases)
    trainer(tmp_path, PredictionImages(every_n_epochs=1)).validate(Copycat(), cases, verbose=False)
    assert not (tmp_path / "pictures").exists()


def test_the_first_counted_cases_of_a_test_are_drawn_in_2d_with_several_channels(tmp_path):
    cases = items(["site/1", "", "b", "c"])
    trainer(tmp_path, PredictionImages(max_test_cases=2)).test(Copycat(), cases, verbose=False)
    folder = tmp_path / "test" / "pictures"
    assert names(folder) == ["b.png", "site_1.png"]
    picture = np.asarray(Image.open(folder / "b.png"))
    column = (picture.shape[1] - 10) // 3
    full_colour = (picture == class_colour(1)).all(axis=2)[:320]  # without the legend
    rows_of_truth = np.flatnonzero(full_colour[:, column + 10 : 2 * column].any(1))
    rows_predicted = np.flatnonzero(full_colour[:, 2 * column + 10 :].any(1))
    assert not full_colour[:, :column].any()
    assert rows_predicted[0] - rows_of_truth[0] == 288 // 16  # the missing row


def test_only_the_first_process_draws(tmp_path, monkeypatch):
    process = trainer(tmp_path, PredictionImages())
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    process.test(Copycat(), items(["a"]), verbose=False)
    assert not (tmp_path / "test").exists()


def test_tensorboard_gets_the_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    cases = items(["a", "b"])
    trainer(tmp_path, PredictionImages(every_n_epochs=1), epochs=2, logger=logger).fit(Copycat(), cases, cases)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["pictures/a", "pictures/b"]
    first, second = events.Images("pictures/a")
    assert (first.step, second.step) == (0, 1)
    file = np.asarray(Image.open(tmp_path / "pictures" / "epoch_0002_a.png"))
    assert (second.height, second.width) == file.shape[:2]


def test_wandb_gets_every_slice_with_masks(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(save_dir=tmp_path)
    logged = {}
    monkeypatch.setattr(logger, "log_image", lambda key, images, **more: logged.update({key: (images, more)}))
    cases = items(["a", "b"])
    process = trainer(tmp_path, PredictionImages(every_n_epochs=1), logger=logger)
    process.fit(Copycat(), cases, cases)
    images, more = logged["pictures/val"]
    assert [image.shape for image in images] == [(320, 320)] * 2
    assert more["step"] == 0
    assert more["caption"] == ["a, image", "b, image"]
    masks = more["masks"][0]
    assert masks["ground_truth"]["class_labels"] == {0: "background", 1: "organ"}
    assert masks["ground_truth"]["mask_data"].sum() == 64 * 20 * 20  # 16 pixels are shown as 320
    assert masks["prediction"]["mask_data"].sum() == 56 * 20 * 20
    process.test(Copycat(), cases, verbose=False)
    assert logged["pictures/test"][1]["caption"] == ["a, image", "b, image"]


def test_slices_of_a_thick_volume_are_shown_in_their_proportions():
    label = np.zeros((4, 20, 10), dtype=np.uint8)
    label[2, 5:15, 3:7] = 1
    label[0, 0, 0] = 200  # no class
    image = np.random.default_rng(0).random((4, 20, 10)).astype(np.float32)
    case = slice_case(image, label, label, (5.0, 1.0, 1.0), 2)
    pictures = [square_panels(case, index, 2, side=100) for index in range(3)]
    assert [picture[1].shape for picture in pictures] == [(100, 100)] * 3
    areas = [int(truth.sum()) for _, truth, _ in pictures]
    assert areas == [50 * 20, 25 * 20, 25 * 50]  # the longest side, 20 mm, is 100 pixels
    assert pictures[0][0][:, :25].max() == 0  # black beside it


def test_of_many_cases_each_plane_is_shown_as_far_as_there_is_room(monkeypatch):
    case = slice_case(np.zeros((2, 2, 2)), *[np.zeros((2, 2, 2), dtype=np.uint8)] * 2, None)
    monkeypatch.setattr(logged_results, "MAX_IMAGES", 5)
    shown = logged_results._slices({"a": case, "b": case, "c": case})
    assert shown == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1)]


def test_a_negative_number_is_refused():
    with pytest.raises(PocketError, match=r"max_cases: found -1; expected 0 or more"):
        PredictionImages(max_cases=-1)


@pytest.mark.e2e
def test_a_run_leaves_pictures_and_a_test_of_it_too(options, blobs_cache, tmp_path):
    run = tmp_path / "run"
    main(["fit", *options])
    split = Cache.open(blobs_cache)
    written = names(run / "pictures")
    assert 1 <= len(written) <= 2
    assert all(name.startswith("epoch_0002_case_") for name in written)  # the last; ten were not reached
    assert {name.removeprefix("epoch_0002_").removesuffix(".png") for name in written} <= set(split.subjects)
    main(["test", f"--run_dir={run}"])
    tested = (run / "test" / "cases.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert names(run / "test" / "pictures") == sorted(f"{line.split(',')[0]}.png" for line in tested)
    assert (run / "pictures").is_dir()
    main(["fit", *options, "--fresh"])
    assert not (run / "test").exists()
