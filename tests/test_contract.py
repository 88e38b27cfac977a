"""`pocket contract`: the checkpoint of the compact network, and the commands that use it."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import quick_options
from inferring import infer, labels

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.expansion.checkpoint import contract_checkpoint, without_expansion
from lightning_pocket.expansion.verify import check_layers, check_networks
from lightning_pocket.layers import ExpandedConv, Expansion, LayerFactory, WidthSchedule, contract, is_expanded
from lightning_pocket.networks import UNet
from lightning_pocket.reports.collect import read_run
from lightning_pocket.tasks import load_task, start_from

NETWORK = "--model.init_args.network.init_args"


@pytest.fixture(scope="module")
def expanded_run(blobs_cache, tmp_path_factory) -> Path:
    """A run of a U-Net with every convolution and upsampling expanded, whose checkpoint holds averaged weights."""
    run = tmp_path_factory.mktemp("expanded") / "run"
    main(["fit", *quick_options(blobs_cache, run), "--config=expanded_cl", "--config=ema"])
    return run


@pytest.fixture(scope="module")
def contracted(expanded_run) -> Path:
    main(["contract", str(expanded_run)])
    return expanded_run / "checkpoints" / "last_contracted.ckpt"


@pytest.mark.e2e
def test_the_compact_network_computes_the_same(expanded_run, contracted, capsys):
    expanded, compact = load_task(expanded_run / "checkpoints" / "last.ckpt"), load_task(contracted)
    assert is_expanded(expanded.network)
    assert not is_expanded(compact.network)
    plain = UNet(1, 3, depth=2, widths=WidthSchedule(base=4, doublings=0)).eval()
    assert repr(compact.network) == repr(plain)
    assert list(compact.network.state_dict()) == list(plain.state_dict())
    x = torch.randn(1, 1, 8, 16, 12)
    with torch.no_grad():
        found, expected = compact.network(x), expanded.network(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert compact.info == expanded.info
    main(["contract", str(expanded_run), f"--output={contracted.with_name('again.ckpt')}"])
    said = capsys.readouterr().out
    assert f"contracted 12 expanded layers: 83,859 -> {parameters(plain):,} parameters" in said
    exact, rounded = map(float, re.findall(r"([\d.e-]+) (?:in float64|with)", said))
    assert exact < 1e-12
    assert rounded < 1e-5


@pytest.mark.e2e
def test_reports_show_what_is_deployed(expanded_run):
    manifest = json.loads((expanded_run / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["parameters"], manifest["deployed_parameters"]) == (83859, 5259)
    assert read_run(expanded_run).parameters == 5259


@pytest.mark.e2e
def test_infer_contracts_by_itself(expanded_run, contracted, image, tmp_path, capsys):
    infer(expanded_run, [image], tmp_path / "expanded", "--speed=plain")
    assert "contracted 12 expanded layers" in capsys.readouterr().out
    infer(contracted, [image], tmp_path / "compact", "--speed=plain")
    assert "contracted" not in capsys.readouterr().out.replace("last_contracted", "")
    one, other = (labels(tmp_path / name / image.name) for name in ("expanded", "compact"))
    assert np.array_equal(one, other)


@pytest.mark.e2e
def test_shrink_contracts_first(expanded_run, tmp_path, capsys, fails):
    """Rows of last factors that are zero are kernels of the compact network."""
    content = torch.load(expanded_run / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in content["state_dict"].items():
        if name.startswith("network.encoder.1.0.0.factors.2"):
            value[:3] = 0
    run = tmp_path / "run"
    shutil.copytree(expanded_run, run)
    torch.save(content, run / "checkpoints" / "last.ckpt")
    main(["shrink", str(run), f"--output={tmp_path / 'small'}"])
    assert "contracted 12 expanded layers" in capsys.readouterr().out
    expanded, small = (load_task(folder / "checkpoints" / "last.ckpt").network for folder in (run, tmp_path / "small"))
    x = torch.randn(1, 1, 8, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(small(x), expanded(x), rtol=1e-4, atol=1e-5)
    assert parameters(small) < 5259
    assert read_run(tmp_path / "small").parameters == parameters(small)
    content["hyper_parameters"]["network"]["init_args"]["layers"]["expansion"]["mode"] = "nonlinear"
    torch.save(content, tmp_path / "nonlinear.ckpt")
    assert "mode is nonlinear" in fails(["shrink", str(tmp_path / "nonlinear.ckpt"), f"--output={tmp_path / 'x'}"])


@pytest.mark.e2e
def test_test_contracts_and_takes_both_checkpoints(expanded_run, contracted, capsys):
    scores = []
    for option in ([], [f"--ckpt_path={contracted}"]):
        main(["test", f"--run_dir={expanded_run}", *option])
        said = capsys.readouterr().out
        assert ("contracted 12 expanded layers" in said) == (not option)
        with (expanded_run / "test" / "cases.csv").open(encoding="utf-8", newline="") as file:
            scores.append([row["dice_shell"] for row in csv.DictReader(file)])
    assert scores[0] == scores[1]
    assert scores[0]


@pytest.mark.e2e
def test_validate_takes_both_checkpoints(expanded_run, contracted):
    main(["validate", f"--run_dir={expanded_run}"])
    main(["validate", f"--run_dir={expanded_run}", f"--ckpt_path={contracted}"])


@pytest.mark.e2e
def test_profile_tells_trained_from_deployed(expanded_run, contracted, capsys):
    main(["profile", f"expanded={expanded_run}", f"compact={contracted}", "--batch=2"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    expanded, compact = (next(line for line in lines if line[:1] == [name]) for name in ("expanded", "compact"))
    assert expanded[1:3] == ["83,859", "5,259"]
    assert compact[1] == "5,259"


@pytest.mark.e2e
def test_training_begins_with_contracted_or_expanded_weights(expanded_run, contracted, blobs_cache, tmp_path, capsys):
    """A plain network takes both; an expanded one too, with factors whose product is what it was given."""
    expanded = load_task(expanded_run / "checkpoints" / "last.ckpt").network
    contract(expanded)
    reference = expanded.state_dict()
    quick = ["--trainer.max_epochs=1", "--model.init_args.optimizer.init_args.lr=0", "--config=no_augmentation"]
    cases = {
        "plain": (expanded_run, []),
        "other": (contracted, ["--config=expanded_cl", f"{NETWORK}.layers.expansion.rate=2"]),
    }
    for name, (source, options) in cases.items():
        run = tmp_path / name
        main(["fit", *quick_options(blobs_cache, run), *quick, *options, f"--start_from={source}"])
        assert "kept 76 of 76 tensors, 5,259 of 5,259" in capsys.readouterr().out
        network = load_task(run / "checkpoints" / "last.ckpt").network
        assert is_expanded(network) == bool(options)
        contract(network)
        for key, value in network.state_dict().items():
            if "weight" in key:
                assert torch.allclose(value, reference[key], rtol=1e-4, atol=1e-5), key


@pytest.mark.e2e
def test_a_contracted_checkpoint_does_not_continue_an_expanded_training(contracted, expanded_run, blobs_cache, fails):
    options = [*quick_options(blobs_cache, expanded_run.with_name("next")), "--config=expanded_cl"]
    message = fails(["fit", *options, f"--ckpt_path={contracted}"])
    assert "--start_from" in message


def parameters(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def saved(tmp_path: Path, conv: str = "cl", mode: str = "fused") -> Path:
    """A checkpoint that a task of Lightning's command line would write, without a run."""
    layers = LayerFactory(expansion=Expansion(conv, mode=mode))
    torch.manual_seed(0)
    network = UNet(1, 2, spatial_dims=2, depth=1, widths=WidthSchedule(base=6), layers=layers)
    init_args = {
        "in_channels": 1, "out_channels": 2, "spatial_dims": 2, "depth": 1, "widths": {"base": 6},
        "layers": {"expansion": {"conv": conv, "mode": mode}},
    }  # fmt: skip
    path = tmp_path / "last.ckpt"
    content = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "optimizer_states": [1],
        "hyper_parameters": {
            "_class_path": "lightning_pocket.tasks.SegmentationTask",
            "_instantiator": "pytorch_lightning.cli.instantiate_module",
            "network": {"class_path": "lightning_pocket.networks.UNet", "init_args": init_args},
            "dataset": {"channels": ["a"], "classes": ["no", "yes"], "patch_size": [8, 8]},
        },
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(content, path)
    return path


def test_what_is_written_belongs_to_the_compact_network_alone(tmp_path):
    source, target = saved(tmp_path), tmp_path / "folder" / "compact.ckpt"
    done = contract_checkpoint(source, target)
    assert (done.layers, done.after) == (7, parameters(load_task(target).network))
    content = torch.load(target, weights_only=True)
    assert "optimizer_states" not in content
    assert content["contracted_from"]["checkpoint"] == str(source)
    assert content["hyper_parameters"]["network"]["init_args"]["layers"]["expansion"]["conv"] == "none"
    assert not list(target.parent.glob(".*"))


def test_an_expanded_network_begins_with_the_factors_of_its_nonlinear_counterpart(tmp_path):
    source = saved(tmp_path, mode="nonlinear")
    (tmp_path / "linear").mkdir()
    task = load_task(saved(tmp_path / "linear"))
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.zero_()
    found = start_from(task, source)
    assert not found.new
    state = torch.load(source, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[f"network.{name}"]) for name, value in task.network.state_dict().items())
    plain = load_task(saved(tmp_path / "linear", "none"))
    with pytest.raises(PocketError, match="cannot be contracted"):
        start_from(plain, source)


def test_nonlinear_layers_are_not_contracted(tmp_path):
    with pytest.raises(PocketError, match="cannot be contracted"):
        contract_checkpoint(saved(tmp_path, mode="nonlinear"), tmp_path / "compact.ckpt")
    assert not (tmp_path / "compact.ckpt").exists()


def test_a_wrong_contraction_is_not_written(tmp_path, monkeypatch):
    """Either check stops it: of the layers, and of the networks as they will be read."""
    source, target = saved(tmp_path), tmp_path / "compact.ckpt"
    right = ExpandedConv.contracted

    def wrong(layer):
        plain = right(layer)
        if plain.kernel_size == (3, 3):
            plain.weight.data[..., 0, 0] += 1e-6  # only the corner of a kernel
        return plain

    monkeypatch.setattr(ExpandedConv, "contracted", wrong)
    with pytest.raises(PocketError, match="differs from the expanded one"):
        contract_checkpoint(source, target)
    monkeypatch.setattr("lightning_pocket.expansion.checkpoint.check_layers", lambda _: 0.0)
    with pytest.raises(PocketError, match="differs from the expanded one"):
        contract_checkpoint(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    task = load_task(saved(tmp_path))
    with torch.no_grad():
        task.network.encoder[0][0][0].factors[0].weight[0] = float("nan")
    with pytest.raises(PocketError, match="finite"):
        check_layers(task.network)


def test_another_network_is_refused(tmp_path):
    expanded = load_task(saved(tmp_path)).network
    with pytest.raises(PocketError, match="other layers"):
        check_networks(expanded, UNet(1, 2, spatial_dims=2, depth=1, widths=WidthSchedule(base=3)))


def test_bad_input_of_the_command(tmp_path, fails):
    plain = saved(tmp_path, "none")
    assert "nothing to contract" in fails(["contract", str(plain)])
    assert "is the expanded checkpoint itself" in fails(["contract", str(plain), f"--output={plain}"])
    assert "no such checkpoint" in fails(["contract", str(tmp_path / "absent.ckpt")])
    (tmp_path / "text.ckpt").write_text("not a checkpoint", encoding="utf-8")
    assert "damaged" in fails(["contract", str(tmp_path / "text.ckpt")])
    assert "is a folder" in fails(["contract", str(plain), f"--output={tmp_path}"])


def test_settings_without_expansion():
    given = {"a": [{"layers": {"expansion": {"conv": "cl"}, "dropout": 0}}], "expansion": "a name"}
    found = without_expansion(given)
    assert found["a"][0]["layers"]["expansion"]["conv"] == "none"
    assert found["a"][0]["layers"]["dropout"] == 0
    assert found["expansion"] == "a name"
    assert given["a"][0]["layers"]["expansion"] == {"conv": "cl"}
