"""Turn a checkpoint with expanded layers into one of the compact network, which computes the same."""

from __future__ import annotations

from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import check_writable


def contract(checkpoint: str, output: str | None = None) -> None:
    """Turn a checkpoint with expanded layers into one of the compact network, which computes the same.

    Each row of layers becomes the one that it stands for, computed in float64. Both networks are compared on random
    images of two sizes before anything is written. `pocket infer`, `pocket test` and `pocket profile` take the result,
    and so does `pocket fit --start_from`; the first two contract expanded checkpoints themselves.

    Args:
        checkpoint: File that `pocket fit` wrote, or folder of a run for its last checkpoint.
        output: File to write; by default beside the checkpoint, as NAME_contracted.ckpt.

    Raises:
        PocketError: If the checkpoint has no expanded layers, or they cannot be contracted.
    """
    path = Path(checkpoint)
    source = RunFolder(path).last if path.is_dir() else path
    target = Path(output) if output else source.with_name(f"{source.stem}_contracted.ckpt")
    check_writable("--output", target, "contracted.ckpt")
    if target.resolve() == source.resolve():
        raise PocketError(f"--output {target}: is the expanded checkpoint itself. Name another file.")
    from lightning_pocket.expansion.checkpoint import contract_checkpoint  # torch only now: options may be wrong

    done = contract_checkpoint(source, target)
    print(f"contracted {done.layers} expanded layers: {done.before:,} -> {done.after:,} parameters")
    print(f"largest relative difference: {done.exact:.1e} in float64, {done.rounded:.1e} with the weights as written")
    print(f"written: {target}")
