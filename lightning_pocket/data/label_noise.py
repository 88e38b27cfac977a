"""Wrong labels on purpose: how well does a network learn where some classes are drawn at random?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import write_csv

#: File of the run folder that lists what was drawn.
LABEL_NOISE = "label_noise.csv"


@dataclass(frozen=True)
class LabelNoise:
    """Labels drawn at random, as Zhang et al. (ICLR 2017) corrupt them and ExpandNets (2020, Table 7) after them.

    The class of a chosen image is drawn uniformly from all classes, the true one included: of 20 % of the images of ten
    classes 18 % end up wrong. Unlike in the papers the number of chosen images is exact. With the same seed the images
    of a smaller share are among those of a larger one, with the same classes.

    Args:
        fraction: Share of the training images whose class is drawn, in [0, 1].
        seed: Decides which images, and which classes.
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise PocketError(
                f"data.init_args.label_noise.fraction: found {self.fraction}, expected a share in [0, 1]."
            )


@dataclass(frozen=True)
class NoisyLabels:
    """What was drawn.

    Args:
        true: True class of each chosen image, by name.
        given: The class that each chosen image gets in training, by name.
    """

    true: Mapping[str, str]
    given: Mapping[str, str]

    @property
    def changed(self) -> list[str]:
        """Names of the images that have another class than the true one."""
        return [subject for subject, name in self.given.items() if name != self.true[subject]]

    def write(self, folder: Path) -> None:
        """Write ``label_noise.csv``: a row for each chosen image, with its true and given class and if they differ."""
        rows = [
            {"subject": subject, "true": true, "given": self.given[subject], "changed": true != self.given[subject]}
            for subject, true in sorted(self.true.items())
        ]
        write_csv(folder / LABEL_NOISE, ["subject", "true", "given", "changed"], rows)


def draw_labels(
    class_of: Mapping[str, str], subjects: Sequence[str], classes: Sequence[str], noise: LabelNoise
) -> NoisyLabels:
    """Draw wrong labels; they depend on the names of the images and the seed, not on their order.

    Args:
        class_of: True class of each image.
        subjects: The training images, of which some are chosen.
        classes: Every class.
        noise: How many, and the seed.
    """
    ordered = sorted(subjects)
    order = np.random.default_rng([noise.seed, 0]).permutation(len(ordered))
    drawn = np.random.default_rng([noise.seed, 1]).integers(len(classes), size=len(ordered))
    chosen = order[: int(noise.fraction * len(ordered) + 0.5)]
    given = {ordered[place]: classes[int(drawn[place])] for place in sorted(chosen.tolist())}
    return NoisyLabels({subject: class_of[subject] for subject in given}, given)
