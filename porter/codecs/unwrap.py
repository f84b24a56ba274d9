"""Find the state dict in what a checkpoint holds.

A training script saves more than weights: `{"model": {…}, "optimizer": {…}, "epoch": 3}`. The
state dict is chosen by rules a person can follow, and what was left lying is said by name:

1. `key`, when the user gives one (`model_ema`, `state_dict.generator`);
2. else, going down as long as it helps: the first of `WRAPPERS` that is a dictionary with
   tensors; else, where no tensor stands directly, the only such dictionary;
3. what is reached is flattened, names joined by dots, the training states of `TRAINING` left
   out, and refused if two names become one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from porter.codecs.pickle.values import Blob, Global, Opaque, Text
from porter.codecs.recorded import model_name, preprocessing
from porter.errors import InputError, UsageError, listed, printable
from porter.tensors.lazy import LazyTensor

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "params_ema",
)
"""Keys under which a state dict is kept, the first that is there is taken: plain before EMA."""

# fmt: off
TRAINING = frozenset((
    "optimizer", "optimizers", "optimizer_state", "optimizer_state_dict", "optimizer_states",
    "opt", "optim", "optim_state", "lr_scheduler", "lr_schedulers", "lr_scheduler_state_dict",
    "scheduler", "schedulers", "scheduler_state_dict", "LR_Scheduler", "master_weights",
    "scaler", "grad_scaler", "loss_scaler", "amp", "amp_scaler", "callbacks", "loops", "trainer",
    "rng", "rng_state", "rng_states", "random_states", "criterion", "loss_fn",
    "hyper_parameters", "hparams", "args", "config", "cfg",
))
# fmt: on
"""Keys of what belongs to the training, whose tensors are no weights."""

PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
"""What DataParallel, compile, FSDP and Lightning put before every name."""

EXPANSION = 64
"""All tensors together may have this many times the bytes of the file, and `_FREE` more."""
_FREE = 64 << 20
_DEEPEST = 100
_LONGEST = 4096
_MOST_COUNTED = 1_000_000
_MOST_KINDS = 4
MOST_TENSORS = 1_000_000


class Leaf(Protocol):
    """A tensor as the pickle describes it; `problem` says why it cannot be ported."""

    @property
    def problem(self) -> str: ...
    @property
    def attributes(self) -> Any: ...
    def lazy(self) -> LazyTensor: ...


FindLeaf: TypeAlias = Callable[[Any], Leaf | None]


class Unwrapped(NamedTuple):
    """A state dict, where it was, and what else there was."""

    tensors: dict[str, LazyTensor]
    wrapper: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    model: str = ""
    pictures: Mapping[str, Any] = {}


class _Node:
    """A dictionary with tensors and what is known of it; one that is shared is one node."""

    __slots__ = ("direct", "height", "inner", "total", "value")

    def __init__(self, value: dict[Any, Any]) -> None:
        self.value = value
        self.direct = 0
        """Tensors that stand in it directly."""
        self.inner: dict[Any, _Node] = {}
        """Its dictionaries that hold tensors, however deep."""
        self.total = 0
        """Tensors in it, however deep, those of a shared dictionary counted each time."""
        self.height = 1


_Path: TypeAlias = tuple[Any, ...]


def unwrap(
    tree: object,
    leaf: FindLeaf,
    key: str | None = None,
    *,
    strip: bool = True,
    attributes: Iterable[dict[Any, Any]] = (),
) -> Unwrapped:
    """Return the state dict inside `tree`: a dictionary, (name, tensor) pairs, a tuple of them.

    `leaf` tells tensors from the rest. With `strip`, the prefixes of wrappers are taken off;
    without, names stay as the file has them, with the key path of a state dict that no `key`
    asked for before them. `attributes` were set on dictionaries: the tensors in them are named.
    Raises `InputError` for a tree without tensors, names that collide and tensors that cannot
    be ported; `UsageError` for a `key` that is not there.
    """
    if leaf(tree) is not None:
        raise InputError("contains one bare tensor, not a state dict with names")
    top = _Survey(leaf).top(tree)
    if top is None:
        raise InputError(_without(tree))
    path = _descend(top) if key is None else _by_key(top, key)
    chosen = _at(top, path)
    if chosen.total > MOST_TENSORS:
        raise InputError(f"more than {MOST_TENSORS} tensors")
    leaves: dict[str, Leaf] = {}
    _flatten(chosen, "", leaf, leaves, _joined((*path, "")))
    if not leaves:
        raise InputError(_left_to_training(chosen, path) or _without(tree))
    _check_names(leaves)
    prefix = common_prefix(leaves) if strip else ""
    before = f"{_joined(path)}." if path and key is None and not strip else ""
    tensors = {before + name[len(prefix) :]: found.lazy() for name, found in leaves.items()}
    others = tuple(_joined(other) for other in _alternatives(top, path))
    census = _Census(leaf)
    skipped = [*_skipped(top, path, census), *_attached(leaves, attributes, census)]
    return Unwrapped(
        tensors, _joined(path), prefix, others, tuple(skipped), model_name(top.value),
        preprocessing(top.value),
    )  # fmt: skip


def _without(tree: object) -> str:
    """Return what to say of a file without a state dict."""
    items = tree.items() if type(tree) is dict else [("", tree)]
    for key, item in items:
        if type(item) is Opaque and any(_is_module(part) for part in item.parts):
            where = f"{printable(key)}: " if key else ""
            return (
                f"{where}a whole module was pickled, of the class {printable(item.kind)}; load it"
                " where that class is and save its state_dict()"
            )
    keys = [str(key) for key in tree] if type(tree) is dict else []
    return "has no tensors under names" + (f", only {listed(keys, 4)}" if keys else "")


def _left_to_training(chosen: _Node, path: _Path) -> str:
    """Return what to say where all tensors are under keys of what belongs to the training."""
    keys = [key for key in chosen.inner if key in TRAINING]
    below = [(*path, *more) for more, node in _walk(chosen) if more and node.direct]
    if not keys:
        return ""
    return (
        f"has tensors only under {listed(map(str, keys), 4)}, which belongs to the training; if"
        f" the model's are there, give one of --key {listed(map(_joined, below), 4)}"
    )


def _is_module(state: object) -> bool:
    """Whether this is the state of an `nn.Module` or `nn.Layer`."""
    return type(state) is dict and ("_modules" in state or "_sub_layers" in state)


def _joined(path: _Path) -> str:
    return ".".join(map(str, path))


def _at(top: _Node, path: _Path) -> _Node:
    for step in path:
        top = top.inner[step]
    return top


class _Survey:
    """Finds the dictionaries that hold tensors, each looked at once."""

    def __init__(self, leaf: FindLeaf) -> None:
        self._leaf = leaf
        self._open: set[int] = set()
        self._known: dict[int, _Node | None] = {}

    def top(self, tree: Any) -> _Node | None:
        """Return the node of what a file holds; the parts of a tuple are called 0, 1, …"""
        node = self.node(tree, 0)
        if node is None and type(tree) in (tuple, list) and not any(map(self._leaf, tree)):
            return self.node({str(index): item for index, item in enumerate(tree)}, 0)
        return node

    def node(self, value: object, depth: int) -> _Node | None:
        """Return a node when `value`, `depth` levels down, is a dictionary with tensors.

        A list of (name, tensor) pairs, `list(model.named_parameters())`, is one too.
        """
        if type(value) not in (dict, list, tuple):
            return None
        if id(value) in self._open:
            raise InputError("a dictionary contains itself")
        node = self._known[id(value)] if id(value) in self._known else self._new(value, depth)
        if node is not None and depth + node.height > _DEEPEST:
            raise InputError(f"dictionaries are nested deeper than {_DEEPEST}")
        return node

    def _is_pair(self, value: object) -> bool:
        """Whether this is a name and its tensor."""
        is_two = type(value) in (list, tuple) and len(value) == 2  # type: ignore[arg-type]
        return is_two and type(value[0]) is str and self._leaf(value[1]) is not None  # type: ignore[index]

    def _of_pairs(self, pairs: list[Any] | tuple[Any, ...]) -> _Node | None:
        if not pairs or not all(map(self._is_pair, pairs)):
            return None
        node = _Node(dict(pairs))
        if len(node.value) < len(pairs):
            (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            raise InputError(f"two tensors would both be called {printable(name)}")
        node.direct = node.total = len(pairs)
        return node

    def _new(self, value: Any, depth: int) -> _Node | None:
        if type(value) is not dict:
            self._known[id(value)] = self._of_pairs(value)
            return self._known[id(value)]
        if depth > _DEEPEST:
            raise InputError(f"dictionaries are nested deeper than {_DEEPEST}")
        self._open.add(id(value))
        node = _Node(value)
        for key, item in value.items():
            inner = self.node(item, depth + 1)
            if inner is not None:
                node.inner[key] = inner
                node.height = max(node.height, inner.height + 1)
                node.total += inner.total
            elif type(item) is not dict and self._leaf(item) is not None:
                node.direct += 1
        self._open.discard(id(value))
        node.total += node.direct
        self._known[id(value)] = node if node.total else None
        return self._known[id(value)]


def _descend(node: _Node) -> _Path:
    path: list[Any] = []
    while True:
        inner = {key: found for key, found in node.inner.items() if key not in TRAINING}
        wrapper = next((key for key in WRAPPERS if key in inner), None)
        if wrapper is None and len(inner) == 1 and not node.direct:
            wrapper = next(iter(inner))
        if wrapper is None:
            return tuple(path)
        path.append(wrapper)
        node = inner[wrapper]


def _by_key(top: _Node, key: str) -> _Path:
    """Return the path that a key names; its parts may hold dots themselves."""
    found = next(_matches(top, key), None)
    if found is None:
        known = listed(_joined(path) for path, _ in _walk(top) if path) or "only the top"
        raise UsageError(f"no state dict is called {printable(key)}; there is {known}")
    return found


def _matches(node: _Node, rest: str) -> Iterator[_Path]:
    for name in sorted(map(str, node.inner), key=len, reverse=True):
        step = next(key for key in node.inner if str(key) == name)
        if rest == name:
            yield (step,)
        elif rest.startswith(name + "."):
            for more in _matches(node.inner[step], rest[len(name) + 1 :]):
                yield (step, *more)


def _walk(top: _Node) -> Iterator[tuple[_Path, _Node]]:
    """Yield every dictionary with tensors, a shared one under each of its keys in one place."""
    seen: set[int] = set()
    todo: list[tuple[_Path, _Node]] = [((), top)]
    while todo:
        path, node = todo.pop()
        yield path, node
        if id(node) not in seen:
            seen.add(id(node))
            todo += [((*path, key), node.inner[key]) for key in reversed(node.inner)]


def _flatten(
    node: _Node, prefix: str, leaf: FindLeaf, leaves: dict[str, Leaf], above: str = ""
) -> None:
    """Add the tensors of a node under their names; `above` is where it was found."""
    for key, item in node.value.items():
        if (found := leaf(item)) is not None:
            _add(_name(above, prefix, key), found, leaves)
        elif type(item) is Opaque and any(leaf(part) is not None for part in item.arguments):
            name = printable(prefix + str(key))
            raise InputError(
                f"tensor {name} cannot be ported: only {printable(item.kind)} can make it"
            )
        elif (inner := node.inner.get(key)) is not None and not _left_out(key, prefix):
            _flatten(inner, _name(above, prefix, key) + ".", leaf, leaves, above)


def _name(above: str, prefix: str, key: object) -> str:
    if type(key) is str:
        return prefix + key
    last = str(key) if type(key) in (int, bool, float, tuple) else f"<{type(key).__name__}>"
    where = printable(above + prefix + last)
    raise InputError(f"tensors are under {where}, whose last part is not text but {_kind(key)}")


def _left_out(key: object, prefix: str) -> bool:
    """Whether a dictionary belongs to the training and not to the model beside it."""
    return key in TRAINING and not prefix


def _add(name: str, found: Leaf, leaves: dict[str, Leaf]) -> None:
    if name in leaves:
        raise InputError(f"two tensors would both be called {printable(name)}")
    if found.problem:
        raise InputError(f"tensor {printable(name)} cannot be ported: it is {found.problem}")
    leaves[name] = found


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not name.isprintable() and any(ord(c) < 32 or ord(c) == 127 for c in name):
            raise InputError(f"a tensor's name contains control characters: {printable(name)}")
        if len(name) > _LONGEST:
            raise InputError(f"a tensor's name is longer than {_LONGEST} characters")


def check_total(tensors: Mapping[str, LazyTensor], file_size: int) -> None:
    """Refuse views and repetitions that together would fill far more than the file has."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > EXPANSION * file_size + _FREE:
        raise InputError(f"{total} bytes of tensors out of a file of {file_size}")


def common_prefix(names: Iterable[str]) -> str:
    """Return the wrapper prefixes, stacked, that all names begin with."""
    names = list(names)
    prefix, more = "", True
    while more and names:
        more = False
        for candidate in PREFIXES:
            longer = prefix + candidate
            if all(name.startswith(longer) and len(name) > len(longer) for name in names):
                prefix, more = longer, True
    return prefix


def _alternatives(top: _Node, chosen: _Path) -> Iterator[_Path]:
    """Yield the paths of the other dictionaries that could be state dicts."""
    for path, node in _walk(top):
        inside = path[: len(chosen)] == chosen
        training = any(step in TRAINING for step in path)
        if node.direct and path and not (inside or training):
            yield path


def _skipped(top: _Node, chosen: _Path, census: _Census) -> Iterator[str]:
    """Yield what is not ported, with its kind: on the way to the state dict, and inside it."""
    node = top
    for depth, step in enumerate(chosen):
        for key, item in node.value.items():
            if key != step:
                yield _line((*chosen[:depth], key), node.inner.get(key), item, census)
        node = node.inner[step]
    seen: set[int] = set()
    todo: list[tuple[_Path, _Node]] = [(chosen, node)]
    while todo:
        path, node = todo.pop()
        for key, item in node.value.items():
            inner = node.inner.get(key)
            if inner is None and census.leaf(item) is None:
                yield _line((*path, key), None, item, census)
            elif inner is not None and _left_out(key, "." if path != chosen else ""):
                yield _line((*path, key), inner, item, census)
            elif inner is not None and id(inner) not in seen:
                seen.add(id(inner))
                todo.append(((*path, key), inner))


def _attached(
    leaves: Mapping[str, Leaf], attributes: Iterable[dict[Any, Any]], census: _Census
) -> Iterator[str]:
    """Yield the attributes with tensors, of tensors and of dictionaries, which no format keeps."""
    owners = [(f"{name}.", found.attributes) for name, found in leaves.items() if found.attributes]
    for owner, attached in [*owners, *(("attribute ", each) for each in attributes)]:
        for key, item in attached.items() if type(attached) is dict else [("", attached)]:
            if census.of(item):
                yield f"{printable(owner + str(key))}: {_kind(item, None, census)}"


class _Census:
    """Counts the tensors in what is left out; it stops counting when that would take long."""

    def __init__(self, leaf: FindLeaf) -> None:
        self.leaf = leaf
        self._left = _MOST_COUNTED

    def of(self, item: object) -> int:
        """Return how many tensors a value holds, however deep, each place looked at once."""
        count, seen, todo = 0, set[int](), [item]
        while todo and self._left > 0:
            value = todo.pop()
            self._left -= 1
            if self.leaf(value) is not None:
                count += 1
            elif isinstance(value, list | tuple | dict | Opaque) and id(value) not in seen:
                seen.add(id(value))
                todo += _parts(value)
        return count

    def kinds(self, item: object) -> list[str]:
        """Return which classes are in a value, however deep, the first few."""
        found: dict[str, None] = {}
        seen, todo = set[int](), [item]
        while todo and self._left > 0 and len(found) < _MOST_KINDS:
            value = todo.pop()
            self._left -= 1
            if type(value) is Opaque and "." in value.kind:
                found[printable(value.kind)] = None
            if isinstance(value, list | tuple | dict | Opaque) and id(value) not in seen:
                seen.add(id(value))
                todo += _parts(value)
        return list(found)


def _parts(value: list[Any] | tuple[Any, ...] | dict[Any, Any] | Opaque) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return [*value.arguments, *value.parts] if isinstance(value, Opaque) else value


def _line(path: _Path, node: _Node | None, item: object, census: _Census) -> str:
    return f"{printable(_joined(path))}: {_kind(item, node, census)}"


def _kind(item: object, node: _Node | None = None, census: _Census | None = None) -> str:
    if node is not None:
        return f"a dictionary with {node.total} tensors"
    if census is not None and census.leaf(item) is not None:
        return "a tensor outside of the state dict"
    if item is None or type(item) in (bool, int, float):
        return f"the value {printable(item, 40)}"
    if type(item) is str:
        return "a text" if len(item) > 40 else f"the text {printable(item)}"
    if type(item) in (bytes, Blob):
        return "bytes"
    if type(item) is Text:
        return "a text"
    if type(item) is Global:
        return f"the name {printable(repr(item))}"
    count = 0 if census is None else census.of(item)
    with_tensors = f" with {count} tensors" if count else ""
    if type(item) is Opaque:
        return f"a value of {printable(item.kind)}{with_tensors}"
    for kind, called in ((list, "a list"), (tuple, "a tuple"), (dict, "a dictionary")):
        if isinstance(item, kind):
            kinds = [] if census is None else census.kinds(item)
            classes = f" ({', '.join(kinds)})" if kinds else ""
            return f"{called} of {len(item)}{with_tensors}{classes}"
    return "a value"
