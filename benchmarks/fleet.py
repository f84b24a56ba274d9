"""What a manifest is measured by: proofs, large conversions, shards, very many small files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import data
from benchmarks.case import HERE, PORTER, Case, Group, Setting, table_path


def groups(setting: Setting) -> Iterator[Group]:
    """Yield what a manifest is measured by: proofs, large conversions, very many small files."""
    yield _proofs(setting)
    yield _transposing(setting)
    yield _one_checkpoint(setting)
    yield _small_files(setting)


_PROOFS = 30


def _proofs(setting: Setting) -> Group:
    """Small proofs by one command each, and by one manifest: of the smallest variants."""
    import porter
    from porter.zoo.architectures import all_variants

    folder = setting.folder / "fleet"
    folder.mkdir(exist_ok=True)
    known = [v for v in all_variants().values() if v.module and v.image_size <= 224]
    names = [v.name for v in sorted(known, key=lambda v: v.parameters)[:_PROOFS]]
    for name in names:
        if not (source := folder / f"{name}.pth").exists():
            porter.init(name, source, to="torch")
    out = setting.folder / "fleet-out"
    manifest = folder / "proofs.toml"
    manifest.write_text(
        '[defaults]\nfrom = "torch"\nto = "paddle"\n'
        f'[[jobs]]\nvariant = {json.dumps(names)}\narch = "{{variant}}"\n'
        f'input = "{folder}/{{variant}}.pth"\noutput = "{out}/{{variant}}.pdparams"\n'
    )
    script = 'out=$1; shift; mkdir -p "$out"; for name; do "$0" convert "$name"' + (
        f' "{folder}/$name.pth" --from torch --to paddle -o "$out/$name.pdparams" || exit; done'
    )
    commands = ("sh", "-c", script, PORTER, str(out), *names)
    reads = tuple(folder / f"{name}.pth" for name in names)
    group = Group("fleet", f"{_PROOFS} small proofs", made=(folder,))
    group.cases = [
        Case(f"{_PROOFS} commands", commands, reads, (out,)),
        *(_manifest(manifest, n, f"porter fleet, {_counted(n)}", reads, out) for n in (1, 2)),
    ]
    return group


def _manifest(
    path: Path, workers: int, name: str, reads: tuple[Path, ...], out: Path, cores: int = 0,
    times: int = 1,
) -> Case:  # fmt: skip
    pinned = ("taskset", "-c", f"0-{cores - 1}") if cores else ()
    argv = (*pinned, PORTER, "fleet", str(path), "--workers", str(workers), "--quiet")
    return Case(name, argv, reads, (out,), times=times)


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}"


def _transposing(setting: Setting) -> Group:
    """Conversions of a quarter of the large checkpoint, every Linear transposed, all proven."""
    count = 16  # To start the processes takes a second, whatever they do.
    source = setting.source("torch", nbytes=setting.nbytes // 4)
    out, manifest = setting.folder / "fleet-out", setting.folder / "transposing.toml"
    manifest.write_text(
        f'[defaults]\narch = "{table_path("plain")}"\nfrom = "torch"\nto = "paddle"\n'
        f'sync = false\ninput = "{source}"\n'
        f'[[jobs]]\nn = {list(range(count))}\noutput = "{out}/{{n}}.pdparams"\n'
    )
    title = f"{count} transposing conversions in one manifest"
    group = Group("fleet", title, made=(source, manifest))
    group.cases = [
        _manifest(manifest, workers, f"{_counted(workers)} on {cores} core{'s' * (cores > 1)}",
                  (source,), out, cores, count)
        for workers, cores in ((1, 1), (2, 2), (1, 2))
    ]  # fmt: skip
    return group


def _one_checkpoint(setting: Setting) -> Group:
    """The large checkpoint in shards, every Linear transposed, read back and proven."""
    source, folder = setting.source("torch"), setting.folder / "shards"
    group = Group("fleet", "one large checkpoint in shards, proven", made=(source,))
    size = f"{max(1, setting.nbytes // 16 // 10**6)}MB"
    base = (PORTER, "convert", table_path("plain"), str(source),
            "-o", str(folder / "m.safetensors"), "--from", "torch", "--to", "safetensors:paddle",
            "--no-sync", "--max-shard-size", size)  # fmt: skip
    for workers, cores in ((0, 1), (0, 2), (1, 1), (2, 2)):
        options = ("--workers", str(workers)) if workers else ()
        name = f"{_counted(workers) if workers else 'no workers'}, {cores} core{'s' * (cores > 1)}"
        argv = ("taskset", "-c", f"0-{cores - 1}", *base, *options)
        group.cases.append(Case(name, argv, (source,), (folder,), folder))
    return group


_SMALL_FILES = 5000
_SIDE = 64
"""Of the matrices in a small file: 8 of them, with a bias each, are 133 kB."""


def _small_files(setting: Setting) -> Group:
    """Very many small files in one manifest, against `cp -r`.

    ext4 without a journal passes over each inode that was removed in the last minutes when it looks
    for a free one, which takes longer than all else: what was written stays until all rounds are
    over.
    """
    folder, out = setting.folder / "small", setting.folder / "fleet-out"
    folder.mkdir(exist_ok=True)
    first = folder / "00000.pth"
    shapes = {
        name: shape
        for i in range(8)
        for name, shape in ((f"layers.{i}.weight", (_SIDE, _SIDE)), (f"layers.{i}.bias", (_SIDE,)))
    }
    for number in range(_SMALL_FILES):
        data.make(shapes, folder / f"{number:05d}.pth", "torch", number * len(shapes))
    paths = {name: setting.folder / f"small-{name}.toml" for name in ("bare", "proven")}
    for name, path in paths.items():
        bare = "verify = false\nsync = false\nread-back = false\ndigests = false\n"  # as `BARE`
        options = bare if name == "bare" else ""
        path.write_text(
            f'[defaults]\narch = "{table_path("many")}"\nfrom = "torch"\nto = "paddle"\n{options}'
            f'[[jobs]]\ninput = "{folder}/*.pth"\noutput = "{out}/{{stem}}.pdparams"\n'
        )
    nbytes = _SMALL_FILES * first.stat().st_size
    title = f"{_SMALL_FILES:,} small files, {nbytes // 10**6} MB"
    group = Group("fleet", title, made=(folder, *paths.values()))
    reads = tuple(sorted(folder.iterdir()))
    script = str(HERE / "scripts.py")
    synced = 'cp -r "$0" "$1" && sync'
    cases = [
        Case("cp -r", ("cp", "-r", str(folder), str(out)), reads, (out,)),
        Case("a script: read, write, rename, with a record",
             (sys.executable, script, "copy_folder", str(folder), str(out)), reads, (out,)),
        _manifest(paths["bare"], 2, "porter fleet, 2 workers, bare", reads, out),
        Case("cp -r and sync", ("sh", "-c", synced, str(folder), str(out)), reads, (out,)),
        _manifest(paths["proven"], 2, "porter fleet, 2 workers, as it comes: proven, read back,"
                  " synced", reads, out),
    ]  # fmt: skip
    group.cases = [replace(case, stays=True) for case in cases]
    return group
