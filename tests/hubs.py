"""A hub on this machine, spoken to by huggingface_hub itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

WEIGHTS = {"w": np.arange(90_000, dtype=np.float32).reshape(300, 300), "b": np.ones(3, "f4")}


@dataclass
class Hub:
    """One repository, `org/repo`, and what was asked of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    sent: int = 0
    commits: list[list[str]] = field(default_factory=list)
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit to the files that were there then, as far as it was asked for."""
    between: list[dict[str, bytes]] = field(default_factory=list)
    """Files of commits of others, each of which comes right before one of ours."""
    refuses: bool = False
    """Whether commits are refused."""
    large: bool = False
    """Whether weights are sent before the commit (Git LFS)."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 of what was sent to its content."""
    received: list[str] = field(default_factory=list)
    """SHA-256 of each content that was received."""
    url: str = ""
    folder: str = ""
    """Path of the endpoint."""
    branches: set[str] = field(default_factory=set)
    """Other revisions than `main`, with the same files."""
    status: int = 0
    """What every question about the repository is answered with."""
    code: str = ""
    elsewhere: str = ""
    """Where files are sent from."""
    asked: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    """The same as they were asked for."""

    @property
    def head(self) -> str:
        """The newest commit."""
        rows = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(self.files.items())]
        sha = hashlib.sha1(repr(rows).encode()).hexdigest()
        self.history[sha] = dict(self.files)
        return sha


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, self.below
        hub.asked.append(path)
        hub.raw.append(self.path)
        if "/org/repo" in path:
            hub.tokens.add(self.headers.get("Authorization", ""))
        api = re.fullmatch(r"/api/models/org/repo(?:/(tree|revision)/([^/]+).*)?", path)
        file = re.fullmatch(r"/org/repo/resolve/([^/]+)/(.+)", path)
        wanted = unquote((api[2] or "main") if api else file[1] if file else "")
        if hub.status and wanted:
            self.reply({"error": "Access to it is restricted"}, hub.status, code=hub.code)
        elif wanted and wanted not in {"main", *hub.branches, *hub.history}:
            self.reply({"error": "Invalid rev id"}, 404, code="RevisionNotFound")
        elif api is not None and api[1] == "tree":
            self.reply([row(name, data) for name, data in hub.files.items()])
        elif api is not None:
            self.reply({"id": "org/repo", "sha": hub.head, "siblings": []})
        elif file is not None and hub.elsewhere:
            self.send_response(302)
            self.send_header("Location", f"{hub.elsewhere}/{file[2]}?Signature=secret")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif file is not None:
            self.resolve(unquote(file[2]))
        else:
            self.reply({"error": "Repository not found"}, 404, code="RepoNotFound")

    @property
    def below(self) -> str:
        """The path, without query and without that of the endpoint."""
        path = self.path.partition("?")[0].removeprefix(self.hub.folder)
        return path.replace("/datasets/", "/models/").replace("/models/org", "/org", not_api(path))

    def do_POST(self) -> None:
        hub = self.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/preupload/" in self.path:
            files = [
                {"path": row["path"], "uploadMode": self.mode(row["path"]), "shouldIgnore": False}
                for row in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            self.reply({"objects": [row | self.action(row["oid"]) for row in rows]})
        elif "/paths-info/" in self.path:
            files = hub.history.get(self.path.rpartition("/")[2], hub.files)
            paths = parse_qs(body.decode())["paths"]
            self.reply([row(path, files[path]) for path in paths if path in files])
        elif "/commit/" in self.path and hub.refuses:
            self.reply({"error": "no space left"}, 413)
        elif "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            if hub.between:
                hub.files |= hub.between.pop(0)
            if rows[0]["value"]["parentCommit"] != hub.head:
                self.reply({"error": "is not the newest commit"}, 412)
                return
            added = [row["value"] for row in rows if row["key"] == "file"]
            large = [row["value"] for row in rows if row["key"] == "lfsFile"]
            gone = [row["value"]["path"] for row in rows if row["key"] == "deletedFile"]
            for path in gone:
                del hub.files[path]
            hub.files |= {row["path"]: base64.b64decode(row["content"]) for row in added}
            hub.files |= {row["path"]: hub.objects[row["oid"]] for row in large}
            assert all(len(hub.files[row["path"]]) == row["size"] for row in large)
            hub.commits.append([row["path"] for row in [*added, *large]])
            self.reply(
                {"commitOid": "d" * 40, "commitUrl": f"{hub.url}/org/repo/commit/{'d' * 40}"}
            )
        else:
            self.reply({"error": "no such call"}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = hashlib.sha256(body).hexdigest()
        assert self.path == f"{self.hub.folder}/object/{oid}"
        self.hub.objects[oid] = body
        self.hub.received.append(oid)
        self.reply({})

    def mode(self, path: str) -> str:
        return "lfs" if self.hub.large and path.endswith(".safetensors") else "regular"

    def action(self, oid: str) -> dict[str, object]:
        """Return where content goes that the hub does not have yet."""
        if oid in self.hub.objects:
            return {}
        return {"actions": {"upload": {"href": f"{self.hub.url}/object/{oid}"}}}

    def resolve(self, name: str) -> None:
        data = self.hub.files.get(name)
        if data is None:
            self.reply({"error": "Entry not found"}, 404, code="EntryNotFound")
            return
        start, end, wanted = 0, len(data) - 1, self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), end)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start + 1))
        self.send_header("ETag", '"one"')
        self.send_header("X-Repo-Commit", "c" * 40)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start : end + 1])
            self.hub.sent += end - start + 1

    def reply(self, content: object, status: int = 200, code: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)


def not_api(path: str) -> int:
    """Return 1 for the path of a file: that of a dataset begins with its kind."""
    return 0 if path.startswith("/api/") else 1


def row(path: str, data: bytes) -> dict[str, object]:
    """Return what the hub says of a file."""
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "oid": oid, "size": len(data), "path": path}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine with one file of weights."""
    hub = Hub({"model.safetensors": save(WEIGHTS), "config.json": b"{}"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # Content goes to the server itself, by Git LFS.
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
