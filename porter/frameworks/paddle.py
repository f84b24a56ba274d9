"""Paddle as a `Runner`; twin of `porter.frameworks.torch`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import build, need
from porter.frameworks.runner import (
    STEP_EPS,
    Argument,
    Naming,
    Recording,
    Watch,
    as_it_is,
    device_for,
    parts,
)
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

_VIEWS = "FLAGS_use_stride_kernel"
"""Whether a transpose or slice shares the memory of what it is taken from."""
_NAMES = {"eps": "_epsilon"}
"""Names of settings in Paddle's layers."""


class PaddleRunner:
    """Runs one `nn.Layer`."""

    def __init__(self) -> None:
        need("paddle")
        import paddle

        self._paddle = paddle
        self._model: Any = None
        self._state: dict[str, Any] = {}
        self._modules: dict[str, Any] = {}
        self._device = "cpu"
        self._dtype = "float32"
        self._is_ours = False
        self._settings = (paddle.get_default_dtype(), paddle.device.get_device())
        paddle.set_device("cpu")

    def environment(self) -> dict[str, str]:
        paddle = self._paddle
        found = {"paddle": paddle.__version__}
        if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
            found["cuda"] = str(paddle.version.cuda())
            found["cudnn"] = str(paddle.version.cudnn())
        return found

    def place(self, device: str) -> str:
        paddle = self._paddle
        count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
        device = device_for(device, "paddle", count)
        self._device = device.replace("cuda", "gpu")
        paddle.set_device(self._device)
        return f"{device} ({paddle.device.cuda.get_device_name()})" if "cuda" in device else device

    def build(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: Size,
        features: Sequence[str],
        *,
        blank: bool = False,
    ) -> None:
        self._paddle.set_default_dtype("float32")
        model = build(
            architecture,
            "paddle",
            num_classes=num_classes,
            image_size=image_size,
            features=features,
            blank=blank,
        )
        self.adopt(model)
        self._is_ours = True

    def adopt(self, model: Any, name: Naming = as_it_is) -> None:
        self._model = model
        self._is_ours = False
        self._model.eval()
        if not self._is_placed():
            self._model.to(device=self._device)
        self._state = self._model.state_dict()
        paths = self._model.named_sublayers(include_self=True)
        self._modules = {new: layer for path, layer in paths if (new := name(path)) is not None}

    @contextmanager
    def lent(self, model: Any, name: Naming = as_it_is) -> Iterator[None]:
        paddle = self._paddle
        layers = [model, *model.sublayers()]
        modes = [(layer, layer.training, layer._dtype) for layer in layers]
        tensors = [*model.parameters(), *model.buffers()]
        values = [(tensor, tensor.detach().clone()) for tensor in tensors]
        try:
            self.adopt(model, name)
            yield
        finally:
            for tensor, value in values:
                # `set_value` keeps the element type: this is what `Layer.to` does to a tensor.
                model._transform(tensor, value.place, value.dtype, True)
                tensor.set_value(value)
            for layer, mode, dtype in modes:
                layer.training, layer._dtype = mode, dtype
            dtype, device = self._settings
            paddle.set_default_dtype(dtype)
            paddle.set_device(device)

    def _is_placed(self) -> bool:
        """Whether the model is on the CPU, and is to be there."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        return self._device == "cpu" and all(tensor.place.is_cpu_place() for tensor in tensors)

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        return {name: (_dtype(value), tuple(value.shape)) for name, value in self._state.items()}

    def cast(self, precision: str) -> None:
        paddle = self._paddle
        if precision == "tf32":
            raise UsageError("paddle cannot switch TF32 on: choose another precision for this side")
        if precision in ("float16", "bfloat16") and self._device == "cpu":
            raise UsageError(f"paddle has no {precision} kernels for the CPU; use --device cuda")
        self._dtype = precision
        paddle.set_default_dtype(precision)
        # `to` would cast whole numbers, too: an index could no longer be used as one.
        self._model._to_impl(dtype=precision, floating_only=True)
        self._state = self._model.state_dict()

    def assign(self, name: str, array: Array) -> None:
        target = self._state[name]
        if array.dtype.name == _dtype(target):
            target.set_value(array)
        else:
            target.set_value(self._paddle.to_tensor(array).astype(_dtype(target)))

    def value(self, name: str) -> Array:
        return _array(self._state[name])

    def forward(self, inputs: Array | Sequence[Array], watch: Watch) -> Recording:
        recording = Recording()
        arguments = [inputs] if hasattr(inputs, "ndim") else inputs
        hooks = [
            layer.register_forward_post_hook(_keeper(recording, name, watch))
            for name, layer in self._modules.items()
            if watch.wants(name)
        ]
        try:
            with self._paddle.no_grad(), self._quick():
                found = self._model(*[self._tensor(argument) for argument in arguments])
        finally:
            for hook in hooks:
                hook.remove()
        recording.outputs = {f"logits{part}": array for part, array in parts(found, _array)}
        return recording

    @contextmanager
    def _quick(self) -> Iterator[None]:
        """Copy where a tensor is transposed: reading views is slow, our own models write to none.

        The same numbers are computed from the same numbers.
        """
        before = self._paddle.get_flags(_VIEWS)
        self._paddle.set_flags({_VIEWS: before[_VIEWS] and not self._is_ours})
        try:
            yield
        finally:
            self._paddle.set_flags(before)

    def call(self, module: str, arguments: Sequence[Argument]) -> dict[str, Array]:
        tensors = [self._tensor(a) if hasattr(a, "ndim") else a for a in arguments]
        with self._paddle.no_grad():
            return dict(parts(self._modules[module](*tensors), _array))

    def attribute(self, module: str, name: str) -> Any:
        return getattr(self._modules[module], _NAMES.get(name, name), None)

    @contextmanager
    def altered(self, module: str, settings: Mapping[str, Any]) -> Iterator[None]:
        functional = self._paddle.nn.functional
        target = self._modules[module]
        own = {_NAMES.get(n, n): value for n, value in settings.items() if n != "activation"}
        before = {name: getattr(target, name) for name in own}
        gelu = functional.gelu
        try:
            for name, value in own.items():
                setattr(target, name, value)
            if "activation" in settings:
                functional.gelu = _activation(self._paddle, gelu, settings["activation"])
            yield
        finally:
            functional.gelu = gelu
            for name, value in before.items():
                setattr(target, name, value)

    def gradients(self, inputs: Array, projection: Array) -> dict[str, Array]:
        self._model.clear_gradients()
        logits = self._model(self._tensor(inputs))
        (logits * self._tensor(projection)).sum().backward()
        found = {
            name: _array(parameter.grad)
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None
        }
        self._model.clear_gradients()
        return found

    def step(self, inputs: Array, projection: Array, rate: float) -> dict[str, Array]:
        model = self._model
        optimiser = self._paddle.optimizer.AdamW(
            rate, beta1=0.9, beta2=0.999, epsilon=STEP_EPS, weight_decay=0.01,
            parameters=model.parameters(),
        )  # fmt: skip
        model.train()
        (model(self._tensor(inputs)) * self._tensor(projection)).sum().backward()
        optimiser.step()
        model.clear_gradients()
        model.eval()
        return {
            name: _array(parameter)
            for name, parameter in model.named_parameters()
            if not parameter.stop_gradient  # a batch norm's statistics are parameters here
        }

    def _tensor(self, array: Any) -> Any:
        tensor = self._paddle.to_tensor(array)
        return tensor.astype(self._dtype) if tensor.is_floating_point() else tensor


def _activation(paddle: Any, gelu: Any, name: str) -> Any:
    """Return the function that replaces GELU."""
    sigmoid = paddle.nn.functional.sigmoid
    return {
        "tanh": lambda x, approximate=False, name=None: gelu(x, approximate=True),
        "erf": lambda x, approximate=False, name=None: gelu(x),
        "quick": lambda x, approximate=False, name=None: x * sigmoid(1.702 * x),
        "relu": lambda x, approximate=False, name=None: paddle.nn.functional.relu(x),
        "silu": lambda x, approximate=False, name=None: x * sigmoid(x),
    }[name]


def _keeper(recording: Recording, name: str, watch: Watch) -> Any:
    """Return a hook that records a layer's output and, if asked for, its arguments."""

    def keep(layer: Any, args: Any, output: Any) -> None:
        place = recording.keep(name, type(layer).__name__, dict(parts(output, _array)), watch.limit)
        if watch.calls and all(_can_be_stored(a) for a in args):
            recording.calls[place] = tuple(_array(a) if hasattr(a, "detach") else a for a in args)

    return keep


def _can_be_stored(argument: Any) -> bool:
    return (
        argument is None or hasattr(argument, "detach") or isinstance(argument, int | float | str)
    )


def _array(tensor: Any) -> Array:
    """Return a copy as an array; float16 and bfloat16 become float32, which is exact."""
    small = _dtype(tensor) in ("float16", "bfloat16")
    wide = tensor.detach().astype("float32") if small else tensor.detach()
    return wide.numpy().copy()  # type: ignore[no-any-return]


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2].lower()
