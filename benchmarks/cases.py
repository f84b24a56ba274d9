"""What is measured: groups of processes that do one job, in turn, against one baseline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
    settle: float = 0.0
    """Seconds to wait when old outputs are removed."""


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


def _convert(
    name: str, table: str, source: Path, target: Path, from_: str, to: str, *options: str
) -> Case:
    argv = (PORTER, "convert", table, str(source), "-o", str(target), "--from", from_, "--to", to)
    beside = target.with_name(target.name + ".porter.json")
    return Case(name, (*argv, *options), (source,), (target, beside))


def _copy(source: Path, target: Path, sync: bool = False) -> Case:
    if sync:
        script = 'cp "$0" "$1" && sync "$1"'
        argv: tuple[str, ...] = ("sh", "-c", script, str(source), str(target))
        return Case("cp and sync", argv, (source,), (target,))
    return Case("cp", ("cp", str(source), str(target)), (source,), (target,))


def _script(title: str, name: str, source: Path, target: Path) -> Case:
    argv = (sys.executable, str(HERE / "scripts.py"), name, str(source), str(target))
    return Case(title, argv, (source,), (target,))


def _load(title: str, name: str, source: Path) -> Case:
    """Return a script that loads a file and writes none."""
    argv = (sys.executable, str(HERE / "scripts.py"), name, str(source), "")
    return Case(title, argv, (source,))


def _table(name: str) -> str:
    return str(HERE / f"{name}.toml")


_RENAMED = {"torch": "torch:other", "paddle": "paddle:renamed", "safetensors": "safetensors:other"}
_TRANSPOSED = {
    ("torch", "paddle"): ("torch", "paddle"),
    ("torch", "safetensors"): ("torch", "safetensors:paddle"),
    ("paddle", "torch"): ("paddle", "torch"),
    ("paddle", "safetensors"): ("paddle", "safetensors"),
    ("safetensors", "paddle"): ("safetensors", "paddle"),
    ("safetensors", "torch"): ("safetensors:paddle", "torch"),
}
"""What `--from` and `--to` say so that every Linear is transposed."""


def _pairs(setting: Setting, source: str) -> Group:
    """Every target for one source container: names only, bare and with digests, and transposed."""
    path = setting.source(source)
    group = Group(source, f"from {source}", made=(path,))
    group.cases.append(_copy(path, setting.folder / "copy.bin"))
    for to in CONTAINERS:
        target, names = setting.target(to), _table("names")
        for said, options in (("bare", BARE), ("digests", DIGESTS)):
            name = f"{source} → {to}, names, {said}"
            group.cases.append(_convert(name, names, path, target, source, _RENAMED[to], *options))
        if (source, to) not in _TRANSPOSED:
            continue
        from_, into = _TRANSPOSED[source, to]
        if from_.endswith(":paddle"):
            continue  # `_turned_back`
        name = f"{source} → {to}, transposed, digests"
        group.cases.append(_convert(name, _table("plain"), path, target, from_, into, *DIGESTS))
    return group


def _turned_back(setting: Setting) -> Group:
    """From safetensors in Paddle's layout: a group by itself, for each has one source in memory."""
    path, target = setting.source("safetensors", "paddle"), setting.target("torch")
    group = Group("turned-back", "from safetensors, in Paddle's layout", made=(path,))
    group.cases = [
        _copy(path, setting.folder / "copy.bin"),
        _convert("safetensors → torch, transposed, digests", _table("plain"), path, target,
                 *_TRANSPOSED["safetensors", "torch"], *DIGESTS),
    ]  # fmt: skip
    return group


def _scripts(setting: Setting) -> Group:
    """The scripts that people write."""
    torch, paddle = setting.source("torch"), setting.source("paddle")
    safe = setting.source("safetensors")
    group = Group("scripts", "what people do", made=(torch, paddle, safe))
    pd, pth, st = (setting.target(c) for c in ("paddle", "torch", "safetensors"))
    plain = _table("plain")
    group.cases = [
        _convert("porter, torch → paddle", plain, torch, pd, "torch", "paddle", *DIGESTS),
        _convert("porter, torch → paddle, as it comes", plain, torch, pd, "torch", "paddle"),
        _copy(torch, setting.folder / "copy.bin"),
        _script("torch → paddle tensors", "torch_to_paddle", torch, pd),
        _script("the same, mmap", "torch_to_paddle_mmap", torch, pd),
        _script("torch → NumPy, contiguous → paddle", "numpy_to_paddle", torch, pd),
        _script("the same, mmap", "numpy_to_paddle_mmap", torch, pd),
        _script("torch → .T views → paddle", "views_to_paddle", torch, pd),
        _script("the same, mmap", "views_to_paddle_mmap", torch, pd),
        _convert("porter, paddle → torch", plain, paddle, pth, "paddle", "torch", *DIGESTS),
        _script("paddle → torch", "paddle_to_torch", paddle, pth),
        _convert("porter, safetensors → paddle", plain, safe, pd, "safetensors", "paddle",
                 *DIGESTS),
        _script("safetensors → paddle", "safetensors_to_paddle", safe, pd),
        _convert("porter, torch → safetensors, names", _table("names"), torch, st, "torch",
                 "safetensors:other", *DIGESTS),
        _script("torch → safetensors, mmap, no transpose", "torch_to_safetensors", torch, st),
    ]  # fmt: skip
    return group


def _promises(setting: Setting) -> Group:
    """What each promise costs, one after the other taken away."""
    path, target = setting.source("torch"), setting.target("paddle")
    group = Group("promises", "what each promise costs", made=(path,))
    plain = _table("plain")

    def case(name: str, *options: str) -> Case:
        return _convert(name, plain, path, target, "torch", "paddle", *options)

    group.cases = [
        _copy(path, setting.folder / "copy.bin"),
        _copy(path, setting.folder / "copy.bin", sync=True),
        case("as it comes: weights proven, read back, synced, digests"),
        _convert(
            "names only, as it comes", _table("names"), path, target, "torch", _RENAMED["paddle"]
        ),
        case("without the proof of the weights", *PROVEN),
        case("nor reading back", *SYNCED),
        case("nor sync", *DIGESTS),
        case("nor digests", *BARE),
        _convert(
            "names only, synced, digests",
            _table("names"),
            path,
            target,
            "torch",
            _RENAMED["paddle"],
            *SYNCED,
        ),
    ]
    return group


def _vit(setting: Setting) -> Group:
    """A small model, as a whole process."""
    source = _vit_source(setting)
    target = setting.target("paddle")

    def case(name: str, *options: str) -> Case:
        return _convert(name, "vit-base-p16-224", source, target, "torch", "paddle", *options)

    group = Group("vit", "ViT-B/16, 346 MB", made=(source,), rehearsed=True)
    group.cases = [
        _copy(source, setting.folder / "copy.bin"),
        _copy(source, setting.folder / "copy.bin", sync=True),
        case("porter, bare", *BARE),
        case("porter, digests", *DIGESTS),
        case("porter, digests, read back", "--no-verify", "--no-sync"),
        case("porter, digests, read back, synced", "--no-verify"),
    ]
    if setting.scripts:
        group.cases.append(_script("torch → paddle tensors", "torch_to_paddle", source, target))
    return group


def _many(setting: Setting) -> Group:
    """A hundred thousand small tensors."""
    group = Group("many", "100,000 small tensors")
    table = _table("many")
    for source in CONTAINERS:
        path = setting.many(source)
        group.made += (path,)
        if not group.cases:
            group.cases.append(_copy(path, setting.folder / "copy.bin"))
        for to in CONTAINERS:
            if to != source:
                group.cases.append(
                    _convert(f"porter, {source} → {to}", table, path, setting.target(to), source,
                             to, "--no-verify")
                )  # fmt: skip
        if source == "torch" and setting.scripts:
            target = setting.target("paddle")
            group.cases.append(_script("torch → paddle tensors", "torch_to_paddle", path, target))
    return group


def _startup(setting: Setting) -> Group:
    """How long a person waits for an answer."""
    paths = {container: setting.source(container) for container in CONTAINERS}
    group = Group("startup", "answers", made=tuple(paths.values()), rehearsed=True)
    bare = (sys.executable, "-c", "import click, numpy")
    group.cases = [
        Case("python -c 'import click, numpy'", bare),
        Case("porter --help", (PORTER, "--help")),
        Case("porter list", (PORTER, "list")),
        Case("porter convert --help", (PORTER, "convert", "--help")),
    ]
    for container, path in paths.items():
        said = f"porter inspect, {container}, {path.stat().st_size / GB:.1f} GB"
        group.cases.append(Case(said, (PORTER, "inspect", str(path)), (path,)))
    return group


def _shards(setting: Setting) -> Group:
    """Shards, written side by side, with a journal."""
    path = setting.source("torch")
    group = Group("shards", "in shards", made=(path,))
    size = f"{max(1, setting.nbytes // 8 // 10**6)}MB"
    folder = setting.folder / "shards"
    plain = _table("plain")
    group.cases.append(_copy(path, setting.folder / "copy.bin"))
    for to, said in (("safetensors", "safetensors:paddle"), ("torch", "torch:other")):
        target = data.place(folder, "out", to)
        for name, options in (
            ("one file", ()),
            (f"shards of {size}", ("--max-shard-size", size)),
        ):
            case = _convert(f"torch → {to}, {name}", plain, path, target, "torch", said,
                            *SYNCED, *options)  # fmt: skip
            group.cases.append(Case(case.name, case.argv, case.reads, (folder,), folder))
    return group


def _verification(setting: Setting) -> Group:
    """The whole proof, both frameworks run, against importing them."""
    source, target = setting.folder / "shunted-s.pdparams", setting.folder / "shunted-s.pth"
    if not source.exists():
        import porter

        porter.init("shunted-s", source, to="paddle")
    group = Group("verification", "the forward proof", made=(source,), rehearsed=True)
    group.cases = [
        _load("import torch, import paddle", "import_both", source),
        _convert("porter convert shunted-s", "shunted-s", source, target, "paddle", "torch"),
    ]
    return group


def _remote(setting: Setting) -> Group:
    """A checkpoint at an address, against fetching it: the server is another process."""
    path, target = setting.source("torch"), setting.target("paddle")
    group = Group("remote", "from an address", made=(path,))
    conversions = [
        _convert("names", _table("names"), path, target, "torch", _RENAMED["paddle"], *DIGESTS),
        _convert("transposed", _table("plain"), path, target, "torch", "paddle", *DIGESTS),
    ]
    fetched = setting.folder / "fetched.bin"
    for line, rate in (("", 0), (" over a gigabit line", 125)):
        url = f"http://127.0.0.1:{_served(setting.folder, rate)}/{path.name}"
        argv = (sys.executable, str(HERE / "scripts.py"), "fetch", url, str(fetched))
        group.cases += [
            Case(f"fetching the file{line}", argv, (path,), (fetched,)),
            Case(f"porter inspect{line}", (PORTER, "inspect", url), (path,)),
        ]
        for case in conversions:
            far = tuple(url if word == str(path) else word for word in case.argv)
            name = f"porter convert{line}, {case.name}"
            group.cases.append(Case(name, far, (path,), case.writes))
    for case in conversions:
        name = f"porter convert of a file, {case.name}"
        group.cases.append(Case(name, case.argv, case.reads, case.writes))
    return group


def _served(folder: Path, rate: int = 0) -> int:
    """Start a server of a folder that ends with this process; return its port.

    `rate` is that of the line, in MB a second; 0 for none.
    """
    server = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), str(folder), str(rate)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    _servers.append(server)
    assert server.stdout is not None
    return int(server.stdout.readline())


_servers: list[subprocess.Popen[str]] = []


def _fleet(setting: Setting) -> Iterator[Group]:
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
    path: Path, workers: int, name: str, reads: tuple[Path, ...], out: Path, cores: int = 0
) -> Case:
    pinned = ("taskset", "-c", f"0-{cores - 1}") if cores else ()
    argv = (*pinned, PORTER, "fleet", str(path), "--workers", str(workers), "--quiet")
    return Case(name, argv, reads, (out,))


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}"


def _transposing(setting: Setting) -> Group:
    """Conversions of a quarter of the large checkpoint, every Linear transposed, all proven."""
    count = 16  # To start the processes takes a second, whatever they do.
    source = setting.source("torch", nbytes=setting.nbytes // 4)
    out, manifest = setting.folder / "fleet-out", setting.folder / "transposing.toml"
    manifest.write_text(
        f'[defaults]\narch = "{_table("plain")}"\nfrom = "torch"\nto = "paddle"\n'
        f'sync = false\ninput = "{source}"\n'
        f'[[jobs]]\nn = {list(range(count))}\noutput = "{out}/{{n}}.pdparams"\n'
    )
    title = f"{count} transposing conversions in one manifest"
    group = Group("fleet", title, made=(source, manifest))
    group.cases = [
        _manifest(manifest, 1, "1 worker on 1 core", (source,), out, 1),
        _manifest(manifest, 2, "2 workers on 2 cores", (source,), out, 2),
        _manifest(manifest, 1, "1 worker on 2 cores", (source,), out, 2),
    ]
    return group


def _one_checkpoint(setting: Setting) -> Group:
    """The large checkpoint in shards, every Linear transposed, read back and proven."""
    source, folder = setting.source("torch"), setting.folder / "shards"
    group = Group("fleet", "one large checkpoint in shards, proven", made=(source,))
    base = (PORTER, "convert", _table("plain"), str(source), "-o", str(folder / "m.safetensors"),
            "--from", "torch", "--to", "safetensors:paddle", "--no-sync",
            "--max-shard-size", f"{max(1, setting.nbytes // 16 // 10**6)}MB")  # fmt: skip
    for workers, cores in ((0, 1), (0, 2), (1, 1), (2, 2)):
        options = ("--workers", str(workers)) if workers else ()
        name = f"{_counted(workers) if workers else 'no workers'}, {cores} core{'s' * (cores > 1)}"
        argv = ("taskset", "-c", f"0-{cores - 1}", *base, *options)
        group.cases.append(Case(name, argv, (source,), (folder,), folder))
    return group


_SMALL_FILES = 5000
_SETTLED = 6.0
"""Seconds: ext4 looks for a free inode among those removed in the last five, one by one."""
_SIDE = 64
"""Of the matrices in a small file: 8 of them, with a bias each, are 133 kB."""


def _small_files(setting: Setting) -> Group:
    """Very many small files in one manifest, against `cp -r`."""
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
        options = "verify = false\nsync = false\nread-back = false\n" * (name == "bare")
        path.write_text(
            f'[defaults]\narch = "{_table("many")}"\nfrom = "torch"\nto = "paddle"\n{options}'
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
    group.cases = [replace(case, settle=_SETTLED) for case in cases]
    return group


def _load_model(setting: Setting) -> Group:
    """ViT-B/16 from a file onto a device: the GPU where there is one, the CPU too."""
    source = _vit_source(setting)
    devices = ["cuda"] if Path("/dev/nvidiactl").exists() else []
    group = Group("load", "a model onto its device", made=(source,), rehearsed=True)
    group.cases.append(Case("import torch", (sys.executable, "-c", "import torch")))
    for device in [*devices, "cpu"]:
        for script, said in (
            ("state_to_device", f"torch.load, every tensor to {device}"),
            ("model_to_device", f"a model built, load_state_dict, to {device}"),
            ("porter_to_device", f"porter.load_model, {device}"),
        ):
            argv = (sys.executable, str(HERE / "scripts.py"), script, str(source), device)
            group.cases.append(Case(said, argv, (source,)))
    return group


def _vit_source(setting: Setting) -> Path:
    source = setting.folder / "vit.pth"
    if not source.exists():
        import porter

        porter.init("vit-base-p16-224", source, to="torch")
    return source


def series(setting: Setting) -> Iterator[Group]:
    """Yield one group for each size up to twice the large one: time and memory against size."""
    plain = _table("plain")
    for share in (1 / 32, 1 / 8, 1 / 4, 1 / 2, 1, 2):
        nbytes = int(setting.nbytes * share)
        path, target = setting.source("torch", nbytes=nbytes), setting.target("paddle")
        group = Group("size", f"{nbytes / GB:g} GB", made=(path,))
        group.cases = [
            _copy(path, setting.folder / "copy.bin"),
            _convert("porter", plain, path, target, "torch", "paddle", *DIGESTS),
        ]
        if setting.scripts and share <= 1:
            group.cases += [
                _script("paddle tensors", "torch_to_paddle", path, target),
                _script("NumPy", "numpy_to_paddle", path, target),
            ]
        yield group


GROUPS: dict[str, Callable[[Setting], Group | Iterator[Group]]] = {
    "torch": lambda setting: _pairs(setting, "torch"),
    "paddle": lambda setting: _pairs(setting, "paddle"),
    "safetensors": lambda setting: _pairs(setting, "safetensors"),
    "turned-back": _turned_back,
    "promises": _promises,
    "shards": _shards,
    "vit": _vit,
    "many": _many,
    "startup": _startup,
    "verification": _verification,
    "load": _load_model,
    "remote": _remote,
    "fleet": _fleet,
    "scripts": _scripts,
}
