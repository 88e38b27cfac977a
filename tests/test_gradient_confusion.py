"""How much gradients of different batches agree."""

import csv
import json
import math

import pytest
import torch
from conftest import quick_options
from interruption import kill_after
from torch import nn

from lightning_pocket.analyses.gradients import Gradients, cosine, pair_cosines
from lightning_pocket.callbacks import GradientConfusion
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expansion, expand
from lightning_pocket.reports.confusion_page import Confusion, read_confusion


def layers(mode: str = "fused") -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.Linear(4, 2)
    ).double()
    expand(network, Expansion("cl", linear=True, rate=2, bias="all", mode=mode))
    return network.eval()


@pytest.mark.parametrize("mode", ["fused", "layers"])
def test_gradients_of_factors_follow_from_those_of_kernels(mode: str) -> None:
    network = layers(mode)
    image = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    gradients = Gradients(network)
    found = gradients.of(lambda: gradients.compact.eval()(image).square().mean())
    network(image).square().mean().backward()
    own = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert found["factors"].shape == own.shape
    torch.testing.assert_close(found["factors"].sort().values, own.sort().values, rtol=1e-8, atol=1e-12)
    assert len(found["contracted"]) == sum(p.numel() for p in gradients.compact.parameters())
    first = next(iter(gradients.compact.parameters()))
    gradients.compact(image).square().mean().backward()
    torch.testing.assert_close(found["contracted"][: first.numel()], first.grad.flatten())


def test_identical_batches_agree_and_unrelated_ones_do_not() -> None:
    """A linear model of two features, each batch with one of them: gradients are orthogonal."""
    model = nn.Linear(2, 1, bias=False)
    gradients = Gradients(model)
    assert gradients.spaces == ("contracted",)

    def of(row: list[float]) -> dict[str, torch.Tensor]:
        return gradients.of(lambda: (gradients.compact(torch.tensor([row])) - 3).square().mean())

    one, other, against = of([1.0, 0.0]), of([0.0, 2.0]), of([-1.0, 0.0])
    seed = torch.Generator()
    assert pair_cosines([one, one], 2, 1, seed) == {"contracted": [pytest.approx(1)]}
    assert pair_cosines([one, other], 2, 1, seed) == {"contracted": [pytest.approx(0, abs=1e-9)]}
    assert pair_cosines([one, against], 2, 1, seed) == {"contracted": [pytest.approx(-1)]}
    assert cosine(torch.zeros(3), torch.ones(3)) == 0.0


def test_pairs_of_few_batches_are_all_different() -> None:
    vectors = [{"s": torch.tensor([math.cos(angle), math.sin(angle)])} for angle in (0.0, 0.1, 0.4, 1.0)]
    expected = sorted(math.cos(b - a) for i, a in enumerate((0.0, 0.1, 0.4, 1.0)) for b in (0.0, 0.1, 0.4, 1.0)[:i])
    found = pair_cosines(vectors, 4, 6, torch.Generator().manual_seed(0))["s"]
    assert sorted(found) == pytest.approx(expected, abs=1e-6)
    neighbours = pair_cosines(iter(vectors), 4, 2, torch.Generator())["s"]
    assert neighbours == pytest.approx([math.cos(0.1), math.cos(0.6)], abs=1e-6)


def test_settings_out_of_range() -> None:
    for wrong in ({"pairs": 0}, {"every": 0}, {"batches": 2}, {"batches": -1}):
        with pytest.raises(PocketError, match=r"GradientConfusion\."):
            GradientConfusion(**wrong)


OPTIONS = ["--config=expanded_cl", "--config=gradient_confusion", "--trainer.max_epochs=2"]


def rows(run) -> list[dict[str, str]]:
    with (run / "gradient_confusion.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
def test_training_is_left_alone_and_continues(blobs_cache, tmp_path):
    watched, plain, killed = (tmp_path / name for name in ("watched", "plain", "killed"))
    main(["fit", *quick_options(blobs_cache, watched), *OPTIONS])
    main(["fit", *quick_options(blobs_cache, plain), OPTIONS[0], OPTIONS[2]])
    kill_after(["fit", *quick_options(blobs_cache, killed), *OPTIONS])
    main(["fit", *quick_options(blobs_cache, killed), *OPTIONS])
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (watched, plain)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    found = rows(watched)
    assert found == rows(killed)
    settings = json.loads((watched / "gradient_confusion.json").read_text(encoding="utf-8"))
    pairs = settings["batches"] * (settings["batches"] - 1) // 2
    assert settings["norms"] == "train"
    assert {(row["epoch"], row["space"]) for row in found} == {(e, s) for e in "01" for s in ("contracted", "factors")}
    assert len(found) == 4 * pairs
    assert all(-1.000001 <= float(row["cosine"]) <= 1.000001 for row in found)
    with (watched / "metrics.csv").open(encoding="utf-8", newline="") as file:
        logged = [row["confusion/min_cosine_factors"] for row in csv.DictReader(file)]
    least = min(float(row["cosine"]) for row in found if row["space"] == "factors" and row["epoch"] == "1")
    assert float(logged[-1]) == pytest.approx(least, abs=1e-6)


def write(run, cosines: dict[int, list[float]], **settings) -> None:
    run.mkdir(parents=True)
    lines = [f"{epoch},contracted,{i},{v}" for epoch, values in cosines.items() for i, v in enumerate(values)]
    text = "\n".join(["epoch,space,pair,cosine", *lines])
    (run / "gradient_confusion.csv").write_text(text + "\n", encoding="utf-8")
    how = {"pairs": 3, "batches": 6, "norms": "eval", "seed": 0, "every": 1, **settings}
    (run / "gradient_confusion.json").write_text(json.dumps(how), encoding="utf-8")


def test_seeds_are_pooled(tmp_path) -> None:
    write(tmp_path / "ck" / "seed_0", {0: [0.1, -0.2, 0.3], 1: [0.5, 0.6, 0.4]})
    write(tmp_path / "ck" / "seed_1", {0: [0.0, 0.2, 0.3], 1: [0.1, 0.9, 0.2]}, seed=1)
    (result,) = read_confusion([tmp_path / "ck" / "seed_0", tmp_path / "ck" / "seed_1"])
    assert result.name == "ck"
    assert result.least("contracted") == [(1.0, pytest.approx(-0.1)), (2.0, pytest.approx(0.25))]
    assert sorted(result.last("contracted")) == [0.1, 0.2, 0.4, 0.5, 0.6, 0.9]


def test_a_density_is_one_of_gaussians() -> None:
    """Two values: the sum of two normal densities, of Scott's width n^(-1/5) times the standard deviation."""
    values = [-0.1, 0.1]
    density = dict(Confusion("a", {"s": {1: [values]}}, {}).density("s"))
    width = 2 ** (-1 / 5) * math.sqrt(0.02)
    normal = [math.exp(-(((0.5 - v) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi)) for v in values]
    assert density[0.5] == pytest.approx(sum(normal) / 2, rel=1e-6)
    assert Confusion("a", {"s": {1: [[0.3, 0.3]]}}, {}).density("s") == []


def test_what_cannot_be_compared_is_refused(tmp_path, fails) -> None:
    write(tmp_path / "a", {0: [0.1, 0.2]})
    write(tmp_path / "b", {0: [0.1, 0.2]}, norms="train")
    out = f"--output={tmp_path / 'out'}"
    assert "measured otherwise" in fails(["confusion", str(tmp_path / "a"), str(tmp_path / "b"), out])
    assert "Train with --config gradient_confusion" in fails(["confusion", str(tmp_path), out])
    main(["confusion", str(tmp_path / "a"), out])
    assert (tmp_path / "out" / "confusion_contracted.svg").is_file()
    assert (tmp_path / "out" / "density_contracted.svg").is_file()
