"""The server of a folder: where it listens, and how it ends."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.loopback import HOST, open_page, stops

#: The one that is tried where none is asked for.
PORT = 8090


def check_installed() -> None:
    """Refuse to go on without the packages that serve pages, which are optional.

    Raises:
        PocketError: If one is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise PocketError("pocket serve needs starlette and uvicorn: pip install 'lightning-pocket[serve]'.")


def serve(folder: Path, port: int | None, announce: Callable[[str], None], opens: bool = False) -> None:
    """Serve the pages of a folder until Ctrl-C or SIGTERM.

    Args:
        folder: Where results are.
        port: Where to listen; None takes 8090, or a free one where that is taken.
        announce: Is told the address.
        opens: Whether to show the page in the browser of this desktop.

    Raises:
        PocketError: If there is no such folder, or the port is taken.
    """
    import uvicorn

    from .app import make_app

    app = make_app(folder)
    with stops(), listen(port) as listening:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        announce(f"{address}\nCtrl-C ends it.")
        if opens:
            open_page(address)
        uvicorn.Server(config).run(sockets=[listening])


def listen(port: int | None) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Args:
        port: Its port; None takes 8090, or a free one where that is taken.

    Raises:
        PocketError: If the port is taken.
    """
    wanted = [PORT, 0] if port is None else [port]
    for number in wanted:
        try:
            return socket.create_server((HOST, number))
        except (OSError, OverflowError) as error:
            if number == wanted[-1]:
                reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
                raise PocketError(f"--port {number}: cannot be listened on ({reason}). Name another one.") from error
    raise PocketError("--port: none is free.")
