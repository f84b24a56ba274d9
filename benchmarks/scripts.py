"""The scripts that people write: python scripts.py NAME SOURCE TARGET.

Each loads a checkpoint, transposes every 2-D weight of a Linear, and saves it for the other
framework. They are what porter is compared with.
"""

from __future__ import annotations

import sys


def _is_linear(name: str, tensor) -> bool:
    return tensor.ndim == 2 and "embed" not in name


def fetch(source: str, target: str) -> None:
    """Fetch a file from an address."""
    import shutil
    from urllib.request import urlopen

    with urlopen(source) as answer, open(target, "wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)


def copy_folder(source: str, target: str) -> None:
    """Read each file, write it under a hidden name and give it its own; a record of 3 kB too."""
    import os

    os.mkdir(target)
    record = bytes(3000)
    for name in os.listdir(source):
        with open(f"{source}/{name}", "rb", buffering=0) as file:
            data = file.read()
        for path, content in ((f"{target}/{name}", data), (f"{target}/{name}.json", record)):
            with open(f"{path}.new", "xb", buffering=0) as file:
                file.write(content)
            os.rename(f"{path}.new", path)


def torch_to_paddle(source: str, target: str, mmap: bool = False) -> None:
    """Through torch and paddle tensors."""
    import paddle
    import torch

    state = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    out = {}
    for name, tensor in state.items():
        if _is_linear(name, tensor):
            tensor = tensor.t().contiguous()
        out[name] = paddle.to_tensor(tensor.numpy(), place=paddle.CPUPlace())
    paddle.save(out, target)


def torch_to_paddle_mmap(source: str, target: str) -> None:
    """The same, the source mapped."""
    torch_to_paddle(source, target, mmap=True)


def numpy_to_paddle(source: str, target: str, mmap: bool = False) -> None:
    """Through contiguous NumPy arrays."""
    import numpy as np
    import paddle
    import torch

    state = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    out = {}
    for name, tensor in state.items():
        array = tensor.numpy()
        out[name] = np.ascontiguousarray(array.T) if _is_linear(name, tensor) else array
    paddle.save(out, target)


def numpy_to_paddle_mmap(source: str, target: str) -> None:
    """The same, the source mapped."""
    numpy_to_paddle(source, target, mmap=True)


def views_to_paddle(source: str, target: str, mmap: bool = False) -> None:
    """Through `.T` views, which go into the pickle in Fortran order."""
    import paddle
    import torch

    state = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    paddle.save(
        {n: t.numpy().T if _is_linear(n, t) else t.numpy() for n, t in state.items()}, target
    )


def views_to_paddle_mmap(source: str, target: str) -> None:
    """The same, the source mapped."""
    views_to_paddle(source, target, mmap=True)


def paddle_to_torch(source: str, target: str) -> None:
    """From Paddle's tensors to torch's."""
    import numpy as np
    import paddle
    import torch

    state = paddle.load(source)
    out = {}
    for name, tensor in state.items():
        array = tensor.numpy()
        array = np.ascontiguousarray(array.T) if _is_linear(name, array) else array
        out[name] = torch.from_numpy(array)
    torch.save(out, target)


def safetensors_to_paddle(source: str, target: str) -> None:
    """From safetensors through torch to Paddle."""
    import paddle
    from safetensors.torch import load_file

    state = load_file(source)
    out = {}
    for name, tensor in state.items():
        if _is_linear(name, tensor):
            tensor = tensor.t().contiguous()
        out[name] = paddle.to_tensor(tensor.numpy(), place=paddle.CPUPlace())
    paddle.save(out, target)


def torch_to_safetensors(source: str, target: str) -> None:
    """Mapped torch tensors to safetensors, without a transpose."""
    import torch
    from safetensors.torch import save_file

    save_file(torch.load(source, map_location="cpu", weights_only=True, mmap=True), target)


def paddleformers(source: str, target: str) -> None:
    """PaddleFormers' own conversion of a Hugging Face folder."""
    from paddleformers.transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(source, convert_from_hf=True).save_pretrained(target)


def load_torch(source: str, target: str) -> None:
    """Load a torch checkpoint and copy every tensor, as a model does."""
    import torch

    state = torch.load(source, map_location="cpu", weights_only=True)
    for tensor in state.values():
        torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def load_paddle(source: str, target: str) -> None:
    """Load a Paddle checkpoint."""
    import paddle

    paddle.load(source)


def state_to_device(source: str, device: str) -> None:
    """Load a torch checkpoint and move every tensor: a model is not even built."""
    import torch

    state = {n: t.to(device) for n, t in torch.load(source, weights_only=True).items()}
    _wait(state)


def model_to_device(source: str, device: str) -> None:
    """Build a model as people do, load its state dict and move it."""
    import torch

    from porter.frameworks.models import build
    from porter.zoo.architectures import find

    model = build(find("vit-base-p16-224"), "torch")
    model.load_state_dict(torch.load(source, map_location="cpu", weights_only=True))
    _wait(model.to(device).state_dict())


def porter_to_device(source: str, device: str) -> None:
    """Load the same model by porter."""
    import porter

    _wait(porter.load_model("vit-base-p16-224", source, device=device).state_dict())


def _wait(state) -> None:
    """Ask the device for a value: its copies may not be done."""
    next(reversed(state.values())).sum().item()


def import_both(source: str, target: str) -> None:
    """Import torch and paddle one after the other, each in a process of its own."""
    import subprocess

    for name in ("torch", "paddle"):
        subprocess.run([sys.executable, "-c", f"import {name}"], check=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:4])
