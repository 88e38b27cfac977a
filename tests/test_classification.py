"""The classification task, from the command line to its pages."""

import csv
import logging
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
import yaml
from discs import disc_images
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder
from lightning_pocket.layers import WidthSchedule
from lightning_pocket.losses import ClassCrossEntropy
from lightning_pocket.metrics import score_classes
from lightning_pocket.networks import EncoderClassifier, UNet
from lightning_pocket.reports.classified import read_classified
from lightning_pocket.reports.collect import read_run
from lightning_pocket.tasks import ClassificationTask, SegmentationTask, load_task
from lightning_pocket.types import DatasetInfo

TWO = ["empty", "one disc"]


def network(classes=2, **settings):
    torch.manual_seed(0)
    return EncoderClassifier(1, classes, **{"depth": 2, "widths": WidthSchedule(base=4), **settings})


def info(classes=TWO, size=(16, 16)):
    return DatasetInfo(["grey"], list(classes), list(size)).to_dict()


def loader(items, batch_size=5):
    return DataLoader(items, batch_size)


def trainer(tmp_path):
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """The shipped experiment with generated images."""
    content = yaml.safe_load((configs_folder() / "experiments" / "classify_images.yaml").read_text(encoding="utf-8"))
    content |= {"model": str(configs_folder() / "tasks" / "classification.yaml"), "data": {"class_path": "discs.Discs"}}
    path = tmp_path_factory.mktemp("experiment") / "discs.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def fit(experiment, run, *options):
    arguments = [f"--config={experiment}", "--config=pocket", f"--run_dir={run}", "--trainer.accelerator=cpu"]
    small = {"network.init_args.depth": 2, "network.init_args.widths.base": 8, "optimizer.init_args.lr": 0.01}
    arguments += [f"--model.init_args.{name}={value}" for name, value in small.items()]
    main(["fit", *arguments, "--trainer.enable_progress_bar=false", "--trainer.max_epochs=8", *options])
    return run


@pytest.fixture(scope="module")
def tested(experiment, tmp_path_factory):
    """Folder of a run that tells discs from noise, and was tested."""
    run = fit(experiment, tmp_path_factory.mktemp("runs") / "pocket")
    main(["test", f"--run_dir={run}"])
    return run


@pytest.mark.e2e
def test_discs_are_told_from_noise(tested):
    history = rows(tested / "metrics.csv")
    assert float(history[-1]["val/auc"]) > 0.95
    assert float(history[-1]["test/auc"]) > 0.95
    assert float(history[-1]["train/loss"]) < 0.5 * float(history[0]["train/loss"])
    assert (tested / "checkpoints" / "best.ckpt").is_file()
    assert not (tested / "pictures").exists()
    assert not (tested / "test" / "pictures").exists()


@pytest.mark.e2e
def test_the_table_of_cases_holds_what_was_scored(tested):
    table = rows(tested / "test" / "cases.csv")
    assert list(table[0]) == ["subject", "target", "predicted", "prob_empty", "prob_one_disc"]
    assert [row["subject"] for row in table] == [item["subject"] for item in disc_images(64, 2, 16, 2)]
    assert [row["target"] for row in table] == ["empty", "one_disc"] * 32
    probability = np.array([[float(row["prob_empty"]), float(row["prob_one_disc"])] for row in table])
    assert probability.sum(1) == pytest.approx(np.ones(64))
    assert [row["predicted"] for row in table] == [["empty", "one_disc"][k] for k in probability.argmax(1)]
    scores = score_classes(probability, np.arange(64) % 2, TWO)
    last = rows(tested / "metrics.csv")[-1]
    for name in ("auc", "accuracy", "sensitivity", "specificity", "f1", "ece"):
        assert float(last[f"test/{name}"]) == pytest.approx(scores[name], abs=1e-6)
    assert read_run(tested).classified.scores == pytest.approx(scores)


@pytest.mark.e2e
def test_the_test_is_drawn_and_printed_in_short(tested, capsys):
    for name in ("roc", "confusion", "reliability"):
        assert ET.parse(tested / "test" / f"{name}.svg").getroot().tag.endswith("svg")
    capsys.readouterr()
    main(["test", f"--run_dir={tested}"])
    printed = capsys.readouterr().out
    assert "image_000" not in printed
    lines = [line.split() for line in printed.splitlines()]
    cases = read_classified(tested / "test" / "cases.csv")
    assert ["empty", *map(str, cases.confusion[0]), "32"] in lines
    assert ["one_disc", *map(str, cases.confusion[1]), "32"] in lines
    assert any(line[:3] == ["64", "images", f"{cases.scores['auc']:.4f}"] for line in lines)


@pytest.mark.e2e
def test_runs_are_compared_by_their_auc(tested, experiment, tmp_path, capsys):
    other = fit(experiment, tmp_path / "short", "--trainer.max_epochs=1")
    main(["test", f"--run_dir={other}"])
    capsys.readouterr()
    main(["compare", str(tested), str(other), f"--output={tmp_path / 'page.html'}"])
    assert "test/auc" in capsys.readouterr().out
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for run in (tested, other):
        auc = read_run(run).classified.scores["auc"]
        assert f"{run.name}: AUC {auc:.3f}" in html
    for heading in ("Confusion", "Worst errors"):
        assert f"<h2>{heading}</h2>" in html
    assert "ROC of the test images" in html
    assert "Dice" not in html.partition("<details>")[0]
    assert "not tested" not in html


@pytest.mark.e2e
def test_the_checkpoint_rebuilds_the_task_and_infer_refuses_it(tested, tmp_path, fails):
    task = load_task(tested / "checkpoints" / "last.ckpt")
    assert isinstance(task, ClassificationTask)
    image = torch.stack([item["image"] for item in disc_images(64, 2, 16, 2)])
    expected = [float(row["prob_one_disc"]) for row in rows(tested / "test" / "cases.csv")]
    assert task.network(image).double().softmax(1)[:, 1].tolist() == pytest.approx(expected, abs=1e-6)
    assert "ClassificationTask" in fails(["infer", str(tested), str(tmp_path), f"--output={tmp_path / 'out'}"])


@pytest.mark.e2e
def test_class_weights_come_from_yaml_and_three_classes_are_scored_each(experiment, tmp_path):
    options = [
        "--data.init_args.classes=[none, one, two]",
        "--data.init_args.count=24",
        "--trainer.max_epochs=1",
        "--model.init_args.loss.init_args.class_weights=[1, 2, 3.5]",
    ]
    run = fit(experiment, tmp_path / "run", *options)
    task = load_task(run / "checkpoints" / "last.ckpt")
    assert task.loss.class_weights.tolist() == [1, 2, 3.5]
    main(["test", f"--run_dir={run}"])
    last = rows(run / "metrics.csv")[-1]
    assert {f"test/{m}_{c}" for m in ("auc", "f1") for c in ("none", "one", "two")} <= set(last)


def test_validation_does_not_depend_on_batches_and_skips_what_is_repeated(tmp_path):
    items = disc_images(11, 2, 16, seed=3)
    loss = ClassCrossEntropy([1.0, 4.0])
    task = ClassificationTask(network(), info(), loss)
    results = [trainer(tmp_path).validate(task, loader(items, size), verbose=False)[0] for size in (1, 4, 11)]
    repeated = [*items, items[0] | {"subject": ""}, items[3]]
    results.append(trainer(tmp_path).validate(task, loader(repeated, 4), verbose=False)[0])
    task.eval()
    logits = task.network(torch.stack([item["image"] for item in items]))
    target = torch.stack([item["target"] for item in items])
    scores = score_classes(logits.detach().double().softmax(1).numpy(), target.numpy(), TWO)
    for result in results:
        assert result["val/loss"] == pytest.approx(loss(logits, target).item(), rel=1e-5)
        assert result["val/auc"] == pytest.approx(scores["auc"])
        assert result["val/accuracy"] == pytest.approx(scores["accuracy"])


def test_a_split_of_one_class_has_no_auc_and_says_so_once(tmp_path, caplog):
    items = [item for item in disc_images(8, 2, 16, seed=3) if item["target"] == 0]
    task = ClassificationTask(network(), info())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            result = trainer(tmp_path).validate(task, loader(items), verbose=False)[0]
            assert math.isnan(result["val/auc"])
            assert math.isfinite(result["val/loss"])
    said = [record.message for record in caplog.records if "none of the" in record.message]
    assert said == [
        "none of the 4 validation images is of class one disc: the AUC is not defined. Divide the images otherwise, or "
        "watch val/loss."
    ]


def test_what_is_repeated_has_no_row():
    items = disc_images(3, 2, 16, seed=3)
    batch = next(iter(loader([*items, items[0] | {"subject": ""}])))
    rows = ClassificationTask(network(), info()).eval().test_step(batch, 0)["rows"]
    assert [row["subject"] for row in rows] == [item["subject"] for item in items]


def test_a_single_image_is_validated(tmp_path):
    task = ClassificationTask(network(), info())
    result = trainer(tmp_path).validate(task, loader(disc_images(1, 2, 16, seed=3)), verbose=False)[0]
    assert result["val/accuracy"] in (0, 1)


def test_metric_names_are_what_is_logged(tmp_path):
    task = ClassificationTask(network(), info())
    validated = trainer(tmp_path).validate(task, loader(disc_images(4, 2, 16, seed=3)), verbose=False)[0]
    assert set(task.metric_names) == {"train/loss", *validated}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ClassificationTask(network(), info(size=(18, 16))),
            r"--size`\): \[18, 16\] .*that fits is \[20, 16\]",
        ),
        (lambda: ClassificationTask(network(), info(["one"])), "the classes of the data are one; expected at least"),
        (lambda: ClassificationTask(network(), info(["a b", "a_b"])), "differ by more than spaces and slashes"),
        (lambda: SegmentationTask(network(), info()), "EncoderClassifier classifies whole images"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(PocketError, match=message):
        make()


def test_a_network_for_voxels_is_refused_when_the_config_is_read(experiment, tmp_path, fails):
    options = [f"--config={experiment}", f"--run_dir={tmp_path / 'run'}", "--config=hrnet"]
    message = fails(["fit", *options])
    assert "HRNet" in message
    assert "Classifier" in message
    task = ClassificationTask(UNet(1, 2, spatial_dims=2, depth=2, widths=WidthSchedule(base=2)), info())
    logits = task.network(torch.zeros(1, 1, 16, 16))
    with pytest.raises(PocketError, match=r"expected \(B,\) and \(B, K\)"):
        task.loss(logits, torch.zeros(1).long())


def test_the_protocol_is_that_of_the_paper():
    content = yaml.safe_load((configs_folder() / "tasks" / "classification.yaml").read_text(encoding="utf-8"))
    settings = content["init_args"]
    assert settings["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001}}
    plateau = {"mode": "max", "factor": 0.5, "patience": 5, "min_lr": 1e-6}
    assert settings["lr_scheduler"]["init_args"] == plateau
    assert settings["monitor"] == "val/accuracy"
