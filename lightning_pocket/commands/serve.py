"""Show a folder of results in the browser: runs, live curves, comparisons; on this machine alone."""

from __future__ import annotations

from pathlib import Path


def serve(folder: str, port: int | None = None, no_open: bool = False) -> None:
    """Show the runs, cross-validations, tables, studies and pages below a folder, until Ctrl-C.

    Runs can be filtered, sorted and compared; the curves of those that train grow while they are looked at. The server
    listens on 127.0.0.1, only reads, and reads nothing outside the folder.

    Args:
        folder: Folder of results, such as runs.
        port: Port to listen on; by default 8090, or a free one where that is taken.
        no_open: Do not open the page in the browser of this desktop.

    Raises:
        PocketError: If there is no such folder, the port is taken, or the optional packages are missing.
    """
    from lightning_pocket.serving.server import check_installed
    from lightning_pocket.serving.server import serve as run

    check_installed()
    run(Path(folder), port, lambda text: print(text, flush=True), opens=not no_open)
