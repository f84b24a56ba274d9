"""Templates: the graph of a variant without its weights, traced once and kept.

A template is an ONNX model whose weights are inputs, under their canonical names, so that any
ONNX tool can open it. It depends on the variant, the image size and the optional
parts; neither on the batch nor on the number of classes, which are symbols in it. It is
looked for in the package, then in the user's cache; where it is in neither, torch traces it in
a child process. Its name carries the digest of the code that it was traced from.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path

from porter.errors import InputError, MissingPackage, SystemFault, UsageError, listed
from porter.frameworks.process import Worker
from porter.onnx.export.stamped import is_sound, packed
from porter.onnx.graph.parse import Memory, parse
from porter.onnx.graph.values import Model, Value
from porter.zoo.architectures import Architecture, all_variants
from porter.zoo.architectures import find as find_variant
from porter.zoo.image_size import Size, shown
from porter.zoo.published import published_config

OPSET = 20
"""Operator set of templates, the first with GELU as an operator; `opsets` writes the others."""
_LABELS = ("id2label", "label2id")
_LOOPS = {"parts": ["loop.py", "trace_looped.py"], "tokens": ["loop.py", "trace_written.py"]}
_LARGEST = 64 << 20
_PACKED = Path(str(resources.files("porter.onnx") / "templates"))


@dataclass(frozen=True, slots=True)
class Template:
    """A graph without weights."""

    architecture: Architecture
    image_size: Size
    features: tuple[str, ...]
    path: str
    model: Model
    """Its first input is the image, the others are the weights in the order of the state dict."""
    unused: tuple[str, ...]
    """Tensors of the state dict that the graph does not need (counters of batch norms)."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """{tensor of the state dict: the one that it is another name of}"""

    @property
    def weights(self) -> dict[str, Value]:
        """The weights by canonical name; a size may be `classes`."""
        return {value.name: value for value in self.model.graph.inputs[1:]}


def template(
    architecture: Architecture,
    *,
    image_size: Size | None = None,
    features: Sequence[str] = (),
    free: bool = False,
) -> Template:
    """Return the template of a variant at an image size (pixels), traced if there is none yet.

    A `free` one has height and width as symbols; `UsageError` for a model that depends on them.
    `MissingPackage` is raised when it must be traced and torch or onnxscript is not installed,
    `UsageError` where there is neither a reference model nor a published one to trace.
    """
    architecture.need_graph("an ONNX graph")
    if free and not architecture.any_size:
        titles = listed(dict.fromkeys(a.title for a in all_variants().values() if a.any_size), 20)
        raise UsageError(
            f"{architecture.name} depends on the size of its pictures; --free-size is for {titles}"
        )
    size = architecture.size_of(*architecture.sides(image_size))
    chosen = tuple(sorted(features))
    is_open = free or _is_always_free(architecture)
    name = file_name(architecture, None if free else size, chosen)
    path = find(name) or _traced(architecture, size, chosen, folder() / name, is_open)
    made = _load(path, architecture, size, chosen)
    return made if free or not is_open else _of_size(made, architecture.sides(size))


def _of_size(made: Template, sides: tuple[int, int]) -> Template:
    """Return a free template for pictures of one height and width (pixels)."""
    height, width = sides
    sizes = {"height": height, "width": width}
    image, *weights = made.model.graph.inputs
    dims = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in image.dims)
    graph = replace(made.model.graph, inputs=[replace(image, dims=dims), *weights])
    return replace(made, model=replace(made.model, graph=graph))


def folder() -> Path:
    """Return where templates are kept: below `PORTER_CACHE_DIR`, or the user's cache folder."""
    base = os.environ.get("PORTER_CACHE_DIR")
    if not base:
        import platformdirs

        base = platformdirs.user_cache_dir("porter")
    return Path(base) / "templates"


def find(name: str) -> Path | None:
    """Return the file of that name in the package or in the cache, None if there is none."""
    shipped = _PACKED / name
    if shipped.is_file():
        return shipped
    kept = folder() / name
    return kept if kept.is_file() else None


def file_name(
    architecture: Architecture, image_size: Size | None, features: Sequence[str] = ()
) -> str:
    """Return what a template's file is called; without an image size it takes any."""
    image_size = None if _is_always_free(architecture) else image_size
    size = "anypx" if image_size is None else f"{shown(image_size)}px"
    # variants of one published class that differ by labels only have one graph
    stem = architecture.name if architecture.module else architecture.skeleton_of
    parts = [stem or architecture.name, *features, size, f"opset{OPSET}"]
    return ".".join([*parts, digest(architecture, image_size is None)[:12], "onnx", "gz"])


def _is_always_free(architecture: Architecture) -> bool:
    """Whether graphs of one size follow from the free one, as that is how it is published."""
    return architecture.graph.is_free and not architecture.module


@cache
def _sources(module: str) -> str:
    """Return what a reference model, and what it imports from its own package, does."""
    package = resources.files("porter.reference_models.torch")
    found: dict[str, ast.AST] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = ast.parse((package / f"{name}.py").read_bytes())
            waiting += _imported(found[name])
    return "\n".join(f"{name} {_shown(code)}" for name, code in sorted(found.items()))


def _imported(code: ast.AST) -> Iterator[str]:
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else (alias.name for alias in node.names)


def _shown(node: object) -> str:
    """Return code as text; comments, docstrings, formatting and where in porter a name is from are
    no part of it.

    Fields that are empty are left out, so that every version of Python shows the same.
    """
    if isinstance(node, list):
        return f"[{','.join(_shown(part) for part in node if not _is_said_only(part))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    said = ",".join(f"{name}={_shown(value)}" for name, value in fields)
    return f"{type(node).__name__}({said})"


def _is_said_only(node: object) -> bool:
    """Whether a statement is a docstring, or says where in porter something is."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] == "porter"
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def digest(architecture: Architecture, free: bool = False) -> str:
    """Return the digest of all that a graph follows from: the model's code, its configuration,
    and the code that traces it."""
    folder = resources.files("porter.frameworks.onnx")
    tracers = ["trace.py", "trace_free.py"] if free else ["trace.py"]
    said = [architecture.model, dict(architecture.config), dict(architecture.features)]
    if architecture.module:
        text = [_sources(architecture.module)]
        tracers += ["trace_published.py"] if free and architecture.graph.free == "width" else []
    else:
        outputs = {name: output.of for name, output in architecture.graph.outputs.items()}
        config = published_config(architecture) or {}
        config = {key: value for key, value in config.items() if key not in _LABELS}
        text = [json.dumps([outputs, config, architecture.graph.attention], sort_keys=True)]
        tracers.append("trace_published.py")
        tracers += _LOOPS.get(architecture.graph.loop, [])
    text += [_shown(ast.parse((folder / name).read_bytes())) for name in tracers]
    text.append(json.dumps(said, sort_keys=True, default=dict))
    return hashlib.sha256("\0".join(text).encode()).hexdigest()


def _traced(
    architecture: Architecture, image_size: Size, features: Sequence[str], path: Path, free: bool
) -> Path:
    """Trace a template into the cache; another process may do the same meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemFault(f"cannot be made: {error.strerror}", path.parent) from error
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with Worker("onnx-tools") as worker:
            worker.request(
                "trace",
                architecture=architecture.name,
                path=os.fspath(part),
                image_size=image_size,
                opset=OPSET,
                features=list(features),
                free=free,
                settings=_settings(architecture),
            )
        part.write_bytes(packed(gzip.decompress(part.read_bytes())))
        os.replace(part, path)
    except MissingPackage as error:
        raise MissingPackage(
            f"there is no template of {architecture.name} at"
            f" {'any' if free else shown(image_size)} px, and tracing one"
            f" {error.message.removeprefix('this ')} (or bring the file {path.name} into"
            f" {path.parent}: `porter export-templates` makes it elsewhere)"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return path


def _settings(architecture: Architecture) -> dict[str, object]:
    """Return in what a variant's configuration differs from that of its name."""
    usual = find_variant(architecture.name).config
    return {k: value for k, value in architecture.config.items() if usual.get(k) != value}


def _load(
    path: Path, architecture: Architecture, image_size: Size, features: tuple[str, ...]
) -> Template:
    from porter.frameworks.onnx.trace import TEMPLATE

    try:
        with gzip.open(path) as file:
            data = file.read(_LARGEST)
        if path.parent != _PACKED and not is_sound(data):
            raise InputError("its digest differs")
        model = parse(Memory(data))
        about = json.loads(model.metadata[TEMPLATE])
        unused, shared = tuple(about["unused"]), dict(about.get("shared", {}))
    except (OSError, EOFError, zlib.error, InputError, KeyError, ValueError) as error:
        raise InputError(
            "is not a template as porter stored it; delete it to trace it again", path
        ) from error
    return Template(architecture, image_size, features, os.fspath(path), model, unused, shared)
