"""DeepSpeed's checkpoints: the float32 masters of ZeRO 1 to 3, put together without DeepSpeed.

    global_step4/mp_rank_00_model_states.pt                      {"module": {…}, "param_shapes": …}
    global_step4/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt  the masters of rank 0
    latest                                                       global_step4

The model file has the weights in the precision of training, and after ZeRO-3 none at all. The
masters are flat vectors. ZeRO 1 and 2 cut each group of parameters, one after the other, into as
many parts as there are ranks; ZeRO-3 cuts every parameter. As DeepSpeed's own `zero_to_fp32.py`
reads them.
"""

from __future__ import annotations

import os
import re
from math import prod
from typing import Any, NamedTuple

import numpy as np

from porter.codecs.detect import detect
from porter.codecs.torch import legacy, names, zip_file
from porter.codecs.torch.views import TorchTensor
from porter.codecs.unwrap import Leaf, check_total, unwrap
from porter.errors import InputError, listed, printable
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DType
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import Origin, StateDict
from porter.tensors.streams import StreamedTensor, joined

FORMAT = "deepspeed"

_OPTIMIZER = re.compile(
    r"(?:bf16_|fp16_)?zero_pp_rank_([0-9]{1,6})_mp_rank_([0-9]{1,4})_optim_states\.pt"
)
_MODEL = re.compile(r"(?:zero_pp_rank_([0-9]{1,6})_)?mp_rank_([0-9]{1,4})_model_states\.pt")
_PARTITIONED = re.compile(r"(layer_|expert_).*_model_states\.pt|layer_.*model_states\.pt")
_USED = ("param_shapes", "frozen_param_shapes", "frozen_param_fragments", "shared_params")


def read(folder: str, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the state dict of a folder: the float32 masters where they are, else the copy.

    `key` names one state dict of the model file, of which `module` has the masters.
    """
    found = os.listdir(folder)
    _refuse_partitions(folder, found)
    models, optimizers = _ranks(_MODEL, found), _ranks(_OPTIMIZER, found)
    if not models:
        raise InputError("has *_optim_states.pt and no *_model_states.pt, which names them", folder)
    files = {rank: InputFile(os.path.join(folder, name)) for rank, name in models.items()}
    first = files[min(files)]
    tree = _tree(first)
    notes: tuple[str, ...] = ("no masters (*_optim_states.pt) are here: the weights are a copy",)
    used = [first]
    try:
        if optimizers:
            ranks = [InputFile(os.path.join(folder, n)) for _, n in sorted(optimizers.items())]
            notes, used = _with_masters(tree, list(optimizers), files, ranks)
        unwrapped = unwrap(tree, _leaf, key, strip=strip)
        check_total(unwrapped.tensors, sum(file.size for file in used))
    except InputError as error:
        raise error if error.path else InputError(error.message, folder) from error
    origin = Origin(
        folder,
        FORMAT,
        tuple(file.path for file in used),
        unwrapped.wrapper,
        unwrapped.prefix,
        unwrapped.others,
        unwrapped.skipped,
        notes,
    )
    return StateDict(unwrapped.tensors, origin)


def _refuse_partitions(folder: str, found: list[str]) -> None:
    parts = [name for name in found if _PARTITIONED.fullmatch(name)]
    tensors = [n for n in found for m in [_MODEL.fullmatch(n)] if m and int(m[2])]
    if parts or tensors:
        how = "layers or experts in separate files" if parts else "tensor parallelism"
        raise InputError(
            f"was written with {how} ({listed(sorted(parts or tensors), 2)}), which porter does not"
            " put together: use the zero_to_fp32.py of the folder, or DeepSpeed's universal form",
            folder,
        )


def _ranks(pattern: re.Pattern[str], found: list[str]) -> dict[int, str]:
    matches = [match for name in found if (match := pattern.fullmatch(name))]
    return {int(match[1] or 0): match[0] for match in matches}


def _tree(file: InputFile) -> dict[Any, Any]:
    reader = {"torch": zip_file.tree, "torch-legacy": legacy.tree}.get(detect(file))
    tree = reader(file) if reader is not None else None
    if type(tree) is not dict:
        raise InputError("is not a file of DeepSpeed's", file.path)
    return tree


class _Part(NamedTuple):
    """Elements of a flat vector."""

    vector: TorchTensor
    start: int
    length: int

    def view(self, shape: Shape) -> LazyTensor:
        """Return them as a tensor of `shape`."""
        stride = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        vector = self.vector
        start = vector.offset + self.start
        return TorchTensor(vector.storage, vector.dtype, start, shape, stride).lazy()


class _Master:
    """A parameter in parts of flat vectors."""

    __slots__ = ("_dtype", "_parts", "_shape")

    attributes = None
    problem = ""

    def __init__(self, parts: list[_Part], shape: Shape, dtype: DType) -> None:
        if sum(part.length for part in parts) != prod(shape):
            raise InputError(f"the masters are too short for a parameter of {list(shape)}")
        self._parts = parts
        self._shape = shape
        self._dtype = dtype

    def lazy(self) -> LazyTensor:
        """Return the tensor."""
        if len(self._parts) == 1:
            return self._parts[0].view(self._shape)
        parts = [part.view((part.length,)) for part in self._parts]

        def whole() -> Array:
            flat = [np.empty(0, self._dtype.numpy), *(part.read() for part in parts)]
            return np.concatenate(flat).reshape(self._shape)

        return StreamedTensor(self._dtype, self._shape, whole, joined(parts), tie=self)


def _leaf(value: object) -> Leaf | None:
    return value if type(value) is _Master else names.leaf(value)


def _with_masters(
    tree: dict[Any, Any], ranks: list[int], models: dict[int, InputFile], files: list[InputFile]
) -> tuple[tuple[str, ...], list[InputFile]]:
    """Put the masters in the place of the module's parameters; returns notes and files used."""
    states = [_optimizer(file) for file in files]
    world = _world(states[0], files[0].path)
    if missing := sorted(set(range(world)) - set(ranks)):
        what = f"the *_optim_states.pt of rank {listed(map(str, missing), 12)} of {world}"
        raise InputError(f"{what} are missing: the masters are not complete")
    stage = states[0].get("zero_stage")
    groups = _groups(tree.get("param_shapes"))
    used = [models[min(models)], *files]
    if stage == 3:
        vectors = [
            _vectors(s, "fp32_flat_groups", f.path) for s, f in zip(states, files, strict=True)
        ]
        masters = _cut_each(groups, [_Flat(parts) for parts in vectors])
    else:
        key = "single_partition_of_fp32_groups"
        vectors = [_vectors(s, key, f.path) for s, f in zip(states, files, strict=True)]
        masters = _cut_groups(groups, vectors)
    frozen = _frozen(tree, stage == 3, world, models, used)
    _put(tree, {**masters, **frozen})
    shown = stage if type(stage) is int else "1 or 2"
    dtypes = sorted({part.dtype.name for parts in vectors for part in parts})
    note = (
        f"the {' and '.join(dtypes)} masters of DeepSpeed ZeRO-{shown} ({world} ranks) are taken,"
        " not the copy that the model ran with (for which give *_model_states.pt); buffers are as"
        " the model file has them"
    )
    return (note,), used


def _optimizer(file: InputFile) -> dict[Any, Any]:
    state = _tree(file).get("optimizer_state_dict")
    if type(state) is not dict:
        raise InputError("has no optimizer_state_dict", file.path)
    return state


def _world(state: dict[Any, Any], path: str) -> int:
    count = state.get("partition_count")
    counts = count if type(count) in (list, tuple) else [count]
    if not counts or any(type(n) is not int or not 0 < n < 1_000_000 for n in counts):
        raise InputError("has no partition_count", path)
    return int(max(counts))


def _groups(value: object) -> list[dict[str, Shape]]:
    """Return {name: shape} of each group of parameters."""
    groups = value if type(value) is list else [value]
    checked: list[dict[str, Shape]] = []
    for group in groups:
        if type(group) is not dict:
            raise InputError("param_shapes is malformed: the masters have no names")
        checked.append({_name(name): _shape(name, shape) for name, shape in group.items()})
    return checked


def _name(name: object) -> str:
    if type(name) is not str:
        raise InputError("param_shapes has a name that is not text")
    return name


def _shape(name: object, shape: object) -> Shape:
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise InputError(f"the shape of {printable(name)} is malformed")
    return shape


def _vectors(state: dict[Any, Any], key: str, path: str) -> list[TorchTensor]:
    """Return the flat vectors of a rank."""
    vectors = state.get(key)
    if type(vectors) not in (list, tuple) or not vectors:
        raise InputError(
            f"has no {key}: DeepSpeed wrote it in a form that porter does not know", path
        )
    for vector in vectors:
        plain = type(vector) is TorchTensor and len(vector.shape) == 1 and vector.contiguous
        if not plain or vector.storage.bytes is None or not vector.storage.bytes.seekable:
            raise InputError(f"{key} has what is not a flat vector", path)
    return list(vectors)


class _Flat:
    """The vectors of a rank, one after the other."""

    def __init__(self, vectors: list[TorchTensor]) -> None:
        self.size = sum(vector.shape[0] for vector in vectors)
        self.dtype = vectors[0].dtype
        if any(vector.dtype is not self.dtype for vector in vectors):
            raise InputError("masters of several dtypes in one group")
        self._vectors = vectors

    def parts(self, start: int, count: int) -> list[_Part]:
        """Return `count` elements from `start` on; fewer where there are not so many."""
        parts: list[_Part] = []
        for vector in self._vectors:
            length = vector.shape[0]
            begin, end = max(start, 0), min(start + count, length)
            if begin < end:
                parts.append(_Part(vector, begin, end - begin))
            start -= length
        return parts


def _cut_groups(
    groups: list[dict[str, Shape]], ranks: list[list[TorchTensor]]
) -> dict[str, _Master]:
    """ZeRO 1 and 2: the parameters of a group are stored one after the other over all ranks."""
    if any(len(vectors) != len(groups) for vectors in ranks):
        raise InputError(f"{len(groups)} groups of parameters have another number of vectors")
    masters: dict[str, _Master] = {}
    align = 2 * len(ranks)
    for shapes, *vectors in zip(groups, *ranks, strict=True):
        flat, at = _Flat(list(vectors)), 0
        for name, shape in shapes.items():
            masters[name] = _Master(flat.parts(at, prod(shape)), shape, flat.dtype)
            at += prod(shape)
        if -(-at // align) != -(-flat.size // align):
            raise InputError(f"parameters of {at} elements have masters of {flat.size}")
    return masters


def _cut_each(groups: list[dict[str, Shape]], ranks: list[_Flat]) -> dict[str, _Master]:
    """ZeRO-3: each parameter is cut into as many parts as there are ranks."""
    masters: dict[str, _Master] = {}
    at = 0
    for name, shape in ((name, shape) for group in groups for name, shape in group.items()):
        size, parts = -(-prod(shape) // len(ranks)), list[_Part]()
        for rank, flat in enumerate(ranks):
            count = max(0, min(size, prod(shape) - rank * size))
            parts += flat.parts(at, count)
        masters[name] = _Master(parts, shape, ranks[0].dtype)
        at += size
    for flat in ranks:
        if flat.size != at:
            raise InputError(f"parameters of {at} elements a rank have masters of {flat.size}")
    return masters


def _frozen(
    tree: dict[Any, Any],
    is_cut: bool,
    world: int,
    models: dict[int, InputFile],
    used: list[InputFile],
) -> dict[str, object]:
    """Return the parameters that are not trained, which the optimizers do not have."""
    shapes = tree.get("frozen_param_shapes")
    if not shapes:
        return {}
    groups = _groups(shapes)
    if not is_cut:
        whole = tree.get("frozen_param_fragments")
        return dict(whole) if type(whole) is dict else {}
    if missing := sorted(set(range(world)) - set(models)):
        what = f"the *_model_states.pt of rank {listed(map(str, missing), 12)} of {world}"
        raise InputError(f"{what} are missing, which have parts of the frozen parameters")
    found: dict[str, object] = {}
    others = {rank: models[rank] for rank in range(world)}
    used += [file for file in others.values() if file not in used]
    fragments = [_tree(file).get("frozen_param_fragments") for file in others.values()]
    for name, shape in groups[0].items():
        parts = [fragment.get(name) for fragment in fragments if type(fragment) is dict]
        vectors = [
            _vectors({"frozen_param_fragments": [p]}, "frozen_param_fragments", "")[0]
            for p in parts
        ]
        flats = [_Flat([vector]) for vector in vectors]
        found.update(_cut_each([{name: shape}], flats))
    return found


def _put(tree: dict[Any, Any], masters: dict[str, Any]) -> None:
    """Replace the parameters of `module`, and take out what was used for it."""
    module = tree.get("module")
    if type(module) is not dict:
        raise InputError("the model file has no module")
    shared = tree.get("shared_params")
    pairs = shared.items() if type(shared) is dict else shared or ()
    aliases = {pair[0]: pair[1] for pair in pairs if type(pair) in (tuple, list) and len(pair) == 2}
    for alias, name in aliases.items():
        if alias not in masters and name in masters:
            masters[alias] = masters[name]
    empty = [n for n, t in module.items() if type(t) is TorchTensor and 0 in t.shape]
    if lost := [name for name in empty if name not in masters]:
        raise InputError(f"the masters of {listed(lost)} are in no file")
    module.update(masters)
    for key in _USED:
        tree.pop(key, None)
