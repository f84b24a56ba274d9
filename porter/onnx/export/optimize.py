"""Have a written model rewritten by an optimiser: quicker to load, no longer what maps back."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from porter.errors import UsageError, listed
from porter.frameworks.process import Worker
from porter.onnx.export import metadata, model
from porter.storage.atomic_output import Written
from porter.storage.input_file import InputFile
from porter.storage.pieces import Body
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import Extent, LazyTensor

if TYPE_CHECKING:
    from porter.onnx.export.write import Job

OPTIMIZERS = ("onnxruntime", "onnxscript")


def optimized(job: Job, sheet: model.Sheet, optimizer: str) -> Written:
    """Write the model as `optimizer`, one of `OPTIMIZERS`, makes it, and say so in it.

    ONNX Runtime's fuses operations into its own, which only it runs; onnxscript's keeps to ONNX.
    """
    if optimizer not in OPTIMIZERS:
        raise UsageError(f"--optimize {optimizer} is none of {listed(OPTIMIZERS)}")
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        plain, rewritten = (os.path.join(folder, name) for name in ("plain.onnx", "made.onnx"))
        said = {**job.metadata, metadata.OPTIMIZED: optimizer}
        first = replace(job, path=plain, metadata=said, digests="", sync=False, read_back=False)
        first.in_one(sheet)
        with Worker("onnx-tools") as worker:
            worker.request("optimize", path=plain, output=rewritten, optimizer=optimizer)
        file = InputFile(rewritten)
        extent = Extent(file, 0, file.size)
        whole = LazyTensor.stored(DTYPES["uint8"], (file.size,), extent)
        return job.publish(job.path, [Body("model", whole)], None)
