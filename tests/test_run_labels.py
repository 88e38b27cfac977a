"""How runs are called, tagged and grouped."""

import json

import pytest
import yaml

from lightning_pocket.callbacks.run_labels import FOLDS, SEEDS, RunPlace, as_tags, find_place, read_labels
from lightning_pocket.studies import crossval, table_runs
from lightning_pocket.studies.table import ExperimentTable, Row


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    for name in ("WANDB_RUN_GROUP", "WANDB_JOB_TYPE"):
        monkeypatch.delenv(name, raising=False)


def test_the_names_of_the_files_are_those_that_studies_write():
    assert (FOLDS, SEEDS) == (crossval.RECORD, table_runs.SEEDS)


def test_a_run_of_its_own_has_no_group(tmp_path):
    assert find_place(tmp_path / "mine") == RunPlace("mine", None, None)


def test_folds_seeds_and_folds_of_seeds(tmp_path, monkeypatch):
    rows = [Row("pocket", "T", configs=["segment_volumes"]), Row("full", "T", configs=["segment_volumes"])]
    seeded = ExperimentTable("t", rows, seeds=[0, 1])
    table_runs.mark_seeds(seeded, tmp_path, seeded.places(rows[0]))
    assert json.loads((tmp_path / "pocket" / SEEDS).read_text()) == {"row": "pocket", "seeds": [0, 1]}
    assert not (tmp_path / "full").exists()
    table_runs.mark_seeds(ExperimentTable("t", rows), tmp_path, ["full"])
    assert not (tmp_path / "full").exists()
    seed = tmp_path / "pocket" / "seed_1"
    assert find_place(seed) == RunPlace("pocket/seed_1", "pocket", "seed")
    seed.mkdir()
    (seed / FOLDS).touch()
    assert find_place(seed / "fold_0") == RunPlace("pocket/seed_1/fold_0", "pocket/seed_1", "fold")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.setenv("WANDB_JOB_TYPE", "trial")
    assert find_place(seed) == RunPlace("pocket/seed_1", "mine", "trial")


@pytest.mark.parametrize(("doublings", "size"), [("all", "full"), (0, "pocket"), (2, "doublings_2"), (None, None)])
def test_labels_are_read_from_the_config(tmp_path, doublings, size):
    network = {"class_path": "lightning_pocket.networks.UNet", "init_args": {"spatial_dims": 2}}
    network["init_args"]["widths"] = {"base": 8, "doublings": doublings}
    model = {"class_path": "lightning_pocket.tasks.ClassificationTask", "init_args": {"network": network}}
    data = {"init_args": {"cache": "/data/caches/lungs", "split": {"fold": 0}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "seed_everything": 3}))
    found = read_labels(tmp_path)
    expected = {"data": "lungs", "task": "classification", "network": "UNet", "dims": "2D", "size": size}
    assert found == {k: v for k, v in expected.items() if v} | {"fold": 0, "seed": 3}
    assert as_tags(found) == [value for value in expected.values() if value]
    assert read_labels(tmp_path / "nowhere") == {}
