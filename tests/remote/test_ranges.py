"""Files at addresses are read by ranges: no more than is asked for, whatever breaks on the way."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import porter
from porter.errors import InputError, SystemFault
from porter.remote import fetch, http_store, remote_file
from porter.storage.input_file import open_input
from tests.remote.conftest import BODY, WEIGHTS, Site, good


def test_an_address_is_read_like_a_path(site: Site) -> None:
    """`porter.open` gives the file's tensors and says where they came from; nothing is copied."""
    state = porter.open(good(site))
    assert site.sent < len(BODY)
    np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
    assert state.origin is not None
    assert state.origin.shown == state.origin.path == good(site)
    assert state.origin.notes == ()


@pytest.mark.parametrize("container", ["safetensors", "torch", "paddle", "npz"])
def test_looking_into_a_file_reads_little(site: Site, tmp_path: Path, container: str) -> None:
    """Of a large file, what says what is in it: 2 MB at most of 4 GB, here 200 kB of 40 MB."""
    arrays = {f"blocks.{i}.w": np.full((500, 500), i, np.float32) for i in range(40)}
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(arrays))
    suffix = {"torch": "pth", "paddle": "pdparams"}.get(container, container)
    path = tmp_path / f"x.{suffix}"
    porter.repack(source, path)
    site.files[f"/{path.name}"] = path.read_bytes()
    found = porter.inspect(f"{site.url}/{path.name}")
    assert len(found.state) == 40
    assert site.sent < 200_000
    assert found.state["blocks.7.w"].read()[0, 0] == 7
    assert site.sent < 200_000 + 2 * 1_000_000


@pytest.mark.parametrize("container", ["safetensors", "torch", "paddle"])
def test_a_conversion_reads_the_source_once(site: Site, tmp_path: Path, container: str) -> None:
    """Digests and tensors come from one stream, transposed tensors too; the output is the same."""
    suffix = {"torch": "pth", "paddle": "pdparams"}.get(container, container)
    local = tmp_path / f"x.{suffix}"
    porter.init("deit-tiny-224", local, to=container)
    site.files[f"/{local.name}"] = data = local.read_bytes()
    target = ("paddle", "pdparams") if container != "paddle" else ("torch", "pth")
    outputs = [tmp_path / f"{name}.{target[1]}" for name in ("near", "far")]
    for source, output in zip((local, f"{site.url}/{local.name}"), outputs, strict=True):
        porter.convert("deit-tiny-224", source, output, from_=container, to=target[0],
                       verify=False, record=False)  # fmt: skip
    near, far = (path.read_bytes() for path in outputs)
    assert len(near) == len(far)
    assert porter.diff(outputs[0], outputs[1]).equal
    assert site.sent <= 1.02 * len(data)


def test_what_came_before_a_cut_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    """Each broken connection costs one request; at most a hundredth is read twice."""
    site.files["/x.safetensors"] = data = save({"w": np.random.default_rng(0).random(3_000_000)})
    site.cuts = [700_000, 1000, 0, 2_000_000, 5, 0, 900_000]
    done = porter.repack(f"{site.url}/x.safetensors", tmp_path / "x.npz")
    assert not site.cuts
    np.testing.assert_array_equal(
        porter.open(tmp_path / "x.npz")["w"].read(), np.random.default_rng(0).random(3_000_000)
    )
    assert site.sent <= 1.01 * len(data)
    assert done.written.path == str(tmp_path / "x.npz")


def test_a_connection_that_gains_nothing_is_an_error(site: Site, tmp_path: Path) -> None:
    """After a few attempts; nothing half appears."""
    state = porter.open(good(site))
    site.cuts = [0] * 20
    with pytest.raises(SystemFault, match="was cut while it was sent"):
        state["w"].read()
    assert len(site.cuts) == 20 - http_store.ATTEMPTS
    site.cuts = [0] * 200
    with pytest.raises(SystemFault, match="was cut while it was sent"):
        porter.repack(good(site), tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["etag", "date", "size", "gone"])
def test_a_file_that_changes_meanwhile_is_an_error(site: Site, change: str) -> None:
    """Parts of two files are never put together: tag, date or length are those of the first."""
    if change == "date":
        site.etag = None
    state = porter.open(good(site))
    if change == "size":
        site.files["/dir/model.safetensors"] = BODY + b"1"
    elif change == "gone":
        site.files.clear()
    elif change == "etag":
        site.etag = '"two"'
    else:
        site.modified = "Tue, 02 Jan 2024 00:00:00 GMT"
    with pytest.raises(InputError, match=r"changed while it was being read|is not there"):
        state["w"].read()


def test_a_change_at_the_very_end_is_seen(site: Site, tmp_path: Path) -> None:
    """The server is asked once more before the output gets its name."""
    site.changes_after = len(BODY)
    with pytest.raises(InputError, match="changed while it was being read"):
        porter.repack(good(site), tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_ranges_is_read_through_a_copy(site: Site) -> None:
    """The file is fetched whole into a temporary one."""
    site.ranges = False
    state = porter.open(good(site))
    assert state.origin is not None
    assert state.origin.address == good(site)
    assert Path(state.origin.path).read_bytes() == BODY


def test_a_query_is_used_but_neither_printed_nor_recorded(site: Site, tmp_path: Path) -> None:
    """A signed address is as good as a password."""
    done = porter.repack(f"{good(site)}?sig=secret", tmp_path / "x.safetensors")
    assert done.origin.shown == good(site)
    assert "secret" not in (tmp_path / "x.safetensors.porter.json").read_text()
    assert b"secret" not in (tmp_path / "x.safetensors").read_bytes()
    with pytest.raises(InputError) as caught:
        porter.open(f"{site.url}/none.pth?sig=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_come_with_their_index(site: Site, tmp_path: Path, ranges: bool) -> None:
    """An index of shards is followed, and the whole is one state dict."""
    site.ranges = ranges
    parts = {f"m-{i}.safetensors": {f"t{i}": np.full(3, i, np.float32)} for i in (1, 2)}
    index = {"metadata": {}, "weight_map": {f"t{i}": f"m-{i}.safetensors" for i in (1, 2)}}
    site.files |= {f"/s/{name}": save(part) for name, part in parts.items()}
    site.files["/s/model.safetensors.index.json"] = json.dumps(index).encode()
    state = porter.open(f"{site.url}/s/model.safetensors.index.json")
    assert {name: t.read()[0] for name, t in state.items()} == {"t1": 1, "t2": 2}
    porter.repack(f"{site.url}/s/model.safetensors.index.json", tmp_path / "whole.safetensors")
    assert porter.diff(tmp_path / "whole.safetensors",
                       f"{site.url}/s/model.safetensors.index.json").equal  # fmt: skip


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "", ".hidden", 3])
def test_an_index_cannot_reach_out_of_its_folder(site: Site, name: object) -> None:
    """Shards are in the folder of their index, or nothing is asked for."""
    site.files["/s/m.index.json"] = json.dumps({"weight_map": {"t": name}}).encode()
    with pytest.raises(InputError, match="not in the same folder"):
        porter.open(f"{site.url}/s/m.index.json")
    assert {path for path, _ in site.asked} == {"/s/m.index.json"}


def test_a_digest_is_checked_before_anything_is_read(site: Site, tmp_path: Path) -> None:
    """With `#sha256=` the file is fetched whole; the wrong one is refused and removed."""
    digest = hashlib.sha256(BODY).hexdigest()
    site.cuts = [777]
    state = porter.open(f"{good(site)}#sha256={digest.upper()}")
    np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
    with pytest.raises(InputError, match=f"its sha256 is {digest}, not 0000"):
        porter.open(f"{good(site)}#sha256={'0' * 64}")
    site.ranges = False
    with pytest.raises(InputError, match="its sha256 is"):
        porter.open(f"{good(site)}#sha256={'0' * 64}")


def test_pieces_here_and_there_are_fetched_once(site: Site) -> None:
    """Short reads fetch pages, reads in order fetch chunks ahead; both give the file's bytes."""
    data = np.random.default_rng(0).bytes(9_000_001)
    site.files["/x"] = data
    store = http_store.open_store(fetch.address(f"{site.url}/x"))
    assert store is not None
    file = remote_file.RemoteFile(store)
    assert open_input(f"{site.url}/x") is file
    for offset, nbytes in ((5, 3), (5, 3), (8_999_990, 11), (4_194_300, 9), (0, 0)):
        assert file.pread(offset, nbytes) == data[offset : offset + nbytes]
    few = site.sent
    assert few < 5000
    file.expect([(100_000, 50), (200_000, 50), (100_050, 10)])
    before = len(site.asked)
    assert file.pread(200_010, 20) == data[200_010:200_030]
    assert len(site.asked) == before
    step = 1 << 20
    starts = range(0, len(data), step)
    assert data == b"".join(file.pread(at, min(step, len(data) - at)) for at in starts)
    assert site.sent <= len(data) + few + 2000
    with pytest.raises(InputError, match="truncated"):
        file.pread(9_000_000, 2)


def test_many_files_keep_no_more_than_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are those of all files together, and go with the file."""
    monkeypatch.setattr(remote_file, "CHUNK", 1 << 16)
    data = {f"/{i}": np.random.default_rng(i).bytes(600_000) for i in range(8)}
    site.files |= data
    files = []
    for path in data:
        store = http_store.open_store(fetch.address(f"{site.url}{path}"))
        assert store is not None
        files.append(remote_file.RemoteFile(store))
        files[-1].stream()
    for file, body in zip(files, data.values(), strict=True):
        assert file.pread(0, len(body)) == body
    assert len(remote_file._chunks._kept) == remote_file.KEPT
    files.clear()
    del file
    assert not remote_file._chunks._kept


def test_a_copy_with_a_digest_is_fetched_once(site: Site) -> None:
    """The digest says what it is: a second look at it asks nobody."""
    url = f"{good(site)}#sha256={hashlib.sha256(BODY).hexdigest()}"
    porter.open(url)
    before = site.sent
    porter.open(url)
    assert site.sent == before
