"""What a raw data set looks like: sizes, spacings, intensities and class volumes, per case and over all cases."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lightning_pocket.data.layouts.base import class_values

FOREGROUND_SAMPLE = 5_000  # voxels per case; pooled over cases they give the intensity percentiles


@dataclass(frozen=True)
class Statistics:
    """Statistics of one raw case.

    Args:
        shape: Voxels along (D, H, W).
        spacing: Voxel size in mm along (D, H, W).
        label_voxels: Voxels of each raw label value that occurs.
        whole: Mean, std, min and max of each channel over all voxels.
        nonzero: Voxels, mean and std of each channel over voxels that are not 0.
        foreground: Intensities of each channel at the same sample of labelled foreground voxels; ignored ones are
            left out.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    label_voxels: dict[int, int]
    whole: list[dict[str, float]]
    nonzero: list[dict[str, float]]
    foreground: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, fit for JSON."""
        data = asdict(self)
        data["label_voxels"] = {str(value): count for value, count in self.label_voxels.items()}
        return data | {"shape": list(self.shape), "spacing": list(self.spacing)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Statistics:
        """Undo ``to_dict``."""
        depth, height, width = data["shape"]
        fine = {"whole": data["whole"], "nonzero": data["nonzero"], "foreground": data["foreground"]}
        counts = {int(value): count for value, count in data["label_voxels"].items()}
        along_d, along_h, along_w = data["spacing"]
        return cls((depth, height, width), (along_d, along_h, along_w), dict(sorted(counts.items())), **fine)


def measure(
    image: np.ndarray,
    label: np.ndarray,
    spacing: tuple[float, float, float],
    subject: str,
    uncounted: Collection[int] = (0,),
) -> Statistics:
    """Return the statistics of one case.

    Args:
        image: ``(C, D, H, W)``, finite intensities.
        label: ``(D, H, W)``, raw integer values.
        spacing: Voxel size in mm along (D, H, W).
        subject: Name of the case; it decides which foreground voxels are sampled.
        uncounted: Raw values of the voxels that are not foreground: background, and what does not count.

    Returns:
        The statistics.
    """
    values, counts = np.unique(label, return_counts=True)
    foreground = np.flatnonzero(~np.isin(label, list(uncounted)))
    if len(foreground) > FOREGROUND_SAMPLE:
        foreground = np.sort(generator(subject).choice(foreground, FOREGROUND_SAMPLE, replace=False))
    depth, height, width = label.shape
    return Statistics(
        shape=(depth, height, width),
        spacing=spacing,
        label_voxels={int(value): int(count) for value, count in zip(values, counts, strict=True)},
        whole=[_moments(channel) | {"min": float(channel.min()), "max": float(channel.max())} for channel in image],
        nonzero=[_moments(channel[channel != 0]) for channel in image],
        foreground=[channel.reshape(-1)[foreground].astype(np.float64).tolist() for channel in image],
    )


def generator(name: str) -> np.random.Generator:
    """Return a random generator that depends on nothing but a name."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def _moments(voxels: np.ndarray) -> dict[str, float]:
    if not voxels.size:
        return {"voxels": 0, "mean": 0.0, "std": 0.0}
    mean = voxels.mean(dtype=np.float64)
    return {"voxels": int(voxels.size), "mean": float(mean), "std": float(voxels.std(dtype=np.float64))}


def summarize(statistics: Sequence[Statistics], channels: Sequence[str], labels: Mapping[int, str]) -> dict[str, Any]:
    """Return the statistics over all cases.

    Args:
        statistics: One per case.
        channels: Names of the channels.
        labels: Name of the class of each raw label value; values of the same name are one class.

    Returns:
        Plain types: ``cases``; ``shape`` and ``spacing`` (each a distribution along D, H, W); ``channels`` by name,
        with the distributions over cases of mean and std, and ``foreground`` with mean, std, median and the 0.5 and
        99.5 percentiles of the pooled sample of labelled voxels; ``classes`` by name, with the lowest value, the cases
        that hold the class and the distributions of its voxels and its volume in mL.
    """
    voxel_ml = np.array([np.prod(case.spacing) / 1000 for case in statistics])
    classes = {}
    for name, values in class_values(labels).items():
        voxels = np.array([sum(case.label_voxels.get(value, 0) for value in values) for case in statistics])
        classes[name] = {
            "value": values[0],
            "cases": int((voxels > 0).sum()),
            "voxels": distribution(voxels),
            "ml": distribution(voxels * voxel_ml),
        }
    return {
        "cases": len(statistics),
        "shape": distribution(np.array([case.shape for case in statistics])),
        "spacing": distribution(np.array([case.spacing for case in statistics])),
        "channels": {name: _channel(statistics, index) for index, name in enumerate(channels)},
        "classes": classes,
    }


def _channel(statistics: Sequence[Statistics], index: int) -> dict[str, Any]:
    summary: dict[str, Any] = {
        region: {
            key: distribution(np.array([getattr(case, region)[index][key] for case in statistics]))
            for key in ("mean", "std")
        }
        for region in ("whole", "nonzero")
    }
    pooled = np.concatenate([np.asarray(case.foreground[index], dtype=np.float64) for case in statistics])
    low, median, high = np.percentile(pooled, [0.5, 50, 99.5]).tolist() if pooled.size else (0.0, 0.0, 0.0)
    moments = _moments(pooled)
    return summary | {"foreground": moments | {"percentile_00_5": low, "median": median, "percentile_99_5": high}}


def distribution(values: np.ndarray) -> dict[str, Any]:
    """Return min, 10 %, median, 90 % and max over the first axis as plain numbers or lists."""
    keys = ("min", "percentile_10", "median", "percentile_90", "max")
    rows = np.percentile(values.astype(np.float64), [0, 10, 50, 90, 100], axis=0)
    return {key: row.tolist() for key, row in zip(keys, rows, strict=True)}
