"""The image files that a cache was made from, to be shown as they are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase, picture_stem

from .cache import ImageCache, read_image_dataset
from .preprocess import ImagePreprocessing
from .read import Picture, read_picture

_MOST = 40  # files that are tried for an image
_TOLERANCE = 1e-3  # of prepared intensities; versions of Pillow may round differently


class SourcePictures:
    """Finds the image of a case among the files that a cache was prepared from.

    ``dataset.json`` lists images and masks in the order of the cases, but not which of them is the image of which case.
    So a file is taken for it only if it gives, prepared again, what the cache holds.

    Args:
        cache: Images with masks.
    """

    def __init__(self, cache: ImageCache) -> None:
        self._cache = cache
        self._preprocessing = ImagePreprocessing.from_dict(cache.preprocessing)
        self._files = [Path(source["path"]) for source in read_image_dataset(cache.path)["sources"]]

    def grey(self, subject: str) -> np.ndarray | None:
        """Return an image in its own size.

        Args:
            subject: Name of the image.

        Returns:
            ``(H, W)`` float32 intensities, colours weighted by ITU-R BT.601; None where the file is gone.
        """
        row = self._cache.subjects.index(subject)
        for file in islice(self._candidates(subject, row), _MOST):
            try:
                picture = read_picture(ImageCase(subject, (file,), None))
            except ImageError:
                continue
            if self._is_source(picture, row):
                plain = ImagePreprocessing(self._cache.shapes[row], "grey", "none")
                return plain.apply(picture)[0]
        return None

    def _candidates(self, subject: str, row: int) -> Iterator[Path]:
        """Give the files that still exist, those first that are called like the image or lie where it should."""
        place = row * len(self._files) / len(self._cache.subjects)
        ranked = sorted(
            enumerate(self._files), key=lambda entry: (picture_stem(entry[1]) != subject, abs(entry[0] - place))
        )
        return (file for _, file in ranked if file.is_file())

    def _is_source(self, picture: Picture, row: int) -> bool:
        if picture.pixels.shape[:2] != self._cache.shapes[row] or not self._preprocessing.accepts(picture):
            return False
        prepared = self._preprocessing.apply(picture)
        return bool(np.allclose(prepared, self._cache.images()[row], rtol=_TOLERANCE, atol=_TOLERANCE))
