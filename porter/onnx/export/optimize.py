"""Have a written model rewritten by an optimiser: quicker to load, but it no longer maps back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence

from porter import codecs
from porter.codecs.writing import Output
from porter.errors import UsageError, listed
from porter.frameworks.process import Worker
from porter.onnx.export import metadata, model
from porter.storage import atomic_output
from porter.storage.atomic_output import Written
from porter.storage.input_file import InputFile
from porter.storage.options import WriteOptions
from porter.storage.pieces import Body
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import Extent, LazyTensor
from porter.tensors.state_dict import StateDict

OPTIMIZERS = ("onnxruntime", "onnxscript")


def optimized(
    state: StateDict,
    path: str,
    said: Mapping[str, str],
    sheet: model.Sheet,
    optimizer: str,
    options: WriteOptions,
    inputs: Sequence[str],
) -> Written:
    """Write the model as `optimizer`, one of `OPTIMIZERS`, makes it, and say so in it.

    ONNX Runtime's fuses operations into its own, which only it runs; onnxscript's keeps to ONNX.
    """
    if optimizer not in OPTIMIZERS:
        raise UsageError(f"--optimize {optimizer} is none of {listed(OPTIMIZERS)}")
    said = {**said, metadata.OPTIMIZED: optimizer}
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        plain, rewritten = (os.path.join(folder, name) for name in ("plain.onnx", "made.onnx"))
        fast = WriteOptions(sync=False, read_back=False, digests=False)
        atomic_output.publish(plain, model.pieces(sheet, state, said), fast)
        with Worker("onnx-tools") as worker:
            worker.request("optimize", path=plain, output=rewritten, optimizer=optimizer)
        file = InputFile(rewritten)
        extent = Extent(file, 0, file.size)
        whole = LazyTensor.stored(DTYPES["uint8"], (file.size,), extent)
        # None of the tensors is in the file as it was: only the file as a whole is on record.
        read = codecs.CODECS["onnx"].read
        output = Output(StateDict({}), path, read, options, metadata=said, inputs=inputs)
        with output.locked():
            pieces = [Body("model", whole)]
            return output.finished(output.file(path, pieces, {"model": whole}, opaque=True))
