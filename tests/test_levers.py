"""Every lever computes what plain code does."""

import copy
import inspect
import locale
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pocket import networks
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    DenseBlock,
    Expansion,
    GroupedConv,
    LayerFactory,
    ResidualBlock,
    SeparableConv,
    WidthSchedule,
)
from lightning_pocket.losses import L2Dice
from lightning_pocket.networks import AlexNet, DeepLabV3Plus, EncoderClassifier, HRNet, Network, UNet
from lightning_pocket.speed import Compiled, Levers, Runner, folded, keep_memory, training_candidates
from lightning_pocket.speed.heap import can_keep_memory

CLASSES = [cls for cls in map(networks.__dict__.get, networks.__all__) if cls and not inspect.isabstract(cls)]
CHECKPOINTED = [cls for cls in CLASSES if "checkpoint_levels" in inspect.signature(cls).parameters]
LAYERED = [cls for cls in CLASSES if "layers" in inspect.signature(cls).parameters]
#: Norms that no convolution precedes, or whose names are others', stay.
FOLDED_IN_PART = {"DeepLabV3Plus", "FCN", "ResNet"}
every_network = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
PLAIN = Levers()
BLOCKS = {"residual": {"block": ResidualBlock()}, "dense": {"block": DenseBlock()}}


def make(cls: type[Network] = UNet, spatial_dims: int = 3, **settings: Any) -> Network:
    torch.manual_seed(0)
    dropout = (0.0, 0.0, 0.0) if cls is DeepLabV3Plus else 0.0
    small = {"depth": 2, "widths": WidthSchedule(base=4), "width": 0.05, "hidden": 16}
    small |= {"dropout": dropout, "input_dropout": 0.0}
    small |= settings
    lacked = small.keys() - inspect.signature(cls).parameters.keys()
    assert not lacked & settings.keys()
    network = cls(2, 3, spatial_dims=spatial_dims, **{key: small[key] for key in small.keys() - lacked})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):  # as after some training
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return network


def image(network: Network, size: int = 2) -> Tensor:
    """Return noise that has ``size`` voxels along each axis at the coarsest level."""
    return torch.randn(2, 2, *(size * step for step in network.divisor), generator=torch.Generator().manual_seed(1))


def train(network: Network, x: Tensor, levers: Levers = PLAIN, steps: int = 2) -> tuple[Tensor, list[Tensor]]:
    """Return the last loss and everything that a network has learned, after some steps with dropout."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    runner = Runner(network, levers)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack([output.square().mean() for output in runner.outputs(x)]).sum()
        loss.backward()
        optimizer.step()
    return loss.detach(), [*network.parameters(), *network.buffers(), *(p.grad for p in network.parameters())]


# Activation checkpointing


@pytest.mark.parametrize("cls", CHECKPOINTED, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_checkpointed_levels_learn_the_same_to_the_last_bit(cls: type[Network], levels: int) -> None:
    layers = LayerFactory(dropout=0.3)
    plain, checkpointed = make(cls, layers=layers), make(cls, layers=layers, checkpoint_levels=levels)
    x = image(plain)
    expected, found = train(plain, x), train(checkpointed, x)
    assert torch.equal(expected[0], found[0])
    assert all(torch.equal(a, b) for a, b in zip(expected[1], found[1], strict=True))
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    tracked = [b for name, b in checkpointed.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in tracked} == {2}


@pytest.mark.parametrize("block", BLOCKS)
def test_checkpointing_works_with_every_block_and_under_autocast(block: str) -> None:
    plain, checkpointed = make(**BLOCKS[block]), make(**BLOCKS[block], checkpoint_levels=2)
    x = image(plain)
    x, half = image(plain, size=4), Levers(bfloat16=True)
    expected, found = train(plain, x, half), train(checkpointed, x, half)
    assert torch.equal(expected[0], found[0])
    assert all(torch.equal(a, b) for a, b in zip(expected[1], found[1], strict=True))


def kept_mib(network: Network, x: Tensor) -> float:
    """Return the memory of what autograd keeps between forward and backward."""
    storages: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(x).sum()
    del loss
    return sum(storages.values()) / 2**20


@pytest.mark.parametrize("cls", [UNet, HRNet, EncoderClassifier])
def test_checkpointing_keeps_less(cls: type[Network]) -> None:
    x = torch.randn(1, 2, 16, 16, 16)
    kept = [kept_mib(make(cls, checkpoint_levels=levels), x) for levels in range(4)]
    assert kept[1] < 0.55 * kept[0]
    assert kept[3] <= kept[2] <= kept[1]


def test_nothing_is_checkpointed_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make(checkpoint_levels=3).eval()
    monkeypatch.setattr("lightning_pocket.layers.recompute.checkpoint", None)
    with torch.inference_mode():
        network(image(network))
    with pytest.raises(TypeError):
        network(image(network))


@pytest.mark.parametrize("levels", [-1, 4])
def test_levels_that_do_not_exist_are_refused(levels: int) -> None:
    with pytest.raises(PocketError, match=f"checkpoint_levels: found {levels}, expected 0 to 3"):
        make(checkpoint_levels=levels)


# Layout


@every_network
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_channels_last_computes_the_same(cls: type[Network], spatial_dims: int) -> None:
    plain = make(cls, spatial_dims).double()  # norms over few values would magnify what float32 rounds
    other = copy.deepcopy(plain)
    deep = spatial_dims == 3 and max(plain.divisor) > 8
    x = image(plain, size=1 if deep and cls is not AlexNet else 2).double()
    expected, found = train(plain, x, steps=1), train(other, x, Levers(channels_last=True), steps=1)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close([t.contiguous() for t in found[1]], expected[1], rtol=1e-3, atol=1e-4)
    kernel = max(other.parameters(), key=lambda parameter: parameter.numel())
    assert kernel.ndim < 4 or kernel.stride(1) == 1
    Runner(other, Levers())
    assert kernel.is_contiguous()


def test_a_runner_gives_its_network_what_the_levers_say() -> None:
    seen: list[Tensor] = []

    class Probe(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x @ torch.ones(4, 4))
            return x

        def outputs(self, x: Tensor) -> list[Tensor]:
            return [self(x)]

    x = torch.rand(1, 2, 3, 4, 4)
    for levers in (Levers(), Levers(channels_last=True), Levers(bfloat16=True)):
        assert torch.equal(Runner(Probe(), levers)(x), x)
        assert torch.equal(Runner(Probe(), levers).outputs(x)[0], x)
    with torch.autocast("cpu", torch.bfloat16):
        Runner(Probe(), Levers())(x)  # plain does not end the caller's autocast
    assert [tensor.dtype == torch.bfloat16 for tensor in seen] == [False] * 4 + [True] * 3


@pytest.mark.parametrize("expansion", [Expansion(), Expansion("cl", rate=1)])
def test_bfloat16_is_refused_where_its_gradients_are_garbage(
    expansion: Expansion, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability = ["AVX512"]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability[0])
    network = make(layers=LayerFactory(expansion=expansion))
    half, thin = Runner(network, Levers(bfloat16=True)), image(network)
    with pytest.raises(PocketError, match="features of 2 planes with a kernel of 3"):
        half.outputs(thin)
    with torch.inference_mode():
        half(thin)  # only gradients are wrong
    Runner(network, PLAIN).outputs(thin)
    half.outputs(image(network, size=3))
    assert not any(module._forward_pre_hooks for module in network.modules())
    capability[0] = "AVX2"
    Runner(network, Levers(bfloat16=True)).outputs(thin)


# Batch norm folded into convolutions


@pytest.mark.parametrize("cls", LAYERED, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("conv", [None, SeparableConv(), GroupedConv(2)], ids=str)
def test_folded_networks_compute_the_same(cls: type[Network], spatial_dims: int, conv: Any) -> None:
    layers = LayerFactory() if conv is None else LayerFactory(conv=conv)
    network = make(cls, spatial_dims, layers=layers).eval()
    state = copy.deepcopy(network.state_dict())
    x = image(network)
    with torch.inference_mode():
        expected = network(x)
        found = folded(network)(x)
        again = network(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    kept = [
        sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in n.modules()) for n in (folded(network), network)
    ]
    assert kept[0] == 0 or (cls.__name__ in FOLDED_IN_PART and kept[0] <= kept[1])
    assert torch.equal(again, expected)  # the network itself is as it was
    assert all(torch.equal(a, b) for a, b in zip(state.values(), network.state_dict().values(), strict=True))


def test_statistics_of_the_image_at_hand_are_not_folded() -> None:
    sequence = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2, track_running_stats=False), nn.ReLU()).eval()
    x = torch.randn(2, 1, 4, 4, 4)
    torch.testing.assert_close(folded(sequence)(x), sequence(x))
    assert isinstance(folded(sequence)[1], nn.BatchNorm3d)


# Compilation


def square(x: Tensor) -> Tensor:
    return x * x


def test_compiled_functions_are_compiled_once_for_training_and_once_for_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, ...]] = []

    def compile_(function: Any, dynamic: bool) -> Any:
        assert dynamic is False
        return lambda x: (calls.append(tuple(x.shape)), function(x))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    run = Compiled(square)
    for size in (4, 3, 4, 2):
        assert torch.equal(run(torch.full((size,), 3.0)), torch.full((size,), 9.0))
    with torch.inference_mode():
        for size in (7, 4, 7):
            run(torch.ones(size))
    assert calls == [(4,), (4,), (7,), (7,)]  # other sizes, such as the last smaller batch, are not compiled


def test_a_compiler_that_fails_is_left_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_x: Tensor) -> Tensor:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda _function, **_: broken)
    network = make()
    runner = Runner(network, Levers(compiled=True))
    x = image(network)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(runner.outputs(x)[0], network.outputs(x)[0])
        runner.outputs(x)
    assert [r.getMessage() for r in caplog.records] == [
        "torch.compile failed, going on without it: RuntimeError: no C++ compiler"
    ]
    assert runner.failure == "RuntimeError: no C++ compiler"


def test_errors_of_the_network_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    runner = Runner(make(), Levers(compiled=True))
    with pytest.raises(PocketError, match="expected multiples of"):
        runner(torch.zeros(1, 2, 5, 5, 5))
    assert not runner.failure


def test_a_copied_runner_runs_the_copied_network() -> None:
    runner = Runner(make(), Levers(compiled=True))
    other = copy.deepcopy(runner)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.zero_()
    assert not other._forward.function(image(other.network)).any()


@pytest.mark.e2e
def test_compiled_networks_compute_the_same() -> None:
    if locale.getencoding().lower() != "utf-8":
        pytest.skip("torch.compile reads templates of its own in this encoding")
    torch.manual_seed(0)
    network = UNet(2, 3, spatial_dims=2, depth=1, widths=WidthSchedule(base=2))
    x = image(network)
    plain, compiled = copy.deepcopy(network), copy.deepcopy(network)
    expected = train(plain, x, steps=1)
    found = train(compiled, x, Levers(compiled=True), steps=1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


# Memory


def faults(size: int) -> int:
    """Return how many pages the system handed out for tensors that are made and freed one after the other."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not can_keep_memory(), reason="a setting of glibc")
def test_kept_memory_is_used_again() -> None:
    size = 2**24  # 64 MiB: always asked for anew
    try:
        torch.ones(size)
        usual = faults(size)
        assert keep_memory(True)
        faults(size)
        kept, before = faults(size), resident_mib()
        assert keep_memory(False)
        after = resident_mib()
    finally:
        keep_memory(False)
    assert kept < usual / 20
    assert after < before - 60  # what was kept is given back


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_pocket.speed.heap._glibc", lambda: None)
    assert not keep_memory(True)
    assert keep_memory(False)
    assert all(not levers.keep_memory for levers in training_candidates(torch.device("cpu")))


# Names


def test_levers_have_names() -> None:
    assert str(Levers()) == "plain"
    levers = Levers(channels_last=True, compiled=True)
    assert str(levers) == "channels_last + compiled"
    assert Levers.of(*levers.names) == levers
    assert Levers(bfloat16=True) | levers == Levers.of("channels_last", "compiled", "bfloat16")
    assert Levers.from_record({"chosen": ["channels_last", "of another version"]}) == Levers(channels_last=True)


def test_candidates_keep_the_precision_unless_asked() -> None:
    cpu = torch.device("cpu")
    plain, *others = training_candidates(cpu)
    assert plain == Levers()
    assert not any(levers.bfloat16 or levers.compiled or levers.folded for levers in others)
    allowed = training_candidates(cpu, bfloat16=True, compiled=True)
    assert any(levers.compiled for levers in allowed)
    assert training_candidates(torch.device("cuda"))[1] == Levers(benchmark=True)


def test_the_loss_takes_either_layout() -> None:
    logits = torch.randn(2, 3, 4, 4, 4)
    label = torch.randint(3, (2, 4, 4, 4))
    other = logits.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(L2Dice()(other, label), L2Dice()(logits, label))


def test_the_benchmark_needs_torch_alone() -> None:
    script = (
        "import sys; sys.path.insert(0, 'benchmarks'); import levers;"
        "print([n for n in ('torchio', 'SimpleITK', 'jsonargparse', 'pytorch_lightning') if n in sys.modules])"
    )
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_search_of_cudnn_is_switched_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (False, True):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
        plain = Runner(make(), Levers())
        runners = [plain, Runner(make(), Levers(benchmark=True)), Runner(make(), Levers(benchmark=True))]
        seen = []
        for runner in (*runners, plain):
            runner.prepare()
            seen.append(torch.backends.cudnn.benchmark)
        assert seen == [before, True, True, before]
