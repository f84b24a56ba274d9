"""Files of Hugging Face's hub that are on this machine already, for when there is no network."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from typing import Any

from porter.errors import InputError
from porter.remote.address import Address

_REPOSITORY = re.compile(
    r"hf://(?:(datasets|spaces)/)?([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(.*))?"
)


def cached(source: Address) -> str | None:
    """Return the path of a file or folder in huggingface_hub's cache; None with a network.

    With `HF_HUB_OFFLINE`, as that of its own client, nobody is asked. Raises `InputError` for what
    is not in the cache.
    """
    if source.scheme != "hf":
        return None
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:  # `file_system` says so.
        return None
    if not constants.HF_HUB_OFFLINE:
        return None
    path = _path(source)
    if path is None:
        what = "is not in the cache of huggingface_hub, and HF_HUB_OFFLINE is set"
        raise InputError(what, source.shown)
    if source.sha256 is not None:
        _check(path, source)
    return path


def _path(source: Address) -> str | None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    match = _REPOSITORY.fullmatch(source.url.rstrip("/"))
    if match is None:
        return None
    kind, repository, revision, inside = match.groups()
    about: dict[str, Any] = {"repo_type": kind and kind[:-1], "revision": revision}
    with suppress(HFValidationError, LocalEntryNotFoundError):
        if inside:
            file = try_to_load_from_cache(repository, inside, **about)
            if isinstance(file, str):
                return file
        folder = snapshot_download(repository, local_files_only=True, **about)
        path = os.path.join(folder, inside or "")
        return path if os.path.isdir(path) else None
    return None


def _check(path: str, source: Address) -> None:
    if os.path.isdir(path):
        raise InputError("is a folder: #sha256= is of one file", source.shown)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise InputError(f"its sha256 is {found}, not {source.sha256}", source.shown)
