"""What the operations of a ProgramDesc, Paddle before PIR, are called in PIR.

Both forms know the same operations; a ProgramDesc has older names for them, for their operands
and for some attributes. https://github.com/PaddlePaddle/Paddle/blob/develop/paddle/phi/ops/yaml/op_compat.yaml
"""

from __future__ import annotations

from typing import NamedTuple


class Legacy(NamedTuple):
    """An operation's name in PIR, and those of its operands, result and attributes."""

    kind: str
    slots: str
    """`SLOT=operand`, in any order."""
    result: str = "Out"
    attributes: str = ""
    """`OLD=new`; the others have the same name."""

    def operand(self, slot: str) -> str:
        """Return the name of a slot's operand, empty for one that is of no use here."""
        return _pairs(self.slots).get(slot, "")

    def attribute(self, name: str) -> str:
        """Return an attribute's name in PIR."""
        return _pairs(self.attributes).get(name, name)


def _pairs(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split())
    return {old: new for old, _, new in pairs}


_UNARY = "X=x"
_BINARY = "X=x Y=y"
_CONV = Legacy("conv2d", "Input=x Filter=filter", "Output")
_RESHAPE = Legacy("reshape", "X=x ShapeTensor=shape Shape=shape")
LEGACY: dict[str, Legacy] = {
    "feed": Legacy("data", ""),
    "fetch": Legacy("fetch", _UNARY),
    "conv2d": _CONV,
    "depthwise_conv2d": _CONV._replace(kind="depthwise_conv2d"),
    "batch_norm": Legacy("batch_norm", "X=x Mean=mean Variance=variance Scale=scale Bias=bias", "Y",
                         "data_layout=data_format"),
    "layer_norm": Legacy("layer_norm", "X=x Scale=scale Bias=bias", "Y"),
    "matmul_v2": Legacy("matmul", _BINARY, attributes="trans_x=transpose_x trans_y=transpose_y"),
    "matmul": Legacy("matmul", _BINARY,
                     attributes="transpose_X=transpose_x transpose_Y=transpose_y"),
    "elementwise_add": Legacy("add", _BINARY),
    "elementwise_sub": Legacy("subtract", _BINARY),
    "elementwise_mul": Legacy("multiply", _BINARY),
    "elementwise_div": Legacy("divide", _BINARY),
    "elementwise_pow": Legacy("elementwise_pow", _BINARY),
    "scale": Legacy("scale", "X=x ScaleTensor=scale"),
    "reshape2": _RESHAPE,
    "reshape": _RESHAPE,
    "transpose2": Legacy("transpose", _UNARY, attributes="axis=perm"),
    "flatten_contiguous_range": Legacy("flatten", _UNARY),
    "unsqueeze2": Legacy("unsqueeze", "X=x AxesTensor=axis", attributes="axes=axis"),
    "squeeze2": Legacy("squeeze", _UNARY, attributes="axes=axis"),
    "split": Legacy("split", "X=x AxisTensor=axis"),
    "slice": Legacy("slice", "Input=x StartsTensor=starts EndsTensor=ends StartsTensorList=starts"
                    " EndsTensorList=ends"),
    "strided_slice": Legacy("strided_slice", "Input=x"),
    "concat": Legacy("concat", "X=x AxisTensor=axis"),
    "stack": Legacy("stack", _UNARY, "Y"),
    "unbind": Legacy("unbind", _UNARY),
    "expand_v2": Legacy("expand", "X=x Shape=shape expand_shapes_tensor=shape"),
    "expand_as_v2": Legacy("expand_as", _BINARY),
    "tile": Legacy("tile", "X=x RepeatTimes=repeat_times"),
    "softmax": Legacy("softmax", _UNARY),
    "gelu": Legacy("gelu", _UNARY),
    "pool2d": Legacy("pool2d", _UNARY, attributes="ksize=kernel_size"),
    "max_pool2d_with_index": Legacy("max_pool2d_with_index", _UNARY,
                                    attributes="ksize=kernel_size"),
    "reduce_mean": Legacy("mean", _UNARY, attributes="dim=axis keep_dim=keepdim"),
    "roll": Legacy("roll", "X=x ShiftsTensor=shifts"),
    "gather": Legacy("gather", "X=x Index=index Axis=axis"),
    "gather_nd": Legacy("gather_nd", "X=x Index=index"),
    "index_select": Legacy("index_select", "X=x Index=index", attributes="dim=axis"),
    "shape": Legacy("shape", "Input=x"),
    "fill_constant": Legacy("full", "ShapeTensor=shape ValueTensor=value"),
    "cast": Legacy("cast", _UNARY, attributes="out_dtype=dtype"),
    "assign": Legacy("assign", _UNARY),
    "dropout": Legacy("dropout", _UNARY, attributes="dropout_implementation=mode"),
    **{kind: Legacy(kind, _UNARY) for kind in
       ("relu", "sigmoid", "tanh", "erf", "sqrt", "exp", "abs", "swish", "silu", "hard_swish",
        "hard_sigmoid", "square")},
}  # fmt: skip
"""Operations of a ProgramDesc that porter reads."""
