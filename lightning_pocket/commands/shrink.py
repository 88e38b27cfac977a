"""Remove what is zero from a trained network, kernels, their borders and whole layers: the function stays the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_pocket.errors import PocketError


def shrink(
    checkpoint: str,
    output: str | None = None,
    tau: float = 0.0,
    rings: Literal["full", "top_left", "bottom_right"] = "full",
    merge: Literal["auto", "never", "always"] = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    fresh: bool = False,
) -> None:
    """Remove what is zero from a trained network: kernels, borders of kernels, whole layers.

    The reduced network computes the same for images of any size. Both are compared on random images of two sizes before
    anything is written. Expanded layers are contracted first. The folder that is written can be used like that of a
    run: by `pocket infer`, `test`, `report` and `profile`.

    Args:
        checkpoint: File that `pocket fit` wrote, or folder of a run for its last checkpoint.
        output: Folder of the reduced network, always needed.
        tau: Kernels and outer rings of kernels whose norm, with the batch norm behind them, is at most this are zeroed
            first, which changes the network; 0 removes what is exactly zero.
        rings: What kernels are peeled into for tau: full rings leave the middle, half rings begin at one corner.
        merge: Kernels of several sizes in one layer are computed by one convolution for each size (never), by a single
            one (always), or by what is fastest on this machine (auto).
        device: Where it is measured what is fastest.
        fresh: Replace a folder that this command wrote.

    Raises:
        PocketError: If the network cannot be reduced exactly, or the folder cannot be written.
    """
    if not output:
        raise PocketError("output: is missing; name a folder for the reduced network, such as --output runs/shrunk.")
    if not 0 <= tau < float("inf"):
        raise PocketError(f"tau: found {tau}, expected 0 or more.")
    from lightning_pocket.shrunk_run import Source, check_output, write_run  # torch only now: options may be wrong

    check_output(Path(output), fresh)
    source = Source.find(checkpoint)
    from lightning_pocket.compact.latency import time_networks
    from lightning_pocket.compact.reduce import refuse_reduced
    from lightning_pocket.compact.rings import threshold
    from lightning_pocket.compact.summary import summarize
    from lightning_pocket.compact.verify import check, compare, sizes_to_compare
    from lightning_pocket.tasks import load_task

    _check_device(device)
    task = load_task(source.checkpoint)
    network = task.network.double()  # constants of what is removed are computed more exactly than they are stored
    size = (network.in_channels, *task.info.patch_size)
    refuse_reduced(network)
    _contract(network, source.checkpoint)
    zeroed = threshold(network, size, tau, rings) if tau else network
    sizes = sizes_to_compare(network, network.in_channels, network.divisor, max(task.info.patch_size))
    reduction = _reduce(zeroed, size, merge, device)
    differences = compare(zeroed, reduction.network, network.in_channels, sizes)
    check(differences, str(source.checkpoint))
    for each in (network, zeroed, reduction.network):
        each.float()
    summary = summarize(network, reduction, size)
    times = time_networks(network, reduction.network, (1, *size), device=device)
    reduction.network.cpu()
    _print(summary, reduction, differences, times, size)
    if tau:
        _print_change(network.cpu(), zeroed, sizes[0], tau)
    record = _record(summary, differences, times, {"tau": tau, "rings": rings, "merge": merge, "device": device})
    write_run(Path(output), source, reduction.network, record)
    print(f"written: {output}")


def _contract(network: Any, checkpoint: Path) -> None:
    """Make expanded layers the ones that they stand for, in place: their kernels are what is zero."""
    from lightning_pocket.layers import contract_for_use, is_expanded

    before = sum(p.numel() for p in network.parameters())
    count = contract_for_use(network)
    if count:
        after = sum(p.numel() for p in network.parameters())
        print(f"contracted {count} expanded layers: {before:,} -> {after:,} parameters")
    if is_expanded(network):
        raise PocketError(
            f"{checkpoint}: layers.expansion.mode is nonlinear. Such layers stay as they were trained, and cannot be "
            "shrunk. Train with fused."
        )


def _reduce(network: Any, size: Sequence[int], merge: str, device: str) -> Any:
    from lightning_pocket.compact.latency import FastestWay, fewest_parts
    from lightning_pocket.compact.layers import Choose
    from lightning_pocket.compact.reduce import keep_sizes, reduce_network

    choices: dict[str, Choose] = {"auto": FastestWay(device), "never": keep_sizes, "always": fewest_parts}
    return reduce_network(network, size, choices[merge])


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise PocketError("device: torch finds no GPU. `pocket doctor` says why; cpu measures here.")


def _print(summary: Any, reduction: Any, differences: Sequence[Any], times: Any, size: Sequence[int]) -> None:
    from lightning_pocket.compact.identity import identity_layers
    from lightning_pocket.compact.summary import COLUMNS
    from lightning_pocket.reports.tables import print_table

    print_table(COLUMNS, [row.cells for row in summary.rows])
    formula = summary.record["macs_formula"]
    image = "x".join(map(str, size[1:]))
    print(f"layers: {len(summary.rows)} -> {len(summary.rows) - len(reduction.removed)}")
    for what, (before, after) in (
        ("parameters", summary.parameters),
        (f"MACs of {image}, kernels of their own sizes (10)", formula),
        (f"MACs of {image}, executed", summary.macs),
    ):
        print(f"{what}: {before:,} -> {after:,} ({_share(before, after)})")
    before, after = times.fastest
    print(f"time of {image}, each in its faster way: {before:.3g} ms -> {after:.3g} ms ({_share(before, after)})")
    for difference in differences:
        place = "x".join(map(str, difference.size))
        print(f"same function: {place}: {difference.float64:.1e} in float64, {difference.float32:.1e} in float32")
    for name in identity_layers(reduction.graph):
        print(f"{name}: copies its channels between two equal activations (equation 24), and could be left out by hand")


def _print_change(network: Any, zeroed: Any, size: Sequence[int], tau: float) -> None:
    from lightning_pocket.compact.verify import relative_change

    change = relative_change(network, zeroed, network.in_channels, size)
    print(f"tau {tau:g} itself changes outputs by up to {100 * change:.2g} % of the largest; `pocket test` scores it")


def _share(before: float, after: float) -> str:
    return f"{100 * after / before:.1f} %" if before else "-"


def _record(summary: Any, differences: Sequence[Any], times: Any, settings: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    compared = [asdict(difference) | {"size": list(difference.size)} for difference in differences]
    return settings | summary.record | {"compared": compared, "milliseconds": asdict(times)}
