"""What a training says when its network finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mask_datasets import write_pairs

from lightning_pocket.cli import main
from lightning_pocket.data.sampling import ForegroundSampler, UniformSampler
from lightning_pocket.losses import DiceCrossEntropy, L2Dice
from lightning_pocket.tasks import SegmentationTask
from lightning_pocket.tasks.nothing_predicted import NothingPredicted


def test_it_is_said_once_and_again_only_after_it_was_over():
    nothing, said = NothingPredicted(), []
    for epoch, empty in enumerate([1] * 4 + [0] + [1] * 7 + [0] + [1] * 5):
        nothing.add(bool(empty), epoch)
        if nothing.is_lasting and nothing.advice(L2Dice(), None):
            said.append((epoch, nothing.row))
    assert said == [(9, 5), (17, 5)]
    assert nothing.advice(L2Dice(), None) == ""
    nothing.add(False, 18)
    assert nothing.advice(L2Dice(), None) == ""


@pytest.mark.parametrize(
    ("loss", "sampler", "expected"),
    [
        (L2Dice(), ForegroundSampler(0.5), ["learning rate", "sampler.init_args.probability", "dice_ce"]),
        (L2Dice(), ForegroundSampler(1.0), ["learning rate", "dice_ce"]),
        (L2Dice(), UniformSampler(), ["learning rate", "dice_ce"]),
        (DiceCrossEntropy(), None, ["learning rate"]),
    ],
)
def test_only_what_can_be_done_is_advised(loss, sampler, expected):
    nothing = NothingPredicted()
    nothing.add(True, 0)
    advice = nothing.advice(loss, sampler)
    remedies = ["learning rate", "sampler.init_args.probability", "dice_ce"]
    assert [remedy for remedy in remedies if remedy in advice] == expected


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that see background everywhere."""

    def logits(_task: SegmentationTask, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.ones_like(image[:, 0])] + [torch.zeros_like(image[:, 0])] * 2, dim=1)

    monkeypatch.setattr(SegmentationTask, "logits", logits)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.message for record in caplog.records if "predicted as background" in record.message]
    caplog.clear()
    return found


@pytest.mark.e2e
@pytest.mark.usefixtures("blind")
def test_a_training_says_it_late_or_at_its_end(options, tmp_path, caplog):
    main(["fit", *options, "--trainer.max_epochs=6", "--data.init_args.patches_per_epoch=2"])
    (said,) = warnings_of(caplog)
    assert said.startswith("epoch 4: in 5 validations in a row, every voxel of the validation images")
    assert "sampler.init_args.probability" in said
    main(["fit", *options, "--data.init_args.patches_per_epoch=2", f"--run_dir={tmp_path / 'short'}"])
    (said,) = warnings_of(caplog)
    assert said.startswith("epoch 1: in 2 validations in a row")
    main(["validate", f"--run_dir={tmp_path / 'short'}"])
    assert len(warnings_of(caplog)) == 1


@pytest.mark.e2e
def test_images_have_no_sampler_to_change(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(
        SegmentationTask, "logits", lambda _task, x: torch.cat([torch.ones_like(x), torch.zeros_like(x)], dim=1)
    )
    raw, cache = write_pairs(tmp_path / "raw", 8), tmp_path / "cache"
    main(["prepare", str(raw), f"--output={cache}", "--size=32", "--workers=1"])
    network = "--model.init_args.network.init_args"
    tiny = [f"{network}.depth=2", f"{network}.widths.base=4", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    main(["fit", "--config=segment_images", f"--data.init_args.cache={cache}", f"--run_dir={tmp_path / 'run'}", *tiny])
    (said,) = warnings_of(caplog)
    assert "sampler" not in said
    assert "dice_ce" not in said  # it is the loss already
    assert "Train longer, or lower the learning rate." in said
