"""Draw accuracy against complexity of learned networks beside chosen ones: frontier, widths, kernel sizes, kernels."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning_pocket.errors import PocketError


def frontier(
    folders: list[str],
    output: str | None = None,
    metric: str | None = None,
    published: str | None = None,
    rounds: int = 20,
    margin: float = 0.01,
) -> None:
    """Draw the score of networks against what they cost, and what a penalty has made of their layers.

    Networks that were trained with a penalty count as what `pocket shrink` has left of them, in the folder RUN.shrunk
    beside the run, as a study with `shrink: true` makes them. All networks are timed in turns, in one process.

    Args:
        folders: Folders of studies (`pocket sweep`) and of runs, whose networks take images of one size.
        output: Folder of the page, its figures and tables, always needed.
        metric: Test score to compare by; by default dice, or accuracy of classifications.
        published: CSV of published networks to stand beside, or the name of a shipped one, such as imagenet.
        rounds: How often each network is timed; 0 for no times.
        margin: Loss of the score that would not matter, for the verdict.

    Raises:
        PocketError: If a folder holds neither a study nor a run, nothing was shrunk, or the folder cannot be written.
    """
    if not output:
        raise PocketError("--output: is missing; name a folder for the page, such as --output runs/frontier.")
    if Path(output).is_file():
        raise PocketError(f"--output {output}: is a file. Name a folder.")
    if rounds < 0 or not margin >= 0:
        name, value = ("rounds", rounds) if rounds < 0 else ("margin", margin)
        raise PocketError(f"--{name} {value}: expected 0 or more.")
    from lightning_pocket.frontier.published import read_published
    from lightning_pocket.frontier.trained import find_trained

    papers = read_published(published) if published else []
    found, left_out = find_trained([Path(folder) for folder in folders])
    for line in left_out:
        print(f"left out: {line}")
    if not found:
        raise PocketError(f"{', '.join(folders)}: no network is left to draw; see above what would make one.")
    from lightning_pocket.frontier.costs import measure_costs
    from lightning_pocket.frontier.page import verdict, write_frontier
    from lightning_pocket.frontier.study import Frontier, Result, choose_metric

    metric = choose_metric(found, metric)
    scores = [network.score(metric) for network in found]  # before anything is timed: a test may be missing
    costs = measure_costs(found, rounds)
    results = [Result(*entry) for entry in zip(found, scores, costs, strict=True)]
    study = Frontier(results, metric, papers)
    notes = [*(f"Left out: {line}." for line in left_out), *_timed(rounds, costs[0].size)]
    given = {"output": output, "metric": metric, "published": published, "rounds": rounds, "margin": margin}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    files = write_frontier(study, Path(output), margin, notes, shlex.join(["pocket", "frontier", *folders, *options]))
    print(verdict(study, margin))
    print(f"written: {', '.join(map(str, files[:4]))}, and {len(files) - 4} figures in {Path(output) / 'figures'}")


def _timed(rounds: int, size: tuple[int, ...]) -> list[str]:
    """Return how times were measured."""
    if not rounds:
        return []
    import torch

    from lightning_pocket.callbacks.run_manifest import hardware

    image = "x".join(map(str, size[1:]))
    threads = torch.get_num_threads()
    return [
        f"Times: one image of {image}, least of {rounds} rounds in which all networks take turns, {threads} "
        f"thread{'s' if threads > 1 else ''} of {hardware()['cpu']}."
    ]
