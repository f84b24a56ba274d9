"""The partners of `torch_nets.py`: other names, another order, another layout."""

import paddle
from paddle import nn
from paddle.nn import functional as F


class Attention(nn.Layer):
    """Separate projections, registered in another order than they are called in."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.out, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k, self.q = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        cut = lambda t: t.reshape([b, n, self.heads, -1]).transpose([0, 2, 1, 3])  # noqa: E731
        q, k, v = cut(self.q(x)), cut(self.k(x)), cut(self.v(x))
        y = F.softmax(paddle.matmul(q, k, transpose_y=True) * (d // self.heads) ** -0.5)
        return self.out(paddle.matmul(y, v).transpose([0, 2, 1, 3]).flatten(2))


class Net(nn.Layer):
    """Flat lists of layers, and a stored scale that only this side has."""

    def __init__(self, depth=2, dim=12, classes=5):
        super().__init__()
        named = paddle.ParamAttr(name="fc_weight")  # a second model of this name is refused
        self.fc = nn.Linear(dim, classes, weight_attr=named)
        self.table = self.create_parameter([1, 4, dim])
        self.norms = nn.LayerList([nn.LayerNorm(dim) for _ in range(2 * depth)])
        self.attn = nn.LayerList([Attention(dim, 3) for _ in range(depth)])
        self.w2 = nn.LayerList([nn.Linear(dim, dim, bias_attr=False) for _ in range(depth)])
        self.w1 = nn.LayerList([nn.Linear(dim, dim, bias_attr=False) for _ in range(depth)])
        self.scales = nn.ParameterList([self.create_parameter([dim]) for _ in range(depth)])
        self.bn, self.conv = nn.BatchNorm2D(dim), nn.Conv2D(3, dim, 4, 4, bias_attr=False)
        self.register_buffer("one", paddle.ones([1]))

    def forward(self, x):
        x = self.bn(self.conv(x)).flatten(2).transpose([0, 2, 1]) * self.one + self.table
        for i, attention in enumerate(self.attn):
            x = x + attention(self.norms[2 * i](x))
            y = self.norms[2 * i + 1](x)
            x = x + self.scales[i] * self.w2[i](y) * F.sigmoid(self.w1[i](y))
        return {"tokens": x, "logits": self.fc(x).mean(1)}


class Faded(nn.Layer):
    """Dropout that scales when it does not drop."""

    def __init__(self):
        super().__init__()
        drop = nn.Dropout(0.25, mode="downscale_in_infer")
        self.body = nn.Sequential(nn.Linear(6, 8), drop, nn.Linear(8, 3))

    def forward(self, x):
        return self.body(x)


class Reader(nn.Layer):
    """Pads by itself, flattens channels last, masks word 0, and pools for nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.conv = nn.Pad2D(1), nn.Conv2D(3, 6, 3)
        self.fc, self.pooler = nn.Linear(4 * 6 * 6, 8), nn.Linear(8, 8)
        self.word_embeddings = nn.Embedding(20, 8)
        self.position_embeddings = nn.Embedding(10, 8)
        self.ln, self.k, self.q = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.bias = self.create_parameter([20], is_bias=True)

    def forward(self, ids, x):
        seen = F.relu(self.conv(self.pad(x))).transpose([0, 2, 3, 1]).flatten(1)
        places = paddle.ones_like(ids).cumsum(1) - 1
        y = self.word_embeddings(ids) + self.position_embeddings(places)
        y = self.ln(y + self.fc(seen).unsqueeze(1))
        self.pooler(y[:, 0])
        y = paddle.tanh(self.q(y)) * self.k(y) * (ids != 0).unsqueeze(-1).astype(y.dtype)
        return paddle.matmul(y, self.word_embeddings.weight, transpose_y=True) + self.bias


class Speaker(nn.Layer):
    """Keys and values in one projection; the table that is made once becomes a buffer."""

    def __init__(self):
        super().__init__()
        self.head, self.lstm = nn.Linear(8, 3), nn.LSTMCell(8, 8)
        self.out, self.kv, self.q = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.gru = nn.GRU(6, 4, direction="bidirect")
        self.table, self.made = self.create_parameter([8]), None

    def forward(self, batch):
        if self.made is None:
            self.made = self.table.exp()
        x, memory = self.gru(batch["frames"])[0], batch["memory"]
        cut = lambda t: t.reshape([0, 0, -1, 4]).transpose([0, 2, 1, 3])  # noqa: E731
        q, (k, v) = cut(self.q(x)), (cut(t) for t in self.kv(memory).chunk(2, -1))
        y = F.softmax(q @ k.transpose([0, 1, 3, 2]) * 0.5, -1) @ v
        y = self.out(y.transpose([0, 2, 1, 3]).reshape(x.shape)) * self.made
        h = c = paddle.zeros_like(y[:, 0])
        for step in y.unbind(1):
            _, (h, c) = self.lstm(step, (h, c))
        return self.head(h)
