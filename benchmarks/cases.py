"""What is measured: groups of processes that do one job, in turn, against one baseline."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import data, fleet
from benchmarks.case import (
    BARE,
    CONTAINERS,
    DIGESTS,
    GB,
    HERE,
    PORTER,
    PROVEN,
    SYNCED,
    Case,
    Group,
    Setting,
    convert_case,
    copy_case,
    load_case,
    script_case,
    table_path,
)

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
    group.cases.append(copy_case(path, setting.folder / "copy.bin"))
    for to in CONTAINERS:
        target, names = setting.target(to), table_path("names")
        for said, options in (("bare", BARE), ("digests", DIGESTS)):
            name = f"{source} → {to}, names, {said}"
            group.cases.append(
                convert_case(name, names, path, target, source, _RENAMED[to], *options)
            )
        if (source, to) not in _TRANSPOSED:
            continue
        from_, into = _TRANSPOSED[source, to]
        if from_.endswith(":paddle"):
            continue  # `_turned_back`
        name = f"{source} → {to}, transposed, digests"
        group.cases.append(
            convert_case(name, table_path("plain"), path, target, from_, into, *DIGESTS)
        )
    return group


def _turned_back(setting: Setting) -> Group:
    """From safetensors in Paddle's layout: a group by itself, for each has one source in memory."""
    path, target = setting.source("safetensors", "paddle"), setting.target("torch")
    group = Group("turned-back", "from safetensors, in Paddle's layout", made=(path,))
    group.cases = [
        copy_case(path, setting.folder / "copy.bin"),
        convert_case("safetensors → torch, transposed, digests", table_path("plain"), path, target,
                 *_TRANSPOSED["safetensors", "torch"], *DIGESTS),
    ]  # fmt: skip
    return group


def _scripts(setting: Setting) -> Group:
    """The scripts that people write."""
    torch, paddle = setting.source("torch"), setting.source("paddle")
    safe = setting.source("safetensors")
    group = Group("scripts", "what people do", made=(torch, paddle, safe))
    pd, pth, st = (setting.target(c) for c in ("paddle", "torch", "safetensors"))
    plain = table_path("plain")
    group.cases = [
        convert_case("porter, torch → paddle", plain, torch, pd, "torch", "paddle", *DIGESTS),
        convert_case("porter, torch → paddle, as it comes", plain, torch, pd, "torch", "paddle"),
        copy_case(torch, setting.folder / "copy.bin"),
        script_case("torch → paddle tensors", "torch_to_paddle", torch, pd),
        script_case("the same, mmap", "torch_to_paddle_mmap", torch, pd),
        script_case("torch → NumPy, contiguous → paddle", "numpy_to_paddle", torch, pd),
        script_case("the same, mmap", "numpy_to_paddle_mmap", torch, pd),
        script_case("torch → .T views → paddle", "views_to_paddle", torch, pd),
        script_case("the same, mmap", "views_to_paddle_mmap", torch, pd),
        convert_case("porter, paddle → torch", plain, paddle, pth, "paddle", "torch", *DIGESTS),
        script_case("paddle → torch", "paddle_to_torch", paddle, pth),
        convert_case("porter, safetensors → paddle", plain, safe, pd, "safetensors", "paddle",
                 *DIGESTS),
        script_case("safetensors → paddle", "safetensors_to_paddle", safe, pd),
        convert_case("porter, torch → safetensors, names", table_path("names"), torch, st, "torch",
                 "safetensors:other", *DIGESTS),
        script_case("torch → safetensors, mmap, no transpose", "torch_to_safetensors", torch, st),
    ]  # fmt: skip
    return group


def _promises(setting: Setting) -> Group:
    """What each promise costs, one after the other taken away."""
    path, target = setting.source("torch"), setting.target("paddle")
    group = Group("promises", "what each promise costs", made=(path,))
    plain = table_path("plain")

    def case(name: str, *options: str) -> Case:
        return convert_case(name, plain, path, target, "torch", "paddle", *options)

    group.cases = [
        copy_case(path, setting.folder / "copy.bin"),
        copy_case(path, setting.folder / "copy.bin", sync=True),
        case("as it comes: weights proven, read back, synced, digests"),
        convert_case(
            "names only, as it comes",
            table_path("names"),
            path,
            target,
            "torch",
            _RENAMED["paddle"],
        ),
        case("without the proof of the weights", *PROVEN),
        case("nor reading back", *SYNCED),
        case("nor sync", *DIGESTS),
        case("nor digests", *BARE),
        convert_case(
            "names only, synced, digests",
            table_path("names"),
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
        return convert_case(name, "vit-base-p16-224", source, target, "torch", "paddle", *options)

    group = Group("vit", "ViT-B/16, 346 MB", made=(source,), rehearsed=True)
    group.cases = [
        copy_case(source, setting.folder / "copy.bin"),
        copy_case(source, setting.folder / "copy.bin", sync=True),
        case("porter, bare", *BARE),
        case("porter, digests", *DIGESTS),
        case("porter, digests, read back", "--no-verify", "--no-sync"),
        case("porter, digests, read back, synced", "--no-verify"),
    ]
    if setting.scripts:
        group.cases.append(script_case("torch → paddle tensors", "torch_to_paddle", source, target))
    return group


def _many(setting: Setting) -> Group:
    """A hundred thousand small tensors."""
    group = Group("many", "100,000 small tensors")
    table = table_path("many")
    for source in CONTAINERS:
        path = setting.many(source)
        group.made += (path,)
        if not group.cases:
            group.cases.append(copy_case(path, setting.folder / "copy.bin"))
        for to in CONTAINERS:
            if to != source:
                group.cases.append(
                    convert_case(f"porter, {source} → {to}", table, path, setting.target(to),
                                 source, to, "--no-verify")
                )  # fmt: skip
        if source == "torch" and setting.scripts:
            target = setting.target("paddle")
            group.cases.append(
                script_case("torch → paddle tensors", "torch_to_paddle", path, target)
            )
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
    plain = table_path("plain")
    group.cases.append(copy_case(path, setting.folder / "copy.bin"))
    for to, said in (("safetensors", "safetensors:paddle"), ("torch", "torch:other")):
        target = data.place(folder, "out", to)
        for name, options in (
            ("one file", ()),
            (f"shards of {size}", ("--max-shard-size", size)),
        ):
            case = convert_case(f"torch → {to}, {name}", plain, path, target, "torch", said,
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
        load_case("import torch, import paddle", "import_both", source),
        convert_case("porter convert shunted-s", "shunted-s", source, target, "paddle", "torch"),
    ]
    return group


def _remote(setting: Setting) -> Group:
    """A checkpoint at an address, against fetching it: the server is another process."""
    path, target = setting.source("torch"), setting.target("paddle")
    group = Group("remote", "from an address", made=(path,))
    conversions = [
        convert_case(
            "names", table_path("names"), path, target, "torch", _RENAMED["paddle"], *DIGESTS
        ),
        convert_case("transposed", table_path("plain"), path, target, "torch", "paddle", *DIGESTS),
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
    plain = table_path("plain")
    for share in (1 / 32, 1 / 8, 1 / 4, 1 / 2, 1, 2):
        nbytes = int(setting.nbytes * share)
        path, target = setting.source("torch", nbytes=nbytes), setting.target("paddle")
        group = Group("size", f"{nbytes / GB:g} GB", made=(path,))
        group.cases = [
            copy_case(path, setting.folder / "copy.bin"),
            convert_case("porter", plain, path, target, "torch", "paddle", *DIGESTS),
        ]
        if setting.scripts and share <= 1:
            group.cases += [
                script_case("paddle tensors", "torch_to_paddle", path, target),
                script_case("NumPy", "numpy_to_paddle", path, target),
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
    "fleet": fleet.groups,
    "scripts": _scripts,
}
