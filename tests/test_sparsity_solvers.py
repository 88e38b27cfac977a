"""Both solvers on a problem whose answer is known, and the metrics of optimizers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pocket.errors import PocketError
from lightning_pocket.regularizers import Complexity, DataFlow, KernelNumber, KernelSize, KernelwiseAdam, LayerPenalty
from lightning_pocket.regularizers.rings import half_ring_boxes, tap_levels
from lightning_pocket.regularizers.sparsifier import Sparsifier
from lightning_pocket.regularizers.step_metric import StepMetric

PLANTED = [5, 3, 3, 2, 1, 1, 0, 0, 0, 0, 0, 0]
HALF_RINGS = KernelSize("half_rings")


def sparsifier(conv, regularizer, solver="proximal", tau=None, norm=None, mode="none"):
    network = nn.Sequential(conv)
    layer = LayerPenalty("0", conv, regularizer.boxes(conv.kernel_size), regularizer.norm, norm, mode)
    flow = DataFlow({"0": set()}, {}, {"0": (12, 12)})
    return Sparsifier([layer], Complexity("none", "norms", [layer], flow, network), solver, tau)


@pytest.fixture(scope="module")
def planted():
    """Images, and what 12 kernels of which the first six have the planted sizes make of them, with noise."""
    torch.manual_seed(0)
    levels = tap_levels(half_ring_boxes((5, 5)))
    kernels = torch.zeros(12, 4, 5, 5)
    for kernel, size in zip(kernels, PLANTED, strict=True):
        taps = levels >= 5 - size
        kernel[:, taps] = torch.randn(4, int(taps.sum())) / max(size, 1)
    images = torch.randn(64, 4, 12, 12)
    return images, F.conv2d(images, kernels, padding=2) + 0.1 * torch.randn(64, 12, 12, 12)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "kernelwise": (KernelwiseAdam, {"lr": 0.01}),
}


def learn(planted, regularizer, solver, optimizer, alpha, tau=None, steps=None):
    """Return sizes before and after freezing, the loss, and a warning."""
    images, targets = planted
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 12, 5, padding=2, bias=False)
    nn.init.normal_(conv.weight, std=0.1)
    kind, settings = OPTIMIZERS[optimizer]
    steps = steps or (700 if optimizer == "sgd" else 1200)
    made = kind(conv.parameters(), **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, steps, eta_min=settings["lr"] * 0.01)
    sparse = sparsifier(conv, regularizer, solver, tau)
    sparse.attach(made)
    for _ in range(steps):
        batch = torch.randint(0, 64, (8,))
        loss = 0.5 * (conv(images[batch]) - targets[batch]).square().mean() * 12
        made.zero_grad()
        loss.backward()
        sparse.before_step(alpha)
        made.step()
        sparse.after_step(alpha)
        schedule.step()
    layer = sparse.layers[0]
    before = layer.sizes[layer.zeros()].tolist()
    warning = sparse.freeze(alpha)
    with torch.no_grad():
        loss = float(0.5 * (conv(images) - targets).square().mean() * 12)
    return before, layer.sizes[layer.zeros()].tolist(), loss, warning


@pytest.mark.parametrize("optimizer", ["sgd", "kernelwise"])
def test_the_proximal_step_finds_the_planted_sizes_exactly(planted, optimizer):
    before, after, loss, warning = learn(planted, HALF_RINGS, "proximal", optimizer, 0.01)
    assert before == after == PLANTED
    assert loss == pytest.approx(0.0624, abs=4e-4)
    assert warning == ""


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_subgradient_with_its_default_threshold_agrees(planted, optimizer):
    before, after, loss, warning = learn(planted, HALF_RINGS, "subgradient", optimizer, 0.01)
    assert before == [5] * 12  # it never reaches zero by itself
    assert after == PLANTED
    assert loss == pytest.approx(0.0624, abs=4e-4)
    assert warning == ""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_both_solvers_find_the_planted_number_of_kernels(planted, optimizer):
    dead = [size == 0 for size in PLANTED]
    before, _, loss, _ = learn(planted, KernelNumber(), "proximal", optimizer, 0.02)
    assert [size == 0 for size in before] == dead
    before, after, other, _ = learn(planted, KernelNumber(), "subgradient", optimizer, 0.02)
    assert min(before) == 5
    assert [size == 0 for size in after] == dead
    assert other == pytest.approx(loss, abs=3e-4)


def test_a_threshold_below_the_swing_is_warned_of(planted):
    _, after, _, warning = learn(planted, HALF_RINGS, "subgradient", "sgd", 0.01, tau=1e-5, steps=60)
    assert after == [5] * 12
    # 2 lr alpha / (1 - momentum), the rate at its end, for each of the five groups that an outer tap is in
    assert f"is below {5 * 2 * 0.1 * 0.01 * 0.01 / 0.1:.3g}" in warning


@pytest.mark.parametrize(("share", "alive"), [(1 + 1e-9, 0), (0.99, 1)])
def test_alpha_max_is_where_kernels_that_begin_at_zero_stay_there(share, alive):
    torch.manual_seed(2)
    images, targets = torch.randn(16, 3, 8, 8).double(), torch.randn(16, 5, 8, 8).double()
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    nn.init.zeros_(conv.weight)
    sparse = sparsifier(conv, KernelNumber())

    def loss():
        return (conv(images) - targets).square().mean()

    alpha = float(torch.autograd.grad(loss(), conv.weight)[0].flatten(1).norm(dim=1).max())
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.2)
    sparse.attach(optimizer)
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        sparse.after_step(share * alpha)
    assert int((sparse.layers[0].zeros() == 0).sum()) == alive


def test_kernelwise_adam_without_kernels_is_adam():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    for settings in (
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"betas": (0.5, 0.9)},
    ):
        one, other = copy.deepcopy(network), copy.deepcopy(network)
        optimizers = (
            KernelwiseAdam(one.parameters(), 0.01, **settings),
            torch.optim.Adam(other.parameters(), 0.01, **settings),
        )
        for _ in range(5):
            images = torch.randn(4, 2, 8, 8)
            for made, optimizer in zip((one, other), optimizers, strict=True):
                optimizer.zero_grad()
                made(images).square().sum().backward()
                optimizer.step()
        for found, expected in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("conv", [nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_kernelwise_adam_averages_over_each_kernel(conv):
    """By hand: mean of the squared gradient of all that makes one output channel."""
    start = conv.weight.detach().clone()
    optimizer = KernelwiseAdam(conv.parameters(), lr=0.1, eps=0.0)
    optimizer.average_over([conv])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    conv(torch.randn(4, conv.in_channels, 8, 8)).square().sum().backward()
    gradient = conv.weight.grad.clone()
    optimizer.step()
    for j in range(conv.out_channels):
        # The transposed one has two groups of two input and three output channels.
        where = (j,) if isinstance(conv, nn.Conv2d) else (slice(2 * (j // 3), 2 * (j // 3) + 2), j % 3)
        expected = start[where] - 0.1 * gradient[where] / gradient[where].square().mean().sqrt()
        assert torch.allclose(conv.weight[where], expected, atol=1e-6)
    assert StepMetric(optimizer)(conv.weight).shape == (conv.out_channels,)


def test_the_metric_is_what_a_step_divides_by():
    """A constant gradient moves a weight by gradient / D in each step of Adam, and in the long run of SGD."""
    for kind, settings in (
        (torch.optim.SGD, {"momentum": 0.5}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {"weight_decay": 0.0}),
    ):
        weight = nn.Parameter(torch.zeros(4, 3))
        gradient = torch.rand(4, 3) + 0.1
        optimizer = kind([weight], lr=0.01, **settings)
        metric = StepMetric(optimizer)
        assert kind is torch.optim.SGD or metric(weight) is None  # no step yet
        for _ in range(60):
            before = weight.detach().clone()
            weight.grad = gradient.clone()
            optimizer.step()
        assert torch.allclose(before - weight, gradient / metric(weight), rtol=1e-4)
        optimizer.param_groups[0]["lr"] = 0.005  # schedules are followed
        assert torch.allclose(2 * (before - weight), 4 * gradient / metric(weight), rtol=1e-4)
        optimizer.param_groups[0]["lr"] = 0.0
        assert metric(weight) is None


@pytest.mark.parametrize(
    ("kind", "regularizer", "message"),
    [
        (torch.optim.RMSprop, KernelNumber(), "RMSprop has steps of which the proximal solver knows no metric"),
        (torch.optim.Adam, KernelSize(), "Adam steps each weight of a kernel at a rate of its own"),
        (torch.optim.AdamW, KernelSize(), "expected SGD or lightning_pocket.regularizers.KernelwiseAdam"),
    ],
)
def test_optimizers_without_an_exact_step_are_refused(kind, regularizer, message):
    conv = nn.Conv2d(2, 3, 3)
    with pytest.raises(PocketError, match=message):
        sparsifier(conv, regularizer).attach(kind(conv.parameters(), lr=0.1))
    sparsifier(conv, regularizer, "subgradient", tau=0.1).attach(kind(conv.parameters(), lr=0.1))
    if kind is torch.optim.RMSprop:
        with pytest.raises(PocketError, match="tau: is null, but RMSprop"):
            sparsifier(conv, regularizer, "subgradient").attach(kind(conv.parameters(), lr=0.1))


def test_a_loss_that_is_maximised_is_refused():
    conv = nn.Conv2d(2, 3, 3)
    for solver in ("proximal", "subgradient"):
        with pytest.raises(PocketError, match=r"optimizer: maximize is true"):
            sparsifier(conv, KernelNumber(), solver).attach(torch.optim.SGD(conv.parameters(), lr=0.1, maximize=True))


@pytest.mark.parametrize(
    ("argument", "value"), [("lr", -1.0), ("eps", -1.0), ("weight_decay", -0.1), ("betas", (0.9, 1.0))]
)
def test_kernelwise_adam_refuses_what_is_out_of_range(argument, value):
    with pytest.raises(PocketError, match=f"KernelwiseAdam.{argument}: found"):
        KernelwiseAdam([nn.Parameter(torch.zeros(2))], **{argument: value})


@pytest.mark.parametrize("norm_aware", ["unit", "none"])
def test_sizes_before_a_batch_norm_are_found_only_with_the_norm(planted, norm_aware):
    """The paper's form has nothing to hold on to there; kernels of norm 1 have."""
    images, targets = planted
    scale = targets.std((0, 2, 3), keepdim=True)
    targets = torch.where(torch.tensor(PLANTED).view(-1, 1, 1) > 0, targets / scale, 0.1 * torch.randn(targets.shape))
    torch.manual_seed(1)
    conv, norm = nn.Conv2d(4, 12, 5, padding=2, bias=False), nn.BatchNorm2d(12)
    optimizer = torch.optim.SGD([*conv.parameters(), *norm.parameters()], lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 900, eta_min=5e-4)
    sparse = sparsifier(conv, HALF_RINGS, norm=norm, mode=norm_aware)
    sparse.attach(optimizer)
    for _ in range(900):
        batch = torch.randint(0, 64, (16,))
        optimizer.zero_grad()
        (0.5 * (norm(conv(images[batch])) - targets[batch]).square().mean() * 12).backward()
        optimizer.step()
        sparse.after_step(0.02)
        schedule.step()
    layer = sparse.layers[0]
    found = layer.sizes[layer.zeros()].tolist()
    assert (found == PLANTED) == (norm_aware == "unit"), found
