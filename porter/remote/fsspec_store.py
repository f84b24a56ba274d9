"""Files of the systems that fsspec knows, Hugging Face's hub among them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from porter.errors import InputError, MissingPackage, PorterError, SystemFault, printable
from porter.remote.address import Address
from porter.remote.http import EXPIRED, without_secrets

_PACKAGES = {
    "hf": ("huggingface_hub",),
    "s3": ("fsspec", "s3fs"),
    "gs": ("fsspec", "gcsfs"),
    "az": ("fsspec", "adlfs"),
    "file": ("fsspec",),
    "memory": ("fsspec",),
}
"""What each scheme needs; it is in the extra `remote`, or `gs` and `az`."""
_FAULTS = {
    "hf": ("httpx.HTTPError", "httpx2.HTTPError", "huggingface_hub.errors.EntryNotFoundError"),
    "s3": ("botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError"),
    "gs": ("gcsfs.retry.HttpError", "google.auth.exceptions.GoogleAuthError"),
    "az": ("azure.core.exceptions.AzureError",),
}
"""Errors of the systems that are not an `OSError` or a `ValueError`."""
_MOST_FILES = 1000
"""Files of a folder of a bucket: one page of its list."""
_OFTEN = 256 << 20
"""Bytes after which the tag is compared; it is once more before an output appears."""
_TAGS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "mtime", "LastModified", "created")
"""Keys of fsspec's `info` that tell one state of a file from another, the best first."""


def file_system(source: Address) -> Any:
    """Return the file system of an address; `MissingPackage` without what it needs."""
    scheme = source.scheme
    for package in _PACKAGES[scheme]:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            extra = scheme if scheme in ("gs", "az") else "remote"
            wanted = f"`pip install 'porter-weights[{extra}]'`"
            what = f"{scheme}:// addresses need {package}; run {wanted}"
            raise MissingPackage(what) from None
    with faults(source):
        if scheme == "hf":
            from huggingface_hub import HfFileSystem

            endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
            return HfFileSystem(endpoint=endpoint, skip_instance_cache=True)
        import fsspec

        return fsspec.filesystem(scheme)


@contextmanager
def faults(source: Address, done: str = "read", *, begun: bool = False) -> Iterator[None]:
    """Report a fault of a file system as one line, without what the address keeps secret.

    What was `begun` had been allowed: a refusal is then of keys that are no longer valid.
    """
    kinds: list[type[BaseException]] = [OSError, ValueError, NotImplementedError]
    for name in _FAULTS.get(source.scheme, ()):
        module, _, leaf = name.rpartition(".")
        try:
            kinds.append(getattr(importlib.import_module(module), leaf))
        except (ModuleNotFoundError, AttributeError):
            continue
    try:
        yield
    except PorterError:
        raise
    except FileNotFoundError as fault:
        raise InputError(_why_missing(fault), source.shown) from fault
    except tuple(kinds) as fault:
        status = getattr(getattr(fault, "response", None), "status_code", 0)
        if isinstance(fault, PermissionError) or status in (401, 403):
            if begun:
                raise SystemFault(EXPIRED, source.shown) from fault
            what = "is refused: it needs a login (a token, or the keys of the bucket)"
            raise InputError(what, source.shown) from fault
        text = without_secrets(" ".join(str(fault).split()))
        what = printable(text or type(fault).__name__, 200)
        raise SystemFault(f"cannot be {done}: {what}", source.shown) from fault


def _why_missing(fault: BaseException) -> str:
    """Return what is said of a file that is not there: a hub says so of what it does not show."""
    cause: BaseException | None = fault
    while cause is not None:
        kind = type(cause).__name__
        if kind == "GatedRepoError":
            return "is gated: ask for access on its page, and give a token (HF_TOKEN)"
        if kind == "RepositoryNotFoundError":
            return "is not there, or is private and needs a token (HF_TOKEN) that may read it"
        cause = cause.__cause__
    return "is not there"


class FsspecStore:
    """Parts of one file; its tag is asked for again when many bytes were read."""

    def __init__(self, source: Address, system: Any) -> None:
        self.shown = source.shown
        self._source = source
        self._system = system
        with faults(source):
            info = system.info(source.url)
        if info.get("type") == "directory":
            raise InputError("is a folder, not a file", source.shown)
        if not isinstance(info.get("size"), int):
            raise InputError("has no size: it cannot be read in parts", source.shown)
        self.size: int = info["size"]
        self.tag = tag_of(info)
        self._unchecked = 0

    def read(self, start: int, end: int) -> bytes:
        """Return these bytes."""
        with faults(self._source, begun=True):
            data = self._part(start, end)
        if len(data) != end - start:
            raise InputError("changed while it was being read", self.shown)
        self._unchecked += len(data)
        if self._unchecked >= _OFTEN:
            self._unchecked = 0
            self.check()
        return data

    def _part(self, start: int, end: int) -> bytes:
        if self._source.scheme != "hf":
            return bytes(self._system.cat_file(self._source.url, start=start, end=end))
        # Its `cat_file` reads ahead.
        with self._system.open(self._source.url, "rb", cache_type="none") as file:
            file.seek(start)
            return bytes(file.read(end - start))

    def check(self) -> None:
        """Compare tag and size with those of the beginning."""
        with faults(self._source, begun=True):
            self._system.invalidate_cache()
            info = self._system.info(self._source.url)
        if (info.get("size"), tag_of(info)) != (self.size, self.tag):
            raise InputError("changed while it was being read", self.shown)


def tag_of(info: dict[str, Any]) -> str:
    """Return what tells one state of a file from another, "" where the system says nothing."""
    return next((f"{key}:{info[key]}" for key in _TAGS if info.get(key)), "")


def listed_files(source: Address) -> list[str] | None:
    """Return the names of the files in a folder; None where the address is that of a file."""
    system = file_system(source)
    with faults(source):
        if system.isfile(source.url):
            return None
        check_count(source, system)
        rows = system.ls(source.url, detail=True)
    return sorted(row["name"].rpartition("/")[2] for row in rows if row.get("type") == "file")


def check_count(source: Address, system: Any) -> None:
    """Raise `InputError` for a folder of a bucket with more files than one request lists."""
    if source.scheme != "s3":
        return
    bucket, key, _ = system.split_path(source.url.rstrip("/"))
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
    if system.call_s3("list_objects_v2", MaxKeys=_MOST_FILES, **asked).get("IsTruncated"):
        what = f"is a folder of more than {_MOST_FILES:,} files: name one of them"
        raise InputError(what, source.shown)
