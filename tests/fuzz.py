"""Coverage-guided fuzzing of the readers: `make fuzz`, or `python -m tests.fuzz TARGET [SECONDS]`.

Each target turns bytes into a file of one kind and reads it whole. Nothing but a `PorterError`
may come out, whatever the bytes. Needs atheris, which is installed by `make fuzz` alone.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from porter import codecs
from porter.errors import PorterError

SUFFIXES = {
    "torch": ".pth",
    "torch-pickle": ".pth",
    "paddle": ".pdparams",
    "safetensors": ".safetensors",
    "npz": ".npz",
    "npy": ".npy",
    "onnx": ".onnx",
    "index": ".safetensors.index.json",
}
"""Targets, and what their files are called."""


def target(name: str, folder: Path) -> Callable[[bytes], None]:
    """Return the function that reads bytes as a file of one kind, whole."""
    path = folder / f"model{SUFFIXES[name]}"

    def read(data: bytes) -> None:
        path.write_bytes(archive(data) if name == "torch-pickle" else data)
        try:
            for tensor in codecs.read(str(path)).values():
                for _ in tensor.blocks():
                    pass
        except PorterError as error:
            if "\n" in str(error):
                raise AssertionError("the message is not one line") from error

    return read


def archive(pickle: bytes) -> bytes:
    """Return a sound torch file around a pickle, which no checksum then keeps from being read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("archive/data.pkl", pickle)
        made.writestr("archive/data/0", bytes(16))
    return buffer.getvalue()


def _pickle(data: bytes) -> bytes:
    """Return the pickle of a torch file, empty where it has none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as held:
            names = [name for name in held.namelist() if name.endswith("/data.pkl")]
            return held.read(names[0]) if names else b""
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
        return b""


def seeds(name: str) -> Iterable[bytes]:
    """Return small files of one kind, good and bad, to start from."""
    from tests.badfiles import Maker, make

    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(folder, None)
        make(maker, big=False, special=False)
        for case in maker.cases:
            path = Path(folder, case["path"])
            if path.name.endswith(SUFFIXES[name]) and path.is_file() and path.stat().st_size < 4096:
                data = path.read_bytes()
                if name != "torch-pickle":
                    yield data
                elif pickle := _pickle(data):
                    yield pickle


def main(name: str, seconds: int) -> None:
    """Fuzz one target for a while; a finding is printed and saved by atheris."""
    import atheris

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as corpus:
        for index, data in enumerate(seeds(name)):
            Path(corpus, str(index)).write_bytes(data)
        atheris.instrument_all()
        limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *limits, corpus], target(name, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60)
