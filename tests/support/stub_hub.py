"""A Hub of our own: what `huggingface_hub` asks of Hugging Face's over HTTP to make repositories and send files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stub"  # noqa: S105

COMMIT = "0" * 40
INLINE = (".md", ".json")
"""Files that go into the commit itself; the others are uploaded apart."""


@dataclass
class Hub:
    """What the server was told."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    """Repositories."""
    branches: list[tuple[str, str]] = field(default_factory=list)
    commits: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    """Repository, branch, message, names of files."""
    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    """By repository, branch and name."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded apart, by SHA-256."""
    refuses: dict[str, int] = field(default_factory=dict)
    """Repositories that nobody may write to, and the status that says so."""
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        """Return status and data."""
        if method == "PUT":
            digest = hashlib.sha256(body).hexdigest()
            self.stored[digest] = body
            return (200, {}) if path.endswith(digest) else (400, {"error": "another file"})
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            private = "private" in (asked.get("visibility"), *asked)  # newer and older releases of the library
            return self._create(f"{asked['organization']}/{asked['name']}", private)
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path):
            repository, what, branch = found.groups()
            return getattr(self, f"_{what}")(repository, branch, body)  # type: ignore[no-any-return]
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(body)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)
        if found and found[1] in self.private:
            return 200, {"id": found[1], "private": self.private[found[1]], "siblings": [], "tags": []}
        return 404, {"error": f"the stub has no {method} {path}"}

    def _create(self, repository: str, private: bool) -> tuple[int, Any]:
        if repository in self.refuses:
            return self.refuses[repository], {"error": "You don't have the rights\nto create a model"}
        known = repository in self.private
        self.private.setdefault(repository, private)
        return (409 if known else 200), {"url": f"{self.address}/{repository}", "name": repository}

    def _branch(self, repository: str, branch: str, body: bytes) -> tuple[int, Any]:
        known = (repository, branch) in self.branches
        if not known:
            self.branches.append((repository, branch))
        return (409, {"error": "exists"}) if known else (200, {})

    def _preupload(self, repository: str, branch: str, body: bytes) -> tuple[int, Any]:
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = {name: "regular" if name.endswith(INLINE) else "lfs" for name in names}
        files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
        return 200, {"files": files}

    def _batch(self, body: bytes) -> tuple[int, Any]:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.address}/store/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _commit(self, repository: str, branch: str, body: bytes) -> tuple[int, Any]:
        lines = [json.loads(line) for line in body.splitlines()]
        [summary] = [line["value"]["summary"] for line in lines if line["key"] == "header"]
        names = []
        for line in lines[1:]:
            value = line["value"]
            inline = line["key"] == "file"
            content = base64.b64decode(value["content"]) if inline else self.stored[value["oid"]]
            self.files[repository, branch, value["path"]] = content
            names.append(value["path"])
        self.commits.append((repository, branch, summary, sorted(names)))
        return 200, {"commitUrl": f"{self.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve a Hub on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            status, data = hub.answer(self.command, path, self.headers.get("Authorization"), body)
            sent = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = _do

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
