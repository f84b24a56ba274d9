"""What each operation of a Paddle program is in ONNX: one function for each.

A function gets a `Call`, adds the nodes that compute the same and returns the name of the result,
or of several. https://www.paddlepaddle.org.cn/documentation/docs/en/api/index_en.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from porter.onnx.program.call import Call, Unreadable

Results = str | list[str]
"""The name of a result, or those of several."""
Rule = Callable[[Call], Results]
LONGEST_CONSTANT = 1 << 20
"""Elements."""


def _check_size(shape: Sequence[int]) -> None:
    """Raise `Unreadable` for a constant that is too large."""
    if min(shape, default=0) < 0 or np.prod(shape, dtype=float) > LONGEST_CONSTANT:
        raise Unreadable(f"a constant of shape {list(shape)}")


def _same(call: Call) -> Results:
    return call.one("x")


def _unary(op: str) -> Callable[[Call], Results]:
    return lambda call: call.node(op, [call.one("x")])


def _binary(op: str) -> Callable[[Call], Results]:
    def rule(call: Call) -> Results:
        one, other, axis = call.one("x"), call.one("y"), call.integer("axis", -1)
        missing = len(call.dims("x")) - len(call.dims("y")) - axis if axis != -1 else 0
        if missing > 0:  # the second one's axes begin at `axis` of the first
            places = list(range(len(call.dims("y")), len(call.dims("y")) + missing))
            other = call.node("Unsqueeze", [other, call.constant(places)])
        return call.node(op, [one, other])

    return rule


def _matmul(call: Call) -> Results:
    if call.number("alpha", 1.0) != 1.0:
        raise Unreadable("a matmul with a factor")
    sides = []
    for slot, flag in (("x", "transpose_x"), ("y", "transpose_y")):
        name, rank = call.one(slot), len(call.dims(slot))
        if call.flag(flag) and rank > 1:
            perm = [*range(rank - 2), rank - 1, rank - 2]
            name = call.node("Transpose", [name], perm=perm)
        sides.append(name)
    return call.node("MatMul", sides)


def _pads(call: Call) -> dict[str, object]:
    """Return how a convolution or a pooling pads, as attributes."""
    algorithm = call.text("padding_algorithm", "EXPLICIT")
    if algorithm == "SAME":
        return {"auto_pad": "SAME_UPPER"}
    sizes = call.integers("paddings", [0, 0]) if algorithm == "EXPLICIT" else [0, 0]
    if len(sizes) == 2:
        top, left = sizes
        return {"pads": [top, left, top, left]}
    top, bottom, left, right = sizes
    return {"pads": [top, left, bottom, right]}


def _conv(call: Call) -> Results:
    call.need_channels_first()
    return call.node(
        "Conv", [call.one("x"), call.one("filter")], strides=call.integers("strides"),
        dilations=call.integers("dilations", [1, 1]), group=call.integer("groups", 1),
        **_pads(call),
    )  # fmt: skip


def _pool(call: Call) -> Results:
    call.need_channels_first()
    is_max, x = call.text("pooling_type", "max") == "max", call.one("x")
    size = call.integers("kernel_size")
    if call.flag("global_pooling") or (call.flag("adaptive") and size == [1, 1]):
        return call.node("GlobalMaxPool" if is_max else "GlobalAveragePool", [x])
    strides, pads = call.integers("strides"), _pads(call)
    if call.flag("adaptive"):
        sides = call.dims("x")[2:]
        if any(side < 1 or side % n for side, n in zip(sides, size, strict=True)):
            raise Unreadable(f"a pooling of {list(sides)} to {size}")
        strides = size = [side // n for side, n in zip(sides, size, strict=True)]
        pads = {}
    options = {"kernel_shape": size, "strides": strides, **pads}
    options["ceil_mode"] = int(call.flag("ceil_mode"))
    if not is_max:
        options["count_include_pad"] = int(not call.flag("exclusive", True))
    return call.node("MaxPool" if is_max else "AveragePool", [x], **options)


def _batch_norm(call: Call) -> Results:
    call.need_channels_first()
    names = [call.one(slot) for slot in ("x", "scale", "bias", "mean", "variance")]
    if not call.flag("is_test"):
        raise Unreadable("a batch norm that is being trained")
    return call.node("BatchNormalization", names, epsilon=call.number("epsilon", 1e-5))


def _layer_norm(call: Call) -> Results:
    axis = call.integer("begin_norm_axis", 1)
    dims, scale, bias = call.dims("x")[axis:], call.maybe("scale"), call.maybe("bias")
    if scale is None:
        _check_size(dims)
        scale = call.constant(np.ones(dims, np.float32))
    names = [call.one("x"), scale, *([] if bias is None else [bias])]
    return call.node("LayerNormalization", names, axis=axis, epsilon=call.number("epsilon", 1e-5))


def _gelu(call: Call) -> Results:
    how = "tanh" if call.flag("approximate") else "none"
    return call.node("Gelu", [call.one("x")], approximate=how)


def _softmax(call: Call) -> Results:
    return call.node("Softmax", [call.one("x")], axis=call.integer("axis", -1))


def _swish(call: Call) -> Results:
    if call.number("beta", 1.0) != 1.0:
        raise Unreadable("a swish with a factor")
    x = call.one("x")
    return call.node("Mul", [x, call.node("Sigmoid", [x])])


def _square(call: Call) -> Results:
    x = call.one("x")
    return call.node("Mul", [x, x])


def _scale(call: Call) -> Results:
    x, bias = call.one("x"), call.number("bias", 0.0)
    factor = call.maybe("scale") or call.scalar(call.number("scale", 1.0))
    if bias and not call.flag("bias_after_scale", True):
        x, bias = call.node("Add", [x, call.scalar(bias)]), 0.0
    scaled = call.node("Mul", [x, factor])
    return call.node("Add", [scaled, call.scalar(bias)]) if bias else scaled


def _reshape(call: Call) -> Results:
    return call.node("Reshape", [call.one("x"), call.shape("shape")])


def _flatten(call: Call) -> Results:
    dims = call.dims("x")
    start, stop = (call.integer(name) % len(dims) for name in ("start_axis", "stop_axis"))
    merged, after = dims[start : stop + 1], dims[stop + 1 :]
    joined = -1 if min(merged, default=1) < 0 else int(np.prod(merged))
    return call.node("Reshape", [call.one("x"), call.constant([0] * start + [joined, *after])])


def _transpose(call: Call) -> Results:
    return call.node("Transpose", [call.one("x")], perm=call.integers("perm"))


def _unsqueeze(call: Call) -> Results:
    return call.node("Unsqueeze", [call.one("x"), call.constant(call.integers("axis"))])


def _squeeze(call: Call) -> Results:
    axes = call.integers("axis", [])
    return call.node("Squeeze", [call.one("x"), *([call.constant(axes)] if axes else [])])


def _split(call: Call) -> Results:
    axis, sections = call.integer("axis"), call.integers("sections", [])
    if not sections:
        return _split_evenly(call)
    if -1 in sections:
        rest = call.dims("x")[axis] - sum(sections) - 1
        sections = [rest if size == -1 else size for size in sections]
    inputs = [call.one("x"), call.constant(sections)]
    return call.nodes("Split", inputs, len(sections), axis=axis)


def _split_evenly(call: Call) -> Results:
    many, axis = call.integer("num"), call.integer("axis")
    size = call.dims("x")[axis]
    if not 0 < many <= min(size, LONGEST_CONSTANT) or size % many:
        raise Unreadable(f"an axis of {size} split into {many}")
    sizes = call.constant([size // many] * many)
    return call.nodes("Split", [call.one("x"), sizes], many, axis=axis)


def _unbind(call: Call) -> Results:
    axis = call.integer("axis")
    size = call.dims("x")[axis]
    if not 0 < size < LONGEST_CONSTANT:
        raise Unreadable(f"an axis of {size} taken apart")
    x = call.one("x")
    return [call.node("Gather", [x, call.constant(at)], axis=axis) for at in range(size)]


def _slice(call: Call) -> Results:
    axes = call.integers("axes")
    starts, ends = call.shape("starts"), call.shape("ends")
    found = call.node("Slice", [call.one("x"), starts, ends, call.constant(axes)])
    gone = call.integers("decrease_axis", [])
    return call.node("Squeeze", [found, call.constant(gone)]) if gone else found


def _strided_slice(call: Call) -> Results:
    axes, starts, ends, steps = (
        call.constant(call.integers(name)) for name in ("axes", "starts", "ends", "strides")
    )
    return call.node("Slice", [call.one("x"), starts, ends, axes, steps])


def _concat(call: Call) -> Results:
    return call.node("Concat", call.many("x"), axis=call.integer("axis", 0))


def _stack(call: Call) -> Results:
    axis = call.integer("axis", 0)
    wide = [call.node("Unsqueeze", [name, call.constant([axis])]) for name in call.many("x")]
    return call.node("Concat", wide, axis=axis)


def _expand(call: Call) -> Results:
    return call.node("Expand", [call.one("x"), call.shape("shape", least=1)])


def _expand_as(call: Call) -> Results:
    like = call.maybe("y")
    shape = call.shape("target_shape", least=1) if like is None else call.node("Shape", [like])
    return call.node("Expand", [call.one("x"), shape])


def _tile(call: Call) -> Results:
    return call.node("Tile", [call.one("x"), call.shape("repeat_times")])


def _mean(call: Call) -> Results:
    axes = [] if call.flag("reduce_all") else call.integers("axis", [])
    names = [call.one("x"), *([call.constant(axes)] if axes else [])]
    return call.node("ReduceMean", names, keepdims=int(call.flag("keepdim")))


def _roll(call: Call) -> Results:
    found = call.one("x")
    for axis, shift in zip(call.integers("axis"), call.integers("shifts"), strict=True):
        size = call.dims("x")[axis]
        if size < 1:
            raise Unreadable("an axis of open size that is rolled")
        cut = -shift % size
        parts = [
            call.node("Slice", [found, *(call.constant([n]) for n in (begin, end, axis))])
            for begin, end in ((cut, size), (0, cut))
        ]
        found = call.node("Concat", parts, axis=axis) if cut else found
    return found


def _gather(call: Call) -> Results:
    return call.node("Gather", [call.one("x"), call.one("index")], axis=call.integer("axis", 0))


def _gather_nd(call: Call) -> Results:
    return call.node("GatherND", [call.one("x"), call.one("index")])


def _full(call: Call) -> Results:
    shape, value = call.integers("shape", []), call.number("value", 0.0)
    _check_size(shape)
    return call.constant(np.full(shape, value, call.dtype()))


def _full_int_array(call: Call) -> Results:
    return call.constant(call.integers("value"))


def _dropout(call: Call) -> Results:
    if call.text("mode") == "downgrade_in_infer":
        raise Unreadable("a dropout that scales what it does not drop")
    return call.one("x")


def _cast(call: Call) -> Results:
    code = call.element_type()
    return call.node("Cast", [call.one("x")], to=code)


RULES: dict[str, tuple[str, Callable[[Call], Results]]] = {
    "conv2d": ("x filter", _conv),
    "depthwise_conv2d": ("x filter", _conv),
    "batch_norm": ("x mean variance scale bias", _batch_norm),
    "batch_norm_": ("x mean variance scale bias", _batch_norm),
    "layer_norm": ("x scale bias", _layer_norm),
    "matmul": ("x y", _matmul),
    "add": ("x y", _binary("Add")),
    "subtract": ("x y", _binary("Sub")),
    "multiply": ("x y", _binary("Mul")),
    "divide": ("x y", _binary("Div")),
    "elementwise_pow": ("x y", _binary("Pow")),
    "scale": ("x scale", _scale),
    "reshape": ("x shape", _reshape),
    "transpose": ("x", _transpose),
    "flatten": ("x", _flatten),
    "unsqueeze": ("x axis", _unsqueeze),
    "squeeze": ("x axis", _squeeze),
    "split": ("x sections axis", _split),
    "split_with_num": ("x axis", _split_evenly),
    "unbind": ("x", _unbind),
    "slice": ("x starts ends", _slice),
    "strided_slice": ("x starts ends strides", _strided_slice),
    "concat": ("x axis", _concat),
    "stack": ("x", _stack),
    "expand": ("x shape", _expand),
    "expand_as": ("x y", _expand_as),
    "tile": ("x repeat_times", _tile),
    "softmax": ("x", _softmax),
    "gelu": ("x", _gelu),
    "pool2d": ("x kernel_size", _pool),
    "max_pool2d_with_index": ("x", _pool),
    "mean": ("x axis", _mean),
    "roll": ("x shifts", _roll),
    "gather": ("x index axis", _gather),
    "gather_nd": ("x index", _gather_nd),
    "index_select": ("x index", _gather),
    "shape": ("x", _unary("Shape")),
    "shape64": ("x", _unary("Shape")),
    "full": ("", _full),
    "full_int_array": ("", _full_int_array),
    "cast": ("x", _cast),
    "relu": ("x", _unary("Relu")),
    "sigmoid": ("x", _unary("Sigmoid")),
    "tanh": ("x", _unary("Tanh")),
    "erf": ("x", _unary("Erf")),
    "sqrt": ("x", _unary("Sqrt")),
    "exp": ("x", _unary("Exp")),
    "abs": ("x", _unary("Abs")),
    "square": ("x", _square),
    "swish": ("x", _swish),
    "silu": ("x", _swish),
    "dropout": ("x seed p", _dropout),
    "assign": ("x", _same),
    "share_data_": ("x", _same),
}
"""{operation of PIR: (its operands in their order, what it is in ONNX)}"""
