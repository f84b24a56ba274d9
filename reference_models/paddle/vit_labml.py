"""The Vision Transformer of labml.ai's annotated implementations (ViT: arXiv 2010.11929).

Origin of every name: labmlai/annotated_deep_learning_paper_implementations, transformers/vit, in
the sizes of its CIFAR-10 experiment.

- Separate Linears make q, k and v; the feed-forward layer has a ReLU; LayerNorm's eps is 1e-5.
- The softmax makes the biases of `key` of no effect on the output.
- `positional_encodings` keeps 5000 positions, sequence first; an image uses the first 1 + N.
- The class token is normed after it is picked, and goes through a head of two Linears.
- There tensors are (tokens, batch, dim); here (batch, tokens, dim), with the same result.
- A fresh model starts as ViT does (there: a normal class token, PyTorch's own Linears).
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from .layers import (
    DropPath,
    attention,
    drop_path_rates,
    init_linear,
    merge_heads,
    new_classifier,
    split_heads,
    to_tokens,
    trunc_normal,
)


class PatchEmbeddings(nn.Layer):
    """Patches as a convolution: (B, C, H, W) -> (B, H/P * W/P, dim)."""

    def __init__(self, in_channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(self.conv(x))


class LearnedPositionalEmbeddings(nn.Layer):
    """Add the first positions of a long table: (B, S, dim) -> (B, S, dim)."""

    def __init__(self, dim: int, max_positions: int) -> None:
        super().__init__()
        self.positional_encodings = self.create_parameter(
            [max_positions, 1, dim], default_initializer=nn.initializer.Constant(0.0)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positional_encodings[: x.shape[1]].transpose([1, 0, 2])


class ClassificationHead(nn.Layer):
    """Two Linears with a ReLU between them: (B, dim) -> (B, num_classes)."""

    def __init__(self, dim: int, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))


class PrepareForMultiHeadAttention(nn.Layer):
    """A Linear and the split into heads: (B, S, dim) -> (B, heads, S, dim / heads)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return split_heads(self.linear(x), self.num_heads)


class MultiHeadAttention(nn.Layer):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.scale = (dim // num_heads) ** -0.5
        self.query = PrepareForMultiHeadAttention(dim, num_heads)
        self.key = PrepareForMultiHeadAttention(dim, num_heads)
        self.value = PrepareForMultiHeadAttention(dim, num_heads)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = attention(self.query(x), self.key(x), self.value(x), scale=self.scale)
        return self.output(merge_heads(x))


class FeedForward(nn.Layer):
    """Two Linears with a ReLU between them."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float) -> None:
        super().__init__()
        self.layer1 = nn.Linear(dim, hidden_dim)
        self.layer2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.dropout(F.relu(self.layer1(x))))


class TransformerLayer(nn.Layer):
    """Pre-norm attention and feed-forward layer."""

    def __init__(
        self, dim: int, num_heads: int, hidden_dim: int, drop_rate: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads)
        self.feed_forward = FeedForward(dim, hidden_dim, drop_rate)
        self.dropout = nn.Dropout(drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm_self_attn = nn.LayerNorm(dim)
        self.norm_ff = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.dropout(self.self_attn(self.norm_self_attn(x))))
        return x + self.drop_path(self.dropout(self.feed_forward(self.norm_ff(x))))


class VisionTransformer(nn.Layer):
    """labml's ViT: (B, 3, H, W) -> (B, num_classes) logits; H and W multiples of the patch.

    `image_size` changes no tensor: it says at which size the model is trained.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        num_classes: int = 10,
        in_channels: int = 3,
        patch_size: int = 4,
        dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        head_hidden_dim: int = 2048,
        max_positions: int = 5000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if (image_size // patch_size) ** 2 >= max_positions:
            raise ValueError(f"{image_size} px have more patches than {max_positions} positions")
        self.cls_token_emb = self.create_parameter([1, 1, dim])
        self.patch_emb = PatchEmbeddings(in_channels, patch_size, dim)
        self.pos_emb = LearnedPositionalEmbeddings(dim, max_positions)
        self.classification = ClassificationHead(dim, head_hidden_dim, num_classes)
        self.transformer_layers = nn.LayerList(
            [
                TransformerLayer(dim, num_heads, hidden_dim, drop_rate, rate)
                for rate in drop_path_rates(drop_path_rate, depth)
            ]
        )
        self.ln = nn.LayerNorm(dim)
        self.apply(init_linear)
        trunc_normal(self.cls_token_emb)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all tokens: (B, 3, H, W) -> (B, 1 + N, dim). The last norm belongs to the head."""
        x = self.patch_emb(x)  # B, N, dim
        x = self.pos_emb(paddle.concat([self.cls_token_emb.expand_as(x[:, :1]), x], 1))
        for layer in self.transformer_layers:
            x = layer(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the class token: (B, 1 + N, dim) -> (B, num_classes)."""
        return self.classification(self.ln(x[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer of the head by a freshly initialised one."""
        self.classification.linear2 = new_classifier(self.classification.linear2, num_classes)
