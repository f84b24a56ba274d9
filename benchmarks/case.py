"""One case of a measurement, a group of them, and the processes that most groups run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import data

HERE = Path(__file__).resolve().parent
PORTER = str(Path(sys.executable).parent / "porter")
GB = 10**9
BARE = ("--no-verify", "--no-read-back", "--no-sync", "--no-digests")
DIGESTS = ("--no-verify", "--no-read-back", "--no-sync")
SYNCED = ("--no-verify", "--no-read-back")
PROVEN = ("--no-verify",)
CONTAINERS = ("torch", "paddle", "safetensors")


@dataclass(frozen=True, slots=True)
class Case:
    """One process to run."""

    name: str
    argv: tuple[str, ...]
    reads: tuple[Path, ...] = ()
    """Files brought into the page cache beforehand."""
    writes: tuple[Path, ...] = ()
    """Files and folders removed before and after; they lie in the folder of the run."""
    folder: Path | None = None
    """Folder made beforehand."""
    times: int = 1
    """How often it writes as much as it reads."""
    stays: bool = False
    """Whether what it wrote is removed after all rounds only; it is renamed before the next one."""


@dataclass(slots=True)
class Group:
    """Cases that are run in turn; ratios are to the first of them."""

    name: str
    title: str
    cases: list[Case] = field(default_factory=list)
    made: tuple[Path, ...] = ()
    """Data that the group needs and nobody else."""
    rehearsed: bool = False
    """Run everything once unmeasured, so that bytecode is there and libraries are cached."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where data are kept, and how large the large checkpoint is."""

    folder: Path
    nbytes: int
    scripts: bool = True

    def source(self, container: str, layout: str = "", nbytes: int = 0) -> Path:
        """Make the large checkpoint in a container, in a framework's layout; return its path."""
        size = nbytes or self.nbytes
        layout = layout or ("paddle" if container == "paddle" else "torch")
        path = data.place(self.folder, f"source-{layout}-{size // 10**6}", container)
        data.make(data.transformer(size, layout), path, container)
        return path

    def many(self, container: str, count: int = 100_000) -> Path:
        """Make the checkpoint of many small tensors and return its path."""
        path = data.place(self.folder, f"many-{count}", container)
        data.make(data.small_tensors(count), path, container)
        return path

    def target(self, container: str) -> Path:
        """Return where outputs go."""
        return data.place(self.folder, "out", container)


def convert_case(
    name: str, table: str, source: Path, target: Path, from_: str, to: str, *options: str
) -> Case:
    argv = (PORTER, "convert", table, str(source), "-o", str(target), "--from", from_, "--to", to)
    beside = target.with_name(target.name + ".porter.json")
    return Case(name, (*argv, *options), (source,), (target, beside))


def copy_case(source: Path, target: Path, sync: bool = False) -> Case:
    if sync:
        script = 'cp "$0" "$1" && sync "$1"'
        argv: tuple[str, ...] = ("sh", "-c", script, str(source), str(target))
        return Case("cp and sync", argv, (source,), (target,))
    return Case("cp", ("cp", str(source), str(target)), (source,), (target,))


def script_case(title: str, name: str, source: Path, target: Path) -> Case:
    argv = (sys.executable, str(HERE / "scripts.py"), name, str(source), str(target))
    return Case(title, argv, (source,), (target,))


def load_case(title: str, name: str, source: Path) -> Case:
    """Return a script that loads a file and writes none."""
    argv = (sys.executable, str(HERE / "scripts.py"), name, str(source), "")
    return Case(title, argv, (source,))


def table_path(name: str) -> str:
    return str(HERE / f"{name}.toml")
