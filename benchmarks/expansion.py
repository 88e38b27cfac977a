"""Time and memory of training expanded networks: layers one by one (ExpandNets) against one fused convolution.

    python benchmarks/expansion.py [--rate 4] [--rounds 5] [--threads 1] [--output FILE.json]

Networks and single layers, plain, expanded by CL and by CK, train on generated data. In a round each of them does one
step (forward, backward, SGD) after the other, so that all of them meet the same load of the machine; ratios are medians
over the rounds of the time of `layers` / time of `fused` in the same round: above 1, fused is faster. On a machine that
others use too, the time of the processor says more than that of the clock: both are given. Memory is what the step
keeps for its gradients, weights not counted, which does not depend on the machine. Torch and the torch-only parts of
this package are all it needs.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lightning_pocket.callbacks.run_manifest import hardware
from lightning_pocket.layers import Expansion, WidthSchedule, expand
from lightning_pocket.networks import UNet

MODES = ("layers", "fused")
_MIB = 2**20


class SmallNet(nn.Sequential):
    """The network of ExpandNets, Table 6: four convolutions of 7 x 7, 150,346 parameters for 32 x 32 RGB images."""

    def __init__(self) -> None:
        widths = (3, 8, 16, 32, 64)
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, 7, padding=3)
            stages += [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*stages, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


def subjects() -> dict[str, tuple[nn.Module, tuple[int, ...], tuple[str, ...]]]:
    """Return what is trained, the shape of its input and the kinds of expansion, by name."""
    unet = UNet(1, 3, spatial_dims=3, depth=2, widths=WidthSchedule(base=8, doublings=0))
    flat, deep, both = (8, 32, 64, 64), (2, 16, 24, 24, 24), ("cl", "ck")
    return {
        "SmallNet of Table 6, 128 x 3 x 32^2": (SmallNet(), (128, 3, 32, 32), both),
        "2D, 32 -> 32, kernel 7, 8 x 64^2": (nn.Sequential(nn.Conv2d(32, 32, 7, padding=3)), flat, both),
        "2D, 32 -> 32, kernel 3, 8 x 64^2": (nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)), flat, ("cl",)),
        "3D, 16 -> 16, kernel 5, 2 x 24^3": (nn.Sequential(nn.Conv3d(16, 16, 5, padding=2)), deep, both),
        "3D, 16 -> 16, kernel 3, 2 x 24^3": (nn.Sequential(nn.Conv3d(16, 16, 3, padding=1)), deep, ("cl",)),
        "Pocket U-Net of 8 channels, 2 x 1 x 32^3": (unet, (2, 1, 32, 32, 32), ("cl",)),
    }


def step(network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, target: Tensor) -> None:
    """Train one step."""
    optimizer.zero_grad()
    F.mse_loss(network(image), target).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def kept_mib(network: nn.Module, image: Tensor) -> float:
    """Return what a forward pass keeps for the gradients, each storage once, the weights not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = network(image)
    found = sum(kept.values()) / _MIB
    del result
    return found


def variants(plain: nn.Module, kinds: tuple[str, ...], rate: float) -> dict[str, nn.Module]:
    """Return the network as it is, and expanded in each way, with equal weights for both modes."""
    made = {"plain": plain}
    for kind in kinds:
        for mode in MODES:
            torch.manual_seed(0)
            made[f"{kind} {mode}"] = copy.deepcopy(plain)
            expand(made[f"{kind} {mode}"], Expansion(conv=kind, rate=rate, mode=mode))  # type: ignore[arg-type]
    return made


def measure(networks: Mapping[str, nn.Module], shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Return a row for each variant, and the ratios of `layers` to `fused` for each kind."""
    image = torch.randn(shape)
    with torch.no_grad():
        target = torch.randn_like(networks["plain"](image))
    optimizers = {name: torch.optim.SGD(network.parameters(), 0.01) for name, network in networks.items()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    for number in range(rounds + 1):
        for name, network in networks.items():
            start, busy = time.perf_counter(), time.process_time()
            step(network, optimizers[name], image, target)
            if number:  # the first round only warms up
                spent[name].append((time.perf_counter() - start, time.process_time() - busy))
    rows: dict[str, Any] = {
        name: {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "step_ms": round(1000 * median(clock for clock, _ in spent[name]), 2),
            "cpu_ms": round(1000 * median(cpu for _, cpu in spent[name]), 2),
            "kept_mib": round(kept_mib(network, image), 2),
        }
        for name, network in networks.items()
    }
    return {"variants": rows, "ratios": {kind: _ratios(kind, rows, spent) for kind in _kinds(networks)}}


def _kinds(networks: Mapping[str, nn.Module]) -> list[str]:
    return [name.partition(" ")[0] for name in networks if name.endswith(" fused")]


def _ratios(kind: str, rows: Mapping[str, Any], spent: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    layers, fused = spent[f"{kind} layers"], spent[f"{kind} fused"]
    memory = rows[f"{kind} layers"]["kept_mib"] / rows[f"{kind} fused"]["kept_mib"]
    return {
        "step": round(median(a[0] / b[0] for a, b in zip(layers, fused, strict=True)), 2),
        "cpu": round(median(a[1] / b[1] for a, b in zip(layers, fused, strict=True)), 2),
        "memory": round(memory, 2),
    }


def show(title: str, found: Mapping[str, Any]) -> None:
    """Print a table."""
    print(f"\n{title}\n  {'':12} {'parameters':>11} {'step ms':>9} {'CPU ms':>9} {'kept MiB':>9}")
    for name, row in found["variants"].items():
        print(f"  {name:12} {row['parameters']:11,} {row['step_ms']:9.1f} {row['cpu_ms']:9.1f} {row['kept_mib']:9.1f}")
    for kind, ratio in found["ratios"].items():
        times = f"{ratio['step']:.2f} time, {ratio['cpu']:.2f} CPU"
        print(f"  {kind}: layers / fused = {times}, {ratio['memory']:.2f} memory")


def main() -> None:
    """Parse the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=4.0, help="rate of expansion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    content: dict[str, Any] = {
        "device": hardware(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"rate": options.rate, "rounds": options.rounds},
        "subjects": {},
    }
    for title, (plain, shape, kinds) in subjects().items():
        content["subjects"][title] = measure(variants(plain, kinds, options.rate), shape, options.rounds)
        show(title, content["subjects"][title])
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
