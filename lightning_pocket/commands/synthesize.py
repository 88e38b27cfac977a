"""Write a small data set of drawn abdomens, to try everything without any data."""

from __future__ import annotations

from pathlib import Path

from lightning_pocket.data.phantoms import CLASSES, write_phantoms
from lightning_pocket.errors import PocketError


def synthesize(output: Path, cases: int = 24, seed: int = 0, size: tuple[int, int, int] = (40, 60, 60)) -> None:
    """Write phantoms in the layout of the Medical Segmentation Decathlon.

    A folder that already holds them is left as it is.

    Args:
        output: Folder to write.
        cases: Number of phantoms.
        seed: Seed of the data set; equal settings write equal bytes.
        size: Typical voxels along (D, H, W), at least 16; each case differs by up to 10 %.

    Raises:
        PocketError: If the folder cannot be written, or holds something else.
    """
    try:
        written = write_phantoms(output, cases, seed, size)
    except OSError as error:
        raise PocketError(f"{output}: cannot be written ({error.strerror}). Name another folder.") from error
    state = f"wrote {cases} phantoms" if written else f"{cases} phantoms are there already"
    print(f"{output}: {state} (classes {', '.join(CLASSES)})")
