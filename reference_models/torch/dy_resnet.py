"""Dynamic convolution, arXiv 1912.03458: a ResNet whose kernels attention mixes from a bank.

No official code is published. The origin of every name, and of what the paper leaves open, is
kaijieshi7/Dynamic-convolution-Pytorch (dynamic_models/dy_resnet.py).

- Every 1×1 and 3×3 convolution is dynamic, those of the shortcuts included; the stem is not.
- `weight` is a bank of K kernels (K, out, in, k, k); `attention.fc1` and `attention.fc2` weigh
  them from the pooled map: softmax(fc2(relu(fc1(pooled))) / temperature).
- The temperature is a setting and no tensor: it is 34 at first and falls by 3 an epoch, to 1, at
  which a trained model runs. The same weights give other logits at another temperature
  (`set_temperature`).
- Blocks are torchvision's: the 3×3 convolution of a bottleneck has the stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    DropPath,
    drop_path_rates,
    init_conv,
    new_classifier,
    to_tokens,
    trunc_normal,
)

EXPANSION = 4  # channels after a bottleneck over those within it


class KernelAttention(nn.Module):
    """The share of each kernel of a bank: (B, C, H, W) -> (B, K)."""

    def __init__(self, dim: int, num_kernels: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        hidden_dim = dim // 4 + 1
        self.fc1 = nn.Conv2d(dim, hidden_dim, kernel_size=1, bias=False)
        self.fc2 = nn.Conv2d(hidden_dim, num_kernels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean([2, 3], keepdim=True)  # B, C, 1, 1
        scores = self.fc2(F.relu(self.fc1(pooled))).flatten(1)
        return F.softmax(scores / self.temperature, -1)


class DynamicConv(nn.Module):
    """Convolution of each image by its own mixture of K kernels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        num_kernels: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        shape = [num_kernels, out_channels, in_channels, kernel_size, kernel_size]
        self.weight = nn.Parameter(torch.zeros(shape))
        self.attention = KernelAttention(in_channels, num_kernels, temperature)
        trunc_normal(self.weight, std=math.sqrt(2.0 / math.prod(shape[2:])))

    def forward(self, x: Tensor) -> Tensor:
        count, out_channels = self.weight.shape[:2]
        kernels = self.attention(x) @ self.weight.reshape([count, -1])
        kernels = kernels.reshape([-1, out_channels, kernels.shape[1] // out_channels])
        height, width = ((side - 1) // self.stride + 1 for side in x.shape[2:])
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        return (kernels @ patches).reshape([-1, out_channels, height, width])


class Block(nn.Module):
    """Two or, in a bottleneck, three convolutions with batch norm, and the shortcut."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        stride: int,
        bottleneck: bool,
        num_kernels: int,
        temperature: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        out_channels = dim * EXPANSION if bottleneck else dim
        bank = (num_kernels, temperature)
        if bottleneck:
            self.conv1 = DynamicConv(in_channels, dim, 1, 1, *bank)
            self.bn1 = nn.BatchNorm2d(dim)
            self.conv2 = DynamicConv(dim, dim, 3, stride, *bank)
            self.bn2 = nn.BatchNorm2d(dim)
            self.conv3 = DynamicConv(dim, out_channels, 1, 1, *bank)
            self.bn3 = nn.BatchNorm2d(out_channels)
        else:
            self.conv1 = DynamicConv(in_channels, dim, 3, stride, *bank)
            self.bn1 = nn.BatchNorm2d(dim)
            self.conv2 = DynamicConv(dim, dim, 3, 1, *bank)
            self.bn2 = nn.BatchNorm2d(dim)
        self.bottleneck = bottleneck
        self.drop_path = DropPath(drop_path_rate)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                DynamicConv(in_channels, out_channels, 1, stride, *bank),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(F.relu(x)))
        return F.relu(self.drop_path(x) + shortcut)


class DyResNet(nn.Module):
    """ResNet of dynamic convolutions: (B, in_channels, H, W) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        num_kernels: int = 4,
        temperature: float = 1.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, dims[0], kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(dims[0])
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        width = dims[0]
        rates = drop_path_rates(drop_path_rate, sum(depths))
        for s, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks = []
            for i in range(depth):
                stride = 2 if s and not i else 1
                rate = rates[sum(depths[:s]) + i]
                blocks.append(Block(width, dim, stride, bottleneck, num_kernels, temperature, rate))
                width = dim * EXPANSION if bottleneck else dim
            setattr(self, f"layer{s + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(width, num_classes)
        self.apply(init_conv)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's map as tokens: (B, C, H, W) -> (B, H / 32 * W / 32, dim)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for s in range(self.stages):
            x = getattr(self, f"layer{s + 1}")(x)
        return to_tokens(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the tokens' mean: (B, N, dim) -> (B, num_classes)."""
        return self.fc(self.drop(x.mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace `fc` by a freshly initialised one for another number of classes."""
        self.fc = new_classifier(self.fc, num_classes)

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature at which every convolution mixes its kernels."""
        for module in self.modules():
            if isinstance(module, KernelAttention):
                module.temperature = temperature
