"""Predicted memory against memory that is really taken, and against counting by hand."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, PReLU, ResidualBlock, WidthSchedule
from lightning_pocket.losses import L2Dice, deep_supervision_loss
from lightning_pocket.networks import EncoderClassifier, HRNet, UNet
from lightning_pocket.profiling.measure import measure_inference, measure_training
from lightning_pocket.profiling.memory import predict_inference, predict_training

MIB = 2**20
ADAM = torch.optim.Adam
LOSS = L2Dice()
CAUSES = ("weights_mib", "gradients_mib", "optimizer_mib", "activations_mib", "inputs_mib", "workspace_mib")


def pocket_unet(depth=2, **settings):
    return UNet(1, 2, depth=depth, widths=WidthSchedule(base=16, doublings=0), **settings)


def residual(depth=2):
    return pocket_unet(depth, layers=LayerFactory(activation=PReLU()), block=ResidualBlock())


def hrnet():
    return HRNet(1, 2, depth=2, widths=WidthSchedule(base=16, doublings=0), layers=LayerFactory(activation=PReLU()))


def mean_of(output, _):
    return output.float().mean()


class Wide(nn.Module):
    """One linear layer without bias: every byte can be counted by hand."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1024, 512, bias=False)  # 2 MiB

    def forward(self, x):
        return self.linear(x)


class Chain(nn.Module):
    """Eight tanh of one image, kept or computed again."""

    def __init__(self, again):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.again = again

    def forward(self, x):
        for _ in range(2):
            x = checkpoint(self.part, x, use_reentrant=False) if self.again else self.part(x)
        return x

    def part(self, x):
        for _ in range(4):
            x = torch.tanh(x * self.scale)
        return x


def train(make, shape=(2, 1, 16, 16, 16), classes=2, optimizer=ADAM, loss=LOSS, **settings):
    return predict_training(make, loss, optimizer, shape, classes, **settings)


@pytest.mark.parametrize(("optimizer", "states"), [(ADAM, 2), (partial(torch.optim.SGD, lr=0.1), 0)])
def test_a_linear_layer_by_hand(optimizer, states):
    found = train(Wide, (1, 1024), 512, optimizer, mean_of, threads=1)
    assert found.weights_mib == 2
    # Weights, gradients and state. Adam then takes the root of one state, and a quotient.
    assert found.optimizer_mib == pytest.approx(2 * states, abs=0.01)
    assert found.gradients_mib + found.workspace_mib == pytest.approx(6 if states else 2, abs=0.02)
    assert found.peak_mib == pytest.approx(sum(getattr(found, cause) for cause in CAUSES))


def test_causes_add_up_and_the_timeline_has_the_peak():
    found = train(pocket_unet)
    assert found.peak_mib == pytest.approx(sum(getattr(found, cause) for cause in CAUSES))
    assert max(mib for _, mib in found.timeline) == pytest.approx(found.peak_mib)
    labels = [label for label, _ in found.timeline]
    assert labels[0] == "forward encoder.0.0.0"
    assert labels[-1] == "optimizer"
    assert labels.index("loss") < labels.index("backward heads.0") < labels.index("backward encoder.0.0.0")
    parameters = sum(p.numel() for p in pocket_unet().parameters())
    assert found.weights_mib == pytest.approx(4 * parameters / MIB, rel=0.02)  # norms have running averages too
    assert found.optimizer_mib == pytest.approx(8 * parameters / MIB, rel=0.02)
    assert found.inputs_mib == pytest.approx(5 * 2 * 16**3 / MIB)


def test_activations_grow_with_the_batch_and_weights_do_not():
    two, four, eight = (train(pocket_unet, (batch, 1, 32, 32, 32)) for batch in (2, 4, 8))
    assert eight.peak_mib - four.peak_mib == pytest.approx(2 * (four.peak_mib - two.peak_mib), rel=0.02)
    assert eight.activations_mib == pytest.approx(2 * four.activations_mib, rel=0.02)
    assert two.weights_mib == four.weights_mib == eight.weights_mib


def test_nothing_is_allocated():
    full = partial(UNet, 1, 2, widths=WidthSchedule(base=32))
    found = train(full, (32, 1, 128, 128, 128), device="cuda")
    assert 60 * 1024 < found.activations_mib < found.peak_mib  # more than there is here, and at once


def test_bfloat16_halves_what_convolutions_keep():
    shape = (2, 1, 32, 32, 32)
    plain, half = train(pocket_unet, shape), train(pocket_unet, shape, precision="bf16-mixed")
    assert 0.5 < half.peak_mib / plain.peak_mib < 0.75
    assert half.weights_mib == plain.weights_mib
    assert train(pocket_unet, shape, precision="bf16-true").weights_mib == pytest.approx(
        plain.weights_mib / 2, rel=0.03
    )


def test_heads_of_deep_supervision_are_seen_by_the_loss():
    seen = []

    def loss(output, target):
        seen.append(type(output))
        heads = output if isinstance(output, list) else [output]
        return deep_supervision_loss(heads, target, L2Dice())

    deep = train(partial(pocket_unet, 3, deep_supervision=2), loss=loss)
    assert set(seen) == {list}
    assert deep.peak_mib > train(partial(pocket_unet, 3), loss=loss).peak_mib
    assert list in seen
    assert torch.Tensor not in seen
    assert seen[-1] is not list


def test_checkpointing_keeps_less():
    kept, again = (train(partial(Chain, a), (1, 4, 256, 256), 4, ADAM, mean_of) for a in (False, True))
    assert kept.activations_mib == pytest.approx(8, abs=1.5)  # each tanh keeps its result of 1 MiB
    assert again.peak_mib < 0.75 * kept.peak_mib


def test_a_classifier_has_one_label_per_image():
    seen = []

    def loss(output, target):
        seen.append((target.shape, target.dtype))
        return nn.functional.cross_entropy(output, target)

    train(partial(EncoderClassifier, 1, 3, depth=2), (4, 1, 32, 32), 3, loss=loss)
    assert set(seen) == {((4,), torch.int64)}


def test_a_network_that_is_there_is_left_alone():
    network = pocket_unet().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = train(lambda: network)
    assert found == train(pocket_unet)
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_channels_last_needs_no_copies_on_a_gpu():
    def last():
        return pocket_unet().to(memory_format=torch.channels_last_3d)

    assert train(last, device="cuda").peak_mib < train(pocket_unet, device="cuda").peak_mib


def test_a_fused_optimizer_takes_no_more_than_its_state():
    plain, fused = (train(Wide, (1, 1024), 512, partial(ADAM, fused=f), mean_of, device="cuda") for f in (None, True))
    assert fused.peak_mib == pytest.approx(8, abs=0.05)
    assert plain.peak_mib == pytest.approx(10, abs=0.05)


def test_inference_holds_no_gradients():
    found = predict_inference(pocket_unet, (2, 1, 16, 16, 16))
    assert found.gradients_mib == found.optimizer_mib == 0
    assert found.peak_mib < 0.5 * train(pocket_unet).peak_mib
    assert max(mib for _, mib in found.timeline) == pytest.approx(found.peak_mib)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "8-mixed"}, "precision: found '8-mixed'"),
        ({"device": "tpu"}, "device: found 'tpu'"),
        ({"classes": 3}, "num_classes: found 3, but the network gives 2"),
        ({"shape": (2, 1, 10, 10, 10)}, "multiples"),
        ({"shape": (1, 1, 4, 4, 4)}, "cannot be trained: Expected more than 1 value per channel"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(PocketError, match=message):
        train(pocket_unet, **settings)


# --- against real memory


@pytest.mark.e2e
@pytest.mark.parametrize("make", [residual, hrnet])
def test_prediction_agrees_with_resident_memory(make):
    shape = (2, 1, 48, 48, 48)
    predicted = train(make, shape)
    measured = measure_training(make, L2Dice(), ADAM, shape, 2, steps=2)
    assert predicted.peak_mib == pytest.approx(measured.peak_mib, rel=0.1)
    assert measured.step_ms > 0
    assert measured.images_per_s == pytest.approx(2000 / measured.step_ms)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (pocket_unet, (2, 1, 48, 48, 48)),
        (partial(nn.Conv3d, 32, 32, 3, padding=1), (1, 32, 64, 64, 64)),  # mostly copies in other layouts
        (partial(nn.Conv3d, 32, 32, 3, padding=1, groups=32), (1, 32, 64, 64, 64)),
        (partial(nn.ConvTranspose3d, 32, 16, 2, 2), (1, 32, 32, 32, 32)),
    ],
)
def test_inference_agrees_with_resident_memory(make, shape):
    predicted = predict_inference(make, shape)
    measured = measure_inference(make, shape, steps=2)
    assert predicted.peak_mib == pytest.approx(measured.peak_mib, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("make", "precision"), list(product([pocket_unet, residual, hrnet], ["32-true", "bf16-mixed"]))
)
def test_prediction_agrees_with_the_gpu(make, precision):
    shape = (2, 1, 64, 64, 64)
    predicted = train(make, shape, precision=precision, device="cuda")
    measured = measure_training(make, L2Dice(), ADAM, shape, 2, precision, "cuda", steps=3)
    assert predicted.peak_mib == pytest.approx(measured.peak_mib, rel=0.1)
    assert measured.reserved_mib >= measured.peak_mib


def test_a_lambda_cannot_be_measured_on_a_cpu():
    with pytest.raises(PocketError, match=r"functools\.partial"):
        measure_training(lambda: pocket_unet(), L2Dice(), ADAM, (2, 1, 16, 16, 16), 2)


def test_one_step_is_not_enough():
    with pytest.raises(PocketError, match="steps: found 1"):
        measure_inference(pocket_unet, (2, 1, 16, 16, 16), steps=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_to_measure_on():
    with pytest.raises(PocketError, match="torch sees no such device"):
        measure_inference(pocket_unet, (2, 1, 16, 16, 16), device="cuda")
