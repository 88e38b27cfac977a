"""The shipped configs of Lighter U-Net's experiments: protocol, tables, tuning ladder, and a run from end to end."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from in_process import in_this_process
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.commands.train import PocketCLI, train
from lightning_pocket.studies.table import read_table

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = json.loads((GOLDEN / "published.json").read_text(encoding="utf-8"))
COUNTS = json.loads((GOLDEN / "lighter_networks.json").read_text(encoding="utf-8"))
STEPS = ("dice", "adam", "plateau", "batch_8", "weight_decay")
LADDER = ["augment_ultrasound", *(f"ultrasound_{step}" for step in STEPS)]

Build = Callable[..., PocketCLI]


def write_discs(root: Path, cases: int = 20) -> Path:
    """Write images of 30 x 44 pixels with a bright ellipse in noise, and their masks; two of each group."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    y, x = np.mgrid[:30, :44]
    lines = ["file,group,fold"]
    for index in range(cases):
        rng = np.random.default_rng(index)
        row, column, height, width = rng.integers((9, 12, 5, 6), (21, 32, 8, 11))
        inside = ((y - row) / height) ** 2 + ((x - column) / width) ** 2 < 1
        grey = np.clip(60 + 120 * inside + rng.normal(0, 15, inside.shape), 0, 255).astype(np.uint8)
        for folder, array in (("images", grey), ("masks", (255 * inside).astype(np.uint8))):
            Image.fromarray(array).save(root / folder / f"disc_{index:02d}.png")
        lines.append(f"disc_{index:02d}.png,{index // 2},{index // 2 % 5}")
    (root / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs") / "raw")


@pytest.fixture(scope="module")
def cache(discs: Path) -> Path:
    output = discs.parent / "rgb"
    main(["prepare", str(discs), f"--output={output}", "--size=[32,32]", "--color=rgb", "--workers=1"])
    return output


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> Build:
    """Parse and instantiate as ``pocket fit`` does, without training."""
    built: list[PocketCLI] = []
    monkeypatch.setattr(PocketCLI, "_run_subcommand", lambda self, _name: built.append(self))

    def run(*configs: str, options: dict[str, Any] | None = None) -> PocketCLI:
        given = {"data.init_args.cache": cache, "run_dir": tmp_path / "run"} | (options or {})
        arguments = [f"--{name}={value}" for name, value in given.items()]
        train(["fit", *(f"--config={name}" for name in configs), *arguments])
        return built[-1]

    return run


def parameters(built: PocketCLI) -> int:
    network: Any = built.model.network
    return sum(parameter.numel() for parameter in network.parameters())


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, part in value.items() for k, v in flatten(part, f"{prefix}.{key}".strip(".")).items()}


def settings(built: PocketCLI) -> dict[str, Any]:
    return flatten(built._settings())


def spaced(score: str) -> str:
    return score.replace("±", " ± ")


def test_table_1_holds_what_the_paper_prints() -> None:
    rows = read_table("lighter_unet_table1").rows
    presets = {"MobileNet": "deeplab_mobilenet", "ResNet-101": "deeplab_resnet101", "": None}
    for row, golden in zip(rows, PUBLISHED["001.1"], strict=True):
        expected = golden["backbone"].lower().replace("-", "_") if golden["method"] == "FCN" else None
        preset = expected or presets[golden["backbone"]]
        assert row.configs == ["lighter_ultrasound", *([preset] if preset else [])]
        published = {key: row.published[key] for key in ("dice", "hd95_px")}
        assert published == {key: spaced(golden[key]) for key in ("dice", "hd95_px")}


def test_table_2_holds_what_the_paper_prints() -> None:
    rows = read_table("lighter_unet_table2").rows
    names = {"U-net": [], "Light U-net": ["light"]}
    for row, golden in zip(rows, PUBLISHED["001.2"], strict=True):
        assert row.configs[1:] == names.get(golden["model"], [f"lighter_{golden['model'][1:]}"])
        assert round(float(row.published["params_M"]) * 1e6) == golden["params"]
        assert (row.published["dice"], row.published["hd95_px"]) == (spaced(golden["dice"]), spaced(golden["hd95_px"]))


@pytest.mark.parametrize("name", ["lighter_unet_ladder", "lighter_unet_small_ladder"])
def test_the_ladder_adds_one_step_a_row(name: str) -> None:
    rows = read_table(name).rows
    assert [row.published["dice"] for row in rows] == [golden["dice"] for golden in PUBLISHED["001.ladder"]]
    for index, row in enumerate(rows):
        assert row.configs == ["lighter_ultrasound", "ultrasound_start", *LADDER[:index]]
        assert row.compare_to == (rows[index - 1].name if index else "")


@pytest.mark.parametrize("name", ["lighter_unet_table1", "lighter_unet_table2", "lighter_unet_ladder"])
def test_tables_have_three_seeds_and_test_the_best_weights(name: str) -> None:
    table = read_table(name)
    assert (table.seeds, table.folds, table.checkpoint) == ([0, 1, 2], 1, "best")


def test_the_protocol_is_that_of_the_paper(build: Build) -> None:
    built = build("lighter_ultrasound")
    task: Any = built.model
    data: Any = built.datamodule
    optimizers: Any = task.configure_optimizers()
    [group] = optimizers["optimizer"].param_groups
    scheduler = optimizers["lr_scheduler"]["scheduler"]
    assert parameters(built) == 17_267_393
    assert type(optimizers["optimizer"]) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"], data.batch_size) == (1e-4, 1e-4, 8)
    assert (scheduler.mode, scheduler.factor, scheduler.patience) == ("min", 0.5, 5)
    assert optimizers["lr_scheduler"]["monitor"] == "val/loss"
    assert task.largest_component is True
    stops = [callback for callback in built.trainer.callbacks if type(callback).__name__ == "EarlyStop"]  # type: ignore[attr-defined]
    assert [(stop.monitor, stop.mode, stop.patience) for stop in stops] == [("val/loss", "min", 15)]
    assert [len(part) for part in (data.split.train, data.split.val, data.split.test)] == [12, 4, 4]  # 3 : 1 : 1
    groups = [{int(name[-2:]) // 2 for name in part} for part in (data.split.train, data.split.val, data.split.test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]


@pytest.mark.parametrize(
    ("table", "name"),
    [("1", "deeplab_mobilenet"), ("1", "fcn_16s"), ("2", "light"), ("2", "lighter_128"), ("2", "lighter_1")],
)
def test_rows_have_the_parameters_of_the_paper(build: Build, table: str, name: str) -> None:
    """Of each kind of network one; those of all networks are in test_lighter_networks."""
    known = {entry["preset"]: entry["parameters"] for entry in COUNTS["lighter_unet"]}
    known |= {entry["preset"]: entry["parameters"]["1"] for entry in COUNTS["baselines"]}
    assert parameters(build(*read_table(f"lighter_unet_table{table}").row(name).configs)) == known[name]


def test_each_step_of_the_ladder_changes_one_thing_and_the_last_is_the_protocol(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PocketCLI, "instantiate_classes", lambda _: None)  # settings are all that is looked at
    found = [settings(build("lighter_ultrasound", "ultrasound_start", *LADDER[:count])) for count in range(7)]
    for before, after, key in zip(
        found, found[1:], ["augmentation", "loss", "optimizer", "lr_scheduler", "batch_size", "optimizer"], strict=False
    ):
        changed = {name for name in {**before, **after} if before.get(name) != after.get(name)}
        where = "data" if key in {"augmentation", "batch_size"} else "model"
        assert changed
        assert all(name.startswith(f"{where}.init_args.{key}") for name in changed), changed
    assert found[-1] == settings(build("lighter_ultrasound"))
    last = {name for name in found[-1] if found[-2].get(name) != found[-1].get(name)}
    assert last == {"model.init_args.optimizer.init_args.weight_decay"}


def test_the_ladder_starts_untuned(build: Build) -> None:
    built = build("lighter_ultrasound", "ultrasound_start")
    data: Any = built.datamodule
    optimizer: Any = built.model.configure_optimizers()
    assert type(optimizer) is torch.optim.SGD
    [group] = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-3, 0, 0)
    assert (data.batch_size, data.transform, data.drawer) == (2, None, None)


@pytest.fixture
def logits_and_label() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 8, 9, generator=generator)
    label = (torch.rand(3, 8, 9, generator=generator) < 0.3).long()
    label[2] = 0  # nothing to find
    return torch.stack([torch.zeros_like(z), z], dim=1).requires_grad_(), label


def test_the_first_loss_is_binary_cross_entropy(build: Build, logits_and_label: Any) -> None:
    loss: Any = build("lighter_ultrasound", "ultrasound_start").model.loss
    logits, label = logits_and_label
    expected = F.binary_cross_entropy_with_logits(logits[:, 1], label.float())
    torch.testing.assert_close(loss(logits, label), expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0][:, 1] for x in (loss(logits, label), expected)))


def test_the_dice_loss_is_that_of_the_sigmoid_of_the_lesion(build: Build, logits_and_label: Any) -> None:
    logits, label = logits_and_label
    losses = []
    for image, mask in zip(logits.detach().numpy()[:, 1], label.numpy(), strict=True):
        p = 1 / (1 + np.exp(-image.astype(float)))
        losses.append(1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1))
    for configs in (["lighter_ultrasound"], ["lighter_ultrasound", "ultrasound_start", "ultrasound_dice"]):
        loss: Any = build(*configs).model.loss
        assert loss(logits, label).item() == pytest.approx(np.mean(losses), rel=1e-5)
    perfect = torch.stack([torch.zeros(label.shape), 50.0 * (2 * label - 1)], dim=1)
    assert float(loss(perfect, label)) == pytest.approx(0, abs=1e-6)  # where there is nothing to find too


@pytest.mark.parametrize("name", ["lighter_unet_small_hc18", "lighter_unet_small_busi"])
def test_small_tables_scale_groups_like_channels(build: Build, name: str) -> None:
    rows = {row.name: row for row in read_table(name).rows}
    assert list(rows) == ["unet", "light", "lighter_16", "lighter_4", "lighter_1"]
    published = {row["model"]: spaced(row["dice"]) for row in PUBLISHED["001.2"]}
    for size, stands_for in ((16, "@128"), (4, "@32"), (1, "@8")):
        row = rows[f"lighter_{size}"]
        assert row.published["dice"] == published[stands_for]
        if (size == 4) != ("hc18" in name):
            continue  # both tables are built with the same presets: one shows the middle, the other the ends
        built = build(*row.configs, options=row.options)
        network: Any = built.model.network
        assert network.encoder[0][0][0][-1].out_channels == 8
        assert max(1, int(stands_for[1:]) * 8 // 64) == size
        kernels = [c for c in network.modules() if isinstance(c, torch.nn.Conv2d) and c.kernel_size == (3, 3)]
        deep = [c for c in kernels if c.in_channels >= 16]
        assert len(deep) > 4
        assert all(c.in_channels // c.groups == size for c in deep)
    assert {row.options["trainer.max_epochs"] for row in rows.values()} == {15 if "hc18" in name else 40}
    budget = " ".join(read_table(name).notes)
    assert f"{rows['unet'].options['trainer.max_epochs']} epochs at most" in budget


def test_dice_with_cross_entropy_can_be_put_on_top(build: Build) -> None:
    loss: Any = build("lighter_ultrasound", "dice_ce").model.loss
    assert (loss.dice_weight, loss.cross_entropy_weight) == (1.0, 1.0)


def test_images_of_several_classes_have_a_channel_each(build: Build) -> None:
    built = build("segment_images", options={"model.init_args.network.init_args.widths.base": 4})
    network: Any = built.model.network
    assert (network.head_channels, network.out_channels, network.spatial_dims) == (2, 2, 2)
    assert built.datamodule.batch_size == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["segment_images", "lighter_ultrasound"])
def test_presets_of_networks_and_comforts_suit_images(build: Build, name: str) -> None:
    small = {"model.init_args.network.init_args.widths.base": 4}
    presets = ["light", "pocket", "early_stopping", "prediction_files", "augment_on_device", "channels_last", "ema"]
    built = build(name, *presets, options=small)
    assert built.model.network.spatial_dims == 2  # type: ignore[union-attr]
    drawer = built.datamodule.drawer  # type: ignore[attr-defined]
    assert (drawer is not None) == (name == "lighter_ultrasound")  # the other has nothing to draw


def test_augment_ultrasound_is_that_of_the_experiment() -> None:
    root = Path(__file__).parents[1] / "configs"
    preset = yaml.safe_load((root / "presets" / "augment_ultrasound.yaml").read_text(encoding="utf-8"))
    data = yaml.safe_load((root / "data" / "lighter_ultrasound.yaml").read_text(encoding="utf-8"))
    assert preset["data"]["init_args"]["augmentation"] == data["init_args"]["augmentation"]


@pytest.mark.e2e
def test_a_lighter_unet_from_images_to_a_table_with_contours(cache: Path, tmp_path: Path) -> None:
    tiny = {
        "model.init_args.network.init_args.widths.base": 8,
        "model.init_args.network.init_args.depth": 2,
        "model.init_args.optimizer.init_args.lr": 0.01,
        "trainer.max_epochs": 8,
    }
    configs = ["lighter_ultrasound", "no_augmentation", "lighter_4"]
    rows = [{"name": "lighter_4", "task": "Discs", "configs": configs, "options": tiny}]
    content = {"title": "Discs", "folds": 1, "seeds": [0, 1], "checkpoint": "best", "metrics": ["dice", "hd95_px"]}
    file = tmp_path / "discs.yaml"
    file.write_text(yaml.safe_dump(content | {"rows": rows}), encoding="utf-8")
    output = tmp_path / "out"
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.init_args.num_workers=0"]
    with in_this_process():
        main(["table", str(file), "--cache", f"Discs={cache}", f"--output={output}", "--", *quiet])
    with (output / "table.csv").open(encoding="utf-8", newline="") as table:
        found = {(row["row"], row["metric"]): row for row in csv.DictReader(table)}
    runs = [output / "runs" / "lighter_4" / f"seed_{seed}" for seed in (0, 1)]
    scores = []
    for run in runs:
        with (run / "test" / "cases.csv").open(encoding="utf-8") as cases:
            scores.append({row["subject"]: float(row["dice"]) for row in csv.DictReader(cases)})
    means = [np.mean(list(dice.values())) for dice in scores]
    assert float(found["lighter_4", "dice"]["mean"]) == pytest.approx(np.mean(means))
    assert float(found["lighter_4", "dice"]["seed_std"]) == pytest.approx(np.std(means, ddof=1))
    assert min(means) > 0.8
    assert means[0] != means[1]
    assert found["lighter_4", "hd95_px"]["mean"]

    page = tmp_path / "overlays.html"
    main(["overlays", *map(str, runs), f"--output={page}", "--max_cases=2"])
    html = page.read_text(encoding="utf-8")
    assert len(re.findall("data:image/png", html)) == 2
    for subject in re.findall("<h3>(.*?)</h3>", html):
        assert f"Dice: seed_0 {scores[0][subject]:.3f}, seed_1 {scores[1][subject]:.3f}." in html
