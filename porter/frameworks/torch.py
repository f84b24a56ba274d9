"""PyTorch as a `Runner`; twin of `porter.frameworks.paddle`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import build, need
from porter.frameworks.precision.sixths import exact
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


class TorchRunner:
    """Runs one `nn.Module`."""

    def __init__(self) -> None:
        need("torch")
        import torch

        self._settings = _settings(torch)
        # As `use_deterministic_algorithms`, which takes a second to load torch's compiler.
        torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.benchmark = False
        # Sums of halves are kept in float32: their floors are derived for that.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._torch = torch
        self._model: Any = None
        self._state: dict[str, Any] = {}
        self._modules: dict[str, Any] = {}
        self._device = "cpu"
        self._dtype = torch.float32
        self._is_ours = self._is_blank = False

    def environment(self) -> dict[str, str]:
        torch = self._torch
        found = {"torch": torch.__version__}
        if torch.version.cuda and torch.cuda.is_available():
            found["cuda"] = torch.version.cuda
            found["cudnn"] = str(torch.backends.cudnn.version())
        return found

    def place(self, device: str) -> str:
        torch = self._torch
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = device_for(device, "torch", count)
        self._device = device
        return f"{device} ({torch.cuda.get_device_name(device)})" if "cuda" in device else device

    def build(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: Size,
        features: Sequence[str],
        *,
        blank: bool = False,
    ) -> None:
        model = build(
            architecture,
            "torch",
            num_classes=num_classes,
            image_size=image_size,
            features=features,
            blank=blank,
        )
        self.adopt(model)
        self._is_ours, self._is_blank = True, blank

    def adopt(self, model: Any, name: Naming = as_it_is) -> None:
        self._model = model
        self._is_ours = self._is_blank = False
        self._model.eval()
        self._model.to(self._device)
        self._state = self._model.state_dict()
        paths = self._model.named_modules()
        self._modules = {new: module for path, module in paths if (new := name(path)) is not None}

    @contextmanager
    def lent(self, model: Any, name: Naming = as_it_is) -> Iterator[None]:
        torch = self._torch
        modes = [(module, module.training) for module in model.modules()]
        parameters = [(parameter, parameter.data) for parameter in model.parameters()]
        buffers = [(module, dict(module._buffers)) for module in model.modules()]
        # `assign` writes in place where a cast makes no copy.
        values = [(data, data.clone()) for data in _data(parameters, buffers)]
        try:
            self.adopt(model, name)
            yield
        finally:
            for parameter, data in parameters:
                parameter.data = data
            for module, own in buffers:
                module._buffers.update(own)
            for data, value in values:
                data.copy_(value)
            for module, mode in modes:
                module.training = mode
            _set(torch, self._settings)

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        return {
            name: (str(value.dtype).rpartition(".")[2], tuple(value.shape))
            for name, value in self._state.items()
        }

    def cast(self, precision: str) -> None:
        torch = self._torch
        if precision == "tf32" and self._device == "cpu":
            raise UsageError("--precision tf32 is a mode of CUDA devices; use --device cuda")
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self._dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        with self._quick():
            for parameter in self._model.parameters() if self._is_blank else ():
                if parameter.is_floating_point() and parameter.dtype is not self._dtype:
                    parameter.data = torch.empty_like(parameter, dtype=self._dtype)  # to be set
        self._model.to(self._dtype)
        self._state = self._model.state_dict()

    def assign(self, name: str, array: Array) -> None:
        torch = self._torch
        with torch.no_grad():
            self._state[name].copy_(torch.from_numpy(array))

    def value(self, name: str) -> Array:
        return _array(self._state[name])

    def forward(self, inputs: Array | Sequence[Array], watch: Watch) -> Recording:
        recording = Recording()
        arguments = [inputs] if hasattr(inputs, "ndim") else inputs
        hooks = [
            module.register_forward_hook(_keeper(recording, name, watch), with_kwargs=True)
            for name, module in self._modules.items()
            if watch.wants(name)
        ]
        try:
            with self._torch.no_grad(), self._quick(), self._exact():
                found = self._model(*[self._tensor(argument) for argument in arguments])
        finally:
            for hook in hooks:
                hook.remove()
        recording.outputs = {f"logits{part}": array for part, array in parts(found, _array)}
        return recording

    @contextmanager
    def _quick(self) -> Iterator[None]:
        """Leave memory unfilled: our own models read none that nobody wrote."""
        settings = self._torch.utils.deterministic
        before = settings.fill_uninitialized_memory
        settings.fill_uninitialized_memory = before and not self._is_ours
        try:
            yield
        finally:
            settings.fill_uninitialized_memory = before

    def _exact(self) -> AbstractContextManager[None]:
        return exact(self._device, self._dtype)

    def call(self, module: str, arguments: Sequence[Argument]) -> dict[str, Array]:
        tensors = [self._tensor(a) if hasattr(a, "ndim") else a for a in arguments]
        with self._torch.no_grad(), self._exact():
            return dict(parts(self._modules[module](*tensors), _array))

    def attribute(self, module: str, name: str) -> Any:
        return getattr(self._modules[module], name, None)

    @contextmanager
    def altered(self, module: str, settings: Mapping[str, Any]) -> Iterator[None]:
        functional = self._torch.nn.functional
        target = self._modules[module]
        own = {name: value for name, value in settings.items() if name != "activation"}
        before = {name: getattr(target, name) for name in own}
        gelu = functional.gelu
        try:
            for name, value in own.items():
                setattr(target, name, value)
            if "activation" in settings:
                functional.gelu = _activation(self._torch, gelu, settings["activation"])
            yield
        finally:
            functional.gelu = gelu
            for name, value in before.items():
                setattr(target, name, value)

    def gradients(self, inputs: Array, projection: Array) -> dict[str, Array]:
        self._model.zero_grad()
        with self._exact():
            logits = self._model(self._tensor(inputs))
        (logits * self._tensor(projection)).sum().backward()
        found = {
            name: _array(parameter.grad)
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None
        }
        self._model.zero_grad()
        return found

    def step(self, inputs: Array, projection: Array, rate: float) -> dict[str, Array]:
        model = self._model
        optimiser = self._torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.999), eps=STEP_EPS, weight_decay=0.01
        )
        model.train()
        with self._exact():
            logits = model(self._tensor(inputs))
        (logits * self._tensor(projection)).sum().backward()
        optimiser.step()
        model.zero_grad()
        model.eval()
        return {name: _array(parameter) for name, parameter in model.named_parameters()}

    def _tensor(self, array: Any) -> Any:
        tensor = self._torch.from_numpy(array)
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self._device, dtype)


def _data(parameters: Any, buffers: Any) -> list[Any]:
    """Return the tensors of parameters and buffers."""
    found = [data for _, data in parameters]
    return found + [t.data for _, own in buffers for t in own.values() if t is not None]


def _settings(torch: Any) -> dict[str, Any]:
    """Return torch's settings that a runner changes."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "debug": torch.get_deterministic_debug_mode(),
        "benchmark": cudnn.benchmark,
        "fp16": matmul.allow_fp16_reduced_precision_reduction,
        "bf16": matmul.allow_bf16_reduced_precision_reduction,
        "matmul": matmul.allow_tf32,
        "cudnn": cudnn.allow_tf32,
    }


def _set(torch: Any, settings: Mapping[str, Any]) -> None:
    """Set again what `_settings` returned."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    torch.set_deterministic_debug_mode(settings["debug"])
    cudnn.benchmark = settings["benchmark"]
    matmul.allow_fp16_reduced_precision_reduction = settings["fp16"]
    matmul.allow_bf16_reduced_precision_reduction = settings["bf16"]
    matmul.allow_tf32, cudnn.allow_tf32 = settings["matmul"], settings["cudnn"]


def _activation(torch: Any, gelu: Any, name: str) -> Any:
    """Return the function that replaces GELU."""
    return {
        "tanh": lambda x, approximate="none": gelu(x, approximate="tanh"),
        "erf": lambda x, approximate="none": gelu(x),
        "quick": lambda x, approximate="none": x * torch.sigmoid(1.702 * x),
        "relu": lambda x, approximate="none": torch.relu(x),
        "silu": lambda x, approximate="none": x * torch.sigmoid(x),
    }[name]


def _keeper(recording: Recording, name: str, watch: Watch) -> Any:
    """Return a hook that records a module's output and, if asked for, its arguments."""

    def keep(module: Any, args: Any, named: Any, output: Any) -> None:
        place = recording.keep(
            name, type(module).__name__, dict(parts(output, _array)), watch.limit
        )
        if watch.calls and not named and all(_can_be_stored(a) for a in args):
            recording.calls[place] = tuple(_array(a) if hasattr(a, "detach") else a for a in args)

    return keep


def _can_be_stored(argument: Any) -> bool:
    return (
        argument is None or hasattr(argument, "detach") or isinstance(argument, int | float | str)
    )


def _array(tensor: Any) -> Array:
    """Return a copy as an array; float16 and bfloat16 become float32, which is exact."""
    wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
    return wide.detach().cpu().numpy().copy()  # type: ignore[no-any-return]
