"""Refuse a state dict whose weights are somewhere else."""

from __future__ import annotations

import os
import re

from porter.codecs.detect import INDEX_SUFFIX
from porter.errors import InputError, listed, printable
from porter.tensors.state_dict import StateDict

_PACKED = re.compile(r"(.*_packed_params): .*|(.*): a value of torch\.ScriptObject\b.*", re.DOTALL)
"""Lines on what is skipped, of quantised layers and of quantised recurrent ones."""
_NUMBERED = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)", re.DOTALL)


def refuse_shard(path: str) -> None:
    """Raise `InputError` for one of several shards, which has a part of the weights."""
    folder, name = os.path.split(path)
    match = _NUMBERED.fullmatch(name)
    if match is None or int(match[3]) < 2:
        return
    index = f"{match[1]}{match[4]}{INDEX_SUFFIX}"
    here = os.path.exists(os.path.join(folder, index))
    step = "give" if here else "download all shards and"
    raise InputError(
        f"is shard {int(match[2])} of {int(match[3])}, a part of the weights: {step} the index"
        f" {printable(index)}",
        path,
    )


def refuse_placeholders(state: StateDict) -> None:
    """Raise `InputError` for placeholders of ZeRO-3 and packed parameters of quantised modules.

    ZeRO-3 leaves tensors of shape [0] in the place of every parameter that is cut over ranks.
    """
    assert state.origin is not None
    empty = [name for name, tensor in state.items() if tensor.shape == (0,)]
    skipped = [line.partition(":")[0] for line in state.origin.skipped]
    if len(empty) * 2 > len(state) or (empty and "param_shapes" in skipped):
        folder = os.path.basename(os.path.dirname(os.path.abspath(state.origin.path)))
        raise InputError(
            f"{len(empty)} of {len(state)} tensors are placeholders of shape [0]"
            f" ({listed(empty, 3)}), as ZeRO-3 leaves them: the weights are in the"
            f" *_optim_states.pt of all ranks; give their folder, {folder} say",
            state.origin.path,
        )
    lines = map(_PACKED.fullmatch, state.origin.skipped)
    packed = [match[1] or match[2] for match in lines if match is not None]
    if packed:
        raise InputError(
            f"the weights of quantised modules are in packed parameters ({listed(packed, 3)}),"
            " which porter does not read: save the state_dict() of the model before quantisation",
            state.origin.path,
        )
