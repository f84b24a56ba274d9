"""HGNetV2-L, the backbone of PaddleOCR's server models, RT-DETR-L and PP-DocLayout.

Origin: PaddleClas (ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py, PPHGNetV2_B4). The names
here are those of transformers' HGNetV2ForImageClassification, whose classifier reads the pooled
map as it is: PaddleClas's has a convolution more before it (`last_conv`), so a trained classifier
of PaddleClas has no place here.

- The stem pads on the right and below by one before each 2×2 window.
- A block concatenates its input and the outputs of its layers, then squeezes and excites.
- Light layers, in the stages with large kernels, are a 1×1 convolution without activation and a
  depth-wise one.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import (
    DropPath,
    drop_path_rates,
    init_conv,
    init_linear,
    new_classifier,
    to_tokens,
)
from .pp_lcnet import ConvNorm


class ConvAct(ConvNorm):
    """Convolution, batch norm and ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class WindowConv(nn.Layer):
    """2×2 convolution, batch norm and ReLU of a map that is padded on the right and below."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2D(in_channels, out_channels, kernel_size=2, bias_attr=False)
        self.normalization = nn.BatchNorm2D(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.normalization(self.convolution(x)))


class LightLayer(nn.Layer):
    """1×1 convolution without activation and a depth-wise one: (B, C, H, W) -> (B, dim, H, W)."""

    def __init__(self, in_channels: int, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, dim, 1)
        self.conv2 = ConvAct(dim, dim, kernel_size, 1, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Layer):
    """Five convolutions and a max-pool: (B, in_channels, H, W) -> (B, dim, H / 4, W / 4)."""

    def __init__(self, in_channels: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.stem1 = ConvAct(in_channels, hidden_dim, 3, 2)
        self.stem2a = WindowConv(hidden_dim, hidden_dim // 2)
        self.stem2b = WindowConv(hidden_dim // 2, hidden_dim)
        self.stem3 = ConvAct(hidden_dim * 2, hidden_dim, 3, 2)
        self.stem4 = ConvAct(hidden_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.stem1(x), [0, 1, 0, 1])
        pooled = F.max_pool2d(x, kernel_size=2, stride=1)
        x = self.stem2b(F.pad(self.stem2a(x), [0, 1, 0, 1]))
        return self.stem4(self.stem3(paddle.concat([pooled, x], 1)))


class Block(nn.Layer):
    """Layers whose outputs are concatenated, and two 1×1 convolutions of all of them."""

    def __init__(
        self,
        in_channels: int,
        hidden_dim: int,
        dim: int,
        depth: int,
        kernel_size: int,
        light: bool,
        residual: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        layers, width = [], in_channels
        for _ in range(depth):
            layer = LightLayer if light else ConvAct
            layers.append(layer(width, hidden_dim, kernel_size))
            width = hidden_dim
        self.layers = nn.LayerList(layers)
        self.aggregation = nn.Sequential(
            ConvAct(in_channels + depth * hidden_dim, dim // 2, 1),
            ConvAct(dim // 2, dim, 1),
        )
        self.residual = residual
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.aggregation(paddle.concat(outputs, 1))
        return x + self.drop_path(y) if self.residual else y


class Stage(nn.Layer):
    """Blocks of one width, after a depth-wise convolution of stride 2 except in the first."""

    def __init__(self, downsample: int, blocks: Sequence[nn.Layer]) -> None:
        super().__init__()
        self.downsample = None
        if downsample:
            self.downsample = ConvNorm(downsample, downsample, 3, 2, downsample)
        self.blocks = nn.LayerList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.downsample is None else self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(nn.Layer):
    """The stages: (B, dim, H / 4, W / 4) -> (B, last dim, H / 32, W / 32)."""

    def __init__(self, stages: Sequence[nn.Layer]) -> None:
        super().__init__()
        self.stages = nn.LayerList(stages)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class HGNetV2(nn.Layer):
    """HGNetV2: (B, in_channels, H, W) -> (B, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_dims: Sequence[int] = (32, 48),
        hidden_dims: Sequence[int] = (48, 96, 192, 384),
        dims: Sequence[int] = (128, 512, 1024, 2048),
        depths: Sequence[int] = (1, 1, 3, 1),
        layers: int = 6,
        kernel_sizes: Sequence[int] = (3, 3, 5, 5),
        light: Sequence[bool] = (False, False, True, True),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedder = Stem(in_channels, *stem_dims)
        stages, width = [], stem_dims[1]
        rates = drop_path_rates(drop_path_rate, sum(depths))
        for s, dim in enumerate(dims):
            downsample, blocks = width if s else 0, []
            for i in range(depths[s]):
                shape = (width, hidden_dims[s], dim, layers, kernel_sizes[s])
                rate = rates[sum(depths[:s]) + i]
                blocks.append(Block(*shape, light[s], i > 0, rate))
                width = dim
            stages.append(Stage(downsample, blocks))
        self.encoder = Encoder(stages)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(width, num_classes)
        self.apply(init_conv)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's map as tokens: (B, C, H, W) -> (B, H / 32 * W / 32, dim)."""
        return to_tokens(self.encoder(self.embedder(x)))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the tokens' mean: (B, N, dim) -> (B, num_classes)."""
        return self.fc(self.drop(x.mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace `fc` by a freshly initialised one for another number of classes."""
        self.fc = new_classifier(self.fc, num_classes)
