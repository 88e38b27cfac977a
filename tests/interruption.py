"""Ends a training as kill -9 does, without the seconds that another process costs."""

from unittest import mock

import pytest

from lightning_pocket.callbacks import LastCheckpoint
from lightning_pocket.cli import main


class KilledError(Exception):
    """Not an error that the command line handles."""


def kill_after(arguments: list[str], saves: int = 1) -> None:
    """Run a command until the last checkpoint has been written ``saves`` times; nothing is written after that."""
    save = LastCheckpoint._save
    written = 0

    def save_and_die(self, trainer):
        nonlocal written
        save(self, trainer)
        written += 1
        if written == saves:
            raise KilledError

    with mock.patch.object(LastCheckpoint, "_save", save_and_die), pytest.raises(KilledError):
        main(arguments)
    assert written == saves
