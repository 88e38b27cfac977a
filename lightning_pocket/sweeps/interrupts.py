"""Ctrl-C and SIGTERM of a process that works on a study: alike, and put off while a trial changes hands."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Interrupts:
    """Treats SIGTERM, by which clusters and containers end processes, like Ctrl-C: trials are given back at once."""

    def __init__(self) -> None:
        self._holds = False
        self._asked = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raise KeyboardInterrupt for both signals; in another thread than the main one they stay as they are."""
        before: dict[signal.Signals, Any] = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` ask
                    before[number] = signal.signal(number, self._interrupt)
        except ValueError:  # not the main thread
            pass
        try:
            yield
        finally:
            for handled, handler in before.items():
                signal.signal(handled, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Put an interruption off until the end of the block; a second one is not put off."""
        self._holds, self._asked = True, False
        try:
            yield
        finally:
            self._holds = False
        if self._asked:
            raise KeyboardInterrupt

    def _interrupt(self, *_: Any) -> None:
        if self._holds and not self._asked:
            self._asked = True
            return
        raise KeyboardInterrupt
