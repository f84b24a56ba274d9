"""PP-OCRv5 mobile: where text is in a picture, and what a line of text says.

Origin: PaddleOCR (configs/det/PP-OCRv5, configs/rec/PP-OCRv5). The names here are those of
transformers' PPOCRV5MobileDetForObjectDetection and PPOCRV5MobileRecForTextRecognition.

- The backbone, PP-LCNetV3, is PP-LCNet with re-parametrisable layers: branches of a convolution
  and batch norm (four k×k, one 1×1, a bare batch norm where nothing changes size) are summed, then
  scaled and shifted by two scalars (`lab`), then activated and scaled and shifted again (`act`).
- A layer whose stride is the number 2 is not activated: its `act.lab` is never used. A stride of
  height and width, such as (2, 1), does not count as that number.
- The detector's neck gates by clip(0.2 x + 0.5), the backbone by Hardsigmoid, whose slope is
  0.1666667 in Paddle and 1/6 in PyTorch: `gate_slope`.
- The recogniser takes lines of 48 px in height and any width; its softmax is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import (
    DropPath,
    attention,
    drop_path_rates,
    init_conv,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_map,
    to_tokens,
    trunc_normal,
)
from .pp_lcnet import (
    STEM,
    WIDTHS,
    ConvNorm,
    HardSigmoid,
    SqueezeExcitation,
    Stage,
    Stride,
    rounded,
)

BRANCHES = 4  # k×k convolutions that are summed
STAGES = ((3,), (3, 3), (3, 3), (3, 5, 5, 5, 5), (5, 5, 5, 5))
"""Kernel sizes of the blocks of each stage; the first two of the last stage are squeezed."""
NECK_SLOPE = 0.2  # of the gates in the detector's neck


class Affine(nn.Layer):
    """One scale and one shift of a whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([1], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.bias


class AffineAct(nn.Layer):
    """Hardswish, then a scale and a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.lab = Affine()

    def forward(self, x: Tensor) -> Tensor:
        return self.lab(F.hardswish(x))


class RepLayer(nn.Layer):
    """A convolution as it is trained: the sum of its branches, scaled, shifted, activated."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: Stride = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        branch = (in_channels, out_channels)
        self.identity = None
        if in_channels == out_channels and stride == 1:
            self.identity = nn.BatchNorm2D(in_channels)
        self.conv_symmetric = nn.LayerList(
            [ConvNorm(*branch, kernel_size, stride, groups) for _ in range(BRANCHES)]
        )
        self.conv_small_symmetric = None
        if kernel_size > 1:
            self.conv_small_symmetric = ConvNorm(*branch, 1, stride, groups)
        self.lab = Affine()
        self.act = AffineAct()
        self.activated = stride != 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_symmetric[0](x)
        for branch in self.conv_symmetric[1:]:
            y = y + branch(x)
        if self.conv_small_symmetric is not None:
            y = y + self.conv_small_symmetric(x)
        if self.identity is not None:
            y = y + self.identity(x)
        y = self.lab(y)
        return self.act(y) if self.activated else y


class RepBlock(nn.Layer):
    """Depth-wise layer, squeeze-excitation, 1×1 layer."""

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
        self.depthwise_convolution = RepLayer(
            in_channels, in_channels, kernel_size, stride, in_channels
        )
        self.squeeze_excitation_module = None
        if squeezed:
            self.squeeze_excitation_module = SqueezeExcitation(in_channels, gate_slope)
        self.pointwise_convolution = RepLayer(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise_convolution(x)
        if self.squeeze_excitation_module is not None:
            x = self.squeeze_excitation_module(x)
        return self.pointwise_convolution(x)


class Encoder(nn.Layer):
    """PP-LCNetV3: (B, in_channels, H, W) -> the map of each stage."""

    def __init__(
        self,
        in_channels: int,
        width: float,
        strides: Sequence[Sequence[Stride]],
        gate_slope: float,
    ) -> None:
        super().__init__()
        self.dims = [rounded(STEM * width, 16)]
        self.convolution = ConvNorm(in_channels, self.dims[0], 3, 2)
        stages = []
        for kernels, channels, steps in zip(STAGES, WIDTHS, strides, strict=True):
            dim, blocks = rounded(channels * width, 16), []
            for i, (kernel_size, stride) in enumerate(zip(kernels, steps, strict=True)):
                squeezed, step = channels == WIDTHS[-1] and i < 2, _step(stride)
                width_in = dim if i else self.dims[-1]
                blocks.append(RepBlock(width_in, dim, kernel_size, step, squeezed, gate_slope))
            self.dims.append(dim)
            stages.append(Stage(blocks))
        self.blocks = nn.LayerList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.convolution(x)
        maps = []
        for stage in self.blocks:
            x = stage(x)
            maps.append(x)
        return maps


def _step(stride: Stride) -> Stride:
    """Return a stride that is not a list, as a convolution takes it."""
    return stride if isinstance(stride, int) else (stride[0], stride[1])


class Backbone(nn.Layer):
    """The backbone under the name that it has in both models."""

    def __init__(
        self,
        in_channels: int,
        width: float,
        strides: Sequence[Sequence[Stride]],
        gate_slope: float,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, width, strides, gate_slope)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.encoder(x)


class NeckSqueeze(nn.Layer):
    """Channels times a gate that the pooled map gives, in the detector's neck."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(dim, dim // 4, kernel_size=1)
        self.conv2 = nn.Conv2D(dim // 4, dim, kernel_size=1)
        self.gate = HardSigmoid(NECK_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean([2, 3], keepdim=True)
        return x * self.gate(self.conv2(F.relu(self.conv1(pooled))))


class NeckConv(nn.Layer):
    """Convolution, and its output gated and added to itself."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.in_conv = nn.Conv2D(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias_attr=False
        )
        self.squeeze_excitation_block = NeckSqueeze(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        return x + self.squeeze_excitation_block(x)


class Neck(nn.Layer):
    """Feature pyramid: four maps, from H / 4 to H / 32 -> (B, dim, H / 4, W / 4)."""

    def __init__(self, in_dims: Sequence[int], dim: int) -> None:
        super().__init__()
        self.insert_conv = nn.LayerList([NeckConv(width, dim, 1) for width in in_dims])
        self.input_conv = nn.LayerList([NeckConv(dim, dim // 4, 3) for _ in in_dims])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        inner = [conv(maps[level]) for level, conv in enumerate(self.insert_conv)]
        for level in range(len(inner) - 2, -1, -1):
            inner[level] = inner[level] + enlarged(inner[level + 1], 2)
        outer = [conv(inner[level]) for level, conv in enumerate(self.input_conv)]
        outer = [enlarged(x, 2**level) for level, x in enumerate(outer)]
        return paddle.concat(outer[::-1], 1)


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Repeat each value of a map `factor` times in height and width."""
    return x if factor == 1 else F.interpolate(x, scale_factor=float(factor), mode="nearest")


class HeadConv(nn.Layer):
    """3×3 convolution, batch norm and ReLU; or, enlarging by two, a transposed 2×2 one."""

    def __init__(self, in_channels: int, out_channels: int, enlarging: bool) -> None:
        super().__init__()
        if enlarging:
            self.convolution = nn.Conv2DTranspose(in_channels, out_channels, 2, stride=2)
        else:
            self.convolution = nn.Conv2D(in_channels, out_channels, 3, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x)))


class DetectorHead(nn.Layer):
    """The share of text in every pixel: (B, dim, H / 4, W / 4) -> (B, maps, H, W)."""

    def __init__(self, dim: int, maps: int) -> None:
        super().__init__()
        self.conv_down = HeadConv(dim, dim // 4, False)
        self.conv_up = HeadConv(dim // 4, dim // 4, True)
        self.conv_final = nn.Conv2DTranspose(dim // 4, maps, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(self.conv_final(self.conv_up(self.conv_down(x))))


def new_maps(old: nn.Conv2DTranspose, num_classes: int) -> nn.Conv2DTranspose:
    """Return a freshly initialised layer that gives `num_classes` maps, for those of `old`."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    layer = nn.Conv2DTranspose(old.weight.shape[0], num_classes, 2, stride=2)
    trunc_normal(layer.weight)
    nn.initializer.Constant(0.0)(layer.bias)
    return layer.to(old.weight.place, old.weight.dtype)


class DetectorModel(nn.Layer):
    """Backbone, 1×1 convolutions of its last four maps, and neck."""

    def __init__(
        self,
        in_channels: int,
        width: float,
        strides: Sequence[Sequence[Stride]],
        level_dims: Sequence[int],
        neck_dim: int,
        gate_slope: float,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(in_channels, width, strides, gate_slope)
        pairs = zip(self.backbone.encoder.dims[-4:], level_dims, strict=True)
        self.layer = nn.LayerList([nn.Conv2D(a, b, kernel_size=1) for a, b in pairs])
        self.neck = Neck(level_dims, neck_dim)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)[-4:]
        return self.neck([conv(maps[level]) for level, conv in enumerate(self.layer)])


class PPOCRv5MobileDet(nn.Layer):
    """Detector of text: (B, in_channels, H, W) -> (B, num_classes, H, W), from 0 to 1.

    The published models have one map, text; a map of each class is drawn for more.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 640,
        num_classes: int = 1,
        in_channels: int = 3,
        width: float = 0.75,
        strides: Sequence[Sequence[Stride]] = (
            (1,), (2, 1), (2, 1), (2, 1, 1, 1, 1), (2, 1, 1, 1),
        ),
        level_dims: Sequence[int] = (12, 18, 42, 360),
        neck_dim: int = 96,
        gate_slope: float = 1 / 6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if drop_rate or drop_path_rate:
            raise ValueError("the detector has no dropout: drop_rate and drop_path_rate must be 0")
        self.model = DetectorModel(in_channels, width, strides, level_dims, neck_dim, gate_slope)
        self.head = DetectorHead(neck_dim, num_classes)
        self.apply(init_conv)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the neck's map: (B, C, H, W) -> (B, dim, H / 4, W / 4)."""
        return self.model(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the share of text in every pixel: (B, dim, H / 4, W / 4) -> (B, 1, H, W)."""
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace `head.conv_final` by a freshly initialised one for another number of maps."""
        self.head.conv_final = new_maps(self.head.conv_final, num_classes)


class SelfAttention(nn.Layer):
    """Attention of q, k and v from one Linear: (B, N, dim) -> (B, N, dim)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        dim = x.shape[2]
        qkv = self.qkv(x)
        parts = [qkv[:, :, i * dim : (i + 1) * dim] for i in range(3)]
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        x = attention(q, k, v, scale=(dim // self.num_heads) ** -0.5)
        return self.projection(merge_heads(x))


class SiluMlp(nn.Layer):
    """Two Linear layers with SiLU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class TokenBlock(nn.Layer):
    """Attention and MLP over the columns of a line, each after a norm."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, eps: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path_rate)
        self.self_attn = SelfAttention(dim, num_heads)
        self.layer_norm1 = nn.LayerNorm(dim, eps)
        self.mlp = SiluMlp(dim, int(dim * mlp_ratio))
        self.layer_norm2 = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.self_attn(self.layer_norm1(x)))
        return x + self.drop_path(self.mlp(self.layer_norm2(x)))


class LineConv(ConvNorm):
    """1×k convolution along a line, batch norm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, (1, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class LineEncoder(nn.Layer):
    """SVTR's neck, arXiv 2205.00159: (B, C, 1, N) -> (B, N, dim)."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        eps: float,
        block_eps: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        narrow = in_channels // 8
        self.conv_block = nn.LayerList(
            [
                LineConv(in_channels, narrow, 3),
                LineConv(narrow, dim, 1),
                LineConv(dim, in_channels, 1),
                LineConv(2 * in_channels, narrow, 3),
                LineConv(narrow, dim, 1),
            ]
        )
        rates = drop_path_rates(drop_path_rate, depth)
        blocks = [TokenBlock(dim, num_heads, mlp_ratio, block_eps, rate) for rate in rates]
        self.svtr_block = nn.LayerList(blocks)
        self.norm = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(self.conv_block[1](self.conv_block[0](x)))
        for block in self.svtr_block:
            tokens = block(tokens)
        y = self.conv_block[2](to_map(self.norm(tokens), 1, x.shape[3]))
        y = self.conv_block[4](self.conv_block[3](paddle.concat([x, y], 1)))
        return to_tokens(y)


class RecogniserHead(nn.Layer):
    """Neck and classifier of each column: (B, C, 1, N) -> (B, N, num_classes)."""

    def __init__(self, encoder: nn.Layer, dim: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.encoder(x)))


class RecogniserModel(nn.Layer):
    """Backbone and pooling of its last map: (B, C, 48, W) -> (B, dim, 1, W / 8)."""

    def __init__(
        self,
        in_channels: int,
        width: float,
        strides: Sequence[Sequence[Stride]],
        gate_slope: float,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(in_channels, width, strides, gate_slope)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.backbone(x)[-1], (3, 2))


class PPOCRv5MobileRec(nn.Layer):
    """Recogniser of a line of text: (B, in_channels, 48, W) -> (B, W / 8, num_classes)."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 48,
        num_classes: int = 18385,
        in_channels: int = 3,
        width: float = 0.95,
        strides: Sequence[Sequence[Stride]] = (
            (1,), (1, 1), ((2, 1), 1), ((1, 2), 1, 1, 1, 1), ((2, 1), 1, (2, 1), 1),
        ),
        dim: int = 120,
        depth: int = 2,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        norm_eps: float = 1e-6,
        block_norm_eps: float = 1e-6,
        gate_slope: float = 1 / 6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = RecogniserModel(in_channels, width, strides, gate_slope)
        channels = self.model.backbone.encoder.dims[-1]
        encoder = LineEncoder(
            channels, dim, depth, num_heads, mlp_ratio, norm_eps, block_norm_eps, drop_path_rate
        )
        self.head = RecogniserHead(encoder, dim, num_classes, drop_rate)
        self.apply(init_conv)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return a token for each column of 8 px: (B, C, 48, W) -> (B, W / 8, dim)."""
        return self.head.encoder(self.model(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of each token: (B, N, dim) -> (B, N, num_classes)."""
        return self.head.head(self.head.drop(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace `head.head` by a freshly initialised one for another number of classes."""
        self.head.head = new_classifier(self.head.head, num_classes)
