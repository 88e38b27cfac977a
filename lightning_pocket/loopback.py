"""Pages on this machine alone: who may ask for them, how they are opened, and how a server ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import webbrowser
from collections.abc import Iterator

HOST = "127.0.0.1"
#: Names under which a browser on this machine, or at the other end of an SSH tunnel, knows the server.
_NAMES = (HOST, "localhost")


def is_own_name(host: str) -> bool:
    """Whether a request is meant for this machine.

    Other pages of the browser could reach a server on loopback too, by a name of their own that leads there.

    Args:
        host: The header ``Host``, with or without a port.
    """
    return (host.rpartition(":")[0] or host) in _NAMES


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what is done inside, and nothing else."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def open_page(address: str) -> None:
    """Show a page in the browser of this desktop; without one, a browser in the terminal would take it over.

    Args:
        address: Of the page.
    """
    if not sys.platform.startswith("linux") or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & set(os.environ):
        webbrowser.open(address)
