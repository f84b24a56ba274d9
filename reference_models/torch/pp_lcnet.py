"""PP-LCNet, arXiv 2109.15099: the classifiers of pages, tables and text lines in PaddleOCR.

Origin: PaddleClas (ppcls/arch/backbone/legendary_models/pp_lcnet.py), whose tensors are called
`blocks2…6` there. The names here are those of transformers' PPLCNetForImageClassification.

- The stem and five stages of depth-wise separable blocks; the last stage has squeeze-excitation.
- Channels are multiplied by `width` and rounded to multiples of 8.
- The classifier reads the pooled map after a 1×1 convolution and Hardswish, times `head_scale`: it
  is trained with a dropout of 0.2 that scales when the model infers and not when it trains.
- Paddle's Hardsigmoid has the slope 0.1666667, PyTorch's 1/6: `gate_slope`.
- Text lines are long and low: their variants halve only the height after the stem.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import init_conv, init_linear, new_classifier, to_tokens

Stride = int | tuple[int, int] | list[int]
"""Of both sides, or of height and width."""

STEM = 16
STAGES = ((3,), (3, 3), (3, 3), (3, 5, 5, 5, 5, 5), (5, 5))
"""Kernel sizes of the blocks of each stage."""
WIDTHS = (32, 64, 128, 256, 512)
REDUCTION = 4  # channels over those within squeeze-excitation


def rounded(channels: float, divisor: int) -> int:
    """Return a number of channels as the nearest multiple of a divisor, never 10% fewer."""
    multiple = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return multiple + divisor if multiple < 0.9 * channels else multiple


def both(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a kernel, which is square where one number is given."""
    return (size, size) if isinstance(size, int) else size


class ConvNorm(nn.Module):
    """Convolution that keeps the size at stride 1, and batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: Stride = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        height, width = both(kernel_size)
        self.convolution = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(height // 2, width // 2),
            groups=groups,
            bias=False,
        )
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalization(self.convolution(x))


class HardSigmoid(nn.Module):
    """A sigmoid of three straight pieces: clip(slope * x + 0.5, 0, 1)."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.clip(x * self.slope + 0.5, 0.0, 1.0)


class SqueezeExcitation(nn.Module):
    """Channels times a gate that the pooled map gives: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, gate_slope: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(dim, dim // REDUCTION, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(dim // REDUCTION, dim, kernel_size=1),
            HardSigmoid(gate_slope),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.convolutions(x.mean([2, 3], keepdim=True))


class Block(nn.Module):
    """Depth-wise convolution, squeeze-excitation, 1×1 convolution; Hardswish after both."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: Stride,
        squeezed: bool,
        gate_slope: float,
    ) -> None:
        super().__init__()
        self.depthwise_convolution = ConvNorm(
            in_channels, in_channels, kernel_size, stride, in_channels
        )
        self.squeeze_excitation_module = None
        if squeezed:
            self.squeeze_excitation_module = SqueezeExcitation(in_channels, gate_slope)
        self.pointwise_convolution = ConvNorm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.depthwise_convolution(x))
        if self.squeeze_excitation_module is not None:
            x = self.squeeze_excitation_module(x)
        return F.hardswish(self.pointwise_convolution(x))


class Stage(nn.Module):
    """Blocks of one width; the first has the stride."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return x


class Encoder(nn.Module):
    """Stem and stages: (B, in_channels, H, W) -> (B, dim, H / 32, W / 32), or W / 2."""

    def __init__(
        self, in_channels: int, width: float, strides: Sequence[Stride], gate_slope: float
    ) -> None:
        super().__init__()
        self.dim = rounded(STEM * width, 8)
        self.convolution = ConvNorm(in_channels, self.dim, 3, 2)
        stages = []
        for kernels, channels, stride in zip(STAGES, WIDTHS, strides, strict=True):
            dim, blocks = rounded(channels * width, 8), []
            for i, kernel_size in enumerate(kernels):
                step, squeezed = 1 if i else stride, channels == WIDTHS[-1]
                blocks.append(Block(self.dim, dim, kernel_size, step, squeezed, gate_slope))
                self.dim = dim
            stages.append(Stage(blocks))
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.convolution(x))
        for stage in self.blocks:
            x = stage(x)
        return x


class PPLCNet(nn.Module):
    """PP-LCNet: (B, in_channels, H, W) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        strides: Sequence[Stride] = (1, 2, 2, 2, 2),
        class_dim: int = 1280,
        head_scale: float = 0.8,
        gate_slope: float = 1 / 6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if drop_path_rate:
            raise ValueError("PP-LCNet has no residual branches: drop_path_rate must be 0")
        self.encoder = Encoder(in_channels, width, strides, gate_slope)
        self.last_convolution = nn.Conv2d(self.encoder.dim, class_dim, kernel_size=1, bias=False)
        self.drop = nn.Dropout(drop_rate)
        self.head_scale = head_scale
        self.head = nn.Linear(class_dim, num_classes)
        self.apply(init_conv)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's map as tokens: (B, C, H, W) -> (B, tokens, dim)."""
        return to_tokens(self.encoder(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the tokens' mean: (B, N, dim) -> (B, num_classes)."""
        pooled = x.mean(1).reshape([-1, x.shape[2], 1, 1])
        x = F.hardswish(self.last_convolution(pooled)).flatten(1)
        return self.head(self.drop(x) * self.head_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace `head` by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
