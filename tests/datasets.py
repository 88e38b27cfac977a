"""Tiny data sets on disk, in every layout that the package reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SHAPE = (10, 14, 12)
SPACING = (2.0, 1.0, 1.5)


def make_case(seed: int, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy image (D, H, W) float32 with a bright box, and its label uint8 with the classes 0, 1, 2."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 20, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    d, h, w = (n // 4 for n in shape)
    label[d : 3 * d, h : 3 * h, w : 3 * w] = 1
    label[d : 2 * d, h : 2 * h, w : 2 * w] = 2
    image += 50 * label
    return image, label


def to_itk(
    array: np.ndarray,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = (0, 0, 0),
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> sitk.Image:
    """Return a (D, H, W) array as an ITK image; spacing along (D, H, W), origin in LPS mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(mm) for mm in spacing[::-1]])
    image.SetOrigin([float(mm) for mm in origin])
    image.SetDirection(direction)
    return image


def write_image(path: Path, array: np.ndarray, **geometry: Sequence[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_itk(array, **geometry), str(path))
    return path


def write_decathlon(root: Path, cases: int = 3, modalities: Sequence[str] = ("MRI",)) -> Path:
    """Write case_0 to case_N in the layout of the Medical Segmentation Decathlon; several modalities make 4D files."""
    pairs = []
    for index in range(cases):
        image, label = make_case(index)
        name = f"case_{index}.nii.gz"
        if len(modalities) == 1:
            write_image(root / "imagesTr" / name, image)
        else:
            (root / "imagesTr").mkdir(parents=True, exist_ok=True)
            stack = sitk.JoinSeries([to_itk(image + 1000 * channel) for channel in range(len(modalities))])
            sitk.WriteImage(stack, str(root / "imagesTr" / name))
        write_image(root / "labelsTr" / name, label)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    declaration = {
        "modality": {str(index): name for index, name in enumerate(modalities)},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": pairs,
    }
    (root / "dataset.json").write_text(json.dumps(declaration))
    return root


def write_nnunet(root: Path, cases: int = 3, version: int = 2, channels: Sequence[str] = ("T1", "T2")) -> Path:
    """Write case_0 to case_N in the raw layout of nnU-Net."""
    for index in range(cases):
        image, label = make_case(index)
        for channel in range(len(channels)):
            write_image(root / "imagesTr" / f"case_{index}_{channel:04d}.nii.gz", image + 1000 * channel)
        write_image(root / "labelsTr" / f"case_{index}.nii.gz", label)
    names = {str(index): name for index, name in enumerate(channels)}
    if version == 2:
        labels = {"background": 0, "organ": 1, "lesion": 2}
        declaration = {"channel_names": names, "labels": labels, "file_ending": ".nii.gz"}
    else:
        pairs = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(cases)]
        labels = {"0": "background", "1": "organ", "2": "lesion"}
        declaration = {"modality": names, "labels": labels, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(declaration))
    return root


def write_table(root: Path, cases: int = 3, extra: dict[str, Sequence[str]] | None = None) -> Path:
    """Write ``cases.csv`` with one image column CT; ``extra`` adds columns."""
    extra = extra or {}
    lines = [",".join(["subject", "CT", "label", *extra])]
    for index in range(cases):
        image, label = make_case(index)
        write_image(root / f"ct_{index}.nii.gz", image)
        write_image(root / f"mask_{index}.nii.gz", label)
        cells = [f"case_{index}", f"ct_{index}.nii.gz", f"mask_{index}.nii.gz", *(v[index] for v in extra.values())]
        lines.append(",".join(cells))
    file = root / "cases.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def write_dicom(folder: Path, volume: np.ndarray, spacing: Sequence[float] = SPACING, series: str = "1.2.3") -> Path:
    """Write a (D, H, W) int16 volume as one DICOM series, file names in random order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, plane in enumerate(volume):
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing([spacing[2], spacing[1]])
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{series}.{index + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2",
            "0020|000e": series,
            "0020|0013": str(index + 1),
            "0020|0032": f"0\\0\\{index * spacing[0]}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(index * 7) % 97:03d}_{series}.dcm"))
        writer.Execute(image)
    return folder


def write_lits(root: Path, cases: int = 3, suffix: str = ".nii", folders: Sequence[str] = ("", "")) -> Path:
    """Write volume-0 and segmentation-0 to N as LiTS does: HU as int16; 0, 1 liver, 2 tumour. ``folders`` in turns."""
    for index in range(cases):
        image, label = make_case(index)
        folder = root / folders[index % len(folders)]
        write_image(folder / f"volume-{index}{suffix}", image.astype(np.int16))
        write_image(folder / f"segmentation-{index}{suffix}", label)
    return root


def write_nfbs(root: Path, cases: int = 3) -> Path:
    """Write one folder per subject with the three files of the NFBS release."""
    for index in range(cases):
        image, label = make_case(index)
        scan = root / f"A0002818{index}" / f"sub-A0002818{index}_ses-NFB3_T1w"
        mask = (label > 0).astype(np.uint8)
        for kind, array in (("", image), ("_brainmask", mask), ("_brain", image * mask)):
            write_image(scan.with_name(f"{scan.name}{kind}.nii.gz"), array)
    return root


def make_tumour(seed: int, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (D, H, W) float32 that is 0 near the border, and its label with 0, 1, 2 and 4 as in BraTS."""
    image, box = make_case(seed, shape)
    label = np.choose(box, [0, 2, 4]).astype(np.uint8)
    label[label.shape[0] // 4][label[label.shape[0] // 4] == 4] = 1  # one slice of the core
    brain = np.zeros(shape, bool)
    brain[1:-1, 2:-1, 1:-2] = True
    return np.where(brain, image + 20 * label, 0).astype(np.float32), label


def write_brats2020(root: Path, cases: int = 3, suffix: str = ".nii", first: int = 1) -> Path:
    """Write BraTS20_Training_001 to N, four modalities and seg each."""
    for index in range(first, first + cases):
        image, label = make_tumour(index)
        name = f"BraTS20_Training_{index:03d}"
        for channel, modality in enumerate(("flair", "t1", "t1ce", "t2")):
            write_image(root / name / f"{name}_{modality}{suffix}", np.where(image != 0, image + 100 * channel, 0))
        write_image(root / name / f"{name}_seg{suffix}", label)
    return root
