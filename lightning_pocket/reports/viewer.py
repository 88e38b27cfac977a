"""A viewer of volumes in a page: image, ground truth and prediction in three planes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lightning_pocket.storage import write_text

from .overlay import class_colour
from .page import Page
from .pictures import draw_slices, png_bytes
from .viewer_volumes import EncodedCase, ViewedCase, encode_case

__all__ = ["ViewedCase", "add_viewer"]

#: Bytes of volumes that a page holds itself; those beyond lie beside it.
INLINE_BYTES = 8_000_000
_HERE = Path(__file__).parent
_LIBRARY = _HERE / "vendor" / "niivue-0.69.0.umd.js"
_SCRIPTS = ("viewer_outlines.js", "viewer.js")
_BESIDE = "volumes_"


def add_viewer(page: Page, cases: Sequence[ViewedCase], output: Path, inline_bytes: int = INLINE_BYTES) -> None:
    """Add a viewer of cases: three planes to scroll through, with truth and prediction to turn on and off.

    The page stays light: until a reader opens the viewer, still pictures of three planes are shown and nothing is
    decoded. Volumes are held by the page up to ``inline_bytes``; those of further cases are written as scripts into the
    folder ``NAME_files`` beside the page, which a page opened from disk can load. NiiVue shows the image; the label
    maps are drawn above it, along the sides of the voxels. A page holds one viewer.

    Args:
        page: Where it is added.
        cases: What is shown; nothing is added where there are none.
        output: The file of the page, as it will be written.
        inline_bytes: Bytes of volumes that the page holds itself, compressed and in base64.

    Raises:
        PocketError: If a file cannot be read, is no volume, or truth or prediction lie on another grid than the image.
    """
    if not cases:
        return
    store = _Store(output.with_name(f"{output.stem}_files"), inline_bytes)
    entries, stills = [], []
    for case in cases:
        encoded = encode_case(case)
        entries.append(_entry(encoded, store.keep(encoded.parts)))
        stills.append((png_bytes(_still(encoded)), _shown_in(encoded), _caption(encoded)))
    store.remove_others()
    page.markup(_begin(store))
    page.pictures(stills)
    page.markup(_end(entries, store.inline))
    for name in _SCRIPTS:
        page.script((_HERE / name).read_text(encoding="utf-8"))


class _Store:
    """Where the volumes of a page are: in the page, up to a size, or in scripts beside it; each once.

    Args:
        folder: Of the scripts.
        room: Bytes that the page holds itself.
    """

    def __init__(self, folder: Path, room: int) -> None:
        self.folder = folder
        self.inline: dict[str, str] = {}
        self.beside: dict[str, Path] = {}
        self._room = room

    def keep(self, parts: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
        """Store the parts of a case that are not yet stored, all in the page or all beside it.

        Returns:
            By part, its ``key``, and the ``file`` beside the page or None.
        """
        keys = {part: hashlib.sha256(text.encode("ascii")).hexdigest()[:16] for part, text in parts.items()}
        known = self.inline.keys() | self.beside.keys()
        new = {key: parts[part] for part, key in keys.items() if key not in known}
        size = sum(map(len, new.values()))
        if size <= self._room:
            self._room -= size
            self.inline |= new
        else:
            for key, text in new.items():
                # nobody guesses the name, and a page that was written anew loads nothing old
                self.beside[key] = self.folder / f"{_BESIDE}{key}.js"
                write_text(self.beside[key], f'pocketVolumes("{key}", "{text}");\n')
        return {part: {"key": key, "file": self._file(key)} for part, key in keys.items()}

    def remove_others(self) -> None:
        """Delete what an earlier page of this name has left."""
        for file in self.folder.glob(f"{_BESIDE}*.js"):
            if file not in self.beside.values():
                file.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _file(self, key: str) -> str | None:
        return f"{quote(self.folder.name)}/{self.beside[key].name}" if key in self.beside else None


def _begin(store: _Store) -> str:
    moved = f"Large volumes lie in {store.folder.name}, beside this page: keep both together."
    note = f'<p class="note">{escape(moved)}</p>' if store.beside else ""
    return (
        f"<style>\n{(_HERE / 'viewer.css').read_text(encoding='utf-8')}</style>"
        '<section class="viewer" aria-label="Volume viewer">'
        "<noscript><p>Scripts are turned off: still pictures are shown in place of the viewer.</p></noscript>"
        '<p><button type="button" class="viewer-open" hidden>Open viewer</button> '
        f'<span class="viewer-message" role="status"></span></p>{note}'
        f'{(_HERE / "viewer.html").read_text(encoding="utf-8")}<div class="viewer-stills">'
    )


def _end(entries: Sequence[dict[str, object]], inline: Mapping[str, str]) -> str:
    library = base64.b64encode(gzip.compress(_LIBRARY.read_bytes(), mtime=0)).decode("ascii")
    data = json.dumps(entries).replace("<", "\\u003c")
    held = _held('class="viewer-library"', library)
    held += "".join(_held(f'data-key="{key}"', text) for key, text in inline.items())
    return f'</div><script type="application/json" class="viewer-cases">{data}</script>{held}</section>'


def _held(attributes: str, text: str) -> str:
    """Return an element whose text nobody sees and nothing runs."""
    return f'<script type="text/plain" {attributes}>{text}</script>'


def _entry(encoded: EncodedCase, parts: Mapping[str, Any]) -> dict[str, object]:
    case = encoded.case
    return {
        "name": case.name,
        "caption": _caption(encoded),
        "classes": list(case.classes),
        "colours": ["#{:02x}{:02x}{:02x}".format(*class_colour(k)) for k in range(len(case.classes))],
        "shape": encoded.shape,
        "spacing": encoded.spacing,
        "start": encoded.start,
        "window": encoded.window,
        "parts": parts,
    }


def _caption(encoded: EncodedCase) -> str:
    """Return what a reader must know of a case, with what was left out of it."""
    parts = [f"{encoded.case.name}. {encoded.case.caption}".strip()]
    missing = [
        what for what, file in (("truth", encoded.case.truth), ("prediction", encoded.case.prediction)) if not file
    ]
    if missing:
        parts.append(f"Without {' and '.join(missing)}.")
    if encoded.step != (1, 1, 1):
        right, front, up = encoded.step
        parts.append(f"Thinned out: one voxel of {right} to the right, of {front} to the front, of {up} upwards.")
    return " ".join(parts)


def _still(encoded: EncodedCase) -> np.ndarray:
    return draw_slices(encoded.slices, encoded.case.classes, panel=200)


def _shown_in(encoded: EncodedCase) -> str:
    return f"Image, ground truth and prediction of {encoded.case.name} in axial, coronal and sagittal planes"
