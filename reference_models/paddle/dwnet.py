"""D-DW-Conv, arXiv 2106.04263: Swin's frame with (dynamic) depth-wise convolutions for attention.

Official code, and the origin of every name: Atten4Vis/DemystifyLocalViT at 4aa8326 (the dynamic
form) and ce7c0b7 (the inhomogeneous one). Between them, from ce3ada0 on, `dynamic=True` builds
the static convolution: the sizes that the README gives are those of 4aa8326.

    x + bn2(conv2(relu(bn(conv(relu(bn0(conv0(x)))))))), then x + mlp(bn(x))

where `conv` is a depth-wise 7×7 convolution whose kernels are

- static: weights, one kernel per channel;
- dynamic: made from the pooled map, one per image and channel; a bias is added;
- inhomogeneous: made from the map, one per image, group of channels and position; no bias.

- There is no norm before the first branch, and so a dynamic one squares the scale of its input:
  weights of a trained model bound it, seeded ones must be small (`[seeded]` of the variants).
- The official code names the argument of the inhomogeneous form heads, and uses it as channels
  per group: there are 32 groups in every stage.
- All LayerNorms and batch norms have eps 1e-5. No positions.
- Height and width are multiples of 32: the map must halve evenly three times.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import DropPath, Mlp, drop_path_rates, init_linear, new_classifier, to_map, to_tokens
from .swin import PatchEmbed, PatchMerging

REDUCTION = 4  # channels of a map over those of the layer from which its kernels are made


def convolve(x: Tensor, kernels: Tensor, size: int, groups: int) -> Tensor:
    """Convolve each image depth-wise by its own kernels: (B, C, H, W) -> (B, C, H, W).

    `kernels` (B, groups * size², H or 1, W or 1) serve C / groups channels each, and one
    position or all; outside the map are zeros.
    """
    _, c, h, w = x.shape
    patches = F.unfold(x, size, paddings=size // 2)  # B, C * size², H * W
    patches = patches.reshape([-1, groups, c // groups, size * size, h, w])
    kernels = kernels.reshape([-1, groups, 1, size * size, kernels.shape[2], kernels.shape[3]])
    return (patches * kernels).sum(3).reshape([-1, c, h, w])


class DynamicConv(nn.Layer):
    """Depth-wise convolution by kernels made from the pooled map."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.bias = self.create_parameter([dim], is_bias=True)
        self.conv1 = nn.Conv2D(dim, dim // REDUCTION, kernel_size=1, bias_attr=False)
        self.bn = nn.BatchNorm2D(dim // REDUCTION)
        self.conv2 = nn.Conv2D(dim // REDUCTION, dim * kernel_size**2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean([2, 3], keepdim=True)  # B, C, 1, 1
        kernels = self.conv2(F.relu(self.bn(self.conv1(pooled))))
        return convolve(x, kernels, self.kernel_size, x.shape[1]) + self.bias.reshape([1, -1, 1, 1])


class InhomogeneousConv(nn.Layer):
    """Depth-wise convolution by kernels made from the map, one for each position."""

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.groups = groups
        self.conv1 = nn.Sequential(
            nn.Conv2D(dim, dim // REDUCTION, kernel_size=1),
            nn.BatchNorm2D(dim // REDUCTION),
            nn.ReLU(),
        )
        self.conv2 = nn.Sequential(
            nn.Conv2D(dim // REDUCTION, kernel_size**2 * groups, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.conv2(self.conv1(x)), self.kernel_size, self.groups)


def make_conv(kernels: str, dim: int, kernel_size: int, groups: int) -> nn.Layer:
    """Return the depth-wise convolution: `static`, `dynamic` or `inhomogeneous`."""
    if kernels == "static":
        return nn.Conv2D(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
    if kernels == "dynamic":
        return DynamicConv(dim, kernel_size)
    if kernels == "inhomogeneous":
        return InhomogeneousConv(dim, kernel_size, groups)
    raise ValueError(f"kernels {kernels!r} is none of static, dynamic, inhomogeneous")


class LocalConv(nn.Layer):
    """What takes the place of attention: 1×1, depth-wise and 1×1 convolutions on a map."""

    def __init__(self, dim: int, kernels: str, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2D(dim, dim, kernel_size=1, bias_attr=False)
        self.bn0 = nn.BatchNorm2D(dim)
        self.conv = make_conv(kernels, dim, kernel_size, groups)
        self.bn = nn.BatchNorm2D(dim)
        self.conv2 = nn.Conv2D(dim, dim, kernel_size=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv0(x)))
        x = F.relu(self.bn(self.conv(x)))
        return self.bn2(self.conv2(x))


class Block(nn.Layer):
    """Local convolution and MLP: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(
        self,
        dim: int,
        kernels: str,
        kernel_size: int,
        groups: int,
        mlp_ratio: int,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.attn2conv = LocalConv(dim, kernels, kernel_size, groups)
        self.drop_path = DropPath(drop_path_rate)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop_rate)
        self.bn = nn.BatchNorm2D(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn2conv(x))
        tokens = self.mlp(to_tokens(self.bn(x)))  # B, H * W, C
        return x + self.drop_path(to_map(tokens, x.shape[2], x.shape[3]))


class Stage(nn.Layer):
    """Blocks and the merge into the next stage: tokens (B, H * W, C)."""

    def __init__(
        self,
        dim: int,
        kernels: str,
        kernel_size: int,
        groups: int,
        mlp_ratio: int,
        drop_rate: float,
        rates: Sequence[float],
        downsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.LayerList(
            [Block(dim, kernels, kernel_size, groups, mlp_ratio, drop_rate, rate) for rate in rates]
        )
        self.downsample = PatchMerging(dim) if downsample else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = to_map(x, height, width)
        for block in self.blocks:
            x = block(x)
        x = to_tokens(x)
        is_last = isinstance(self.downsample, nn.Identity)
        return x if is_last else self.downsample(x, height, width)


class DWNet(nn.Layer):
    """D-DW-Net: (B, in_channels, H, W) -> (B, num_classes); H and W are multiples of 32.

    `image_size` changes no tensor: it says at which size the model was trained.
    """

    def __init__(
        self,
        *,
        kernels: str,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        kernel_size: int = 7,
        kernel_groups: int = 32,
        mlp_ratio: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages = []
        for s, depth in enumerate(depths):
            done = sum(depths[:s])
            stages.append(
                Stage(
                    dim=embed_dim * 2**s,
                    kernels=kernels,
                    kernel_size=kernel_size,
                    groups=kernel_groups,
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    rates=rates[done : done + depth],
                    downsample=s < len(depths) - 1,
                )
            )
        self.layers = nn.LayerList(stages)
        dim = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's tokens after the norm: (B, C, H, W) -> (B, N, dim)."""
        height, width = (side // self.patch_size for side in x.shape[2:])
        x = self.pos_drop(self.patch_embed(x))
        for s, layer in enumerate(self.layers):
            x = layer(x, height // 2**s, width // 2**s)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the mean token: (B, N, dim) -> (B, num_classes)."""
        return self.head(x.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)
