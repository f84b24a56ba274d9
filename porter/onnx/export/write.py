"""Write a model file: a template's graph, the weights of a state dict, no torch.

The file appears whole or not at all. Weights of more than protobuf reads go into a separate
file, named by a digest of them: at every moment the model at `path` finds the data that it was
written with, and the bytes of a model do not depend on what it replaces.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from porter import codecs
from porter.codecs.onnx.transposed import TRANSPOSED, stored_name, transposed
from porter.codecs.writing import Output
from porter.errors import PorterError, UsageError, listed, printable
from porter.onnx.export import metadata as notes
from porter.onnx.export import model, opsets, transform
from porter.onnx.export.fold_shapes import folded
from porter.onnx.export.template import OPSET, Template, template
from porter.onnx.graph.fingerprint import fingerprint
from porter.onnx.graph.parse import parse
from porter.onnx.graph.values import FLOAT, FLOAT16, Graph
from porter.storage import atomic_output
from porter.storage.atomic_output import Written
from porter.storage.digests import XXH3, digest_of
from porter.storage.input_file import InputFile
from porter.storage.lock import hidden
from porter.storage.options import WriteFields, WriteOptions
from porter.storage.read_back import Proof, digests_of
from porter.tensors import casts
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.shared_tensors import compact
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.graph_form import GraphForm
from porter.zoo.image_size import Size
from porter.zoo.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Options:
    """How a model file shall be; see `porter convert --help`."""

    opset: int = OPSET
    batch: int | None = None
    """Size of every batch; None leaves it to the caller of the model."""
    free_size: bool = False
    """Leave height and width of the picture open, or only its width, where the model does not
    depend on them."""
    int8: bool = False
    """Quantise the weights; the file then does not map back."""
    calibration: Mapping[str, Array] = field(default_factory=dict)
    """Batches on which the ranges of an int8 model's activations are measured, if any."""
    external_data: bool = False
    """Weights in a file beside the model, even below 2 GiB."""
    optimize: str | None = None
    """One of `OPTIMIZERS` of `optimize`; the file then no longer maps back exactly."""
    io_dtype: str | None = None
    """fp32 keeps the image and the logits of an fp16 model in float32."""
    input_name: str | None = None
    """None: image, or what the variant's published models call it."""
    output_name: str | None = None
    """Name of the first output; None: logits, probabilities, or as published."""
    labels: str | None = None
    """File with the names of the classes."""
    with_preprocessing: bool = False
    """Take pixels: uint8 (N, height, width, 3), normalised by the graph."""
    with_softmax: bool = False
    """Give probabilities, not scores."""


def export(
    architecture: Architecture,
    state: StateDict,
    path: str | os.PathLike[str],
    *,
    num_classes: int,
    image_size: Size,
    features: Sequence[str] = (),
    options: Options | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    inputs: Iterable[str] = (),
    proof: Proof | None = None,
    made: Template | None = None,
    **keywords: Unpack[WriteFields],
) -> Written:
    """Write a canonical state dict as an ONNX model and return what was written.

    `image_size` is in pixels, `options` is how the model shall be, `preprocessing` that of the
    weights (None: the variant's), `labels` their classes where no file names them; `metadata`,
    `inputs`, `proof` and `keywords` are those of `porter.codecs.write`; `made` is the template to
    fill (None: that of the architecture). Raises `UsageError` for
    options or weights that no graph can have, `MissingPackage` when there is no template and
    torch is not there to trace one.
    """
    chosen, writing = options or Options(), WriteOptions(**keywords)
    target, inputs = os.fspath(path), list(inputs)
    atomic_output.resolve(target, inputs, writing.force)  # before a template is traced
    opsets.check(chosen.opset)
    _check_rewriting(chosen)
    if made is None:
        made = template(
            architecture, image_size=image_size, features=features, free=chosen.free_size
        )
    if num_classes == 0 and architecture.num_classes:  # others have no classes at all
        made = _headless(made, chosen)
        chosen = replace(chosen, output_name=chosen.output_name or notes.FEATURES)
    computed = architecture.constants(image_size)
    code = _floating(StateDict({n: t for n, t in state.items() if n not in computed}))
    state = _matched(state, computed, "fp16" if code == FLOAT16 else "fp32")
    state, shared = _without_shared(state, made)
    weights, rest = _sorted_out(state, made, num_classes)
    how = preprocessing or architecture.preprocessing
    sheet, swapped = _sheet(architecture, made, code, num_classes, chosen, how)
    weights = _as_stored(weights, swapped)
    said = {
        **{key: text for key, text in (metadata or {}).items() if key != "format"},  # safetensors'
        notes.PREPROCESSING: notes.preprocessing(
            architecture, how, image_size, chosen.with_preprocessing
        ),
        notes.UNUSED: notes.unused(state, rest),
        **shared,
        TRANSPOSED: compact(list(swapped)),
        notes.GRAPH: fingerprint(sheet.graph, sheet.opsets),
    }
    if chosen.with_softmax or architecture.graph.gives_probabilities:
        said[notes.OUTPUT] = notes.PROBABILITIES
    if chosen.labels is not None:
        labels = notes.read_labels(chosen.labels, num_classes)
    if labels and len(labels) == num_classes:
        said[notes.LABELS] = compact(list(labels))
    if chosen.optimize is not None:
        from porter.onnx.export.optimize import optimized

        return optimized(weights, target, said, sheet, chosen.optimize, writing, inputs)
    if chosen.int8:
        from porter.onnx.export.optimize import quantized

        return quantized(weights, target, said, sheet, chosen.calibration, writing, inputs)
    output = Output(
        weights, target, codecs.CODECS["onnx"].read, writing, metadata=said, inputs=inputs,
        proof=proof,
    )  # fmt: skip
    outside = chosen.external_data or model.size_of(sheet, weights) > model.LARGEST * 0.98
    with output.locked():
        replaced = _data_files(target) if writing.force else []
        if outside:
            return _in_two(output, sheet, replaced)
        written = _in_one(output, sheet)
        _remove(replaced)
        return written


def _headless(made: Template, options: Options) -> Template:
    """Return a template without its classifier."""
    asked = {"--with-softmax": options.with_softmax, "--labels": options.labels is not None}
    if given := [name for name, is_given in asked.items() if is_given]:
        raise UsageError(f"{listed(given)} and --num-classes 0: there are no classes")
    if made.architecture.graph.outputs or made.architecture.graph.softmax:
        raise UsageError(f"--num-classes 0: the graph of {made.architecture.name} has no features")
    graph = transform.headless(made.model.graph)
    return replace(made, model=replace(made.model, graph=graph))


def _check_rewriting(options: Options) -> None:
    """Raise `UsageError` for options that do not go with a rewritten graph."""
    rewriting = {"--optimize": options.optimize is not None, "--dtype int8": options.int8}
    asked = [name for name, is_asked in rewriting.items() if is_asked]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)}: one of them")
    if asked and options.external_data:
        raise UsageError(f"{asked[0]} writes one file: leave --external-data out")


def _floating(state: StateDict) -> int:
    """Return the floating type of the graph: that of the weights."""
    found = sorted({t.dtype.name for t in state.values() if t.dtype.is_float})
    if found == ["float32"]:
        return FLOAT
    if found == ["float16"]:
        return FLOAT16
    raise UsageError(
        f"an onnx model is float32 or float16 throughout, the weights are {listed(found)};"
        " pass --dtype fp32 or fp16"
    )


def _matched(state: StateDict, computed: Iterable[str], dtype: str) -> StateDict:
    """Return the state dict, what the architecture computes (a mask) in the type of the rest."""
    own = StateDict({name: state[name] for name in computed if name in state})
    return StateDict({**state, **casts.cast(own, dtype)[0]}, state.origin)


def _without_shared(state: StateDict, made: Template) -> tuple[StateDict, dict[str, str]]:
    """Return the state dict without other names of its tensors, and the note of these."""
    shared = {name: other for name, other in made.shared.items() if name in state}
    if not shared:
        return state, {}
    for name, other in shared.items():
        if other not in state or state[name].read().tobytes() != state[other].read().tobytes():
            raise UsageError(
                f"{printable(name)} is not {printable(other)}, and the graph of"
                f" {made.architecture.name} has one tensor for both"
            )
    places = {name: place for place, name in enumerate(state)}
    note = compact([[places[name], name, other] for name, other in shared.items()])
    kept = {name: tensor for name, tensor in state.items() if name not in shared}
    return StateDict(kept, state.origin), {notes.SHARED: note}


def _sorted_out(
    state: StateDict, made: Template, num_classes: int
) -> tuple[StateDict, tuple[str, ...]]:
    """Return the weights that the graph uses, in its order, and the names of the others."""
    wanted = made.weights
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted and name not in made.unused]
    if missing or unknown:
        raise UsageError(
            f"the graph of {made.architecture.name} and the weights differ:"
            f" {listed([*missing, *unknown], 12)}"
        )
    found: dict[str, LazyTensor] = {}
    for name, value in wanted.items():
        shape = tuple(num_classes if dim == "classes" else dim for dim in value.dims)
        if state[name].shape != shape:
            raise UsageError(
                f"{printable(name)} is {list(state[name].shape)}, the graph has {list(shape)}"
            )
        found[name] = state[name]
    return StateDict(found), tuple(name for name in state if name not in wanted)


def _sheet(
    architecture: Architecture,
    made: Template,
    code: int,
    num_classes: int,
    options: Options,
    how: Preprocessing,
) -> tuple[model.Sheet, tuple[str, ...]]:
    """Return the graph as it will be in the file, and the weights that it has transposed."""
    form = architecture.graph
    if options.opset < form.lowest_opset:
        raise UsageError(
            f"{architecture.name} needs opset {form.lowest_opset} or later, not {options.opset}"
        )
    if form.loop and code == FLOAT16:
        raise UsageError(
            f"{architecture.name} writes its output step by step, in a Loop of the graph, which"
            " stays float32: leave --dtype fp16 out"
        )
    graph, swapped = transform.transposed(replace(made.model.graph, name=architecture.name))
    if options.batch is not None and options.batch < 1:
        raise UsageError(f"a batch of {options.batch} images")
    if options.batch is not None:
        graph = folded(graph, {"classes": num_classes, "batch": options.batch})
    if options.io_dtype not in (None, "fp32", "fp16"):
        raise UsageError(f"--io-dtype is fp32 or fp16, not {options.io_dtype}")
    if code == FLOAT16:
        graph = transform.half(graph, wide_ends=options.io_dtype == "fp32")
    elif options.io_dtype == "fp16":
        raise UsageError("--io-dtype fp16 needs an fp16 model: pass --dtype fp16 as well")
    graph = opsets.written_in(graph, options.opset, code)
    if options.with_preprocessing:
        graph = transform.from_pixels(graph, how)
    if options.with_softmax and form.outputs and not form.gives_probabilities:
        raise UsageError("--with-softmax is for models that give one score for each class")
    if form.softmax or (options.with_softmax and not form.gives_probabilities):
        graph = transform.to_probabilities(graph, keeping=form.softmax)
    graph = transform.sized(graph, {"classes": num_classes, "batch": options.batch})
    graph = transform.renamed(graph, _names(graph, form, options))
    doc, image = notes.document(architecture, how, made.image_size, options.with_preprocessing)
    graph = replace(graph, inputs=[replace(graph.inputs[0], doc=image)], doc=doc)
    for value, about in zip(graph.outputs, _abouts(graph, form, options, num_classes), strict=True):
        value.doc = about
    opset = options.opset
    return model.Sheet(graph, opsets.LOWEST_IR[opset], {"": opset}, doc), swapped


def _names(graph: Graph, form: GraphForm, options: Options) -> dict[str, str]:
    """Return what the input and the outputs are to be called, by their names in the graph."""
    plain = notes.PROBABILITIES if options.with_softmax else "logits"
    names = list(form.outputs) or [plain]
    names[0] = options.output_name or names[0]
    outputs = dict(zip((value.name for value in graph.outputs), names, strict=True))
    return {graph.inputs[0].name: options.input_name or form.input, **outputs}


def _abouts(graph: Graph, form: GraphForm, options: Options, num_classes: int) -> list[str]:
    """Return what the outputs are, in a clause each."""
    if form.outputs:
        return [output.about for output in form.outputs.values()]
    if num_classes == 0:
        return ["the features, which a classifier would read"]
    scores = notes.OUTPUTS[len(graph.outputs[0].dims)]
    return ["the probability of each class" if options.with_softmax else scores]


def _as_stored(weights: StateDict, swapped: Sequence[str]) -> StateDict:
    """Return the weights with some of them transposed, under the names that they then have."""
    found: dict[str, LazyTensor] = {}
    for name, tensor in weights.items():
        swap = name in swapped
        found[stored_name(name) if swap else name] = transposed(tensor) if swap else tensor
    return StateDict(found)


def _in_one(output: Output, sheet: model.Sheet) -> Written:
    method = output.options.method
    made = model.pieces(sheet, output.state, output.metadata or {}, method=method)
    return output.finished(output.file(output.path, made, output.state, last=True))


def _in_two(output: Output, sheet: model.Sheet, replaced: Sequence[str]) -> Written:
    """Write the weights into a separate file, then the model."""
    parts, offsets = model.external(output.state)
    # Named like the temporary files of the model: the next run removes what a kill leaves.
    unnamed = hidden(os.path.realpath(output.path), "0-data")
    options = replace(output.options, force=True)
    like = next(iter(replaced), "")
    stored = output.file(unnamed, parts, output.state, opaque=True, options=options, like=like)
    try:
        data = _data_name(output, stored, offsets)
        is_known = os.path.lexists(data)
        if is_known and not filecmp.cmp(unnamed, data, shallow=False):
            raise UsageError("exists already; it is not porter's", data)
        output.move(unnamed, data)
    except BaseException:
        _remove([unnamed])
        raise
    outside = model.Outside(os.path.basename(data), offsets)
    metadata = dict(output.metadata or {})
    if stored.digests:
        metadata[model.TENSORS] = compact({name: stored.digests[name] for name in offsets})
    made = model.pieces(sheet, output.state, metadata, outside=outside)
    try:
        written = output.file(output.path, made, output.state, last=True)
    except BaseException:
        if not is_known:
            _remove([data])
        raise
    _remove(name for name in replaced if name != data)
    written = replace(written, nbytes=written.nbytes + stored.nbytes)
    return output.finished(written, [data])


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _data_files(path: str) -> list[str]:
    """Return the files of external data that porter wrote for the model at `path`."""
    try:
        with InputFile(path) as file:
            if parse(file).producer != "porter":
                return []
        state = codecs.read(path)
    except PorterError:
        return []
    files = state.origin.files if state.origin is not None else ()
    folder, base = os.path.split(os.path.realpath(path))
    ours = re.compile(re.escape(base) + r"\.(?:(?:1|[0-9a-f]{16})\.)?data")
    names = map(os.path.split, map(os.path.realpath, files))
    return [os.path.join(*name) for name in names if name[0] == folder and ours.fullmatch(name[1])]


def _data_name(output: Output, stored: Written, offsets: Mapping[str, int]) -> str:
    """Return the name of a file of data: digests of the tensors in it, and their places."""
    names = [name for name in output.state if name in offsets]
    digests = stored.digests
    if not digests or output.options.method != XXH3:
        digests = digests_of({name: output.state[name] for name in names})
    rows = [f"{offsets[name]} {digests[name]}" for name in names]
    digest = digest_of("\n".join(rows).encode()).removeprefix("xxh3-128:")
    return f"{os.path.realpath(output.path)}.{digest[:16]}.data"
