"""torch's checkpoints from before 1.6: five pickles and the storages behind them.

    pickle  magic number            pickle  keys of the storages, in order
    pickle  protocol version        for each: number of elements (8 bytes), the elements
    pickle  byte order, type sizes
    pickle  the object

The numbers are little endian whatever the machine was; torch ignores the byte order stated, so
a file that says "big" is refused. The layouts: `_legacy_save` and `_legacy_load` in
`torch/serialization.py`.
"""

from __future__ import annotations

from typing import Any

from porter.codecs.pickle.cursor import Cursor
from porter.codecs.torch.names import TORCH, leaf
from porter.codecs.torch.storages import Storages
from porter.codecs.unwrap import check_total, unwrap
from porter.errors import InputError
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import Origin, StateDict

FORMAT = "torch-legacy"
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the state dict of an old torch file; `key` names one of several."""
    try:
        tree, attributes = _read_stream(file)
        found = unwrap(tree, leaf, key, strip=strip, attributes=attributes)
        check_total(found.tensors, file.size)
    except InputError as error:
        raise InputError(error.message, file.path) from error
    return StateDict(
        found.tensors,
        Origin(
            file.path,
            FORMAT,
            (file.path,),
            found.wrapper,
            found.prefix,
            found.others,
            found.skipped,
            model=found.model,
            pictures=found.pictures,
        ),
    )


def tree(file: InputFile) -> object:
    """Return the object that an old torch file has, its tensors as `leaf` knows them."""
    try:
        return _read_stream(file)[0]
    except InputError as error:
        raise InputError(error.message, file.path) from error


def _read_stream(file: InputFile) -> tuple[object, list[dict[Any, Any]]]:
    cursor = Cursor(file, 0, file.size)
    if cursor.pickle({}, "the magic number's pickle,") != MAGIC:
        raise InputError("a pickle without torch's magic number")
    if cursor.pickle({}, "the protocol's pickle,") != PROTOCOL:
        raise InputError("torch's old format in an unknown version")
    system = cursor.pickle({}, "the system's pickle,")
    if type(system) is not dict or system.get("little_endian", True) is not True:
        raise InputError("says that it is big-endian, which torch does not look at: ambiguous")
    storages = Storages()
    tree: object = cursor.pickle(TORCH, "the object's pickle,", storages.load)
    for key in _keys(cursor.pickle({}, "the keys' pickle,"), storages):
        cursor.storage(storages.found[key])
    cursor.finish("the storages")
    return tree, cursor.attributes


def _keys(keys: object, storages: Storages) -> list[str]:
    """Return the storage keys, which must be those of the object, each once."""
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise InputError("the list of storage keys is not a list")
    if len(set(keys)) != len(keys) or set(keys) != set(storages.found):
        raise InputError("the list of storage keys does not fit the tensors")
    return keys
