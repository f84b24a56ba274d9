"""Inference models of Paddle, run as they are; runs in a child process of Paddle."""

from __future__ import annotations

from typing import Any

from porter.codecs.paddle.inference import pair
from porter.errors import InputError, printable
from porter.frameworks.models import need
from porter.storage.input_file import InputFile


def inference(path: str) -> Any:
    """Return the program of an inference model as a layer: `paddle.inference`, on one thread.

    `path` is its file or the folder of it. It takes float32 and returns its outputs in order.
    `InputError` where Paddle does not load it or run it.
    """
    need("paddle")
    import paddle

    from porter.checkpoints.folder import find

    program, stream = pair(InputFile(find(path).path))
    predictor = _predictor(program.path, stream.path)

    class Program(paddle.nn.Layer):  # type: ignore[misc]
        """A program, which has no parameters that could be set."""

        def forward(self, *inputs: Any) -> dict[str, Any]:
            names = predictor.get_input_names()
            if len(inputs) != len(names):
                raise InputError(f"takes {len(names)} inputs, not {len(inputs)}", path)
            for name, value in zip(names, inputs, strict=True):
                if value.dtype != paddle.float32:
                    raise InputError("a program computes in float32 only", path)
                predictor.get_input_handle(name).copy_from_cpu(value.numpy())
            try:
                predictor.run()
            except RuntimeError as error:
                raise InputError(
                    f"Paddle does not run it: {printable(error, 200)}", path
                ) from error
            found = {n: predictor.get_output_handle(n) for n in predictor.get_output_names()}
            return {n: paddle.to_tensor(handle.copy_to_cpu()) for n, handle in found.items()}

    return Program()


def _predictor(program: str, stream: str) -> Any:
    import paddle.inference

    config = paddle.inference.Config(program, stream)
    config.disable_glog_info()
    config.disable_mkldnn()  # Paddle 3.3: oneDNN runs no program with a list of scales
    config.set_cpu_math_library_num_threads(1)
    try:
        return paddle.inference.create_predictor(config)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"Paddle does not load it: {printable(error, 200)}", program) from error
