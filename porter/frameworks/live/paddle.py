"""A live Paddle model; twin of `porter.frameworks.live.torch`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from porter.errors import InputError
from porter.frameworks.live.hooks import After, Before, is_tensor, takes_one, tensors_of
from porter.tensors.blocks import Array


def begin() -> None:
    """Build models in float32 from now on; one whose tensors have names may be built again."""
    import paddle

    paddle.set_default_dtype("float32")
    paddle.utils.unique_name.switch()


class PaddleModel:
    """An `nn.Layer`: its modules, tensors and calls."""

    framework = "paddle"

    def __init__(self, model: Any, device: str) -> None:
        import paddle

        if not isinstance(model, paddle.nn.Layer):
            raise InputError(f"a paddle.nn.Layer is expected, not a {type(model).__name__}")
        self._paddle = paddle
        model.eval()
        self.model = model
        self.device = device  # `hello` has set Paddle to build there
        self.dtype = "float32"
        self.modules: dict[str, Any] = {"": model, **dict(model.named_sublayers())}
        known = {id(p) for p in model.parameters()}
        statistics = ("_mean", "_variance")  # parameters here, buffers in PyTorch
        self.refresh()
        self.parameters = {
            name
            for name, value in self.state.items()
            if id(value) in known and not name.endswith(statistics)
        }

    def refresh(self) -> None:
        """Look up the tensors again, after a cast."""
        self.state: dict[str, Any] = {
            name: value for name, value in self.model.state_dict().items() if is_tensor(value)
        }

    def storage(self, name: str) -> int:
        """Return a number that names of one tensor share."""
        return id(self.state[name])

    def value(self, name: str) -> Array:
        return array(self.state[name])

    def assign(self, name: str, value: Array) -> None:
        target = self.state[name]
        target.set_value(self._paddle.to_tensor(value).astype(target.dtype))

    def cast(self, precision: str) -> None:
        if precision == self.dtype:
            return
        self.dtype = precision
        self._paddle.set_default_dtype(precision)
        self.model._to_impl(dtype=precision, floating_only=True)  # `to` casts indices, too
        self.refresh()

    @contextmanager
    def hooked(self, before: Before, after: After) -> Iterator[None]:
        """Call `before` and `after` around the call of every module."""
        handles = []
        for path, layer in self.modules.items():
            handles.append(_before(layer, path, before))
            handles.append(
                layer.register_forward_post_hook(
                    lambda _, args, output, path=path: after(path, output)
                )
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, inputs: Mapping[str, Array]) -> Any:
        """Run the model on named arrays; see `call`."""
        with self._paddle.no_grad():
            return self.call(inputs)

    def call(self, inputs: Mapping[str, Array]) -> Any:
        """Call the model: by name where `forward` has all names, as one dict, or in order."""
        tensors = {name: self.tensor(value) for name, value in inputs.items()}
        parameters = inspect.signature(self.model.forward).parameters
        if tensors.keys() <= parameters.keys():
            return self.model(**tensors)
        if len(tensors) > 1 and takes_one(parameters.values()):
            return self.model(tensors)
        return self.model(*tensors.values())

    def tensor(self, value: Array) -> Any:
        made = self._paddle.to_tensor(value)
        return made.astype(self.dtype) if made.is_floating_point() else made

    def gradients(self, inputs: Mapping[str, Array], weigh: Any) -> dict[str, float]:
        """Return the largest gradient of each parameter, of the sum of weighed outputs."""
        self.model.clear_gradients()
        outputs = tensors_of(self.call(inputs))
        total = sum((o * self.tensor(weigh(tuple(o.shape)))).sum()
                    for o in outputs.values() if o.is_floating_point())  # fmt: skip
        total.backward()
        found = {
            name: float(np.abs(array(p.grad)).max()) if p.grad is not None and p.size else 0.0
            for name, p in self.state.items()
            if name in self.parameters
        }
        self.model.clear_gradients()
        return found


def _before(layer: Any, path: str, before: Before) -> Any:
    """Register a hook that runs before those of the layer itself, such as weight norm's."""
    try:
        handle = layer.register_forward_pre_hook(
            lambda _, args, kwargs: before(path, args, kwargs), with_kwargs=True
        )
    except TypeError:  # Paddle before 3.1 passes no keyword arguments.
        handle = layer.register_forward_pre_hook(lambda _, args: before(path, args, {}))
    layer._forward_pre_hooks.move_to_end(handle._hook_id, last=False)
    return handle


def array(value: Any) -> Array:
    """Return a copy as an array; float16 and bfloat16 become float32, which is exact."""
    half = str(value.dtype).rpartition(".")[2] in ("float16", "bfloat16")
    wide = value.astype("float32") if half else value
    return np.array(wide.detach().numpy())
