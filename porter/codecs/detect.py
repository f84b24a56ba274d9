"""The format of a file, by its first bytes and by its name."""

from __future__ import annotations

import os
from functools import cache

from porter.errors import InputError
from porter.storage.input_file import InputFile

SUFFIXES = {
    "torch": (".pth", ".pt", ".bin", ".ckpt", ".tar"),
    "paddle": (".pdparams", ".pdopt", ".pdiparams"),
    "safetensors": (".safetensors",),
    "npz": (".npz",),
    "npy": (".npy",),
    "onnx": (".onnx",),
}
"""The suffixes of each container's files; porter writes the first unless another is given."""
INDEX_SUFFIX = ".index.json"
"""What follows a container's suffix in the name of an index of shards."""
_AMBIGUOUS = (".bin", ".ckpt", ".tar", ".pdiparams")
"""Suffixes that several programs use: a file to be read may have any content."""

_TITLES = {
    "torch": "a torch zip file",
    "torch-legacy": "an old torch file",
    "paddle": "a bare pickle, as Paddle writes",
    "paddle-inference": "an inference model of Paddle",
}
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How `pickle` writes torch's magic number, 0x1950a86a20f9469cfc6c."""
_PIR = b'"base_code"'
"""The first key of a program of Paddle's PIR."""
_ZIP_HEADER = 30
"""Bytes of a zip before the first member's name; the name's length is in them."""
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"\xfd7zXZ\0", "compressed by xz: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\x89HDF\r\n", "an HDF5 file, which porter does not read"),
    (b"GGUF", "a GGUF file, which porter does not read"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF document"),
)
_TAR = (
    "is a tar archive, which torch wrote before 0.2 and porter does not read: if you trust it, save"
    " it again by torch.save(torch.load(FILE, weights_only=False), NEW)"
)


def detect(file: InputFile) -> str:
    """Return the format that a file's content has; `InputError` says what else it is."""
    head = file.pread(0, min(512, file.size))
    if not head:
        raise InputError("is empty", file.path)
    if head[4:8] == bytes(4) and _begins_object(head[8:]):  # The length may begin like a pickle.
        return "safetensors"
    if head[:4] == b"PK\x03\x04":
        return _zip_kind(file)
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if head.startswith(_PICKLES):
        return "torch-legacy" if _LEGACY_MAGIC in head[:32] else "paddle"
    if head[:1] == b"{" and _PIR in head[:64]:
        return "paddle-inference"
    if head[:1] == b"{" and b"\0" not in head[:8]:  # a safetensors length has zeros in it
        if b'"error"' in head.lower() and b'"weight_map"' not in head:
            raise InputError("is a server's answer in JSON, an error, and not weights", file.path)
        return "index"
    if _begins_object(head[8:]):
        return "safetensors"
    if is_stream(head) or is_program(head):
        return "paddle-inference"
    _refuse_others(head, file)
    if _is_onnx(head):
        return "onnx"
    raise InputError("is not a format that porter reads", file.path)


def _begins_object(text: bytes) -> bool:
    return text.lstrip(b" \t\r\n")[:1] == b"{"


def container_of(path: str) -> str | None:
    """Return the container that a file's name asks for; None if its suffix is not known."""
    return _container(os.path.splitext(path.removesuffix(INDEX_SUFFIX))[1].lower())


@cache
def _container(suffix: str) -> str | None:
    return next((name for name, suffixes in SUFFIXES.items() if suffix in suffixes), None)


def check_name(file: InputFile, found: str) -> None:
    """Refuse a file whose name says another format than its content."""
    suffix = os.path.splitext(file.path)[1].lower()
    expected = None if suffix in _AMBIGUOUS else _container(suffix)
    if expected is not None and found not in (expected, f"{expected}-legacy"):
        raise InputError(
            f"is {_TITLES.get(found, found)}, though its name ends in {suffix}:"
            f" say --from {found}, or rename it",
            file.path,
        )


def _zip_kind(file: InputFile) -> str:
    """Tell npz from torch by the first member: all of an npz are arrays."""
    length = int.from_bytes(file.pread(26, 2), "little") if file.size > _ZIP_HEADER else 0
    name = file.pread(_ZIP_HEADER, min(length, file.size - _ZIP_HEADER)) if length else b""
    return "npz" if name.endswith(b".npy") else "torch"


def _is_old_tar(head: bytes) -> bool:
    return len(head) == 512 and head.startswith((b"sys_info\0", b"storages\0", b"pickle\0"))


def _is_onnx(head: bytes) -> bool:
    """A ModelProto begins with its first fields, ir_version and the like; there is no magic."""
    return head[:1] in (b"\x08", b"\x12", b"\x3a", b"\x42")


def is_stream(head: bytes) -> bool:
    """Whether a file begins like a stream of tensors: two versions and no level of LoD."""
    return len(head) > 20 and head[:16] == bytes(16) and head[16] > 0 and not any(head[18:20])


def is_program(head: bytes) -> bool:
    """Whether a file begins like a ProgramDesc: a block, which begins with its number."""
    at = next((n for n in range(1, 6) if n < len(head) and head[n] < 0x80), 0)
    return head[:1] == b"\x0a" and at > 0 and head[at + 1 : at + 3] == b"\x08\x00"


def _refuse_others(head: bytes, file: InputFile) -> None:
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise InputError(f"is {what}", file.path)
    if head[257:262] == b"ustar" or _is_old_tar(head):
        raise InputError(_TAR, file.path)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError("is a web page, not a model: the download failed", file.path)
    if not any(head):
        raise InputError("begins with zeros only: the copy or the download is broken", file.path)
