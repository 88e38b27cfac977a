"""`pocket profile`: what it compares, against counts and percentages that were published, and what it writes."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from page_reader import parse

from lightning_pocket.cli import main
from lightning_pocket.costs import run
from lightning_pocket.costs.details import fit_line, layer_records
from lightning_pocket.costs.loading import wait_share
from lightning_pocket.costs.page import verdicts
from lightning_pocket.costs.plan import Candidate, Grid, Plan, parse_targets
from lightning_pocket.costs.plan_file import read_plan
from lightning_pocket.costs.recipe import Recipe
from lightning_pocket.costs.records import Records
from lightning_pocket.costs.run import Profiler, Row, Settings
from lightning_pocket.costs.tables import COLUMNS, CostTables, giga
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder
from lightning_pocket.profiling import measure
from lightning_pocket.profiling.loader import Stage
from lightning_pocket.profiling.memory import predict_training

TINY = [
    "--model.init_args.network.init_args.depth=2",
    "--model.init_args.network.init_args.widths.base=4",
]
TARGETS = ["segment_volumes,full", "segment_volumes,pocket"]
#: PocketNet, Table III: side, network, images a second of full and of pocket, and what the table calls speed-up, in %.
TABLE_3 = [
    (32, "U-Net", 17.86, 18.98, 5.89),
    (32, "ResNet", 16.67, 16.86, 1.17),
    (32, "DenseNet", 14.37, 14.93, 3.74),
    (32, "HRNet", 13.16, 14.99, 12.24),
    (64, "U-Net", 15.5, 15.9, 2.48),
    (64, "ResNet", 12.94, 14.79, 12.54),
    (64, "DenseNet", 12.61, 14.27, 11.6),
    (64, "HRNet", 10.53, 12.61, 16.53),
    (128, "U-Net", 7.84, 8.33, 5.88),
    (128, "ResNet", 6.72, 6.98, 3.7),
    (128, "DenseNet", 5.38, 5.84, 7.86),
    (128, "HRNet", 3.89, 4.49, 13.41),
]


def quiet(_: str) -> None:
    """Say nothing."""


def row(variant="full", batch=1, patch=(8, 8), name="", problem="", published=None, **values):
    measured = {key: value for key, value in values.items() if key.startswith(("measured", "infer_", "train_step"))}
    predicted = {key: value for key, value in values.items() if key not in measured}
    candidate = Candidate(name, variant, published=published or {})
    return Row(0, candidate, batch, patch, "32-true", predicted, measured, problem=problem)


def tables(*rows, grid_patches=((8, 8),), **plan):
    candidates = tuple(dict.fromkeys(r.candidate for r in rows))
    return CostTables(Plan("t", (Grid("", candidates, patches=grid_patches),), **plan), rows)


def test_savings_are_against_the_first_variant_of_the_same_network_batch_and_patch():
    rows = [
        row("full", 1, train_mib=200.0),
        row("pocket", 1, train_mib=50.0),
        row("full", 2, train_mib=400.0),
        row("pocket", 2, train_mib=300.0),
        row("pocket", 4, train_mib=1.0),
    ]
    costs = tables(*rows)
    assert [costs.saved(r, "train_mib") for r in rows] == [None, 0.75, None, 0.25, None]
    assert costs.ranges("train_mib") == [("", 25.0, 75.0)]


def test_sentences_put_the_published_range_beside_ours():
    costs = tables(
        row("full", 1, train_mib=200.0, train_step_ms=10.0),
        row("pocket", 1, train_mib=50.0, train_step_ms=8.0),
        published={"train_mib": (28.3, 87.7)},
    )
    assert verdicts(costs) == [
        "Peak training memory, predicted, saved: 75.0%; published 28.3 to 87.7%.",
        "Time of a training step, measured, saved: 20.0%.",
    ]


@pytest.mark.parametrize(("side", "name", "full", "pocket", "speed_up"), TABLE_3)
def test_table_3_is_the_paper_s_and_its_speed_up_is_our_saving(side, name, full, pocket, speed_up):
    plan = read_plan("pocketnet_table3")
    index, grid = next((i, g) for i, g in enumerate(plan.grids) if g.patches == ((side, side, side),))
    assert grid.batches == (1,)
    chosen = [candidate for candidate in grid.candidates if candidate.name == name]
    assert [candidate.variant for candidate in chosen] == ["full", "pocket"]
    rows = [Row(index, candidate, 1, (side, side, side), "32-true") for candidate in chosen]
    costs = CostTables(plan, rows)
    assert [costs.published(r) for r in rows] == [full, pocket]
    assert 100 * costs.published_saving(rows[1]) == pytest.approx(speed_up, abs=0.06)
    assert costs.published_saving(rows[0]) is None


def test_published_numbers_stand_beside_their_own_patch_only():
    other = row("pocket", patch=(4, 4), published={"infer_images_per_s": 9.0}, infer_ms=1.0)
    assert tables(other).published(other) is None
    assert tables(other, grid_patches=((4, 4),)).published(other) == 9.0


@pytest.fixture(scope="module")
def find_recipe():
    """Return a network of a shipped profile; each is resolved once."""
    profilers = {
        name: Profiler(read_plan(name), Settings(), Records(None), quiet)
        for name in ("pocketnet_figure3", "pocketnet_table3")
    }

    def find(profile, grid, label):
        profiler = profilers[profile]
        (candidate,) = (c for c in profiler.plan.grids[grid].candidates if c.label == label)
        return profiler.recipe(candidate)

    return find


@pytest.mark.parametrize(
    ("profile", "grid", "network", "full", "pocket"),
    [
        ("pocketnet_figure3", 0, "ResNet", 91_897_762, 782_498),  # Table I, BraTS
        ("pocketnet_figure3", 0, "HRNet", 6_494_850, 700_930),
        ("pocketnet_figure3", 1, "U-Net", 5_472_146, 151_362),  # the notebook's networks for slabs
        ("pocketnet_figure3", 1, "DenseNet", 8_129_906, 243_922),
        ("pocketnet_table3", 1, "DenseNet", 33_905_762, 1_013_602),  # four downsamplings
        ("pocketnet_table3", 2, "U-Net", 90_486_274, 763_010),
        ("pocketnet_table3", 2, "HRNet", 6_492_162, 698_242),
    ],
)
def test_the_networks_of_the_profiles_have_the_golden_parameters(find_recipe, profile, grid, network, full, pocket):
    for variant, expected in (("full", full), ("pocket", pocket)):
        with torch.device("meta"):
            made = find_recipe(profile, grid, f"{network} {variant}").make_network()
        assert sum(parameter.numel() for parameter in made.parameters()) == expected


def test_slabs_are_never_pooled_along_their_five_slices(find_recipe):
    for name in ("U-Net", "ResNet", "DenseNet", "HRNet"):
        with torch.device("meta"):
            network = find_recipe("pocketnet_figure3", 1, f"{name} pocket").make_network()
        network.check_input(torch.empty(1, 4, 5, 240, 240, device="meta"))
        assert network.divisor[0] == 1


def test_operations_at_full_size_are_golden(find_recipe):
    expected = {"full": 489_525_608_448, "pocket": 277_737_766_912}
    for variant, macs in expected.items():
        recipe = find_recipe("pocketnet_table3", 2, f"U-Net {variant}")
        found = run.predict(recipe, 1, (128, 128, 128), "32-true", "cuda")
        assert found["macs"] == macs
        causes = ("weights", "gradients", "optimizer", "activations", "inputs", "workspace")
        assert found["train_mib"] == pytest.approx(sum(found[f"{cause}_mib"] for cause in causes))
        weights = found["parameters"] * 4 / 2**20
        assert found["weights_mib"] == pytest.approx(weights, abs=0.1)  # and buffers of the norms
        assert found["optimizer_mib"] == pytest.approx(2 * weights, abs=0.2)  # Adam


def test_networks_are_named_by_what_tells_them_apart(tmp_path):
    assert [c.variant for c in parse_targets(TARGETS, [])] == ["full", "pocket"]
    assert [c.variant for c in parse_targets(["segment_volumes,pocket"], [])] == ["segment_volumes+pocket"]
    assert [c.variant for c in parse_targets(["a=segment_volumes", "b=lits"], [])] == ["a", "b"]
    (tmp_path / "kept").mkdir()
    found = parse_targets([str(tmp_path / "kept"), "x=segment_volumes+pocket"], ["--trainer.precision=bf16-mixed"])
    assert [c.variant for c in found] == ["kept", "x"]
    assert found[0].options == ()
    assert found[1].options[-1] == "--trainer.precision=bf16-mixed"
    with pytest.raises(PocketError, match="two networks have one name"):
        parse_targets(["segment_volumes", "segment_volumes"], [])


def test_operations_of_small_networks_are_not_all_zero():
    assert [giga(value) for value in (4_448_896, 25_155_552, 568_740_352, 4.86e9, 1.5e13)] == [
        *("0.00445", "0.0252", "0.57", "4.86", "15,000.00"),
    ]


def test_deep_supervision_precision_and_layout_come_from_the_configs():
    options = ["--config=segment_volumes", "--config=deep_supervision", "--config=channels_last", *TINY]
    options = [f"--config={configs_folder() / 'presets' / o.partition('=')[2]}.yaml" if "--config=" in o
               and "segment" not in o else o for o in options]  # fmt: skip
    options[0] = f"--config={configs_folder() / 'experiments' / 'segment_volumes.yaml'}"
    depth = "--model.init_args.network.init_args.depth=3"
    recipe = Recipe.from_options([*options, depth, "--trainer.precision=bf16-mixed"], 2, 3)
    assert recipe.precision == "bf16-mixed"
    network = recipe.make_network()
    heads = network.outputs(torch.rand(1, 2, 16, 16, 16))
    assert len(heads) > 1
    assert network.encoder[0][0][0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    target = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    assert recipe.loss(heads, target).ndim == 0
    optimizer = recipe.make_optimizer(network.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert recipe.in_channels == 2
    assert network.out_channels == 3
    expanded = f"--config={configs_folder() / 'presets' / 'expanded_cl.yaml'}"
    deployed = Recipe.from_options([*options, expanded, depth], 2, 3).make_deployed()
    assert deployed.encoder[0][0][0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    found, expected = deployed.state_dict(), network.state_dict()
    assert {name: found[name].shape for name in found} == {name: expected[name].shape for name in expected}


@pytest.fixture
def predicted(monkeypatch):
    """Replace predictions by a count of them, which can be told to stop."""
    calls = []

    def predict(_recipe, batch, patch, *_):
        calls.append((batch, patch))
        if predict.stop_at == len(calls):
            raise KeyboardInterrupt
        values = {"parameters": 10, "macs": 10, "train_mib": 100.0 * batch, "infer_mib": 10.0 * batch}
        return values | {"timeline": [["forward", 5.0], ["backward", 10.0]]}

    predict.stop_at = None
    monkeypatch.setattr(run, "predict", predict)
    return predict, calls


def test_a_profile_that_was_killed_continues(tmp_path, predicted):
    predict, calls = predicted
    command = ["profile", *TARGETS, *TINY, "--batch=1,2", "--patch=8x8x8", f"--output={tmp_path / 'out'}"]
    predict.stop_at = 3
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 130
    assert len(list((tmp_path / "out" / "results").iterdir())) == 2
    predict.stop_at = None
    main(command)
    assert len(calls) == 3 + 2
    main(command)
    assert len(calls) == 5
    main([*command, "--precision=bf16-mixed"])
    assert len(calls) == 9
    main([*command, "--fresh"])
    assert len(calls) == 13
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["batch"], r["train_mib"]) for r in rows] == [
        ("full", "1", "100.0"), ("full", "2", "200.0"), ("pocket", "1", "100.0"), ("pocket", "2", "200.0"),
    ]  # fmt: skip
    assert set(rows[0]) == set(COLUMNS)


def test_what_failed_is_tried_again(tmp_path):
    records, tries = Records(tmp_path), []

    def fail():
        tries.append(1)
        return {"problem": "no memory"} if len(tries) == 1 else {"value": 3}

    assert records.get({"a": 1}, fail) == {"problem": "no memory"}
    assert records.get({"a": 1}, fail) == records.get({"a": 1}, fail) == {"value": 3}
    assert len(tries) == 2


def test_a_terminal_of_100_columns_holds_the_tables(capsys):
    main(["profile", *TARGETS, "--batch=32", "--patch=128x128x128"])
    shown = capsys.readouterr().out.splitlines()
    table = [line for line in shown if line.startswith(("full", "pocket", "network"))]
    assert len(table) == 6
    assert max(map(len, table)) <= 100
    assert "90,486,274" in "".join(table)


@pytest.mark.usefixtures("predicted")
def test_the_page_stands_alone_and_shows_memory_over_batch_and_step(tmp_path):
    main(["profile", *TARGETS, *TINY, "--batch=1,2", "--patch=8x8x8", f"--output={tmp_path / 'page.html'}"])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = parse(html)
    assert "http" not in html
    titles = [attributes["aria-label"] for attributes in parsed.all("svg")]
    assert "Peak training memory, predicted: 8x8x8" in titles
    assert titles.count("Memory: full, batch 1, 8x8x8") == 1
    assert "pocket profile segment_volumes,full" in html
    assert not (tmp_path / "results").exists()


def test_layers_sum_to_the_whole_and_go_to_a_file_of_their_own(tmp_path, capsys):
    main(["profile", "segment_volumes,pocket", *TINY, "--batch=2", "--patch=8x8x8", "--layers",
          f"--table={tmp_path / 't.csv'}"])  # fmt: skip
    (whole,) = csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8")))
    layers = list(csv.DictReader(io.StringIO((tmp_path / "t_layers.csv").read_text(encoding="utf-8"))))
    assert sum(int(layer["macs"]) for layer in layers) == 2 * int(whole["macs"])  # of a batch of two
    assert sum(int(layer["parameters"]) for layer in layers) == int(whole["parameters"])
    assert "Layers: segment_volumes+pocket, batch 2, 8x8x8" in capsys.readouterr().out


def test_what_fits_is_the_largest_that_does():
    config = f"--config={configs_folder() / 'experiments' / 'segment_volumes.yaml'}"
    recipe = Recipe.from_options([config, *TINY], 1, 2)
    chosen = Row(0, Candidate("", "x"), 1, (8, 8, 8), "32-true")
    budget = 1.0
    label, _, batch, _, patch = fit_line(chosen, recipe, "cuda", budget, quiet)
    assert label == "x"

    def peak(count, size):
        network = recipe.make_network()
        shape = (count, 1, *size)
        return predict_training(
            lambda: network, recipe.loss, recipe.make_optimizer, shape, 2, device="cuda"
        ).peak_mib  # fmt: skip

    assert peak(int(batch), (8, 8, 8)) <= budget < peak(int(batch) + 1, (8, 8, 8))
    size = tuple(int(part) for part in patch.split("x"))
    assert all(side % 4 == 0 for side in size)
    assert peak(1, size) <= budget < peak(1, tuple(side + 4 for side in size))


def test_layer_records_name_the_network():
    config = f"--config={configs_folder() / 'experiments' / 'segment_volumes.yaml'}"
    recipe = Recipe.from_options([config, *TINY], 1, 2)
    assert {record["network"] for record in layer_records("mine", recipe, 1, (8, 8, 8))} == {"mine"}


def test_time_waits_for_data_in_closed_form():
    stages = [Stage("read", 10.0, 1.0, 1.0, "loader", "")]  # ten patches a second
    assert wait_share(stages, 0, 10.0) == pytest.approx(0.5)  # one after the other, as long as the network
    assert wait_share(stages, 1, 40.0) == pytest.approx(0.75)  # the network could take four times as many
    assert wait_share(stages, 2, 20.0) == 0.0


def test_a_patch_that_does_not_suit_is_one_line(fails):
    said = fails(["profile", "segment_volumes,pocket", *TINY, "--patch=7x8x8"])
    assert "(7, 8, 8)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "TARGET: is missing"),
        (["segment_volums"], "Did you mean segment_volumes"),
        (["segment_volumes", "--bach=3"], "Did you mean --batch?"),
        (["segment_volumes", "--table=x.doc"], "ends in '.doc'"),
        (["segment_volumes", "--fit=-1"], "--fit -1"),
        (["segment_volumes", "--steps=1"], "--steps 1"),
        (["classify_images"], "Give --patch 256x256"),
        (["segment_volumes", "--cache=nowhere"], "no prepared data here"),
        (["pocketnet_figure3", "segment_volumes"], "is a profile of its own"),
        (["pocketnet_figure3", "--networks=VGG"], "there are U-Net, ResNet, DenseNet, HRNet"),
        (["segment_volumes", "--model.init_args.network.init_args.dept=3"], "Did you mean depth?"),
        (["segment_volumes", "--data_only"], "--cache: is missing"),
    ],
)
def test_wrong_commands_are_one_line(fails, arguments, message):
    assert message in fails(["profile", *arguments])


@pytest.mark.usefixtures("predicted")
def test_a_network_can_be_named_as_in_fit(capsys):
    main(["profile", "--config", "segment_volumes", "--config", "pocket", *TINY, "--patch", "8x8x8"])
    assert "segment_volumes+pocket" in capsys.readouterr().out


def test_images_are_profiled_too(capsys):
    main(["profile", "classify_images,full", "classify_images,pocket", "--patch=64x64", "--batch=2"])
    shown = capsys.readouterr().out
    assert "1,178,994" in shown
    assert "21,074" in shown


@pytest.mark.e2e
def test_runs_and_checkpoints_tell_everything(trained, tmp_path, capsys, monkeypatch):
    """Data, patch and batch are those of the training; the measured numbers are there, and the wait for data."""
    # Memory, which only a process of its own can measure, is measured in test_memory.
    monkeypatch.setattr(measure, "_in_fresh_process", measure._on_cpu)
    csv_file = tmp_path / "t.csv"
    checkpoint = trained / "checkpoints" / "last.ckpt"
    main(["profile", str(trained), f"again={checkpoint}", f"--table={csv_file}"])
    rows = list(csv.DictReader(io.StringIO(csv_file.read_text(encoding="utf-8"))))
    manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
    assert {r["parameters"] for r in rows} == {str(manifest["parameters"])}
    assert {r["patch"] for r in rows} == {"8x16x16"}
    assert rows[1]["parameters_saved_percent"] == "0.0"
    main(["profile", str(trained), "--measure", "--device=cpu", "--steps=2", "--seconds=0.05", f"--table={csv_file}"])
    (found,) = csv.DictReader(io.StringIO(csv_file.read_text(encoding="utf-8")))
    assert float(found["train_step_ms"]) > float(found["infer_ms"]) > 0
    rate = int(found["batch"]) / float(found["train_step_ms"]) * 1000
    assert float(found["train_images_per_s"]) == pytest.approx(rate)
    assert 0 <= float(found["data_wait_share"]) < 1
    assert float(found["expected_train_mib"]) > 0
    capsys.readouterr()
    main(["profile", str(trained), "--data-only", "--seconds=0.05"])
    shown = capsys.readouterr().out
    assert "items/s" in shown
    assert "limited by" in shown
