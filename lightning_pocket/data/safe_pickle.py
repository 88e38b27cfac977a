"""Reads pickles that hold numbers and text, and refuses any other: a pickle may run whatever its author wanted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .integrity import INTACT_COPY, ImageError

#: What numpy rebuilds its arrays with, in the names of versions 1 and 2.
_REBUILD = np.zeros(0).__reduce__()[0]


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle that asks for a class or function that is not on the list."""


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of dictionaries, lists, numbers, text, bytes and numpy arrays, of Python 2 or 3.

    Args:
        path: The file.

    Returns:
        What it holds; text that Python 2 wrote comes as bytes.

    Raises:
        PocketError: If it asks for anything else; nothing of it has run then. If it cannot be read.
        ImageError: If it is damaged.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="bytes").load()
    except UnsafePickleError as error:
        raise PocketError(
            f"{path}: not read, since it asks for {error}, which could run a program; expected numbers, text and "
            "arrays alone. Take the file of the official release."
        ) from error
    except OSError as error:
        raise PocketError(f"{path}: cannot be read ({error.strerror}); mend its permissions.") from error
    except Exception as error:  # a damaged pickle can make the reader raise anything
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ImageError(path, f"truncated, damaged or no pickle ({reason})", INTACT_COPY) from error


class _PlainUnpickler(pickle.Unpickler):
    @override
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UnsafePickleError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes as Python 3 writes them for readers of Python 2; no other codec is let in."""
    if encoding != "latin1":
        raise UnsafePickleError(f"the codec {encoding}")
    return text.encode("latin1")


def _array(kind: type, shape: Any, dtype: Any) -> Any:
    """Make the empty array that the state is put into; numpy would take any subclass."""
    if kind is not np.ndarray:
        raise UnsafePickleError("an array of another class")
    return _REBUILD(kind, shape, dtype)  # type: ignore[operator]


_ALLOWED: dict[tuple[str, str], type | Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
}
