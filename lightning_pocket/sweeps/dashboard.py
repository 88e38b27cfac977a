"""The dashboard of Optuna for one study, on this machine alone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from lightning_pocket.errors import PocketError
from lightning_pocket.loopback import HOST, is_own_name, open_page, stops

from .artifacts import Attachments
from .study import SweepStudy

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: The one that is tried where none is asked for.
PORT = 8080
#: Seconds between two looks for new pictures.
_REFRESH_S = 10.0
_STRANGE = b'{"reason": "Ask for 127.0.0.1 or localhost."}'
_REFUSED = b'{"reason": "Only notes can be changed here; `pocket sweep` alone changes a study."}'


def check_installed() -> None:
    """Refuse to go on without the dashboard, which is an optional dependency.

    Raises:
        PocketError: If it is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise PocketError("optuna-dashboard is not installed: pip install 'lightning-pocket[sweep-dashboard]'.")


def serve(
    study: SweepStudy, port: int | None, pictures: int, announce: Callable[[str], None], opens: bool = False
) -> None:
    """Serve the dashboard of a study until Ctrl-C or SIGTERM.

    Args:
        study: The study.
        port: Where to listen; None takes 8080, or a free one where that is taken.
        pictures: Pictures of each run to attach to its trial.
        announce: Is told the address, and what else there is to say.
        opens: Whether to show the page in the browser of this desktop.

    Raises:
        PocketError: If the port is taken.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    attachments = Attachments(study, pictures)
    with _listen(port) as server, stops():
        keeps = _attach(attachments, announce)
        server.set_app(guarded(wsgi(study.storage, FileSystemArtifactStore(attachments.folder))))
        identifier = study.storage.get_study_id_from_name(study.name)
        address = f"http://{HOST}:{server.server_port}/dashboard/studies/{identifier}"
        announce(f"{address}\nCtrl-C ends it.")
        if opens:
            open_page(address)
        with _refreshed(attachments) if keeps else contextlib.nullcontext():
            server.serve_forever()


def guarded(app: WSGIApplication) -> WSGIApplication:
    """Return an application that answers this machine's browser only, and changes nothing but notes.

    Other pages of the browser could reach a server on loopback too: by a name of their own that leads there, which the
    header ``Host`` tells, and by asking for files that it offers to all.

    Args:
        app: The dashboard.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        is_own = is_own_name(environ.get("HTTP_HOST", ""))
        is_allowed = method in ("GET", "HEAD") or (method == "PUT" and path.endswith("/note"))
        if not is_own or not is_allowed:
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [_REFUSED if is_own else _STRANGE]

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            kept = [(key, value) for key, value in headers if not key.lower().startswith("access-control-")]
            return start_response(status, kept, *error)

        return app(environ, start)

    return answer


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A server whose requests do not wait for one another, and do not keep it from ending."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere that means to take over a port that is used

    def server_bind(self) -> None:
        """Bind, without asking a name server who this is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent where a browser has gone away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing for each request."""


def _listen(port: int | None) -> _Server:
    wanted = [PORT, 0] if port is None else [port]
    for number in wanted:
        try:
            return _Server((HOST, number), _Handler)
        except (OSError, OverflowError) as error:
            if number == wanted[-1]:
                reason = getattr(error, "strerror", None) or error
                raise PocketError(f"--port {number}: cannot be listened on ({reason}). Name another one.") from error
    raise PocketError("--port: none is free.")


def _attach(attachments: Attachments, announce: Callable[[str], None]) -> bool:
    """Attach what there is; return whether that can be done at all."""
    try:
        count = attachments.refresh()
    except OSError as error:  # the study of somebody else
        announce(f"No pictures or notes: {attachments.study.folder} cannot be written ({error.strerror}).")
        return False
    announce(f"{count} pictures and charts are attached, in {attachments.folder}")
    return True


@contextlib.contextmanager
def _refreshed(attachments: Attachments) -> Iterator[None]:
    """Attach what trials leave meanwhile."""
    over = threading.Event()

    def refresh() -> None:
        while not over.wait(_REFRESH_S):
            with contextlib.suppress(Exception):  # a database that is away, a picture just written: the next round
                attachments.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_REFRESH_S)
