"""A live PyTorch model; twin of `porter.frameworks.live.paddle`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from porter.errors import InputError
from porter.frameworks.live.hooks import After, Before, is_tensor, takes_one, tensors_of
from porter.frameworks.precision.sixths import exact
from porter.tensors.blocks import Array


def begin() -> None:
    """Build models in float32 from now on, and compute in it without TF32."""
    import torch

    torch.set_default_dtype(torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


class TorchModel:
    """An `nn.Module`: its modules, tensors and calls."""

    framework = "torch"

    def __init__(self, model: Any, device: str) -> None:
        import torch

        if not isinstance(model, torch.nn.Module):
            raise InputError(f"a torch.nn.Module is expected, not a {type(model).__name__}")
        # A fused attention would pass its modules by.
        torch.backends.mha.set_fastpath_enabled(False)
        self._torch = torch
        self.model = model.eval().to(device)
        self.device = device
        self.dtype = torch.float32
        self.modules: dict[str, Any] = dict(model.named_modules())
        self.parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.refresh()

    def refresh(self) -> None:
        """Look up the tensors again, after a cast."""
        self.state: dict[str, Any] = {
            name: value for name, value in self.model.state_dict().items() if is_tensor(value)
        }

    def storage(self, name: str) -> int:
        """Return a number that names of one tensor share."""
        return int(self.state[name].data_ptr())

    def value(self, name: str) -> Array:
        return array(self.state[name])

    def assign(self, name: str, value: Array) -> None:
        with self._torch.no_grad():
            self.state[name].copy_(self._torch.from_numpy(value))

    def cast(self, precision: str) -> None:
        if getattr(self._torch, precision) is self.dtype:
            return
        self.dtype = getattr(self._torch, precision)
        self.model.to(self.dtype)
        self.refresh()

    @contextmanager
    def hooked(self, before: Before, after: After) -> Iterator[None]:
        """Call `before` and `after` around the call of every module."""
        handles = []
        for path, module in self.modules.items():
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, path=path: before(path, args, kwargs),
                    prepend=True, with_kwargs=True,
                )
            )  # fmt: skip
            handles.append(
                module.register_forward_hook(lambda _, args, output, path=path: after(path, output))
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, inputs: Mapping[str, Array]) -> Any:
        """Run the model on named arrays; see `call`."""
        with self._torch.no_grad():
            return self.call(inputs)

    def call(self, inputs: Mapping[str, Array]) -> Any:
        """Call the model: by name where `forward` has all names, as one dict, or in order."""
        tensors = {name: self.tensor(value) for name, value in inputs.items()}
        parameters = inspect.signature(self.model.forward).parameters
        with exact(self.device, self.dtype):
            if tensors.keys() <= parameters.keys():
                return self.model(**tensors)
            if len(tensors) > 1 and takes_one(parameters.values()):
                return self.model(tensors)
            return self.model(*tensors.values())

    def tensor(self, value: Array) -> Any:
        made = self._torch.from_numpy(value.copy()).to(self.device)
        return made.to(self.dtype) if made.is_floating_point() else made

    def gradients(self, inputs: Mapping[str, Array], weigh: Any) -> dict[str, float]:
        """Return the largest gradient of each parameter, of the sum of weighed outputs."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.model.zero_grad()
        outputs = tensors_of(self.call(inputs))
        total = sum((o * self.tensor(weigh(tuple(o.shape)))).sum()
                    for o in outputs.values() if o.is_floating_point())  # fmt: skip
        total.backward()
        found = {
            name: float(p.grad.abs().max()) if p.grad is not None and p.numel() else 0.0
            for name, p in self.model.named_parameters(remove_duplicate=False)
        }
        self.model.zero_grad()
        return found


def array(value: Any) -> Array:
    """Return a copy as an array; float16 and bfloat16 become float32, which is exact."""
    wide = value.float() if value.is_floating_point() and value.itemsize < 4 else value
    return wide.detach().cpu().numpy().copy()  # type: ignore[no-any-return]
