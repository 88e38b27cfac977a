"""Errors along a training, and scores of all images together in tables."""

import csv
from pathlib import Path

import pytest
import torch
from image_datasets import write_classes

from lightning_pocket.cli import main
from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.reports.comparison import Criteria, compare_pairs
from lightning_pocket.reports.seeds import SeededRuns
from lightning_pocket.reports.statistics_tables import scores_of
from lightning_pocket.storage import write_csv, write_json
from lightning_pocket.studies.run_data import load_data
from lightning_pocket.tasks import load_task

NETWORK = "--model.init_args.network.init_args"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_classes(root / "raw", {"one": 12, "two": 12, "three": 12})
    main(["prepare", str(root / "raw"), f"--output={root / 'cache'}", "--size=32", "--color=rgb", "--num_folds=3"])
    return root / "cache"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "error_rates.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
def test_errors_are_those_of_the_network(cache: Path, tmp_path: Path) -> None:
    configs = [f"--config={name}" for name in ("cifar10_small", "small_net", "error_rates", "label_noise_50")]
    small = [
        f"{NETWORK}.channels=[4]",
        f"{NETWORK}.hidden=8",
        "--trainer.max_epochs=2",
        "--data.init_args.crop_flip=null",
        f"--data.init_args.cache={cache}",
    ]
    weights = []
    for name, given in (("watched", configs), ("plain", [c for c in configs if "error" not in c])):
        main(["fit", *given, *small, f"--run_dir={tmp_path / name}", "--trainer.enable_progress_bar=false"])
        content = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append(content["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())  # nothing of it is changed
    run = tmp_path / "watched"
    found = rows(run)
    main(["test", f"--run_dir={run}"])
    result = read_run(run)
    assert float(found[-1]["test_error"]) == pytest.approx(1 - result.classified.scores["accuracy"])
    assert float(found[-1]["val_error"]) == pytest.approx(1 - result.curves["val/accuracy"][-1][1])
    assert found[0]["train_error"] == ""
    data, task = load_data(run), load_task(run / "checkpoints" / "last.ckpt")
    images = data._training().images.cache  # the labels are those that were drawn
    drawn = dict(zip(images.subjects, images.kinds, strict=True))
    true = data.cache.class_of
    assert any(drawn[name] != true[name] for name in data.split.train)
    wrong = total = 0
    with torch.no_grad():
        for batch in data.train_dataloader():
            named = [task.info.classes.index(drawn[name]) for name in batch["subject"]]
            assert batch["target"].tolist() == named
            wrong += int((task.network(batch["image"]).argmax(1) != torch.tensor(named)).sum())
            total += len(named)
    assert float(found[-1]["train_error"]) == pytest.approx(wrong / total)
    assert scores_of(result)["train_error"] == float(found[-1]["train_error"])


def test_best_is_chosen_by_the_validation(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"parameters": 3})
    lines = [(0, 0.5, 0.40, ""), (1, 0.2, 0.45, ""), (2, 0.2, 0.30, ""), (3, 0.3, 0.35, 0.1)]
    columns = ("epoch", "val_error", "test_error", "train_error")
    write_csv(tmp_path / "error_rates.csv", columns, [dict(zip(columns, line, strict=True)) for line in lines])
    assert read_run(tmp_path).overall == {"best_error": 0.45, "last_error": 0.35, "train_error": 0.1}


def test_means_over_classes_leave_out_those_that_do_not_occur(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"parameters": 3})
    (tmp_path / "test").mkdir()
    text = (
        "class,iou,recall,precision,voxels,predicted\nroad,0.5,0.6,0.7,4,3\nsky,nan,nan,nan,0,0\ncar,0.1,0.2,0.5,2,1\n"
    )
    (tmp_path / "test" / "classes.csv").write_text(text, encoding="utf-8")
    expected = {"miou": 0.3, "mean_recall": 0.4, "mean_precision": 0.6}
    assert read_run(tmp_path).overall == pytest.approx(expected)
    runs = SeededRuns(
        "unet", [RunResult("a", 3, None, overall={"miou": 0.3}), RunResult("b", 3, None, overall={"miou": 0.5})], 2
    )
    assert runs.show("miou") == "0.4000 ± 0.1414"


def test_classifications_with_several_seeds_are_compared_image_by_image(tmp_path: Path) -> None:
    """Each image counts with the share of the seeds that have it right."""
    right = {"a": [[1, 0, 0, 1], [1, 0, 1, 1]], "b": [[1, 1, 1, 1], [0, 1, 1, 1]]}
    rows_of = {}
    for name, seeds in right.items():
        found = []
        for seed, flags in enumerate(seeds):
            run = tmp_path / name / f"seed_{seed}"
            write_json(run / "manifest.json", {"parameters": 3})
            cases = [
                {
                    "subject": f"s{i}",
                    "target": "x",
                    "predicted": "",
                    "prob_x": 0.9 if ok else 0.1,
                    "prob_y": 0.1 if ok else 0.9,
                }
                for i, ok in enumerate(flags)
            ]
            write_csv(run / "test" / "cases.csv", list(cases[0]), cases)
            found.append(read_run(run))
        rows_of[name] = SeededRuns(name, found, 2).joined()
    assert rows_of["a"].scores["accuracy"] == [1.0, 0.0, 0.5, 1.0]
    (comparison,) = compare_pairs([(rows_of["a"], rows_of["b"])], Criteria(metrics=("accuracy",)))
    assert comparison.pair.difference == pytest.approx((0.5 - 1 + 1 + 0.5) / 4)
    assert comparison.better == 2
    assert comparison.worse == 1
