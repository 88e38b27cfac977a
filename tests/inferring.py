"""The command `pocket infer`, and what it writes."""

import nibabel
import numpy as np

from lightning_pocket.cli import main


def infer(trained, images, output, *options):
    main(["infer", str(trained), *map(str, images), f"--output={output}", "--device=cpu", *options])


def labels(path):
    return np.asarray(nibabel.load(path).dataobj)
