"""The application: what is asked for by which address, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from lightning_pocket.errors import PocketError
from lightning_pocket.loopback import is_own_name
from lightning_pocket.reports.comparison import Criteria
from lightning_pocket.reports.comparison_page import write_comparison
from lightning_pocket.reports.page import Page

from .finding import find_results
from .folder import ServedFolder
from .index_page import index_page
from .markup import HEAD, link
from .run_page import live_part, run_page
from .runs import Runs, ShownRun

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HERE = Path(__file__).parent
_ASSETS = {"serve.css": "text/css", "serve.js": "text/javascript"}
#: Content types that systems do not know, or know differently.
_TYPES = {
    ".js": "text/javascript",
    ".csv": "text/csv",
    ".md": "text/plain",
    ".tex": "text/plain",
    ".yaml": "text/plain",
    ".log": "text/plain",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".html": "text/html",
}
#: What pages of the folder may do: draw themselves, and load the volumes that lie beside them. They know nothing of the
#: server, which they could otherwise be made to read.
_REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; script-src 'self' 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_BESIDE = re.compile(r"/files/.+_files/[^/]+_[0-9a-f]{16}\.js")


def make_app(path: Path) -> ASGIApp:
    """Return the application that shows a folder.

    Args:
        path: The folder.

    Raises:
        PocketError: If there is no such folder.
    """
    site = _Site(ServedFolder(path))
    routes = [
        Route("/", site.index),
        Route("/run/{name:path}", site.run),
        Route("/curves/{name:path}", site.curves),
        Route("/compare", site.compare),
        Route("/files/{name:path}", site.file),
        Route("/assets/{name}", site.asset),
        Route("/favicon.ico", lambda _: Response(status_code=204)),  # browsers ask for it unasked
    ]
    missing = lambda *_: _error("There is nothing at this address.", 404)  # noqa: E731
    app = Starlette(
        routes=routes, exception_handlers={404: missing, PocketError: lambda _, error: _error(str(error), 400)}
    )
    app.router.redirect_slashes = False
    return guarded(app)


def guarded(app: ASGIApp) -> ASGIApp:
    """Return an application that answers this machine's browser only, and only reads.

    Refused are names of the server that are not its own, which pages of others could use to reach it, requests that a
    page of another site makes, and methods other than GET and HEAD. A page of this folder has no origin of its own; all
    that it may ask for are volumes beside it, whose names nobody guesses.

    Args:
        app: What answers.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        is_beside = bool(_BESIDE.fullmatch(scope["path"]))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {key.lower() for key, _ in message["headers"]}
                added = _HEADERS | {"cross-origin-resource-policy": "cross-origin" if is_beside else "same-origin"}
                new = [(k.encode(), v.encode()) for k, v in added.items() if k.encode() not in known]
                message["headers"] = [*message["headers"], *new]
            await send(message)

        refusal = _refusal(scope["method"], headers, is_beside)
        await (refusal or app)(scope, receive, with_headers)

    return answer


def _refusal(method: str, headers: Mapping[str, str], is_beside: bool) -> Response | None:
    if not is_own_name(headers.get("host", "")):
        return PlainTextResponse("Ask for 127.0.0.1 or localhost.\n", 403)
    if method not in ("GET", "HEAD"):
        return PlainTextResponse("Here is nothing to change.\n", 405, {"Allow": "GET, HEAD"})
    is_foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if is_foreign and headers.get("sec-fetch-mode") != "navigate" and not is_beside:
        return PlainTextResponse("Other pages may not read this one.\n", 403)
    return None


class _Site:
    """The pages of one folder; each function answers one kind of address."""

    def __init__(self, folder: ServedFolder) -> None:
        self._folder = folder
        self._runs = Runs(folder)

    def index(self, request: Request) -> Response:
        results = find_results(self._folder.path)
        runs = [self._runs.read(path, kind) for path, kind in results.runs.items()]
        fields = {
            key: request.query_params[key]
            for key in ("filter", "state", "sort", "order")
            if key in request.query_params
        }
        return _own(index_page(self._folder, results, runs, fields))

    def run(self, request: Request) -> Response:
        run = self._find_run(request.path_params["name"])
        if run is None:
            return _error("There is no such run.", 404)
        folds = [self._folder.name(path) for path, kind in find_results(run.path).runs.items() if kind == "fold"]
        return _own(run_page(self._folder, run, folds))

    def curves(self, request: Request) -> Response:
        run = self._find_run(request.path_params["name"])
        return _error("There is no such run.", 404) if run is None else _own(live_part(run))

    def compare(self, request: Request) -> Response:
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        if len(names) < 2:
            return _error("Choose two or more runs in the list.", 400)
        runs = [run for name in names if (run := self._find_run(name)) is not None]
        if len(runs) < len(names):
            return _error("One of the runs is no longer there.", 404)
        unreadable = next((run.error for run in runs if run.result is None), "")
        if unreadable:
            return _error(unreadable, 400)
        with tempfile.TemporaryDirectory() as made:
            page = Path(made) / "comparison.html"
            title = f"{' and '.join(names)} compared" if len(names) < 4 else f"{len(names)} runs compared"
            criteria = Criteria(common=bool(_shared(runs)))
            write_comparison(page, [run.path for run in runs], title, [], [], criteria)
            return _report(page.read_text(encoding="utf-8"))

    def file(self, request: Request) -> Response:
        path = self._folder.find(request.path_params["name"])
        if path is None or not path.is_file():
            return _error("There is no such file.", 404)
        known = _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=known, headers={"content-security-policy": _REPORT_POLICY})

    def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            return _error("There is no such file.", 404)
        return FileResponse(_HERE / name, media_type=_ASSETS[name])

    def _find_run(self, name: str) -> ShownRun | None:
        path = self._folder.path if name in ("", ".") else self._folder.find(name)
        kinds = {"crossval.json": "cross-validation", "manifest.json": "run"}
        kind = next((kind for file, kind in kinds.items() if path and (path / file).is_file()), None)
        return self._runs.read(path, kind) if path and kind else None


def _shared(runs: Sequence[ShownRun]) -> set[str]:
    """Return the cases that all tested runs were tested on."""
    tested = [set(run.result.subjects) for run in runs if run.result and run.result.subjects]
    return set.intersection(*tested) if tested else set()


def _own(html: str, status: int = 200) -> Response:
    """Return a page of ours, which may use its own styles and scripts and nothing else."""
    hashes = {base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in _STYLE.findall(html)}
    styles = "".join(f" 'sha256-{digest}'" for digest in sorted(hashes))
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, status, {"content-security-policy": policy})


def _report(html: str) -> Response:
    return HTMLResponse(html, headers={"content-security-policy": _REPORT_POLICY})


def _error(text: str, status: int) -> Response:
    page = Page("Not found" if status == 404 else "Not possible")
    page.markup(HEAD)
    page.paragraph(text, "lead")
    page.markup(f"<p>{link('/', 'All runs')}</p>")
    return _own(page.html(), status)
