"""`gs://` by gcsfs against an emulator, `az://` by adlfs against a server of blobs in these tests.

They have an environment of their own: `make clouds`.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from safetensors.numpy import save

import porter
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.fleet.shards import Local
from porter.remote.address import address
from porter.remote.lock import AddressLock
from tests.clouds.blobs import ACCOUNT, running

WEIGHTS = {f"w{i:02d}": np.full((200, 200), i, np.float32) for i in range(8)}
LIMIT = 200_000


class Cloud(NamedTuple):
    """A bucket, or container, and its file system."""

    home: str
    system: Any

    def stored(self, folder: str = "out") -> dict[str, bytes]:
        """Return {name: bytes} of what is in a folder, hidden files too."""
        self.system.invalidate_cache()
        keys = self.system.find(f"models/{folder}")
        return {key.partition(f"/{folder}/")[2]: self.system.cat_file(key) for key in keys}


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """An emulator of Google's store, in a process of this one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="models")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(params=["gs", "az"])
def cloud(
    request: pytest.FixtureRequest, emulator: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    """Each of the stores, empty."""
    with contextlib.ExitStack() as stack:
        if request.param == "gs":
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
            # It asks for a kind of bucket that the emulator does not have.
            monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        else:
            account = stack.enter_context(running())
            account.containers["models"] = {}
            key = base64.b64encode(b"secret-of-the-account").decode()
            monkeypatch.setenv(
                "AZURE_STORAGE_CONNECTION_STRING",
                f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
                f"BlobEndpoint={account.url};",
            )
        fsspec.get_filesystem_class(request.param).clear_instance_cache()
        system = fsspec.filesystem(request.param)
        yield Cloud(f"{request.param}://models", system)
        system.invalidate_cache()
        for key in system.find("models"):
            system.rm_file(key)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint that is cut into eight shards."""
    path = tmp_path / "source.safetensors"
    path.write_bytes(save(WEIGHTS))
    return path


def counted(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all that is fetched from now on."""
    real, sizes = cloud.system.cat_file, []

    def cat_file(*args: Any, **kwargs: Any) -> bytes:
        data: bytes = real(*args, **kwargs)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(cloud.system, "cat_file", cat_file)
    return sizes


def test_a_file_is_read_by_ranges(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look into 40 MB, 200 kB are enough; a tensor is fetched when it is read."""
    arrays = {f"blocks.{i}.w": np.full((500, 500), i, np.float32) for i in range(40)}
    cloud.system.pipe_file("models/dir/m.safetensors", save(arrays))
    sizes = counted(cloud, monkeypatch)
    found = porter.inspect(f"{cloud.home}/dir/m.safetensors")
    assert len(found.state) == 40
    assert sum(sizes) < 200_000
    np.testing.assert_array_equal(found.state["blocks.7.w"].read(), arrays["blocks.7.w"])
    assert sum(sizes) < 200_000 + 2 * 1_000_000


def test_a_conversion_streams(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is read once; the output is that of a local file, and goes to the store, too."""
    porter.init("deit-tiny-224", tmp_path / "d.pth")
    data = (tmp_path / "d.pth").read_bytes()
    cloud.system.pipe_file("models/d.pth", data)
    sizes = counted(cloud, monkeypatch)
    for given, output in (
        (tmp_path / "d.pth", tmp_path / "near.pdparams"),
        (f"{cloud.home}/d.pth", tmp_path / "far.pdparams"),
        (tmp_path / "d.pth", f"{cloud.home}/out/sent.pdparams"),
    ):
        porter.convert("deit-tiny-224", given, output, to="paddle", verify=False)
        if "near" not in str(output):
            assert porter.diff(tmp_path / "near.pdparams", output).equal
    assert sum(sizes) <= 2.1 * len(data)  # One to convert, one to compare.
    assert set(cloud.stored()) == {"sent.pdparams", "sent.pdparams.porter.json"}


def test_a_folder_and_what_is_missing(cloud: Cloud) -> None:
    """The weights of a folder are found; what is not there is one line."""
    cloud.system.pipe_file("models/dir/model.safetensors", save(WEIGHTS))
    cloud.system.pipe_file("models/dir/config.json", b"{}")
    assert set(porter.open(f"{cloud.home}/dir")) == set(WEIGHTS)
    for missing in (f"{cloud.home}/none.pth", f"{cloud.home}-other/none.pth"):
        with pytest.raises(InputError, match="is not there"):
            porter.open(missing)


def test_a_change_meanwhile_is_an_error(cloud: Cloud, tmp_path: Path) -> None:
    """It is seen before the output appears."""
    url = f"{cloud.home}/dir/m.safetensors"
    cloud.system.pipe_file("models/dir/m.safetensors", save(WEIGHTS))
    state = porter.open(url)
    cloud.system.pipe_file("models/dir/m.safetensors", save({**WEIGHTS, "w00": WEIGHTS["w01"]}))
    (file,) = [row for row in state.origin.open_files if row.path == url]  # type: ignore[union-attr]
    with pytest.raises(InputError, match="changed while it was being read"):
        file.now()


def test_an_output_is_whole_or_not_there(
    cloud: Cloud, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before a fault is removed; a file that is there is replaced by force only."""
    target, real = f"{cloud.home}/out/x.safetensors", cloud.system.put_file

    def put_file(path: str, url: str) -> None:
        if url.endswith(".safetensors"):
            raise OSError("the line is cut")
        real(path, url)

    monkeypatch.setattr(cloud.system, "put_file", put_file)
    with pytest.raises(SystemFault, match="the line is cut"):
        porter.repack(source, target)
    assert cloud.stored() == {}
    monkeypatch.setattr(cloud.system, "put_file", real)
    porter.repack(source, target)
    with pytest.raises(UsageError, match="exists already; --force"):
        porter.repack(source, target)
    porter.repack(source, target, force=True)
    assert porter.diff(source, target).equal
    assert set(cloud.stored()) == {"x.safetensors", "x.safetensors.porter.json"}


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_by_those_that_write_them(
    workers: int, cloud: Cloud, source: Path, tmp_path: Path
) -> None:
    """The same files as in a folder, and nothing else."""
    (tmp_path / "one").mkdir()
    porter.repack(source, tmp_path / "one" / "x.safetensors", max_shard_size=LIMIT)
    pool = Local(workers) if workers else None
    porter.repack(source, f"{cloud.home}/out/x.safetensors", max_shard_size=LIMIT, pool=pool)
    assert cloud.stored() == {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}


def test_shards_are_gone_on_with_and_replaced(
    cloud: Cloud, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent is kept by its size and tag; the old index goes before the new shards come."""
    target, real, sent = f"{cloud.home}/out/x.safetensors", cloud.system.put_file, []

    def put_file(path: str, url: str) -> None:
        if len(sent) == 5:
            raise OSError("the line is cut")
        sent.append(url)
        real(path, url)

    monkeypatch.setattr(cloud.system, "put_file", put_file)
    with pytest.raises(SystemFault, match="the line is cut"):
        porter.repack(source, target, max_shard_size=LIMIT)
    monkeypatch.setattr(cloud.system, "put_file", lambda *pair: (sent.append(pair[1]), real(*pair)))
    porter.repack(source, target, max_shard_size=LIMIT)
    assert len(set(sent)) == len(sent) == 10
    if cloud.home.startswith(
        "gs"
    ):  # The emulator does not rename: gcsfs copies, after half a minute.
        return
    porter.repack(source, target, max_shard_size=2 * LIMIT, force=True)
    assert porter.diff(source, f"{target}.index.json").equal
    assert len(cloud.stored()) == 6


def test_two_commands_do_not_write_at_a_time(cloud: Cloud, source: Path) -> None:
    """The second is refused while the first has its lock; the store's clock counts."""
    target = f"{cloud.home}/out/x.safetensors"
    held = AddressLock(address(target), cloud.system)
    held.take()
    command = [sys.executable, "-P", "-m", "porter", "repack", str(source), "-q", "-o", target]
    second = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert second.returncode == 3, second.stderr
    assert "is being written by another command" in second.stderr
    held.release()
    assert subprocess.run(command, check=False).returncode == 0
    assert set(cloud.stored()) == {"x.safetensors", "x.safetensors.porter.json"}


def test_no_login_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys nothing is asked, and none is printed."""
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    fsspec.get_filesystem_class("az").clear_instance_cache()
    with pytest.raises(PorterError, match=r"cannot be read: .*account_name") as caught:
        porter.open("az://models/x.pth")
    assert "\n" not in str(caught.value)
