"""Small networks of every kind of wiring, and ways to kill and crop their kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MAX = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
IN, OUT, W = 2, 3, 6


class Wired(nn.Module):
    """Layers by name, and a function that wires them."""

    def __init__(self, wiring: Callable[[Wired, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> object:
        return self.wiring(self, x)


def unit(
    before: int, after: int, d: int, norm: str = "batch", act: nn.Module | None = None, **conv: object
) -> nn.Module:
    """Convolution, norm and activation."""
    kernel = conv.pop("kernel", 3)
    settings = {"padding": kernel // 2} | conv
    norms = {"batch": lambda: BATCH[d](after), "instance": lambda: INSTANCE[d](after, affine=True), "none": nn.Identity}
    layers = [CONV[d](before, after, kernel, **settings), norms[norm](), nn.LeakyReLU(0.1) if act is None else act]
    return nn.Sequential(*layers)


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def head(d: int, width: int = W) -> nn.Module:
    return CONV[d](width, OUT, 1)


def unet(d: int, skip: str, norm: str = "batch", up: str = "transposed", **conv: object) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> Tensor:
        e = s.fine(x)
        u = s.up(s.coarse(s.pool(e)))
        return s.head(s.decode(torch.cat([e, u], 1) if skip == "concat" else e + u))

    ups = {
        "transposed": lambda: TRANSPOSED[d](W, W, 2, stride=2),
        "overlapping": lambda: TRANSPOSED[d](W, W, 3, stride=2, padding=1, output_padding=1, groups=2),
        "nearest": lambda: nn.Upsample(scale_factor=2),
        "linear": lambda: nn.Upsample(scale_factor=2, mode=LINEAR[d], align_corners=True),
    }
    wide = 2 * W if skip == "concat" else W
    return Wired(
        wire,
        fine=sequence(unit(IN, W, d, norm), unit(W, W, d, norm, **conv)),
        pool=MAX[d](2),
        coarse=unit(W, W, d, norm, **conv),
        up=ups[up](),
        decode=unit(wide, W, d, norm),
        head=head(d),
    )


def residual(d: int, blocks: int = 3, before: bool = False) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> Tensor:
        x = s.stem(x)
        for first, second in zip(s.first, s.second, strict=True):
            x = x + second(first(x)) if before else F.relu(x + second(first(x)))
        return s.head(x)

    def last() -> nn.Module:
        conv = CONV[d](W, W, 3, padding=1, bias=False)
        return sequence(BATCH[d](W), nn.ReLU(), conv) if before else sequence(conv, BATCH[d](W))

    return Wired(
        wire,
        stem=unit(IN, W, d),
        first=nn.ModuleList(unit(W, W, d) for _ in range(blocks)),
        second=nn.ModuleList(last() for _ in range(blocks)),
        head=head(d),
    )


def projected(d: int) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> Tensor:
        x = s.stem(x)
        return s.head(F.relu(s.body(x) + s.shortcut(x)))

    body = sequence(unit(W, W, d, stride=2), CONV[d](W, 2 * W, 3, padding=1), BATCH[d](2 * W))
    shortcut = sequence(CONV[d](W, 2 * W, 1, stride=2, bias=False), BATCH[d](2 * W))
    return Wired(wire, stem=unit(IN, W, d), body=body, shortcut=shortcut, head=head(d, 2 * W))


def dense(d: int) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> Tensor:
        x = s.stem(x)
        for layer in s.layers:
            x = torch.cat([x, layer(x)], 1)
        return s.head(x)

    layers = nn.ModuleList(unit(W * (i + 1), W, d) for i in range(3))
    return Wired(wire, stem=unit(IN, W, d), layers=layers, head=head(d, 4 * W))


def branches(d: int) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> Tensor:
        x = s.stem(x)
        low, high = s.low(s.down(x)), s.high(x)
        mixed = F.relu(high + F.interpolate(s.to_high(low), scale_factor=2))
        lower = F.relu(low + s.to_low(high))
        return s.head(mixed + s.up(s.last(lower)))

    return Wired(
        wire,
        stem=unit(IN, W, d),
        down=unit(W, W, d, stride=2),
        high=unit(W, W, d),
        low=unit(W, W, d),
        to_low=sequence(CONV[d](W, W, 3, stride=2, padding=1, bias=False), BATCH[d](W)),
        to_high=sequence(CONV[d](W, W, 1, bias=False), BATCH[d](W)),
        last=unit(W, W, d),
        up=nn.Upsample(scale_factor=2),
        head=head(d),
    )


def pyramid(d: int) -> nn.Module:
    """Pooling to one value per channel, expanded; interpolation to the size of the image."""

    def wire(s: Wired, x: Tensor) -> Tensor:
        low = s.low(s.stem(x))
        mean = s.mean(low.mean(dim=tuple(range(2, low.ndim)), keepdim=True)).expand(-1, -1, *low.shape[2:])
        fused = s.fuse(torch.cat([s.dilated(low), mean], 1))
        return F.interpolate(s.head(fused), x.shape[2:], mode=LINEAR[x.ndim - 2], align_corners=False)

    return Wired(
        wire,
        stem=unit(IN, W, d),
        low=unit(W, W, d, stride=2, padding=2, dilation=2),
        mean=unit(W, W, d, kernel=1),
        dilated=unit(W, W, d, padding=3, dilation=3),
        fuse=unit(2 * W, W, d),
        head=head(d),
    )


def classifier(d: int, how: str) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> Tensor:
        h = s.features(x)
        h = h.flatten(2).amax(dim=2) if how == "max" else s.pool(h).flatten(1)
        return s.head(s.hidden(h))

    adaptive = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[d]
    parts = 2 if how == "parts" else 1
    hidden = sequence(nn.Linear(W * parts**d, 8), nn.BatchNorm1d(8), nn.ReLU())
    features = sequence(unit(IN, W, d), MAX[d](2), unit(W, W, d))
    return Wired(wire, features=features, pool=adaptive(parts), hidden=hidden, head=nn.Linear(8, OUT))


def heads(d: int) -> nn.Module:
    def wire(s: Wired, x: Tensor) -> dict[str, Tensor]:
        first = s.first(x)
        second = s.second(first)
        return {"main": s.main(second).sigmoid(), "other": s.other(first), "zero": torch.zeros_like(second)}

    return Wired(wire, first=unit(IN, W, d), second=unit(W, W, d), main=head(d), other=head(d))


def separable(d: int, **depthwise: object) -> nn.Module:
    spatial = CONV[d](W, W, 3, groups=W, bias=False, **({"padding": 1} | depthwise))
    return sequence(unit(IN, W, d), spatial, CONV[d](W, W, 1), BATCH[d](W), nn.PReLU(W), head(d))


def plain(d: int, norm: str = "batch", **conv: object) -> nn.Module:
    return sequence(unit(IN, W, d, norm), unit(W, W, d, norm, **conv), unit(W, W, d, norm), head(d))


def pooled(d: int, pool: nn.Module) -> nn.Module:
    return sequence(unit(IN, W, d), pool, unit(W, W, d), head(d))


FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "plain": plain,
    "plain_no_norm": lambda d: plain(d, "none"),
    "plain_instance_norm": lambda d: plain(d, "instance", bias=False),
    "plain_strided_dilated": lambda d: plain(d, stride=2, dilation=2, padding=2),
    "plain_unpadded": lambda d: plain(d, padding=0),
    "plain_same": lambda d: plain(d, padding="same", kernel=4),
    "plain_reflect": lambda d: plain(d, padding_mode="replicate" if d == 3 else "reflect"),
    "plain_large_kernels": lambda d: plain(d, kernel=5),
    "activations": lambda d: sequence(
        unit(IN, W, d, act=nn.PReLU(W)),
        unit(W, W, d, act=nn.ELU()),
        nn.Dropout(),
        unit(W, W, d, act=nn.GELU()),
        head(d),
    ),
    "unet_concat": lambda d: unet(d, "concat"),
    "unet_add": lambda d: unet(d, "add"),
    "unet_instance_norm": lambda d: unet(d, "concat", "instance", bias=False),
    "unet_add_no_norm_nearest": lambda d: unet(d, "add", "none", "nearest"),
    "unet_linear": lambda d: unet(d, "concat", up="linear"),
    "unet_overlapping": lambda d: unet(d, "add", up="overlapping"),
    "unet_grouped": lambda d: unet(d, "concat", groups=2),
    "residual": residual,
    "residual_before": lambda d: residual(d, before=True),
    "residual_projected": projected,
    "dense": dense,
    "branches": branches,
    "pyramid": pyramid,
    "grouped": lambda d: plain(d, groups=3),
    "depthwise": separable,
    "depthwise_strided": lambda d: separable(d, stride=2),
    "max_pool_padded": lambda d: pooled(d, MAX[d](3, 2, 1)),
    "average_pool": lambda d: pooled(d, AVERAGE[d](2)),
    "average_pool_padded": lambda d: pooled(d, AVERAGE[d](3, 2, 1)),
    "classifier_max": lambda d: classifier(d, "max"),
    "classifier_mean": lambda d: classifier(d, "mean"),
    "classifier_parts": lambda d: classifier(d, "parts"),
    "heads": heads,
}


def draw_statistics(network: nn.Module) -> None:
    """Draw the numbers of all norms at random, so that dead kernels do not answer with zeros."""
    for module in network.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (*BATCH.values(), *INSTANCE.values())) and module.weight is not None:
            nn.init.normal_(module.weight, 1)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)


def kernels(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the kernels of every hidden layer as a view ``(O, I / groups, *k)``."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and module.out_features > OUT:
            yield name, module.weight.data
        if isinstance(module, tuple(CONV.values())) and module.out_channels > OUT:
            yield name, module.weight.data
        if isinstance(module, tuple(TRANSPOSED.values())) and module.groups == 1:
            yield name, module.weight.data.transpose(0, 1)


def kill(network: nn.Module, share: float, cropped: float = 0.5) -> None:
    """Zero a share of the kernels of each hidden layer, not all of one, and the borders of some others."""
    for _, weight in kernels(network):
        dead = torch.rand(len(weight)) < share
        dead[torch.randint(len(weight), ())] = False
        weight[dead] = 0
        for kernel in weight[:, :, None] if weight.ndim == 2 else weight:
            if kernel.ndim > 2 and torch.rand(()) < cropped:
                crop_at_random(kernel)


def crop_at_random(kernel: Tensor) -> None:
    """Zero a kernel ``(I, *k)`` outside a box that holds at least one tap."""
    kept = torch.zeros_like(kernel)
    inside = []
    for side in kernel.shape[1:]:
        first = int(torch.randint(side, ()))
        inside.append(slice(first, int(torch.randint(first + 1, side + 1, ()))))
    kept[(slice(None), *inside)] = 1
    kernel *= kept
