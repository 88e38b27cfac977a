"""What the sparsity penalties do to layers: kernels, norms behind them, data flow, selection, complexity, alpha_max."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    DenseBlock,
    GroupedConv,
    InstanceNorm,
    LayerFactory,
    PlainBlock,
    ResidualBlock,
    SeparableConv,
    WidthSchedule,
)
from lightning_pocket.networks import BilinearUNet, EncoderClassifier, HRNet, UNet
from lightning_pocket.regularizers import (
    Complexity,
    DataFlow,
    KernelNumber,
    KernelSize,
    LayerPenalty,
    choose_layers,
    make_penalties,
    table,
    trace,
)
from lightning_pocket.regularizers.alpha_max import killing_strength
from lightning_pocket.regularizers.kernels import from_kernels, kernel_shape, to_kernels

CONVOLUTIONS = {
    "1d": lambda: nn.Conv1d(4, 6, 5),
    "2d": lambda: nn.Conv2d(4, 6, (3, 5)),
    "3d": lambda: nn.Conv3d(4, 6, 3),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv3d(4, 4, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, 2),
    "transposed 3d": lambda: nn.ConvTranspose3d(4, 6, (2, 2, 1), (2, 2, 1)),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2),
    "transposed, depthwise": lambda: nn.ConvTranspose1d(4, 4, 3, 2, groups=4),
}


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_kernel_j_is_what_makes_output_channel_j(name):
    conv = CONVOLUTIONS[name]()
    kernels = to_kernels(conv, conv.weight)
    assert kernels.shape == kernel_shape(conv)
    assert torch.equal(from_kernels(conv, kernels), conv.weight)
    image = torch.randn(2, 4, *[7] * (conv.weight.ndim - 2))
    before = conv(image)
    penalty = LayerPenalty("conv", conv, KernelNumber().boxes(kernel_shape(conv)[2:]))
    zeros = torch.zeros(conv.out_channels, dtype=torch.long)
    zeros[1] = 1
    penalty.keep(zeros)
    after = conv(image)
    assert torch.equal(after[:, [0, *range(2, conv.out_channels)]], before[:, [0, *range(2, conv.out_channels)]])
    assert (after[:, 1] == conv.bias[1]).all()
    assert (before[:, 1] != conv.bias[1]).any()
    assert torch.equal(penalty.zeros(), zeros)


def one_kernel_at_a_time(penalty, weights, step):
    """Shrink group after group of each kernel, the root with scale and shift last, in plain loops."""
    kernels = penalty.kernels.detach().clone()
    partners = [parameter.detach().clone() for parameter in penalty.partner_parameters]
    for j, kernel in enumerate(kernels):
        if penalty.mode == "unit":
            kernel /= kernel.norm()
        for n in range(penalty.groups):
            root = n == penalty.groups - 1
            parts = [] if root and penalty.mode == "unit" else [kernel[:, penalty.levels <= n]]
            parts += [partner[j : j + 1] for partner in partners] if root else []
            length = torch.cat([part.flatten() for part in parts]).norm()
            factor = max(0.0, 1 - step * float(weights[j, n]) / float(length))
            if not (root and penalty.mode == "unit"):
                kernel[:, penalty.levels <= n] *= factor
            for partner in partners if root else []:
                partner[j] *= factor
    return kernels, partners


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("mode", ["none", "joint", "unit"])
@pytest.mark.parametrize("per_kernel", [False, True])
def test_the_step_of_a_layer_is_that_of_its_kernels_one_by_one(name, mode, per_kernel):
    """Wherever the kernels are in the weights, in an isotropic metric, and with one number per kernel."""
    conv = CONVOLUTIONS[name]()
    partner = nn.BatchNorm1d(conv.out_channels)
    nn.init.uniform_(partner.weight)
    boxes = KernelSize("half_rings").boxes(kernel_shape(conv)[2:])
    penalty = LayerPenalty("conv", conv, boxes, "l2", partner, mode)
    weights = 0.5 * torch.rand(conv.out_channels, penalty.groups)
    weights[0, 0] = weights[1, -1] = 20.0  # a ring and a kernel that die
    kernels, partners = one_kernel_at_a_time(penalty, weights, step=0.5)
    penalty.prox(weights, lambda _: torch.full((conv.out_channels,), 2.0) if per_kernel else 2.0)
    assert torch.allclose(penalty.kernels, kernels, atol=1e-12)
    for found, expected in zip(penalty.partner_parameters, partners, strict=True):
        assert torch.allclose(found, expected, atol=1e-12)
    assert torch.equal(penalty.kernels == 0, kernels == 0)
    assert penalty.zeros()[0] >= 1
    assert penalty.zeros()[1] == penalty.groups


def test_the_root_is_exact_in_any_metric():
    """Zero subgradient of the whole objective, where every weight has its own rate, or every kernel and its norm."""
    for mode, groups in (("joint", 1), ("joint", 3), ("none", 1)):
        conv, partner = nn.Conv2d(4, 6, 5), nn.BatchNorm2d(6)
        boxes = KernelNumber().boxes((5, 5)) if groups == 1 else KernelSize("rings").boxes((5, 5))
        penalty = LayerPenalty("conv", conv, boxes, "l2", partner, mode)
        before = [parameter.detach().clone() for parameter in penalty.parameters]
        metrics = [0.5 + torch.rand_like(parameter) for parameter in before]
        if groups > 1:
            metrics[0] = 0.5 + torch.rand(6)
        lookup = dict(zip(penalty.parameters, metrics, strict=True))
        weights = 0.05 * torch.rand(6, groups)
        penalty.prox(weights, lookup.__getitem__)
        assert not penalty.zeros().any()
        omega = (weights * penalty.group_norms()).sum()
        for parameter, value, metric, slope in zip(
            penalty.parameters, before, metrics, torch.autograd.grad(omega, penalty.parameters), strict=True
        ):
            wide = metric.view(-1, *[1] * (parameter.ndim - 1)) if metric.ndim == 1 else metric
            assert (wide * (parameter - value) + slope).abs().max() < 1e-12


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, partial(nn.InstanceNorm2d, affine=True)])
def test_kernels_of_norm_1_make_the_same_network(kind, training):
    conv, norm = nn.Conv2d(4, 6, 3), kind(6, eps=1e-14)
    nn.init.uniform_(norm.weight)
    network = nn.Sequential(conv, norm)
    network(torch.randn(8, 4, 9, 9))  # so that there are running statistics
    network.train(training)
    image = torch.randn(2, 4, 9, 9)
    before = copy.deepcopy(network)(image)
    LayerPenalty("conv", conv, KernelSize().boxes((3, 3)), "l2", norm, "unit").normalize()
    assert torch.allclose(conv.weight.flatten(1).norm(dim=1), torch.ones(6))
    assert torch.allclose(network(image), before, atol=1e-10)


def test_a_dead_kernel_before_a_norm_leaves_nothing_behind():
    conv, norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    nn.init.uniform_(norm.bias)
    penalty = LayerPenalty("conv", conv, KernelSize().boxes((3, 3)), "l2", norm, "unit")
    with torch.no_grad():
        norm.weight[2] = norm.bias[2] = 0.0
    assert penalty.zeros().tolist() == [0, 0, 2, 0, 0, 0]
    penalty.keep(penalty.zeros())
    for values in (conv.weight, conv.bias, norm.weight, norm.bias):
        assert (values[2] == 0).all()
        assert (values[3] != 0).all()
    assert (nn.Sequential(conv, norm)(torch.randn(2, 4, 5, 5))[:, 2] == 0).all()
    paper = LayerPenalty("conv", conv, KernelSize().boxes((3, 3)), "l2", norm, "none")
    paper.keep(torch.tensor([2, 0, 0, 0, 0, 0]))
    assert norm.bias[0] != 0  # the paper's form knows nothing of norms


def test_a_norm_without_scale_lets_no_kernel_die():
    conv = nn.Conv2d(4, 6, 3)
    penalty = LayerPenalty("conv", conv, KernelSize().boxes((3, 3)), "l2", nn.BatchNorm2d(6, affine=False), "unit")
    penalty.prox(penalty.weights() * 100, lambda _: 1.0)
    assert penalty.sizes[penalty.zeros()].tolist() == [1] * 6
    penalty.threshold(1e9)
    assert penalty.sizes[penalty.zeros()].tolist() == [1] * 6


def test_the_normalized_norm_is_below_the_number_of_kernels_times_the_largest_weight():
    """Equation (28): the expected d' is at most d C, where C bounds the weights."""
    for bound in (0.1, 3.0):
        conv = nn.Conv3d(4, 6, 3)
        nn.init.uniform_(conv.weight, -bound, bound)
        penalty = LayerPenalty("conv", conv, KernelNumber().boxes((3, 3, 3)), "group_normalized")
        width = (penalty.group_norms() * penalty.weights()).sum()
        assert 0.3 * 6 * bound < width <= 6 * bound
        by_hand = sum(float(kernel.square().mean().sqrt()) for kernel in conv.weight.detach())
        assert float(width) == pytest.approx(by_hand)


SMALL = {"depth": 2, "widths": WidthSchedule(4)}
NETWORKS = {
    "unet": lambda: UNet(1, 3, **SMALL, block=PlainBlock()),
    "residual": lambda: UNet(1, 3, **SMALL, block=ResidualBlock(), deep_supervision=1),
    "dense": lambda: UNet(1, 3, **SMALL, block=DenseBlock(), layers=LayerFactory(norm=InstanceNorm())),
    "separable": lambda: UNet(1, 3, **SMALL, layers=LayerFactory(conv=SeparableConv()), checkpoint_levels=2),
    "hrnet": lambda: HRNet(1, 3, **SMALL),
    "bilinear": lambda: BilinearUNet(1, 2, **SMALL, second_conv=GroupedConv(2), binary_head=True),
    "classifier": lambda: EncoderClassifier(1, 2, spatial_dims=3, **SMALL),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_finds_stems_heads_norms_and_readers(name):
    network = NETWORKS[name]()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    flow = trace(network, (2, 1, 16, 16, 16))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    modules = dict(network.named_modules())
    # By definition of the units: a norm is the next module of the same Sequential, behind the last convolution.
    expected = {}
    for unit_name, unit in modules.items():
        if type(unit) is nn.Sequential and len(unit) > 1 and isinstance(unit[1], nn.BatchNorm3d | nn.InstanceNorm3d):
            last = "0" if isinstance(unit[0], nn.Conv3d) else "0.1"
            expected[f"{unit_name}.{last}"] = f"{unit_name}.1"
    assert flow.partners == expected
    assert expected
    heads = {key for key, module in modules.items() if key.startswith("head") and not list(module.children())}
    assert flow.heads == {key for key in heads if isinstance(modules[key], nn.Conv3d | nn.Linear)}
    readers = {key for key, module in modules.items() if getattr(module, "in_channels", 0) == 1}
    first = {"encoder.0.0.0.0"} if name == "separable" else {"encoder.0.units.0.0"} if name == "dense" else None
    assert flow.stems == (first or {key for key in readers if isinstance(modules[key], nn.Conv3d)})
    # A gradient that reaches a layer's input reaches the layers before it: sources are all on that path.
    assert all(source in flow.sources for sources in flow.sources.values() for source in sources)


def test_a_convolution_that_others_read_too_has_no_partner():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.norm, self.other, self.head = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            h = self.first(x)
            h = self.norm(h) + h
            return self.head(F.relu(self.other(self.second(h))))

    flow = trace(Shared(), (2, 1, 8, 8))
    assert flow.partners == {"second": "other"}
    assert flow.sources == {"first": set(), "second": {"first"}, "head": {"second"}}
    assert flow.sizes["head"] == (8, 8)


class Branched(nn.Module):
    """A convolution with a norm behind it, and perhaps something in between or beside."""

    def __init__(self, returns=False, dropout=None):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.dropout, self.returns = dropout or nn.Identity(), returns

    def forward(self, x):
        h = self.conv(self.stem(x))
        y = self.head(F.relu(self.norm(self.dropout(h))))
        return [y, h] if self.returns else y


def test_a_convolution_that_is_an_output_too_has_no_partner():
    assert trace(Branched(), (2, 1, 8, 8)).partners == {"conv": "norm"}
    assert trace(Branched(returns=True), (2, 1, 8, 8)).partners == {}


@pytest.mark.parametrize("dropout", [nn.Dropout(), nn.Dropout2d()])
def test_a_norm_is_found_behind_dropout(dropout):
    assert trace(Branched(dropout=dropout), (2, 1, 8, 8)).partners == {"conv": "norm"}


def test_what_does_not_learn_takes_no_part():
    network = Branched()
    flow = trace(network, (2, 1, 8, 8))
    network.norm.requires_grad_(False)
    penalties, told = make_penalties(network, flow, choose_layers(network, flow), KernelNumber(), "joint")
    assert [len(penalty.parameters) for penalty in penalties] == [1]
    assert told["conv"].reason == "norm, no scale that learns: ignored"
    network.stem.weight.requires_grad_(False)
    choices = choose_layers(network, flow, include=["stem"])
    assert choices["stem"].reason == "frozen: does not learn"
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    nn.utils.parametrizations.weight_norm(network[1])
    choices = choose_layers(network, trace(network, (2, 1, 16, 16)), include=["1"])
    assert choices["1"].reason == "weights are computed from others"
    assert choices["2"].taken


def test_a_network_that_looks_at_values_is_refused():
    class Peeks(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else x

    with pytest.raises(PocketError, match="Peeks: its layers cannot be followed"):
        trace(Peeks(1, 1, 3), (1, 1, 8, 8))


def test_the_table_says_who_takes_part_and_why_not():
    network = NETWORKS["residual"]()
    flow = trace(network, (2, 1, 16, 16, 16))
    choices = choose_layers(network, flow, include=["encoder.1.shortcut"], exclude=["decoder.*"])
    taken = {name for name, choice in choices.items() if choice.taken}
    blocks = {f"encoder.{level}.body.{unit}.0" for level in range(3) for unit in range(2)}
    assert taken == blocks - {"encoder.0.body.0.0"} | {"encoder.1.shortcut", "upsample.0", "upsample.1"}
    reasons = {name: choice.reason for name, choice in choices.items() if not choice.taken}
    assert reasons["encoder.0.body.0.0"] == "stem: reads the image"
    assert reasons["heads.1"] == "head: makes an output"
    assert reasons["encoder.2.shortcut"] == "pointwise"
    assert reasons["decoder.0.body.0.0"] == "excluded by name"
    penalties, told = make_penalties(network, flow, choices, KernelSize(), "unit")
    assert {penalty.name for penalty in penalties} == taken
    lines = table(told).splitlines()
    assert len(lines) == 1 + len(choices)
    assert "encoder.0.body.1.0  4x4 of 3x3x3    yes    encoder.0.body.1.1, unit" in lines
    assert any(line.startswith("upsample.0 ") and line.endswith("yes    none found") for line in lines)
    with pytest.raises(PocketError, match=r"StructuredSparsity.exclude: 'nothing' fits no convolution"):
        choose_layers(network, flow, exclude=["nothing"])
    with pytest.raises(PocketError, match="no convolution takes part"):
        choose_layers(network, flow, exclude=["*"])


@pytest.fixture
def plain():
    """Three convolutions, the first of which is not penalized, with what their costs depend on."""
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Conv2d(5, 6, 3), nn.Conv2d(6, 4, 5), nn.Conv2d(4, 3, 1))
    flow = DataFlow(
        {"0": set(), "1": {"0"}, "2": {"1"}, "3": {"2"}}, {}, {"0": (20,), "1": (18,), "2": (14,), "3": (14,)}
    )
    layers = [
        LayerPenalty(name, network[int(name)], KernelSize().boxes(network[int(name)].kernel_size)) for name in "12"
    ]
    return network, flow, layers


@pytest.mark.parametrize("form", ["squared_size", "multiply_adds", "squared_width"])
def test_lagged_weights_have_the_gradient_of_the_equations(plain, form):
    network, flow, layers = plain
    weights = [layer.conv.weight for layer in layers]
    if form == "squared_width":
        layers = [LayerPenalty(p.name, p.conv, KernelNumber().boxes(p.conv.kernel_size)) for p in layers]
    sizes = [layer.group_norms().sum(1) for layer in layers]  # s'
    widths = [layer.conv.weight.flatten(1).norm(dim=1).sum() for layer in layers]  # d'
    exact = {
        "squared_width": widths[0] ** 2 + widths[1] ** 2,  # (32)
        "squared_size": (sizes[0] ** 2).sum() + (sizes[1] ** 2).sum(),  # (33)
        # (34): positions x width before x squared sizes; the last layer is not penalized and reads the second.
        "multiply_adds": 18 * 5 * (sizes[0] ** 2).sum() + 14 * widths[0] * (sizes[1] ** 2).sum() + 14 * widths[1] * 3,
    }[form]
    expected = torch.autograd.grad(exact, weights, retain_graph=True)
    factors = Complexity(form, "norms", layers, flow, network).factors()
    lagged = sum(
        (layer.weights(factor.detach()) * layer.group_norms()).sum()
        for layer, factor in zip(layers, factors, strict=True)
    )
    for one, other in zip(torch.autograd.grad(lagged, weights), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10)


def test_weights_by_what_is_alive(plain):
    network, flow, layers = plain
    layers[0].keep(torch.tensor([2, 1, 0, 0, 0, 0]))  # sizes 0, 1, 3, 3, 3, 3
    factors = Complexity("squared_size", "alive", layers, flow, network).factors()
    assert factors[0][:, 0].tolist() == [2.0, 2.0, 6.0, 6.0, 6.0, 6.0]
    assert (factors[1] == 10).all()
    factors = Complexity("multiply_adds", "alive", layers, flow, network).factors()
    assert factors[1][0].tolist() == [14 * 5 * 10, 14 * 5 * 10, 14 * 5 * 10 + 14 * 3]  # five kernels are left before it
    assert Complexity("none", "alive", layers, flow, network).factors() == [None, None]


@pytest.mark.parametrize("norm", ["l2", "group_scaled", "l_infinity"])
@pytest.mark.parametrize("kind", ["number", "rings", "half_rings"])
@pytest.mark.parametrize("mode", ["none", "joint", "unit"])
def test_alpha_max_kills_everything_and_just_below_does_not(norm, kind, mode):
    regularizer = KernelNumber() if kind == "number" else KernelSize(kind)
    conv, partner = nn.Conv2d(3, 7, 5), nn.BatchNorm2d(7)
    penalty = LayerPenalty("conv", conv, regularizer.boxes((5, 5)), norm, partner, mode)
    kernels = torch.randn(7, 3, 5, 5)
    partners = [torch.randn(7), torch.randn(7)] if mode != "none" else []
    alpha = killing_strength(penalty, kernels, partners, penalty.weights())

    def survivors(strength):
        step = copy.deepcopy(penalty)
        with torch.no_grad():
            step.conv.weight.copy_(-kernels)
            for parameter, value in zip(step.partner_parameters, partners, strict=True):
                parameter.copy_(-value)
        if mode == "unit":  # gradients are those of kernels that have the norm 1 already
            step.normalize = lambda: None
        step.prox(strength * step.weights(), lambda _: 1.0)
        inner = step.kernels[:, :, step.levels < step.groups - 1] if mode == "unit" else step.kernels
        return int((inner != 0).sum()) + sum(int((parameter != 0).sum()) for parameter in step.partner_parameters)

    assert survivors(alpha * (1 + 1e-9)) == 0
    assert survivors(alpha * (1 - 1e-6)) > 0
