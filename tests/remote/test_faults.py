"""Servers as they fail: one line without a secret, the right exit code, nothing half written."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.numpy import save

import porter
from porter import errors
from porter.cli import main
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.fleet.shards import as_row
from porter.remote import fetch, fsspec_store, http, http_store
from porter.remote.http import Unreachable
from tests.buckets import STORED
from tests.remote.conftest import BODY, WEIGHTS, Site, good

Fails = Callable[[list[str], int, str], None]


@pytest.fixture
def fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fails:
    """A check of a command that fails, by its one line, its code and what is left in the folder."""

    handler = signal.getsignal(signal.SIGTERM)

    def check(words: list[str], code: int, message: str) -> None:
        before = {path.name for path in tmp_path.iterdir()}
        monkeypatch.setattr("sys.argv", ["porter", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        signal.signal(signal.SIGTERM, handler)
        (line,) = capsys.readouterr().err.splitlines()
        assert caught.value.code == code, line
        assert line.startswith("porter: ")
        assert message in line
        assert "secret" not in line
        assert {path.name for path in tmp_path.iterdir()} == before

    return check


@pytest.mark.parametrize("seed", range(5))
def test_connections_that_close_at_random_bytes(seed: int, site: Site, tmp_path: Path) -> None:
    """All bytes come in the end, each once, as long as some come each time."""
    chance = random.Random(seed)
    site.cuts = [chance.randint(1, 40_000) for _ in range(chance.randint(3, 12))]
    porter.repack(good(site), tmp_path / "x.npz")
    np.testing.assert_array_equal(porter.open(tmp_path / "x.npz")["w"].read(), WEIGHTS["w"])


def test_a_server_that_always_closes_is_one_line(site: Site, tmp_path: Path, fails: Fails) -> None:
    """Attempts end; the output is not begun."""
    site.cuts = [0] * 1000
    words = ["repack", f"{good(site)}?key=secret", "-o", str(tmp_path / "x.npz")]
    fails(words, 3, "was cut while it was sent")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("is_date", [False, True])
def test_a_busy_server_says_how_long_to_wait(
    status: int, is_date: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Retry-After` in seconds or as a date is waited for; then all goes on."""
    slept: list[float] = []
    monkeypatch.setattr(http_store.time, "sleep", slept.append)
    after = formatdate(time.time() + 40, usegmt=True) if is_date else "40"
    site.refusals = [(status, {"Retry-After": after})] * 2
    np.testing.assert_array_equal(porter.open(good(site))["w"].read(), WEIGHTS["w"])
    assert len(slept) == 2
    assert all(37 < seconds <= 40 for seconds in slept)


def test_a_server_that_wants_an_hour_is_not_waited_for(
    site: Site, tmp_path: Path, fails: Fails
) -> None:
    """The line says how long it asks for."""
    site.refusals = [(429, {"Retry-After": "3600"})]
    words = ["repack", good(site), "-o", str(tmp_path / "x.npz")]
    fails(words, 3, "is busy (HTTP 429) and asks to wait 3,600 s")
    for strange in ("-5", "soon", "1e99", "9" * 400, "Wed, 99 Foo 2020"):
        assert http._asked_wait(strange) in (0.0, 999_999_999.0)


def test_a_signed_address_that_expires_in_the_middle(
    site: Site, tmp_path: Path, fails: Fails
) -> None:
    """What was allowed and is refused now is not the input's fault; shards that are there stay."""
    many = {f"w{i}": np.full((200, 200), i, np.float32) for i in range(40)}
    site.files["/many.safetensors"] = save(many)
    words = [
        "repack", f"{site.url}/many.safetensors?sig=secret", "-o", str(tmp_path / "x.npz"),
    ]  # fmt: skip
    site.expires_after = 100
    fails(words, 3, "is refused now, and was not before")
    site.expires_after = 0
    fails(words, 2, "is refused by the server (HTTP 403)")


def test_keys_of_a_bucket_that_expire_in_the_middle(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a bucket: a refusal at once is of the input, one in the middle is not."""
    state = porter.open("s3://models/dir/model.safetensors")

    def denied(*args: object, **kwargs: object) -> bytes:
        raise PermissionError("ExpiredToken: secret-of-the-bucket")

    monkeypatch.setattr(bucket, "cat_file", denied)
    with pytest.raises(SystemFault, match="the keys or the token may have expired") as caught:
        state["w"].read()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ranges", [True, False])
def test_bytes_that_drip_are_given_up(
    ranges: bool, site: Site, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait is short and the file would still take a year."""
    monkeypatch.setattr(http_store, "PATIENCE", 0.2)
    site.ranges, site.drip = ranges, 0.01
    words = ["repack", good(site), "-o", str(tmp_path / "x.npz")]
    fails(words, 3, "bytes a second, too few to be waited for")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("more", [10, -10, 1 - len(BODY)])
def test_a_length_that_is_wrong(
    ranges: bool, more: int, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long or too short, of a part or of all: an error or the file, never less of it."""
    monkeypatch.setattr(http_store, "PATIENCE", 0.5)
    site.ranges, site.said_length = ranges, len(BODY) + more
    problem = ""
    try:
        porter.repack(good(site), tmp_path / "x.npz")
    except PorterError as error:
        problem = str(error)
    if ranges and more in (10, -10):  # The rest is asked for.
        np.testing.assert_array_equal(porter.open(tmp_path / "x.npz")["w"].read(), WEIGHTS["w"])
    else:
        assert len(problem.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


def test_compressed_bodies_in_the_middle(site: Site) -> None:
    """A proxy that compresses the second answer and not the first is seen."""
    state = porter.open(good(site))
    site.headers["Content-Encoding"] = "gzip"
    with pytest.raises(InputError, match="sent compressed"):
        state["w"].read()


def test_redirects_with_credentials_show_none(site: Site, tmp_path: Path, fails: Fails) -> None:
    """Neither a password nor a query of where a server sends one is printed; none is sent along."""
    for target in ("http://me:secret@127.0.0.1/x", "ftp://127.0.0.1/x?key=secret"):
        site.redirects = {"/a.safetensors": target}
        words = ["repack", f"{site.url}/a.safetensors?sig=secret", "-o", str(tmp_path / "x.npz")]
        fails(words, 2, "redirects to what porter does not read")
    site.redirects = {"/a.safetensors": good(site)}
    site.asked.clear()
    porter.open(f"{site.url}/a.safetensors?sig=secret")
    for _, headers in site.asked:
        assert not {"Authorization", "Cookie", "Referer"} & set(headers)


@pytest.mark.parametrize("count", [20, 21])
def test_a_bucket_of_very_many_keys_is_not_listed(
    count: int, bucket: Any, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page is looked at; a file of it is opened by its name as ever."""
    monkeypatch.setattr(fsspec_store, "_MOST_FILES", 20)
    bucket.pipe({f"models/many/{number}.json": b"{}" for number in range(count - 1)})
    bucket.pipe_file("models/many/model.safetensors", save(STORED))
    bucket.invalidate_cache()
    if count == 20:
        assert set(porter.open("s3://models/many")) == {"w", "b"}
    else:
        fails(["inspect", "s3://models/many"], 2, "a folder of more than 20 files")
    assert set(porter.open("s3://models/many/model.safetensors")) == {"w", "b"}


@pytest.mark.parametrize(
    "name", ["my model", "a%2Fb", "\N{GREEK SMALL LETTER ALPHA}\u6f22", "a+b=c@d", "%"]
)
def test_names_of_keys_are_taken_as_they_are(name: str, bucket: Any, tmp_path: Path) -> None:
    """Spaces, percent signs and letters of any script; in shards as well."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(STORED))
    address = f"s3://models/out/{name}.safetensors"
    assert porter.repack(source, address).written.path == address
    assert porter.diff(source, address).equal
    done = porter.repack(source, f"s3://models/in/{name}.safetensors", max_shard_size=100_000)
    assert porter.diff(source, done.written.path).equal
    bucket.invalidate_cache()
    assert f"models/out/{name}.safetensors" in bucket.find("models/out")


@pytest.mark.parametrize("name", ["..", ".", "a/..", "a/../"])
def test_names_that_lead_elsewhere_are_no_outputs(name: str, bucket: Any, tmp_path: Path) -> None:
    """Nothing is written outside of the folder for temporary files."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(STORED))
    with pytest.raises(UsageError, match="is not the address of a file"):
        porter.repack(source, f"s3://models/out/{name}", to="safetensors")


def test_names_of_files_on_the_web(site: Site) -> None:
    """Quoted once, whether they were quoted or not."""
    for name in ("my model.safetensors", "\N{GREEK SMALL LETTER ALPHA}.safetensors"):
        site.files[f"/{quote(name)}"] = BODY
        for spelled in (name, quote(name)):
            assert set(porter.open(f"{site.url}/{spelled}")) == {"w"}
    site.files["/a%2Fb.safetensors"] = BODY
    assert set(porter.open(f"{site.url}/a%2Fb.safetensors")) == {"w"}
    with pytest.raises(PorterError):
        fetch.local(f"{site.url}/a/b.safetensors")


def test_a_fault_of_the_network_reaches_the_process_that_asks() -> None:
    """It is one of the errors that all processes know."""
    row = as_row(Unreachable("was cut", "https://host/x", again=True))
    assert row["error"] == "SystemFault"
    assert issubclass(getattr(errors, row["error"]), PorterError)
    assert as_row(http.Denied("no", "x"))["error"] == "InputError"
