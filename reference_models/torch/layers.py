"""What several reference models share: stochastic depth, MLP, patch embedding, initialisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a whole sample's branch, in training."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = [x.shape[0]] + [1] * (x.ndim - 1)  # one draw per sample
        draw = torch.rand(shape, dtype=x.dtype, device=x.device)
        return x / keep * torch.floor(draw + keep)


class Mlp(nn.Module):
    """Two Linear layers with a GELU (erf) between them."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.fc1(x)))
        return self.drop(self.fc2(x))


class PatchEmbed(nn.Module):
    """Non-overlapping patches as a convolution: (B, C, H, W) -> (B, H/P * W/P, dim)."""

    def __init__(
        self, image_size: int | tuple[int, int], patch_size: int, in_channels: int, dim: int
    ) -> None:
        super().__init__()
        self.num_patches = count_patches(image_size, patch_size)
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)  # B, dim, H/P, W/P
        return to_tokens(x)


def count_patches(image_size: int | tuple[int, int], patch_size: int) -> int:
    """Return how many patches a picture has, of a side or of height and width in pixels."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return (height // patch_size) * (width // patch_size)


def to_map(x: Tensor, height: int, width: int) -> Tensor:
    """Lay tokens out as a map: (B, height * width, C) -> (B, C, height, width)."""
    return x.permute([0, 2, 1]).reshape([-1, x.shape[2], height, width])


def to_tokens(x: Tensor) -> Tensor:
    """Lay a map out as tokens: (B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).permute([0, 2, 1])


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Give each head its channels: (B, N, C) -> (B, heads, N, C / heads)."""
    return x.reshape([-1, x.shape[1], num_heads, x.shape[2] // num_heads]).permute([0, 2, 1, 3])


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`: (B, heads, N, head_dim) -> (B, N, heads * head_dim)."""
    return x.permute([0, 2, 1, 3]).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Return softmax(scale * q kᵀ) v for each head; `scale` is usually head_dim ** -0.5.

    q (B, heads, N, d), k (B, heads, M, d), v (B, heads, M, e) -> (B, heads, N, e).
    `ValueError` for other shapes, which `@` would broadcast or reject without naming them.
    """
    if not (
        q.ndim == k.ndim == v.ndim == 4
        and q.shape[0] == k.shape[0] == v.shape[0]
        and q.shape[1] == k.shape[1] == v.shape[1]
        and q.shape[3] == k.shape[3]
        and k.shape[2] == v.shape[2]
    ):
        shapes = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k, v must be (B, heads, tokens, head_dim), not {shapes}")
    return F.softmax(q * scale @ k.permute([0, 1, 3, 2]), -1) @ v


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return one rate per block, growing linearly from 0 to `rate`."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def trunc_normal(parameter: Tensor, std: float = 0.02) -> None:
    """Fill a parameter in place from a normal distribution cut at -2 and 2."""
    nn.init.trunc_normal_(parameter, std=std)


def init_linear(module: nn.Module) -> None:
    """Initialise a Linear as ViT does: truncated normal weight, zero bias (for `apply`)."""
    if isinstance(module, nn.Linear):
        trunc_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def new_classifier(old: nn.Linear, num_classes: int) -> nn.Linear:
    """Return a freshly initialised classifier with the inputs, dtype and device of `old`."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    linear = nn.Linear(old.weight.shape[1], num_classes).to(old.weight)
    init_linear(linear)
    return linear


def init_conv(module: nn.Module) -> None:
    """Initialise a convolution by its fan-out, zero bias (for `apply`)."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
