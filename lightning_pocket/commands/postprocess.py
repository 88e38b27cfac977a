"""Choose on a cross-validation of which classes `infer` keeps only the largest component."""

from __future__ import annotations

from pathlib import Path

from lightning_pocket.data.workers import count_workers
from lightning_pocket.reports.progress import show_progress
from lightning_pocket.reports.tables import print_table


def postprocess(crossval: str, dry_run: bool = False, workers: int | None = None) -> None:
    """Choose of which classes only the largest connected component is kept, and store it with the checkpoints.

    Every case is judged by the prediction of the network that has not seen it. First all foreground together is tried
    (where there are several classes), then each class in order, on top of what was kept before; a step is kept only if
    the mean Dice over all cases rises. What is cut off becomes background. `pocket infer` and `pocket test` then apply
    what was kept.

    Args:
        crossval: Folder that `pocket crossval` wrote.
        dry_run: Print what would be chosen, and change nothing.
        workers: Number of processes; one per CPU core by default. Each holds one case in memory.

    Raises:
        PocketError: If the cross-validation is not finished, or its label maps are gone or processed already.
    """
    from lightning_pocket.studies.postprocess import RECORD, choose, find_predictions, store

    folder = Path(crossval)
    predictions, classes = find_predictions(folder)
    with show_progress("post-processing", len(predictions)) as advance:
        steps = choose(predictions, classes, count_workers(workers, len(predictions)), advance)
    rows = [
        (s.name, f"{s.before:.4f}", f"{s.after:.4f}", s.better, s.worse, "keep" if s.kept else "leave") for s in steps
    ]
    title = f"largest component alone, mean Dice of {len(predictions)} out-of-fold cases"
    print_table(("class", "before", "after", "better", "worse", "decision"), rows, title)
    chosen = ", ".join(step.name for step in steps if step.kept) or "nothing"
    if dry_run:
        print(f"would be chosen: {chosen}; nothing was changed")
        return
    store(folder, steps, len(predictions))
    print(f"chosen: {chosen}; stored in the checkpoints of the folds and in {folder / RECORD}")
