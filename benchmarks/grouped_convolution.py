"""Time of Lighter U-Net for an image beside its parameters and multiply-accumulates; grouped and dense convolutions.

    python benchmarks/grouped_convolution.py [--size 256] [--rounds 5] [--threads 1] [--output FILE.json]

The ten networks of Lighter U-Net's Table 2 predict one RGB image in turns, with tensors laid out channel by channel
(`contiguous`) and pixel by pixel (`channels_last`), so that all of them meet the same load of the machine. The same is
done with single 3 x 3 convolutions of the widths and sizes that the network has: dense, in groups, and in groups with
the pointwise convolution that follows them. Times are medians over the rounds; ratios are medians over the rounds of
the time of the first row, contiguous, / own time in the same round: above 1 is faster. On a machine that others use
too, the time of the processor, over all threads, says more than that of the clock: ratios and MACs per second are of
it. The input is generated, the weights are random; torch and the torch-only parts of this package are all it needs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.callbacks.run_manifest import hardware
from lightning_pocket.layers import GroupedConv, LayerFactory, StandardConv
from lightning_pocket.networks import BilinearUNet
from lightning_pocket.profiling.macs import count_macs

GROUP_SIZES = (128, 64, 32, 16, 8, 4, 2, 1)
#: Channels of the convolutions that are timed alone -> side of their image, as a share of that of the network's.
WIDTHS = {64: 1, 128: 2, 256: 4, 512: 8}
_CONVOLUTION_ROUNDS = 4  # for each of the networks': they are short, and disturbed easily
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Job = Callable[[], Tensor]


def networks() -> dict[str, nn.Module]:
    """Return the networks of Table 2, by their names there; each makes one output channel."""

    def build(**settings: Any) -> nn.Module:
        return BilinearUNet(3, 2, spatial_dims=2, binary_head=True, **settings).eval()

    grouped = {f"@{size}": build(layers=LayerFactory(conv=GroupedConv(size))) for size in GROUP_SIZES}
    return {"U-Net": build(), "Light U-Net": build(second_conv=GroupedConv(1)), **grouped}


def convolutions(width: int) -> dict[str, nn.Module]:
    """Return convolutions that keep ``width`` channels: dense, grouped, and grouped with a pointwise one."""
    found: dict[str, nn.Module] = {"dense": StandardConv()(width, width, spatial_dims=2)}
    for size in (size for size in GROUP_SIZES if size < width):
        conv_set = GroupedConv(size)(width, width, spatial_dims=2)
        if not isinstance(conv_set, nn.Sequential):
            raise TypeError(f"expected a grouped and a pointwise convolution, found {type(conv_set).__name__}")
        found[f"groups of {size}"] = conv_set[0]
        found[f"groups of {size} + pointwise"] = conv_set
    return found


def measure(modules: Mapping[str, nn.Module], shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each module and layout; the first module is what the others are compared with."""
    macs = {name: count_macs(module, shape) for name, module in modules.items()}
    image = torch.randn(shape)
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {
        (name, layout): [] for name in modules for layout in LAYOUTS
    }
    for number in range(rounds + 1):
        for (name, layout), times in seconds.items():
            module = modules[name].to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
            data = image.to(memory_format=LAYOUTS[layout])
            spent = _time(lambda module=module, data=data: module(data))
            if number:  # the first round only warms up
                times.append(spent)
    first = next(iter(modules))
    dense = [cpu for _, cpu in seconds[first, "contiguous"]]
    rows = []
    for name, module in modules.items():
        row: dict[str, Any] = {"name": name, "parameters": sum(p.numel() for p in module.parameters())}
        row |= {"macs": macs[name], "macs_ratio": round(macs[first] / macs[name], 3)}
        for layout in LAYOUTS:
            clock, cpu = ([times[kind] for times in seconds[name, layout]] for kind in (0, 1))
            row[layout] = {
                "ms": round(1000 * median(clock), 2),
                "cpu_ms": round(1000 * median(cpu), 2),
                "ratio": round(median(a / b for a, b in zip(dense, cpu, strict=True)), 3),
                "gmacs_per_s": round(macs[name] / median(cpu) / 1e9, 2),
            }
        rows.append(row)
    return rows


def _time(job: Job) -> tuple[float, float]:
    """Return the seconds that a job takes by the clock and on the processor, without gradients."""
    with torch.inference_mode():
        start, busy = time.perf_counter(), time.process_time()
        job()
        return time.perf_counter() - start, time.process_time() - busy


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    print(f"\n{title}\n  {'':28} {'parameters':>11} {'GMACs':>8} {'fewer':>6}   ", end="")
    print("   ".join(f"{layout + ' ms':>16} {'CPU ms':>8} {'faster':>6} {'GMACs/s':>8}" for layout in LAYOUTS))
    for row in rows:
        size = f"{row['parameters']:11,} {row['macs'] / 1e9:8.2f} {row['macs_ratio']:6.2f}"
        cells = [
            f"{cell['ms']:16.1f} {cell['cpu_ms']:8.1f} {cell['ratio']:6.2f} {cell['gmacs_per_s']:8.1f}"
            for cell in (row[layout] for layout in LAYOUTS)
        ]
        print(f"  {row['name']:28} {size}   {'   '.join(cells)}", flush=True)


def main() -> None:
    """Parse the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels, a multiple of 16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of torch; as many as it chooses by default")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    content: dict[str, Any] = {
        "device": hardware(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {"size": options.size, "batch": 1, "rounds": options.rounds},
    }
    content["networks"] = measure(networks(), (1, 3, options.size, options.size), options.rounds)
    show(f"Lighter U-Net, one RGB image of {options.size} x {options.size}", content["networks"])
    content["convolutions"] = {}
    for width, share in WIDTHS.items():
        side = options.size // share
        rows = measure(convolutions(width), (1, width, side, side), _CONVOLUTION_ROUNDS * options.rounds)
        content["convolutions"][str(width)] = {"side": side, "rows": rows}
        show(f"3 x 3 convolutions, {width} channels of {side} x {side}", rows)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
