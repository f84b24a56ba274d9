"""CaiT, Class-Attention in Image Transformers (Touvron et al., https://arxiv.org/abs/2103.17239).

Only patches go through the blocks; a class token joins at the end, and two class-attention
blocks, in which only that token asks and only that token changes, gather the image into it.

Official code, and the origin of every name: facebookresearch/deit, cait_models.py.

- LayerScale: each branch is multiplied, channel by channel, by `gamma_1` or `gamma_2`, which start
  at 1e-5 or 1e-6 in the published depths: a fresh model is nearly the identity.
- Talking heads: `proj_l` mixes the heads' scores before the softmax, `proj_w` the weights after it.
- `pos_embed` has one position a patch and none for the class token.
- The softmax makes `proj_l.bias` and the class attention's `k.bias` of no effect on the output.
- Every block has the same drop-path rate; the class-attention blocks drop nothing.

The paper compares with other forms of the same network. They are settings here; no code of them
is published, and their names and what the paper leaves open are chosen here. With η the norm and F
attention or the MLP, the branches of Figure 1 are

    plain                      x + F(η(x))               (a), DeiT
    rezero, skipinit, fixup    x + α F(x)                (b), one scalar α a branch, no norm
    the same, `branch_norm`    x + α F(η(x))             (c)
    layerscale                 x + diag(γ) F(η(x))       (d)

- α (`alpha_1`, `alpha_2`) starts at 0 in ReZero, at 1/√depth in SkipInit and at 1 in Fixup.
- Fixup starts the last layer of each branch and the head at 0, the first layers smaller by √depth,
  and has scalar biases: x + α F(x + a) + b, with a and b `bias_1a`, `bias_1b` (and `2`). Within a
  branch the layers have their own biases, and no scalars are added. A norm that follows takes b
  away again: all of them in form (c), that of the last block in form (b).
- `class_at`: the class token joins before that block and there is no class attention; at 0 it has
  a position, as in DeiT. `pool="mean"`: there is no class token, the head reads the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    attention,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    trunc_normal,
)
from .vit import Attention

RESIDUALS = ("plain", "layerscale", "rezero", "skipinit", "fixup")


class TalkingHeadAttention(nn.Module):
    """Self-attention whose heads are mixed before and after the softmax."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_l = nn.Linear(num_heads, num_heads)
        self.proj_w = nn.Linear(num_heads, num_heads)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, -1))
        scores = q * self.scale @ k.permute([0, 1, 3, 2])  # B, heads, N, N
        scores = self.proj_l(scores.permute([0, 2, 3, 1]))  # B, N, N, heads
        weights = self.proj_w(F.softmax(scores, 2))
        x = merge_heads(weights.permute([0, 3, 1, 2]) @ v)  # B, N, C
        return self.proj_drop(self.proj(x))


class ClassAttention(nn.Module):
    """Attention of the class token, the first, to all tokens: (B, 1 + N, C) -> (B, 1, C)."""

    def __init__(self, dim: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        q = split_heads(self.q(x[:, :1]), self.num_heads)  # B, heads, 1, C / heads
        k = split_heads(self.k(x), self.num_heads)
        v = split_heads(self.v(x), self.num_heads)
        x = merge_heads(attention(q, k, v, scale=self.scale))
        return self.proj_drop(self.proj(x))


class ResidualBlock(nn.Module):
    """Attention and MLP as residual branches of one of the forms of Figure 1."""

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: Mlp,
        residual: str,
        branch_norm: bool,
        scale_init: float,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.LayerNorm(dim, eps=1e-6) if branch_norm else nn.Identity()
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6) if branch_norm else nn.Identity()
        self.mlp = mlp
        if residual == "layerscale":
            self.gamma_1 = self.constant(dim, scale_init)
            self.gamma_2 = self.constant(dim, scale_init)
        elif residual != "plain":
            self.alpha_1 = self.constant(1, scale_init)
            self.alpha_2 = self.constant(1, scale_init)
        if residual == "fixup":
            self.bias_1a = self.constant(1, 0.0)
            self.bias_1b = self.constant(1, 0.0)
            self.bias_2a = self.constant(1, 0.0)
            self.bias_2b = self.constant(1, 0.0)

    def constant(self, size: int, value: float) -> nn.Parameter:
        """Return a vector of equal parameters."""
        return nn.Parameter(torch.full([size], value))

    def branch(self, number: int, x: Tensor) -> Tensor:
        """Return the residual that branch 1 (attention) or 2 (MLP) adds."""
        x = getattr(self, f"norm{number}")(x)
        if self.residual == "fixup":
            x = x + getattr(self, f"bias_{number}a")
        x = self.attn(x) if number == 1 else self.mlp(x)
        if self.residual == "layerscale":
            x = getattr(self, f"gamma_{number}") * x
        elif self.residual != "plain":
            x = getattr(self, f"alpha_{number}") * x
        return x + getattr(self, f"bias_{number}b") if self.residual == "fixup" else x


class Block(ResidualBlock):
    """Block of the patch tokens: (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        talking_heads: bool,
        residual: str,
        branch_norm: bool,
        scale_init: float,
        drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        make = TalkingHeadAttention if talking_heads else Attention
        attn = make(dim, num_heads, drop_rate)
        mlp = Mlp(dim, dim * mlp_ratio, drop_rate)
        super().__init__(dim, attn, mlp, residual, branch_norm, scale_init)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.branch(1, x))
        return x + self.drop_path(self.branch(2, x))


class ClassBlock(ResidualBlock):
    """Block of the class token: (B, 1, C) and the patches (B, N, C) -> (B, 1, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        residual: str,
        branch_norm: bool,
        scale_init: float,
    ) -> None:
        attn, mlp = ClassAttention(dim, num_heads, 0.0), Mlp(dim, dim * mlp_ratio)
        super().__init__(dim, attn, mlp, residual, branch_norm, scale_init)

    def forward(self, token: Tensor, x: Tensor) -> Tensor:
        token = token + self.branch(1, torch.cat([token, x], 1))
        return token + self.branch(2, token)


class CaiT(nn.Module):
    """CaiT: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    `layer_scale_init`, the first value of the branches' scales, defaults to the paper's for the
    form and a model of this depth.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_channels: int = 3,
        patch_size: int = 16,
        dim: int = 192,
        depth: int = 24,
        class_depth: int = 2,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        talking_heads: bool = True,
        residual: str = "layerscale",
        branch_norm: bool = True,
        layer_scale_init: float | None = None,
        class_at: int | None = None,
        pool: str = "class",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_form(residual, branch_norm, class_depth, class_at, pool)
        scale = scale_init(residual, depth) if layer_scale_init is None else layer_scale_init
        branches = (residual, branch_norm, scale)
        patch_embed = PatchEmbed(image_size, patch_size, in_channels, dim)
        positions = patch_embed.num_patches + (class_at == 0)
        self.class_at = class_at
        self.cls_token = nn.Parameter(torch.zeros([1, 1, dim])) if pool == "class" else None
        self.pos_embed = nn.Parameter(torch.zeros([1, positions, dim]))
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            [
                Block(
                    dim, num_heads, mlp_ratio, talking_heads, *branches, drop_rate, drop_path_rate
                )
                for _ in range(depth)
            ]
        )
        self.blocks_token_only = nn.ModuleList(
            [ClassBlock(dim, num_heads, mlp_ratio, *branches) for _ in range(class_depth)]
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_linear)
        trunc_normal(self.pos_embed)
        if self.cls_token is not None:
            trunc_normal(self.cls_token)
        if residual == "fixup":
            self.init_fixup()

    def init_fixup(self) -> None:
        """Start each branch and the head at zero, and the other layers of a branch smaller."""
        for block in [*self.blocks, *self.blocks_token_only]:
            for layer in (block.attn.proj, block.mlp.fc2):
                nn.init.zeros_(layer.weight)
            first = [block.mlp.fc1]
            first += [
                getattr(block.attn, n) for n in ("qkv", "q", "k", "v") if hasattr(block.attn, n)
            ]
            for layer in first:
                trunc_normal(layer.weight, std=0.02 * len(self.blocks) ** -0.5)
        nn.init.zeros_(self.head.weight)

    def with_class_token(self, x: Tensor) -> Tensor:
        """Put the class token first: (B, N, C) -> (B, 1 + N, C)."""
        return torch.cat([self.cls_token.expand_as(x[:, :1]), x], 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens after the last norm: (B, 3, H, W) -> (B, 1 + N, C), or (B, N, C)."""
        x = self.patch_embed(x)  # B, N, C
        if self.class_at == 0:
            x = self.with_class_token(x)
        x = self.pos_drop(x + self.pos_embed)
        for i, block in enumerate(self.blocks):
            if i > 0 and i == self.class_at:
                x = self.with_class_token(x)
            x = block(x)
        if self.class_at is None and self.cls_token is not None:
            token = self.cls_token.expand_as(x[:, :1])  # B, 1, C
            for block in self.blocks_token_only:
                token = block(token, x)
            x = torch.cat([token, x], 1)
        return self.norm(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token, or else of the mean: -> (B, num_classes)."""
        return self.head(x.mean(1) if self.cls_token is None else x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for another number of classes."""
        self.head = new_classifier(self.head, num_classes)


def check_form(
    residual: str, branch_norm: bool, class_depth: int, class_at: int | None, pool: str
) -> None:
    """Raise `ValueError` for settings that contradict one another."""
    if residual not in RESIDUALS:
        raise ValueError(f"residual {residual!r} is none of {', '.join(RESIDUALS)}")
    if residual in ("plain", "layerscale") and not branch_norm:
        raise ValueError(f"the {residual} branches have a norm")
    if pool not in ("class", "mean"):
        raise ValueError(f"pool {pool!r} is neither class nor mean")
    if class_depth and (class_at is not None or pool == "mean"):
        raise ValueError("class attention is for a class token that joins after the blocks")
    if class_at is not None and pool == "mean":
        raise ValueError("pool mean has no class token, and class_at no meaning")


def scale_init(residual: str, depth: int) -> float:
    """Return the first value of the branches' scales in a form and for a depth (section 4.1)."""
    if residual == "layerscale":
        return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6
    return {"plain": 1.0, "rezero": 0.0, "skipinit": depth**-0.5, "fixup": 1.0}[residual]
