"""The proof of a conversion's weights, as they were read back, and what becomes of the output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from porter import codecs
from porter.errors import PorterError, printable
from porter.planning.plan import Plan
from porter.remote import fetch
from porter.remote.address import is_url
from porter.storage.atomic_output import Written
from porter.storage.replaced import Replaced
from porter.tensors import casts
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

if TYPE_CHECKING:
    from porter.commands.convert import Conversion
    from porter.verification.weights import WeightProof


@contextmanager
def proving(written: Written, old: Replaced) -> Iterator[None]:
    """Say what became of an output whose proof could not be made.

    What is refused (exit code 2) leaves nothing behind, and `old`, which it replaced, is back;
    where the machine fails or the user stops it, the output is there, and the error says that it is
    not proven.
    """
    left = f"{printable(written.path, 400)} is written and not proven"
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(left) from stop
    except SystemExit as stop:  # Terminated: the command line prints the notes.
        stop.add_note(left)
        raise
    except PorterError as error:
        if error.exit_code == PorterError.exit_code and not is_url(written.path):
            for path in written.files:
                with suppress(OSError):
                    os.unlink(path)
            back = old.restore()
            left = "the output was removed" + (", and the one before is back" if back else "")
        error.message += f"; {left}"
        raise


@dataclass(frozen=True, slots=True)
class Proof:
    """Maps what was written back to its source."""

    plan: Plan
    source: StateDict

    def proven(self, outcome: Conversion, dtype: str | None) -> WeightProof:
        """Return the weight-level proof, from the digests of the read-back where there are any."""
        from porter.verification.weights import prove_weights

        assert outcome.written is not None
        written = restored(read_output(outcome.output))
        cast = None if dtype is None else casts.FLOATS[dtype]
        digests = outcome.written.returned
        return prove_weights(self.plan, self.source, written, cast, digests=digests)

    def rounded(self, dtype: str | None) -> Proof:
        """Return the proof of an output whose floats are cast: its source is cast as well."""
        if dtype is None:
            return self
        return replace(self, source=casts.cast(self.source, dtype)[0])

    def back(self, written: StateDict) -> Mapping[str, LazyTensor]:
        """Return the source's tensors, as far as what was written, or a shard of it, has them."""
        return self.plan.back(restored(written))


def read_output(output: str) -> StateDict:
    """Read an output again, where it is now."""
    return fetch.read(output) if is_url(output) else codecs.read(output)


def restored(state: StateDict) -> StateDict:
    """Return what was written into a file, of an ONNX model also what its graph does not use."""
    if state.origin is None or state.origin.format != "onnx":
        return state
    from porter.onnx.recover.read import restore

    return restore(state)
