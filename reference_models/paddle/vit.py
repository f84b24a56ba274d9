"""Vision Transformer (ViT), arXiv 2010.11929; google-research/vision_transformer, named as in timm.

Patches become tokens, a class token goes first, learned positions are added to all of them;
blocks are pre-norm; the head reads the class token after the last norm.

- LayerNorm's eps is 1e-6; Hugging Face's configurations carry 1e-12, for which there is `norm_eps`.
- `pre_logits` is the Linear and tanh between the class token and the head that Google's files
  of pre-training (ImageNet-21k) have and those of fine-tuning have not.
- `qkv` is one Linear whose rows are q, then k, then v, each of them head by head.
- Without a class token the head reads the mean of the tokens after the last norm.
- Hybrids (R+ViT) cut their patches from the map of a ResNet, post-activation, with GroupNorm (eps
  1e-5) and standardised weights (1e-8 under the root), as in timm; with `stem_as_google`, as in
  Google's own code, 1e-6, and 1e-5 is added to the deviation. Its padding is TensorFlow's SAME.
- PaddleClas's "small" has no bias in `qkv` and another scale: `qkv_bias`, `qk_scale`.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    attention,
    count_patches,
    drop_path_rates,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_tokens,
    trunc_normal,
)


class StdConv(nn.Conv2D):
    """Convolution without bias whose kernels have mean 0 and variance 1, SAME padding."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, step: int = 1, as_google: bool = False
    ) -> None:
        super().__init__(in_channels, channels, kernel, stride=step, bias_attr=False)
        self.kernel = kernel
        self.step = step
        self.as_google = as_google

    def forward(self, x: Tensor) -> Tensor:
        if self.as_google:
            weight = self.weight - self.weight.mean([1, 2, 3], True)
            weight = weight / ((weight * weight).mean([1, 2, 3], True).sqrt() + 1e-5)
        else:
            # Not sums and a root: torch's exporter leaves out an addition of 1e-8.
            weight = F.layer_norm(self.weight, self.weight.shape[1:], None, None, 1e-8)
        return F.conv2d(pad_same(x, self.kernel, self.step), weight, None, self.step)


def group_norm(channels: int, as_google: bool) -> nn.GroupNorm:
    """Return GroupNorm of 32 groups with timm's eps or Google's."""
    return nn.GroupNorm(32, channels, 1e-6 if as_google else 1e-5)


class Stem(nn.Layer):
    """Start of the ResNet: (B, in_channels, H, W) -> (B, 64, H/4, W/4)."""

    def __init__(self, in_channels: int, as_google: bool = False) -> None:
        super().__init__()
        self.conv = StdConv(in_channels, 64, 7, 2, as_google)
        self.norm = group_norm(64, as_google)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return F.max_pool2d(pad_same(x, 3, 2), 3, 2)  # after the ReLU, zeros are no maximum


class Downsample(nn.Layer):
    """Shortcut of a stage's first block."""

    def __init__(self, in_channels: int, channels: int, step: int, as_google: bool) -> None:
        super().__init__()
        self.conv = StdConv(in_channels, channels, 1, step, as_google)
        self.norm = group_norm(channels, as_google)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Layer):
    """Residual block of three convolutions: (B, in, H, W) -> (B, channels, H/step, W/step)."""

    def __init__(self, in_channels: int, channels: int, step: int, as_google: bool) -> None:
        super().__init__()
        same = in_channels == channels
        width = channels // 4
        self.downsample = (
            nn.Identity() if same else Downsample(in_channels, channels, step, as_google)
        )
        self.conv1 = StdConv(in_channels, width, 1, 1, as_google)
        self.norm1 = group_norm(width, as_google)
        self.conv2 = StdConv(width, width, 3, step, as_google)
        self.norm2 = group_norm(width, as_google)
        self.conv3 = StdConv(width, channels, 1, 1, as_google)
        self.norm3 = group_norm(channels, as_google)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + shortcut)


class ResNetStage(nn.Layer):
    """Bottleneck blocks of one width; the first reduces the map, but in the first stage."""

    def __init__(self, stage: int, depth: int, as_google: bool) -> None:
        super().__init__()
        channels = 256 * 2**stage
        before = channels // 2 if stage else 64
        blocks = [Bottleneck(before, channels, 2 if stage else 1, as_google)]
        blocks += [Bottleneck(channels, channels, 1, as_google) for _ in range(depth - 1)]
        self.blocks = nn.LayerList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ResNet(nn.Layer):
    """The map that a hybrid's patches are cut from: (B, in_channels, H, W) -> (B, C, h, w)."""

    def __init__(self, in_channels: int, depths: Sequence[int], as_google: bool) -> None:
        super().__init__()
        self.stem = Stem(in_channels, as_google)
        self.stages = nn.LayerList(
            [ResNetStage(s, depth, as_google) for s, depth in enumerate(depths)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


class HybridEmbed(nn.Layer):
    """Patches of a ResNet's map, of its stem's if it has no stages: -> (B, N, dim)."""

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        in_channels: int,
        dim: int,
        depths: Sequence[int],
        as_google: bool,
    ) -> None:
        super().__init__()
        stride, channels = (2 * 2 ** len(depths), 128 * 2 ** len(depths)) if depths else (4, 64)
        self.num_patches = count_patches(image_size, stride * patch_size)
        self.backbone = (
            ResNet(in_channels, depths, as_google) if depths else Stem(in_channels, as_google)
        )
        self.proj = nn.Conv2D(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.proj(self.backbone(x)))


class Attention(nn.Layer):
    """Multi-head self-attention."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_rate: float = 0.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.qkv = nn.Linear(dim, dim * 3, bias_attr=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).chunk(3, -1)  # B, N, C each
        q, k, v = (split_heads(t, self.num_heads) for t in qkv)  # B, heads, N, C / heads
        x = merge_heads(attention(q, k, v, scale=self.scale))
        return self.drop(self.proj(x))


class Block(nn.Layer):
    """Pre-norm transformer block."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        drop_rate: float,
        drop_path_rate: float,
        norm_eps: float,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attn = Attention(dim, num_heads, drop_rate, qkv_bias, qk_scale)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PreLogits(nn.Layer):
    """The hidden layer of the pre-training head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


class VisionTransformer(nn.Layer):
    """ViT: (B, in_channels, image_size, image_size) -> (B, num_classes).

    `stem_depths` makes a hybrid: the blocks in each stage of its ResNet, none of the stem alone.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        class_token: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        stem_depths: Sequence[int] | None = None,
        pre_logits: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        stem_as_google: bool = False,
    ) -> None:
        super().__init__()
        patch_embed = (
            PatchEmbed(image_size, patch_size, in_channels, dim)
            if stem_depths is None
            else HybridEmbed(image_size, patch_size, in_channels, dim, stem_depths, stem_as_google)
        )
        self.class_token = class_token
        if class_token:
            self.cls_token = self.create_parameter([1, 1, dim])
        tokens = patch_embed.num_patches + int(class_token)
        self.pos_embed = self.create_parameter([1, tokens, dim])
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.LayerList(
            [
                Block(
                    dim=dim,
                    num_heads=num_heads,
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    drop_path_rate=rate,
                    norm_eps=norm_eps,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                )
                for rate in rates
            ]
        )
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.pre_logits = PreLogits(dim) if pre_logits else nn.Identity()
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        if class_token:
            trunc_normal(self.cls_token)
        trunc_normal(self.pos_embed)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens after the last norm: (B, C, H, W) -> (B, 1 + N or N, dim)."""
        x = self.patch_embed(x)  # B, N, C
        if self.class_token:
            cls_token = self.cls_token.expand([x.shape[0], -1, -1])
            x = paddle.concat([cls_token, x], axis=1)  # B, 1 + N, C
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token, of the mean of all tokens if there is none."""
        x = x[:, 0] if self.class_token else x.mean(1)
        return self.head(self.pre_logits(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)


def pad_same(x: Tensor, kernel: int, step: int) -> Tensor:
    """Pad a map with zeros so that its size after a window's steps is size / step, rounded up."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // step) - 1) * step + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x
