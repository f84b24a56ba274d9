"""The names that a weight file's pickle may mention, whatever the framework.

Exact pairs of module and name: containers become plain dictionaries, lists and tuples; tensor
constructors are added by the codecs. Every other name is never looked up: what it is called with
is kept as `Opaque` and reported as not ported, as a checkpoint often has classes of the training
script next to the weights. Names of Python's own library that no such class needs are refused:
a file that mentions `os.system` is not a weight file, though nothing in it would run.
"""

from __future__ import annotations

import sys
from typing import Any

from porter.codecs.pickle.values import Blob, Global, Opaque, Text, put
from porter.errors import InputError, printable

_INERT = {
    "argparse": "Namespace",
    "builtins": (
        "set frozenset complex slice range object int float str bool bytes type dict list"
        " Ellipsis NotImplemented"
    ),
    "__builtin__": (
        "set frozenset complex slice xrange object int float str unicode bool long type dict list"
        " Ellipsis NotImplemented"
    ),
    "copy_reg": "_reconstructor",
    "copyreg": "_reconstructor",
    "collections": "deque",
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "pathlib": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "types": "SimpleNamespace",
    "random": "Random",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "numpy.random": "__RandomState_ctor",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "numpy": (
        "bool_ float16 float32 float64 complex64 complex128"
        " int8 int16 int32 int64 uint8 uint16 uint32 uint64"
    ),
    "torch": "device float dtype channels_last contiguous_format preserve_format strided",
    "torch.torch_version": "TorchVersion",
    "torch.serialization": "_get_layout",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.base": "ContainerMetadata Metadata SCMode",
    "omegaconf.nodes": (
        "AnyNode StringNode IntegerNode FloatNode BooleanNode EnumNode BytesNode PathNode"
    ),
    "typing": "Any Union Optional List Dict Tuple",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
}

_DICTIONARIES = {
    "collections": "OrderedDict defaultdict Counter",
    "easydict": "EasyDict",
    "addict.addict": "Dict",
    "addict": "Dict",
    "yacs.config": "CfgNode",
    "mmcv.utils.config": "ConfigDict",
    "mmengine.config.config": "ConfigDict",
    "ml_collections.config_dict.config_dict": "ConfigDict",
    "munch": "Munch",
    "timm.utils.misc": "AttrDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
}


_LIBRARY = frozenset({
    "__main__", "abc", "argparse", "array", "collections", "copyreg", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "inspect", "ipaddress", "logging", "numbers", "pathlib",
    "queue", "random", "re", "statistics", "string", "time", "types", "typing", "uuid",
    "warnings", "weakref", "zoneinfo",
})  # fmt: skip
"""Modules of Python's library whose classes are ordinary next to weights."""
_HARMLESS = {
    "functools": "partial partialmethod cached_property",
    "builtins": "getattr print len sum min max abs round sorted zip map filter enumerate reversed",
    "__builtin__": "getattr len sum min max abs round sorted zip map filter enumerate reversed",
    "operator": "itemgetter attrgetter",
    "io": "StringIO BytesIO",
    "threading": "Lock RLock Event Condition",
}


def foreign(module: str, name: str) -> Global:
    """Return the row of a name that no table has: never imported, calls of it are `Opaque`.

    `InputError` is raised for names of Python's library that only a program needs.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in _PYTHON_2:
        harmless = top in _LIBRARY or (module, name) in _HARMLESS_PAIRS
        exception = module in ("builtins", "exceptions") and name.endswith(("Error", "Warning"))
        if not harmless and not exception:
            full = printable(f"{module}.{name}")
            raise InputError(f"names {full}, which a program needs and a weight file does not")
    return Global(module, name)


def _pairs(rows: dict[str, str]) -> list[tuple[str, str]]:
    return [(module, name) for module, names in rows.items() for name in names.split()]


_PYTHON_2 = frozenset({"__builtin__", "commands", "cPickle", "exceptions", "popen2", "thread"})
_HARMLESS_PAIRS = frozenset(_pairs(_HARMLESS))


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Stand for `OrderedDict()`, `OrderedDict([[k, v], …])`, `Counter({…})`, `defaultdict(f)`."""
    if len(arguments) == 1 and type(arguments[0]) is dict:
        return dict(arguments[0])  # The reader counts what is copied.
    made: dict[Any, Any] = {}
    for argument in arguments:
        if type(argument) is list:
            if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in argument):
                raise InputError("makes a dictionary of items that are not pairs")
            put(made, argument)
            argument[:] = [None]  # a second use of the same list would multiply the memory
        elif type(argument) not in (Global, Opaque, type(None)):
            raise InputError("makes a dictionary of something else")
    return made


def _tuple(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    # The limit: many copies of one long list would multiply the memory.
    if len(arguments) == 1 and type(arguments[0]) in (list, tuple) and len(arguments[0]) <= 64:
        return tuple(arguments[0])
    raise InputError("makes a tuple of something else than a short list or tuple")


def encoded(arguments: tuple[Any, ...]) -> object:
    """Return the text of `_codecs.encode(text, "latin1")`, bytes in protocol 2.

    It stays a text: whoever needs the bytes encodes it.
    """
    known = len(arguments) == 2 and arguments[1] in ("latin1", "latin-1")
    if not known or type(arguments[0]) not in (str, Text):
        raise InputError("_codecs.encode is used otherwise than for bytes as latin-1 text")
    return arguments[0]


def latin1(text: str) -> bytes:
    """Return the bytes that a text of protocol 2 or of Python 2 stands for."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise InputError("a text that represents bytes has other characters") from error


def _bytearray(arguments: tuple[Any, ...]) -> object:
    if len(arguments) == 2:
        return encoded(arguments)
    if not arguments:
        return b""
    # Protocol 2 writes the bytes themselves as text.
    if len(arguments) == 1 and type(arguments[0]) in (bytes, Blob, str, Text):
        return arguments[0]
    raise InputError("makes a bytearray of something else than bytes")


def _bytes(arguments: tuple[Any, ...]) -> object:
    # Python 3 writes b"" so in protocol 2.
    if arguments:
        return Opaque("bytes", arguments)
    return b""


COMMON: dict[tuple[str, str], Global] = {
    **{pair: Global(*pair) for pair in _pairs(_INERT)},
    **{pair: Global(*pair, make=_dictionary, value=dict) for pair in _pairs(_DICTIONARIES)},
    **{
        (module, "tuple"): Global(module, "tuple", _tuple) for module in ("builtins", "__builtin__")
    },
    ("torch", "Size"): Global("torch", "Size", _tuple),
    **{
        (module, "bytearray"): Global(module, "bytearray", _bytearray)
        for module in ("builtins", "__builtin__")
    },
    **{
        (module, "bytes"): Global(module, "bytes", _bytes) for module in ("builtins", "__builtin__")
    },
    ("_codecs", "encode"): Global("_codecs", "encode", encoded),
}
