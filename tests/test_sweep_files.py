"""Shipped studies hold what the papers print, and build the networks that they say; and one is run for real."""

import csv
import json
import shlex
from collections import ChainMap
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml
from in_process import in_this_process

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_run
from lightning_pocket.studies.table import PARAMETERS
from lightning_pocket.sweeps.leases import GRACE_S
from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.read import find_sweep, read_sweep, sweeps_folder
from lightning_pocket.sweeps.resolve_process import resolve_one
from lightning_pocket.sweeps.start import Request, open_study

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = json.loads((GOLDEN / "published.json").read_text(encoding="utf-8"))
COUNTS = json.loads((GOLDEN / "networks.json").read_text(encoding="utf-8"))
FILES = sorted(sweeps_folder().glob("*.yaml"))
DOUBLINGS = "model.init_args.network.init_args.widths.doublings"
GROUPS = "model.init_args.network.init_args.layers.conv.init_args.group_size"
BASE = "model.init_args.network.init_args.widths.base"
DECAY = "model.init_args.optimizer.init_args.weight_decay"


def request(name, more=()):
    file = find_sweep(name)
    return Request(file, read_sweep(file), Path("runs") / name, tuple(more), None, GRACE_S)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_is_found_by_name_and_says_what_it_is(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_sweep(path.stem) == path
    assert path.read_text(encoding="utf-8").startswith("# ")
    sweep = read_sweep(path)
    assert sweep.source
    assert sweep.takes
    for key in sweep.space.parameters:
        assert sweep.space.parameters[key].type == "config" or "." in key


def test_a_study_that_does_not_exist_is_suggested():
    with pytest.raises(PocketError, match="Did you mean architecture"):
        find_sweep("architectur")


@pytest.mark.parametrize("variant", ["", "_hippocampus", "_synthetic"])
def test_table_4_holds_what_the_paper_prints(variant):
    sweep = read_sweep(find_sweep(f"pocketnet_stop_doubling{variant}"))
    golden = [
        ({DOUBLINGS: row["doublings"]}, {key: row[key] for key in (PARAMETERS, "dice", "dice_median")})
        for row in PUBLISHED["000.IV"]
    ]
    assert [(row.point, row.values) for row in sweep.published] == golden
    assert [point[DOUBLINGS] for point in sweep.points()] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("variant", ["", "_small"])
def test_table_2_holds_what_the_paper_prints(variant):
    sweep = read_sweep(find_sweep(f"lighter_group_size{variant}"))
    golden = [row for row in PUBLISHED["001.2"] if row["model"].startswith("@")]
    assert len(sweep.published) == len(golden) == 8
    for row, expected in zip(sweep.published, golden, strict=True):
        assert row.point == {GROUPS: int(expected["model"].removeprefix("@"))}
        assert round(row.values[PARAMETERS] * 1e6) == expected["params"]
        assert {key: row.values[key].replace(" ", "") for key in ("dice", "hd95_px")} == {
            key: expected[key] for key in ("dice", "hd95_px")
        }
    decays = {point.get(DECAY) for point in sweep.points()}
    assert decays == ({None} if variant else {0.01, 0.001, 0.0001, 0.00001, 0.0})


@pytest.fixture
def rgb(tmp_path):
    """What prepared images in colour say of themselves."""
    described = {"channels": ["red", "green", "blue"], "classes": ["background", "lesion"], "size": [256, 256]}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    return f"--data.init_args.cache={tmp_path}"


def resolve(options):
    return [resolve_one(entry) for entry in options]


def test_networks_have_the_parameters_of_the_papers(rgb):
    doublings, groups = request("pocketnet_stop_doubling"), request("lighter_group_size", [rgb])
    options = [doublings.runs(0, point).options() for point in doublings.sweep.points()[::2]]
    tuned = [point for point in groups.sweep.points() if point[DECAY] == 0.0001][::3]
    found = resolve([*options, *(groups.runs(0, point).options() for point in tuned)])
    assert not [entry.problem for entry in found if entry.problem]
    assert [entry.parameters for entry in found[:3]] == [row["parameters"] for row in COUNTS["pocketnet_table_4"][::2]]
    printed = [row["params"] for row in PUBLISHED["001.2"] if row["model"].startswith("@")]
    assert [entry.parameters for entry in found[3:]] == printed[::3]


def in_few(samples):
    """Put changes of different parameters together: every choice is in one of fewer points."""
    plain, *others = samples
    changes = {}
    for sample in others:
        changed = {key: value for key, value in sample.items() if plain.get(key) != value}
        changes.setdefault(next(iter(changed)), []).append(changed)
    return [plain, *(plain | dict(ChainMap(*together)) for together in zip_longest(*changes.values(), fillvalue={}))]


def test_the_other_studies_build_and_know_which_networks_are_the_same():
    hippocampus, synthetic = (request(f"pocketnet_stop_doubling_{name}") for name in ("hippocampus", "synthetic"))
    options = [hippocampus.runs(0, point).options() for point in hippocampus.sweep.points()]
    options += [synthetic.runs(0, point).options() for point in synthetic.sweep.points()[:3]]
    for name, step in (("architecture", 1), ("pocketnet_width", 3), ("lighter_group_size_small", 7)):
        points = in_few(request(name).sweep.space.samples())[::step]
        options += [request(name).runs(0, point).options() for point in points]
    found = resolve(options)
    assert not [entry.problem for entry in found if entry.problem]
    assert len({entry.identity for entry in found[:6]}) == 6, "on the hippocampus all six networks differ"
    five, four, three = (entry.identity for entry in found[6:9])
    assert five == four, "with four downsamplings, five and four doublings are the same"
    assert four != three


@pytest.mark.parametrize("name", ["cifar10", "cifar10_small", "hippocampus", "ultrasound_small"])
def test_studies_of_sparsity_build_one_network_and_strengths_differ(name):
    study = request(f"sparsity_frontier_{name}")
    points = [point for point in study.sweep.points() if point.get(BASE, 8) == 8]
    chosen = [point for point in points if point.get("sparsity") == "none"]
    learned = [point for point in points if point.get("sparsity") != "none"]
    some = [*chosen, *learned[:: max(1, len(learned) // 3)]]
    found = resolve([study.runs(0, point).options() for point in some])
    assert not [entry.problem for entry in found if entry.problem]
    assert len({entry.parameters for entry in found}) == 1, "plain networks and padded shortcuts have equal weights"
    assert len({entry.identity for entry in found}) == len(found)
    callbacks = [entry.settings["trainer"]["callbacks"][-1] for entry in found[len(chosen) :]]
    assert {entry["class_path"].rpartition(".")[2] for entry in callbacks} == {"StructuredSparsity"}
    given = [next(v for k, v in point.items() if k.endswith("alpha_relative")) for point in some[len(chosen) :]]
    assert [entry["init_args"]["alpha_relative"] for entry in callbacks] == given
    assert study.sweep.shrink


def test_settings_that_matter_tell_networks_apart_and_others_do_not():
    base = ["--config=segment_volumes", "--config=pocket", "--data.init_args.patch_size=[32,32,32]"]
    changes = {
        "itself": [],
        "elsewhere": ["--run_dir=other", "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=other"],
        "decay": ["--model.init_args.optimizer.init_args.weight_decay=0.1"],
        "activation": ["--model.init_args.network.init_args.layers.activation=lightning_pocket.layers.PReLU"],
        "initializer": ["--model.init_args.network.init_args.layers.initializer=glorot_uniform"],  # in no layer
        "base": ["--model.init_args.network.init_args.widths.base=16"],
        "largest component": ["--model.init_args.largest_component=true"],  # changes the test
        "loader": ["--data.init_args.num_workers=1"],  # changes the time of a step
        "downsample": ["--model.init_args.network.init_args.downsample=strided_conv"],
        "seed": ["--seed_everything=1"],
        "epochs": ["--trainer.max_epochs=3"],
        "wrong": ["--data.init_args.patch_size=[32,32,30]"],
    }
    found = dict(zip(changes, resolve([[*base, *change] for change in changes.values()]), strict=True))
    assert found["itself"].identity == found["elsewhere"].identity
    assert "takes multiples of [32, 32, 32]" in found.pop("wrong").problem
    assert len({entry.identity for entry in found.values()}) == len(found) - 1
    assert found["itself"].metrics == ["train/loss", "val/loss", "val/dice", "val/dice_class_1"]


TINY = {
    "title": "Tiny",
    "configs": ["segment_volumes"],
    "options": {
        "data.init_args.patch_size": [8, 16, 16],
        "data.init_args.patches_per_epoch": 24,
        "model.init_args.optimizer.init_args.lr": 0.02,
        "model.init_args.network.init_args.depth": 2,
        "model.init_args.network.init_args.widths.base": 4,
        "trainer.max_epochs": 3,
        "trainer.accelerator": "cpu",
    },
    "space": {DOUBLINGS: {"type": "categorical", "choices": [2, 3]}},
    "objectives": [{"metric": "dice", "direction": "maximize"}],
    "metrics": ["val/dice"],
}


@pytest.mark.e2e
def test_the_best_trial_s_commands_give_the_same_scores_again(blobs_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with in_this_process():
        main(["sweep", "tiny.yaml", f"--cache={blobs_cache}"])
    first, second = outcomes(open_study(Path("runs/tiny"), None)[0])
    assert second.same_as == 0, "two doublings are all that two downsamplings have"
    assert first.values == second.values
    capsys.readouterr()
    main(["sweep", "best", "runs/tiny"])
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pocket ")]
    for command in commands:
        main(shlex.split(command)[1:])
    again, made = read_run(Path("runs/tiny/again/000")), read_run(Path("runs/tiny/trials/000"))
    assert again.scores == made.scores
    assert first.values == [made.mean("dice")] != [0.0]
    with Path("runs/tiny/trials.csv").open(encoding="utf-8", newline="") as file:
        assert float(next(csv.DictReader(file))["val/dice"]) == made.curves["val/dice"][-1][1]


@pytest.mark.e2e
def test_a_training_reports_its_validation_and_ends_when_told(options, tmp_path, capsys):
    callback = [
        "--trainer.callbacks+=lightning_pocket.callbacks.SweepPruning",
        f"--trainer.callbacks.folder={tmp_path / 'pruning'}",
    ]
    (tmp_path / "pruning").mkdir()
    (tmp_path / "pruning" / "stop").write_text("pruned")
    main(["fit", *options, *callback])
    assert "pruned after 1 epochs" in capsys.readouterr().out
    lines = [
        json.loads(line) for line in (tmp_path / "pruning" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    run = read_run(tmp_path / "run")
    assert [entry["epoch"] for entry in lines] == [1]
    assert lines[0]["value"] == pytest.approx(run.curves["val/dice"][0][1])
    assert run.manifest["finished"]
    assert run.manifest["epochs"] == 1
