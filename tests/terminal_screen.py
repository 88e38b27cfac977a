"""A pseudo-terminal to run programs in, and what its screen shows."""

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from started import TRAINING, Started

_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")
#: Variables by which rich is told what a terminal can do.
_OVERRULES = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
#: What every frame of something that is redrawn begins with: the line is emptied.
_FRAME = re.compile(rb"\r\x1b\[2K")


@dataclass(frozen=True)
class Screen:
    """What a terminal shows.

    Args:
        rows: Its lines from the first that was ever written, without blanks at their ends.
        hidden: Whether the cursor is hidden.
    """

    rows: list[str]
    hidden: bool


@dataclass(frozen=True)
class Session:
    """What a program wrote to its terminal.

    Args:
        written: All bytes.
        width: Columns of the terminal.
        status: Exit status of the program.
    """

    written: bytes
    width: int
    status: int

    @property
    def last(self) -> Screen:
        """What the terminal shows at the end."""
        return replay(self.written, self.width)

    @property
    def frames(self) -> list[Screen]:
        """What it showed whenever something was about to be redrawn."""
        return [replay(self.written[: cut.start()], self.width) for cut in _FRAME.finditer(self.written)]


def run_in_terminal(
    function: str,
    arguments: Sequence[str],
    width: int = 80,
    environment: Mapping[str, str] | None = None,
    interrupt_at: str | None = None,
    limit_s: float = 60.0,
) -> Session:
    """Run a program in a terminal that it is controlled by.

    Args:
        function: See :class:`started.Started`.
        arguments: Those of the command line.
        width: Columns of the terminal.
        environment: Variables on top of those of this process.
        interrupt_at: Text on the terminal at which Ctrl-C is pressed.
        limit_s: Seconds after which the program is taken to hang.
    """
    terminal, other_end = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in _OVERRULES}
    kept |= {"TERM": "xterm-256color", **(environment or {})}
    with os.fdopen(other_end, "wb", buffering=0) as end:
        process = Started(function, arguments, end.fileno(), end, end, kept, TRAINING)
    written, until = b"", time.monotonic() + limit_s
    while time.monotonic() < until:
        if interrupt_at is not None and interrupt_at.encode() in written:
            os.write(terminal, b"\x03")
            interrupt_at = None
        ready, _, _ = select.select([terminal], [], [], 0.1)
        more = _read(terminal) if ready else None
        if more == b"":
            break
        written += more or b""
    else:
        process.kill()
    os.close(terminal)
    return Session(written, width, process.wait())


def _read(terminal: int) -> bytes:
    with contextlib.suppress(OSError):  # Linux tells the end of a terminal so
        return os.read(terminal, 65536)
    return b""


def replay(written: bytes, width: int) -> Screen:
    """Return what a terminal shows after these bytes; it knows what rich uses, and no more."""
    text, cursor = written.decode(errors="replace"), _Cursor(width)
    place = 0
    while place < len(text):
        sequence = _SEQUENCE.match(text, place)
        if sequence:
            cursor.obey(*sequence.groups())
            place = sequence.end()
        else:
            cursor.put(text[place])
            place += 1
    return Screen(["".join(cells).rstrip() for cells in cursor.rows], cursor.hidden)


class _Cursor:
    """Writes on a screen."""

    def __init__(self, width: int) -> None:
        self.rows: list[list[str]] = [[]]
        self.hidden = False
        self._width = width
        self._row = self._column = 0

    def obey(self, argument: str, kind: str) -> None:
        if kind == "A":
            self._row = max(self._row - int(argument or 1), 0)
        elif kind == "K":
            self.rows[self._row] = [] if argument == "2" else self.rows[self._row][: self._column]
        elif kind in "hl" and argument == "?25":
            self.hidden = kind == "l"
        elif kind != "m":
            raise ValueError(f"unknown sequence {argument}{kind}")

    def put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
            return
        if character == "\n" or self._column >= self._width:
            self._row, self._column = self._row + 1, 0
        self.rows.extend([] for _ in range(self._row + 1 - len(self.rows)))
        if character != "\n":
            row = self.rows[self._row]
            row += [" "] * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1
