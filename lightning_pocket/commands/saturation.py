"""Train networks on growing shares of the training cases, and draw how their test scores saturate."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.studies.saturation import FRACTIONS, Saturation


def saturation(arguments: list[str]) -> None:
    """Run the study of figure 5 of PocketNet.

    Args:
        arguments: Options of the study; all others are those of ``pocket fit``.

    Raises:
        PocketError: If an option cannot be used, or a run failed.
    """
    parser = argparse.ArgumentParser(
        prog="pocket saturation",
        usage="pocket saturation --output DIR [options] [options of `pocket fit`]",
        description=f"{__doc__} Each run is a `pocket fit` and a `pocket test`, printed before it starts. The same "
        "command continues a study that was stopped. Options that are not listed here are those of `pocket fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", help="folder of the runs and the results, always needed")
    parser.add_argument(
        "--fractions",
        default=",".join(f"{percent:g}" for percent in FRACTIONS),
        help="shares of the training cases in percent (default: %(default)s)",
    )
    parser.add_argument("--presets", default="full,pocket", help="configs of the networks (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), default="last", help="checkpoint of each run to test (default: last)"
    )
    parser.add_argument("--metric", help="test metric to draw (default: dice, or auc of classifiers)")
    own, fit_options = parser.parse_known_args(arguments)
    if not own.output:
        raise PocketError("--output: is missing; name a folder for the runs, such as --output runs/saturation.")
    study = Saturation(
        Path(own.output),
        tuple(fit_options),
        _percents(own.fractions),
        tuple(name for name in own.presets.split(",") if name),
        own.jobs,
        own.checkpoint,
        own.metric,
    )
    print(f"page: {study.run()}")


def _percents(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise PocketError(f"--fractions: found {text!r}, expected percentages such as 1.5,3,100.") from None
