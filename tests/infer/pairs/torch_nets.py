"""Small networks in PyTorch; their partners are in `paddle_nets.py`."""

import torch
from torch import nn


class Block(nn.Module):
    """Attention with one projection of q, k and v by head, and two feed-forward layers."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim)
        self.proj, self.norm2 = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.gate, self.up = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gamma = nn.Parameter(torch.ones(dim, 1))

    def forward(self, x):
        b, n, d = x.shape
        y = self.qkv(self.norm1(x)).view(b, n, self.heads, 3, -1)
        q, k, v = (y[:, :, :, i].transpose(1, 2) for i in range(3))
        y = (q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        y = self.norm2(x)
        return x + self.gamma[:, 0] * torch.sigmoid(self.gate(y)) * self.up(y)


class Net(nn.Module):
    """A stem with batch norm, blocks, and a head whose weight is the table of words."""

    def __init__(self, depth: int = 2, dim: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 4, 4, bias=False), nn.BatchNorm2d(dim))
        self.register_buffer("order", torch.arange(4))
        self.pos = nn.Embedding(4, dim)
        self.blocks = nn.ModuleList(Block(dim, 3) for _ in range(depth))
        self.head = nn.Conv1d(dim, classes, 1)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2) + self.pos(self.order)
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x.transpose(1, 2)).mean(-1), "tokens": x}


class Faded(nn.Module):
    """Dropout between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.25), nn.Linear(8, 3))

    def forward(self, x):
        return self.body(x)


class Reader(nn.Module):
    """A picture whose whole map a convolution sees, and masked words with one row of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.whole = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, (4, 6))
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(10, 8)
        self.norm, self.query, self.key = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 20)
        self.head.weight = self.words.weight

    def forward(self, ids, x):
        seen = self.whole(torch.relu(self.conv(x))).flatten(1)
        y = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        y = self.norm(y + seen[:, None])
        return self.head(torch.tanh(self.query(y)) * self.key(y))


class Speaker(nn.Module):
    """Recurrent layers, a cell in a loop, attention to another input, and a table made once."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 4, batch_first=True, bidirectional=True)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cell, self.fc = nn.LSTMCell(8, 8), nn.Linear(8, 3)
        self.scores, self.made = nn.Parameter(torch.zeros(8)), {}

    def forward(self, batch):
        if not self.made:
            self.made["table"] = self.scores.exp()
        x, memory = self.rnn(batch["frames"])[0], batch["memory"]
        x = self.attn(x, memory, memory, need_weights=False)[0] * self.made["table"]
        h = c = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.fc(h)
