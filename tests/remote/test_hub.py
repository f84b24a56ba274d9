"""Addresses of Hugging Face's hub, against a server on this machine that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load, save

import porter
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.fleet.shards import Local

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

    @property
    def head(self) -> str:
        """The newest commit."""
        sha = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()
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
        hub, (path, _, _) = self.hub, self.path.partition("?")
        if "/org/repo" in path:
            hub.tokens.add(self.headers.get("Authorization", ""))
        if path.startswith("/api/models/org/repo/tree/"):
            self.reply([row(name, data) for name, data in hub.files.items()])
        elif path.startswith("/api/models/org/repo"):
            self.reply({"id": "org/repo", "sha": hub.head, "siblings": []})
        elif path.startswith("/org/repo/resolve/"):
            self.resolve(path.removeprefix("/org/repo/resolve/").partition("/")[2])
        else:
            self.reply({"error": "Repository not found"}, 404, code="RepoNotFound")

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
        assert self.path == f"/object/{oid}"
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


def test_file_of_a_repository_is_read_by_ranges(hub: Hub) -> None:
    """With a token, at a revision or without; only what is read is sent."""
    for address in ("hf://org/repo/model.safetensors", "hf://org/repo@main/model.safetensors"):
        hub.sent = 0
        state = porter.open(address)
        np.testing.assert_array_equal(state["b"].read(), WEIGHTS["b"])
        assert hub.sent < 10_000
        np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
        assert state.origin is not None
        assert state.origin.shown == address
    assert hub.tokens == {"Bearer hf_secret"}


def test_repository_is_a_folder(hub: Hub) -> None:
    """Without a file, the weights of the repository are taken, as in a folder, and said."""
    hub.files |= {"pytorch_model.bin": b"x", "README.md": b"x", "training_args.bin": b"x"}
    state = porter.open("hf://org/repo")
    assert set(state) == {"w", "b"}
    assert state.origin is not None
    assert state.origin.notes[0].startswith("model.safetensors is read")
    assert state.origin.shown == "hf://org/repo/model.safetensors"
    hub.files = {"README.md": b"x"}
    with pytest.raises(InputError, match="has no file of weights"):
        porter.open("hf://org/repo")


def test_sharded_repository_is_one_state_dict(hub: Hub) -> None:
    """The index names the shards."""
    index = {"metadata": {}, "weight_map": {"w": "m-1.safetensors", "b": "m-2.safetensors"}}
    hub.files = {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "m-1.safetensors": save({"w": WEIGHTS["w"]}),
        "m-2.safetensors": save({"b": WEIGHTS["b"]}),
    }
    state = porter.open("hf://org/repo")
    assert {name: tensor.shape for name, tensor in state.items()} == {"w": (300, 300), "b": (3,)}
    np.testing.assert_array_equal(state["b"].read(), WEIGHTS["b"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://org/repo/none.safetensors", "is not there"),
        ("hf://org/other/model.safetensors", "is not there|cannot be read"),
        ("hf://org", "."),
    ],
)
def test_missing_is_one_line(hub: Hub, address: str, message: str) -> None:
    """Neither a trace nor a token is shown."""
    with pytest.raises(PorterError, match=message) as caught:
        porter.open(address)
    assert "\n" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_output_is_one_commit(hub: Hub, tmp_path: Path) -> None:
    """File and record come together, or not at all; a file that is there is replaced by force."""
    done = porter.repack("hf://org/repo/model.safetensors", "hf://org/repo/sub/out.safetensors")
    assert hub.commits == [["sub/out.safetensors.porter.json", "sub/out.safetensors"]]
    assert done.written.path == "hf://org/repo/sub/out.safetensors"
    np.testing.assert_array_equal(load(hub.files["sub/out.safetensors"])["w"], WEIGHTS["w"])
    with pytest.raises(UsageError, match="exists already; --force replaces it"):
        porter.repack("hf://org/repo/model.safetensors", "hf://org/repo/model.safetensors")
    hub.refuses, before = True, dict(hub.files)
    with pytest.raises(SystemFault, match="cannot be written") as caught:
        porter.repack("hf://org/repo/model.safetensors", "hf://org/repo/other.npz")
    assert "\n" not in str(caught.value)
    assert hub.files == before


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_sent_before_their_commit(workers: int, hub: Hub, tmp_path: Path) -> None:
    """By those that write them; one commit names them all, and what it replaces is gone."""
    hub.large = True
    source = tmp_path / "s.safetensors"
    source.write_bytes(save({f"w{i}": np.full((100, 100), i, "f4") for i in range(6)}))
    pool = Local(workers) if workers else None
    (tmp_path / "one").mkdir()
    porter.repack(source, tmp_path / "one" / "x.safetensors", max_shard_size=90_000)
    address = "hf://org/repo/sub/x.safetensors"
    before = dict(hub.files)
    done = porter.repack(source, address, max_shard_size=90_000, pool=pool)
    assert {name: data for name, data in hub.files.items() if name not in before} == {
        f"sub/{path.name}": path.read_bytes() for path in (tmp_path / "one").iterdir()
    }
    assert len(hub.commits) == 1
    assert len(hub.received) == 3
    assert done.written.path == f"{address}.index.json"
    assert porter.diff(source, done.written.path).equal
    with pytest.raises(UsageError, match="exists already; --force replaces it"):
        porter.repack(source, address, max_shard_size=90_000)
    hub.refuses, files = True, dict(hub.files)
    with pytest.raises(SystemFault, match="cannot be written") as caught:
        porter.repack(source, address, max_shard_size=45_000, force=True, pool=pool)
    assert "hf_secret" not in str(caught.value)
    assert hub.files == files
    hub.refuses, received = False, len(hub.received)
    porter.repack(source, address, max_shard_size=45_000, force=True, pool=pool)
    assert len(hub.received) == received  # The hub has the content of the run that failed.
    assert len(hub.commits) == 2
    assert sum("-of-" in name for name in hub.files) == 6


def test_shards_that_the_hub_takes_with_the_commit_only(hub: Hub, tmp_path: Path) -> None:
    """A repository that does not store weights by Git LFS says so, before a commit."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    with pytest.raises(UsageError, match="gitattributes"):
        porter.repack(source, "hf://org/repo/x.safetensors", max_shard_size=100_000)
    assert hub.commits == []


def test_commits_of_others_that_come_between(hub: Hub, tmp_path: Path) -> None:
    """Those of other files are no harm; one of the same file is not written over."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    hub.between = [{"README.md": b"1"}, {"README.md": b"2"}]
    porter.repack(source, "hf://org/repo/x.safetensors")
    assert len(hub.commits) == 1
    hub.between = [{"y.safetensors": b"of others"}]
    for force in (False, True):
        with pytest.raises(SystemFault, match=r"y\.safetensors: was written by another commit"):
            porter.repack(source, "hf://org/repo/y.safetensors", force=force)
        hub.between = [{"y.safetensors": b"of others again"}]
    assert len(hub.commits) == 1
    assert hub.files["y.safetensors"] == b"of others again"
    hub.between = [{"README.md": bytes([number])} for number in range(9)]
    with pytest.raises(SystemFault, match="gets commits faster"):
        porter.repack(source, "hf://org/repo/z.safetensors")
