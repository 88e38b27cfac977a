"""A stand-in for the W&B service on loopback, which keeps what it is sent."""

import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Of the account that it knows.
KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = {"id": "e", "name": "team"}


class WandbStub(ThreadingHTTPServer):
    """Answers enough of W&B's protocol for runs, syncs, workspaces and reports.

    Attributes:
        queries: Name and variables of each GraphQL request, in order.
        sent: Everything that was received, headers and paths included, as one text per request.
        history: Rows of each run by their number, as the service would keep them.
        summaries: Last summary of each run.
        files: Names of the files that each run has announced.
        configs: Last config of each run, as JSON.
        views: Workspaces and reports by their name, as JSON.
        refuse: Answer every mutation of a run with this message, as for a project that one may not write to.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.queries = []
        self.sent = []
        self.history = defaultdict(dict)
        self.summaries = {}
        self.files = defaultdict(set)
        self.views = {}
        self.configs = {}
        self.refuse = ""
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def asked(self, name):
        """Return the variables of every request of this name."""
        return [variables for found, variables in self.queries if found == name]

    def handle_error(self, request, client_address):
        """Nothing: clients leave without a word."""

    def stop(self):
        self.shutdown()
        self.server_close()

    def answer(self, name, variables):
        """Return the data that a GraphQL request gets."""
        project = {"id": "p", "name": variables.get("project") or "pocket", "entity": ENTITY, "entityName": "team"}
        own = getattr(self, "_answer_" + re.sub("([A-Z])", r"_\1", name).lower().strip("_"), None)
        if own is not None:
            return own(variables, project)
        made = {**project, "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        page = {"endCursor": None, "hasNextPage": False}
        viewer = {"id": "u", "username": "me", "entity": "team", "flags": "{}", "admin": False, "email": ""}
        none = {"edges": []}
        return {
            "viewer": {**viewer, "teams": none, "apiKeys": none},
            "serverInfo": {},
            "models": {"edges": [{"node": made, "cursor": ""}], "pageInfo": page},
            "entity": ENTITY,
            "project": None,
        }

    def _answer_run_resume_status(self, variables, project):
        run = variables["name"]
        return {"model": {**project, "bucket": self._bucket(run) if self.history.get(run) else None}}

    def _answer_upsert_bucket(self, variables, project):
        run = variables["name"]
        if variables.get("config"):
            self.configs[run] = variables["config"]
        return {"upsertBucket": {"bucket": {**self._bucket(run), "project": project}, "inserted": True}}

    def _answer_create_run_files(self, variables, _project):
        self.files[variables["run"]] |= set(variables["files"])
        files = [{"name": file, "uploadUrl": f"{self.url}/storage/{file}"} for file in variables["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}

    def _answer_create_artifact(self, _variables, _project):
        made = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _answer_project_internal_id(self, _variables, _project):
        return {"project": {"internalId": "UHJvamVjdDox"}}

    def _answer_view(self, variables, _project):
        node = {"id": "Vmlldzox", "displayName": "old", "spec": self.views[variables["viewName"]]}
        return {"project": {"allViews": {"edges": [{"node": node}]}}}

    def _answer_upsert_view2(self, variables, project):
        self.views[variables["name"]] = variables["spec"]
        view = {"id": "Vmlldzox", "name": variables["name"], "displayName": variables["displayName"]}
        more = {"description": "", "project": project, "spec": variables["spec"], "updatedAt": None}
        return {"upsertView": {"view": view | more, "inserted": True}}

    _answer_upsert_view = _answer_upsert_view2

    def _bucket(self, run):
        rows = len(self.history.get(run, {}))
        tails = {"historyTail": "[]", "eventsTail": "[]", "logLineCount": 0, "eventsLineCount": 0}
        if rows:
            tails["historyTail"] = json.dumps([json.dumps(self.history[run][rows - 1])])
        known = {
            "config": self.configs.get(run, "{}"),
            "summaryMetrics": json.dumps(self.summaries.get(run, {})),
            "tags": [],
        }
        name = {"id": "b", "name": run, "displayName": run, "description": "", "sweepName": None}
        return {**name, **known, **tails, "historyLineCount": rows, "wandbConfig": '{"t": 1}'}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbStub

    def log_message(self, *arguments):
        """Nothing on the terminal."""

    def do_POST(self):
        body = self._body()
        text = body.decode("utf-8", errors="replace")
        self.server.sent.append(f"{self.command} {self.path}\n{text}")
        answer = {}
        if self.path == "/graphql":
            query = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])[1]
            variables = query.get("variables") or {}
            self.server.queries.append((name, variables))
            answer = {"data": self.server.answer(name, variables)}
            if self.server.refuse and name in {"UpsertBucket", "UpsertView2", "upsertView"}:
                answer = {"errors": [{"message": self.server.refuse}], "data": None}
        elif self.path.endswith("/file_stream"):
            self._stream(json.loads(body).get("files") or {})
        self._reply(json.dumps(answer).encode())

    do_GET = do_PUT = do_HEAD = do_POST  # noqa: N815

    def _stream(self, files):
        run = self.path.split("/")[-2]
        for index, line in enumerate(files.get("wandb-history.jsonl", {}).get("content", [])):
            self.server.history[run][files["wandb-history.jsonl"]["offset"] + index] = json.loads(line)
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.server.summaries[run] = json.loads(line)

    def _reply(self, data):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
