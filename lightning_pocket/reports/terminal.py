"""What a terminal can show, and how other output goes past something that is redrawn in it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.text import Text


def can_redraw(stream: TextIO) -> bool:
    """Whether lines of a stream can be drawn again: not in files, pipes, logs and dumb terminals.

    ``FORCE_COLOR`` and the like do not count, which rich would take for a terminal: control characters spoil a log.

    Args:
        stream: Such as ``sys.stderr``.
    """
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def error_console() -> Console:
    """Return a console on the standard error of this moment, whatever stands for it later."""
    return Console(file=sys.stderr, highlight=False)


@contextlib.contextmanager
def printing_above(console: Console) -> Iterator[None]:
    """Let what is printed, logged and warned meanwhile appear above what a console draws again and again.

    That of forked processes, such as loaders, too. Lines stay whole, however long they are, so that a command in them
    can be copied. Standard output that is no terminal stays as it is.

    Args:
        console: Console on the standard error.
    """
    before = (sys.stdout, sys.stderr)
    with _Mailbox(console) as mailbox:
        above = {id(stream): _Above(console, stream, mailbox) for stream in before if stream.isatty()}
        sys.stdout, sys.stderr = (cast("TextIO", above.get(id(stream), stream)) for stream in before)
        handlers = [(handler, handler.stream) for handler in _log_handlers() if id(handler.stream) in above]
        for handler, stream in handlers:
            handler.setStream(above[id(stream)])
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for handler, stream in handlers:
                handler.setStream(stream)
            for proxy in above.values():
                proxy.close()


def _log_handlers() -> Iterator[logging.StreamHandler[Any]]:
    """Yield what writes log records to streams: they keep the stream that they were made with."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):  # others only hold a place
            yield from (handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler))


class _Mailbox:
    """Prints what forked processes write: they have copies of the console, which must not draw as well."""

    _LAST = b"\0"

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        self._thread = threading.Thread(target=self._print, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._write, self._LAST)  # they may hold the pipe open: its end would never come
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def post(self, text: str) -> None:
        """Hand text to the process that draws.

        Raises:
            OSError: If it no longer does.
        """
        os.write(self._write, text.encode(errors="replace"))

    def _print(self) -> None:
        rest = b""
        while self._LAST not in rest:
            *lines, rest = (rest + os.read(self._read, 65536)).split(b"\n")
            for line in lines:
                self._console.print(_text(line.decode(errors="replace")), soft_wrap=True)


class _Above:
    """Stands for a stream of a terminal; prints whole lines above what is drawn."""

    def __init__(self, console: Console, stream: TextIO, mailbox: _Mailbox) -> None:
        self._console = console
        self._stream = stream
        self._mailbox = mailbox
        self._rest = ""
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if os.getpid() != self._process:
            try:
                self._mailbox.post(text)
            except OSError:
                self._stream.write(text)
            return len(text)
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._console.print(_text("\n".join(lines)), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        if os.getpid() != self._process:
            self._stream.flush()

    def close(self) -> None:
        """Print the line that was begun; the stream stays open."""
        if self._rest:
            self._stream.write(self._rest)
            self._rest = ""


def _text(lines: str) -> Text:
    """Return text that keeps its colours and has no markup of rich's."""
    return Text.from_ansi(lines)
