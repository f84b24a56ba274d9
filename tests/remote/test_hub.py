"""Addresses of Hugging Face's hub, against a server on this machine that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load, save

import porter
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.fleet.shards import Local
from tests.hubs import WEIGHTS, Hub, hub
from tests.remote.conftest import Site

__all__ = ["hub"]


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


def repository(hub: Hub, path: str = "") -> str:
    """Serve the repository below a path of the host."""
    hub.folder = path
    return f"{hub.url}{path}"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("hf://datasets/org/repo/model.safetensors", "datasets"),
        ("hf://datasets/org/repo@main/model.safetensors", "datasets"),
        ("hf://org/repo@refs/pr/1/model.safetensors", "refs%2Fpr%2F1"),
        ("hf://org/repo@v1.0/model.safetensors", "/v1.0/"),
        ("hf://datasets/org/repo@refs/convert/parquet/model.safetensors", "refs%2Fconvert"),
    ],
)
def test_kinds_of_repositories_and_revisions(address: str, kind: str, hub: Hub) -> None:
    """Datasets, pull requests, tags: read, listed and written to."""
    hub.branches = {"refs/pr/1", "v1.0", "refs/convert/parquet"}
    state = porter.open(address)
    np.testing.assert_array_equal(state["b"].read(), WEIGHTS["b"])
    assert state.origin is not None
    assert state.origin.shown == address
    assert set(porter.open(address.rpartition("/")[0])) == {"w", "b"}
    assert any(kind in path for path in hub.raw)
    porter.repack(address, f"{address.rpartition('/')[0]}/out.npz")
    assert "out.npz" in hub.files
    with pytest.raises(InputError, match="is not there"):
        porter.open("hf://org/repo@none/model.safetensors")


@pytest.mark.parametrize(
    "name", ["my model", "50%", "a%20b", "\N{GREEK SMALL LETTER ALPHA}", "a+b#c"]
)
def test_names_of_files_are_taken_as_they_are(name: str, hub: Hub, tmp_path: Path) -> None:
    """Spaces, percent signs, letters of any script."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    if "#" in name:
        with pytest.raises(UsageError, match="only #sha256="):
            porter.repack(source, f"hf://org/repo/sub/{name}.safetensors")
        return
    porter.repack(source, f"hf://org/repo/sub/{name}.safetensors")
    assert f"sub/{name}.safetensors" in hub.files
    assert porter.diff(source, f"hf://org/repo/sub/{name}.safetensors").equal


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "GatedRepo", "is gated: ask for access"),
        (403, "GatedRepo", "is gated: ask for access"),
        (401, "RepoNotFound", "is not there, or .*token"),
        (403, "", "is refused"),
        (500, "", "cannot be"),
    ],
)
def test_refusals_are_one_line(
    status: int, code: str, message: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to do about it is said, the token is not; so of what is read as of what is written."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    hub.status, hub.code = status, code
    for call in (
        lambda: porter.open("hf://org/repo/model.safetensors"),
        lambda: porter.open("hf://org/repo"),
        lambda: porter.repack(source, "hf://org/repo/x.safetensors"),
    ):
        with pytest.raises(PorterError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_a_branch_that_moves_meanwhile(hub: Hub, tmp_path: Path) -> None:
    """Parts of two commits are never put together; one that leaves the file alone is no harm."""
    state = porter.open("hf://org/repo/model.safetensors")
    hub.files["README.md"] = b"new"
    np.testing.assert_array_equal(state["b"].read(), WEIGHTS["b"])
    porter.repack("hf://org/repo/model.safetensors", tmp_path / "a.npz")
    state = porter.open("hf://org/repo/model.safetensors")
    hub.files["model.safetensors"] = save({**WEIGHTS, "w": WEIGHTS["w"] + 1})
    assert state.origin is not None
    (file,) = state.origin.open_files
    with pytest.raises(InputError, match="changed while it was being read"):
        file.now()


def test_an_endpoint_with_a_path(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mirror may be below a path of its host; with or without a slash at its end."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    hub.url = repository(hub, "/mirror/hf")
    for slash in ("", "/"):
        monkeypatch.setenv("HF_ENDPOINT", hub.url + slash)
        assert set(porter.open("hf://org/repo/model.safetensors")) == {"w", "b"}
        porter.repack(source, f"hf://org/repo/x{len(slash)}.safetensors")
    assert {"x0.safetensors", "x1.safetensors"} <= set(hub.files)
    assert not [path for path in hub.raw if not path.startswith("/mirror/hf/")]


def test_a_token_is_for_the_hub_only(hub: Hub, site: Site) -> None:
    """Files are sent from other hosts: they do not see it, and nobody sees their signature."""
    site.files["/model.safetensors"] = hub.files["model.safetensors"]
    hub.elsewhere = site.url
    state = porter.open("hf://org/repo/model.safetensors")
    np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
    assert hub.tokens == {"Bearer hf_secret"}
    assert site.asked
    assert not [headers for _, headers in site.asked if "authorization" in map(str.lower, headers)]
    site.statuses["/model.safetensors"] = 403
    with pytest.raises(PorterError) as caught:
        porter.open("hf://org/repo/model.safetensors")["w"].read()
    assert "secret" not in str(caught.value)


def test_without_a_network_files_are_those_of_the_cache(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HF_HUB_OFFLINE` asks nobody; what huggingface_hub has fetched before is read."""
    from huggingface_hub import hf_hub_download

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    hf_hub_download("org/repo", "model.safetensors", endpoint=hub.url, cache_dir=str(cache))
    hf_hub_download("org/repo", "config.json", endpoint=hub.url, cache_dir=str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    for address in ("hf://org/repo/model.safetensors", "hf://org/repo", "hf://org/repo@main"):
        state = porter.open(address)
        np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
        assert state.origin is not None
        assert state.origin.shown.startswith("hf://org/repo")
    digest = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert porter.open(f"hf://org/repo/model.safetensors#sha256={digest}")
    with pytest.raises(InputError, match="its sha256 is"):
        porter.open(f"hf://org/repo/model.safetensors#sha256={'0' * 64}")
    for address in (
        "hf://org/repo/none.pth",
        "hf://org/other",
        "hf://org/repo@v1/model.safetensors",
    ):
        with pytest.raises(InputError, match=r"is not in the cache .*HF_HUB_OFFLINE"):
            porter.open(address)
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    with pytest.raises(PorterError, match="offline") as caught:
        porter.repack(source, "hf://org/repo/x.safetensors")
    assert "\n" not in str(caught.value)
    assert hub.asked == []
