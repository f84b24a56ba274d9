"""Reduce a tidied graph to what computes (`porter.onnx.graph.flow`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from porter.errors import InputError, printable
from porter.onnx.graph.flow import Data, Flow, Layer, Norm, common_parts, part_of
from porter.onnx.graph.statics import (
    VIEWS,
    Seen,
    constant_of,
    follow_constant,
    follow_weight,
    is_scalar,
    slices,
)
from porter.onnx.graph.steps import Permute, Static, squeezed
from porter.onnx.graph.values import Graph, Node
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape


def reduce(
    graph: Graph, constants: Mapping[str, Array | None] | None = None, *, scalars: bool = False
) -> Flow:
    """Reduce a tidied graph; its first input is the image, the others are weights.

    `constants` gives those of the inputs whose values are known (index tables); what is given as
    None (masks) counts for nothing. With `scalars`, adding a number or multiplying by one is a
    layer, as it is where weights have one element. `InputError` names a malformed node.
    """
    reducer = _Reducer(graph, constants or {}, scalars)
    return reducer.flow.alive([value.layer for value in reducer.results()])


_COMMUTATIVE = {"Add", "Mul"}
_OUTPUTS = {"Conv": 0, "ConvTranspose": 1, "linear": 1}
"""{layer: axis of its weight that its outputs have}"""
_NORMS = {"LayerNormalization", "InstanceNormalization", "GroupNormalization"}
_ALIKE = {"ReduceMean": "mean", "GlobalAveragePool": "mean"}
"""{operation: label}, where exporters choose between two."""


class _Reducer:
    """Walks over the nodes in order."""

    def __init__(self, graph: Graph, constants: Mapping[str, Array | None], scalars: bool) -> None:
        self._scalars = scalars
        image, *weights = graph.inputs
        self._shapes = {**graph.values, **{v.name: v for v in (*graph.inputs, *graph.outputs)}}
        self._env: dict[str, Seen] = {image.name: Data(0)}
        for weight in weights:
            shape = tuple(d if isinstance(d, int) else 0 for d in weight.dims)
            self._env[weight.name] = constants.get(weight.name, Static(weight.name, shape))
        self.flow = Flow([Layer(("image",), [])], [])
        self._readers = Counter(name for node in graph.nodes for name in node.inputs)
        self._added: dict[str, float] = {}
        """{value: the scalar that was added to get it}"""
        self._outputs = [value.name for value in graph.outputs]
        for node in graph.nodes:
            try:
                self._take(node)
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                # an untrusted node may lack an input or an attribute, or state a wrong shape
                where = printable(node.name or node.outputs[:1])
                raise InputError(f"the {printable(node.op)} {where} is malformed") from error

    def results(self) -> list[Data]:
        """Return the outputs that are data."""
        found = (self._env.get(name) for name in self._outputs)
        return [value for value in found if isinstance(value, Data)]

    def _shape(self, name: str) -> Shape | None:
        """Return a value's shape, None where a size is not known."""
        value = self._shapes.get(name)
        if (
            value is None
            or not value.is_ranked
            or not all(isinstance(d, int) and d >= 0 for d in value.dims)
        ):
            return None
        return tuple(d for d in value.dims if isinstance(d, int))

    def _take(self, node: Node) -> None:
        seen = [self._env.get(name) for name in node.inputs]
        if node.op == "Constant":
            self._set(node, constant_of(node))
        elif node.op in ("Shape", "Size"):
            self._set(node, None)
        elif any(isinstance(value, Data) for value in seen):
            self._take_data(node, seen)
        else:
            is_weight = any(isinstance(value, Static) for value in seen)
            follow = follow_weight if is_weight else follow_constant
            self._set(node, follow(node, seen, self._shape(node.outputs[0])))

    def _take_data(self, node: Node, seen: list[Seen]) -> None:
        first = next(value for value in seen if isinstance(value, Data))
        if node.op in VIEWS or (node.op == "Pad" and _pads_with_constant(node)):
            self._set(node, first)
        elif node.op == "Split":
            self._split(node, first, seen)
        elif node.op == "Slice":
            self._set(node, self._sliced(node, first, seen))
        elif node.op == "Gather":
            self._set(node, self._picked(node, first, seen))
        elif node.op == "BatchNormalization":
            self._batch_norm(node, first, seen)
        elif node.op in ("MatMul", "Gemm") and any(isinstance(v, Static) for v in seen):
            self._linear(node, seen)
        elif node.op in ("Conv", "ConvTranspose"):
            self._conv(node, first, seen)
        elif node.op == "HardSwish":
            gate = self._add_layer(node, ("HardSigmoid",), [first])
            self._set(node, self._add_layer(node, ("Mul",), [first, gate], ordered=False))
        elif node.op == "Clip":
            self._set(node, self._add_layer(node, ("HardSigmoid",), [self._scaled(first)]))
        elif node.op == "Sqrt":
            self._set(node, self._add_layer(node, ("Sqrt",), [self._shifted(first)]))
        elif node.op == "LayerNormalization":
            self._layer_norm(node, first, seen)
        elif node.op in ("Add", "Mul", "Sub", "Div", "Pow"):
            self._arithmetic(node, seen)
        elif node.op == "Concat":
            self._concat(node, seen)
        else:
            self._set(node, self._add_layer(node, (_ALIKE.get(node.op, node.op),), seen))

    def _set(self, node: Node, value: Seen) -> None:
        self._env[node.outputs[0]] = value

    def _add_layer(
        self,
        node: Node,
        label: tuple[object, ...],
        seen: Sequence[Seen],
        slots: dict[str, Static] | None = None,
        *,
        ordered: bool = True,
    ) -> Data:
        operands = [value for value in seen if isinstance(value, Data)]
        layer = Layer(label, operands, slots or {}, [node.name], ordered, self._epsilon(node))
        self.flow.layers.append(layer)
        return Data(len(self.flow.layers) - 1)

    def _epsilon(self, node: Node) -> float | None:
        """Return the epsilon of a norm, or what is added below a root."""
        if node.op == "Sqrt":
            return self._added.get(node.inputs[0])
        found = node.get("epsilon", 1e-5 if node.op in _NORMS else None)
        return found if isinstance(found, float) else None

    def _split(self, node: Node, data: Data, seen: list[Seen]) -> None:
        sizes = seen[1].tolist() if len(seen) > 1 and isinstance(seen[1], np.ndarray) else None
        sizes = sizes or node.get("split") or [1] * len(node.outputs)
        total, begin = sum(sizes), 0  # type: ignore[arg-type]
        for name, size in zip(node.outputs, sizes, strict=True):  # type: ignore[arg-type]
            self._env[name] = part_of(data, begin, size, 1, total)
            begin += size

    def _sliced(self, node: Node, data: Data, seen: list[Seen]) -> Data:
        shape = self._shape(node.inputs[0])
        if shape is None:
            return data
        for axis, begin, end, step in slices(node, seen, shape):
            size = shape[axis]
            if (begin, end, step) != (0, size, 1):
                data = part_of(data, begin, end - begin, step, size)
        return data

    def _picked(self, node: Node, data: Data, seen: list[Seen]) -> Data:
        shape, index = self._shape(node.inputs[0]), seen[1]
        axis = node.get("axis", 0)
        if shape is None or not isinstance(index, np.ndarray) or index.size != 1:
            return self._add_layer(node, ("Gather",), seen)
        size = shape[axis]  # type: ignore[index]
        return part_of(data, int(index.reshape(())) % size, 1, 1, size)

    def _batch_norm(self, node: Node, data: Data, seen: list[Seen]) -> None:
        names = ("weight", "bias", "running_mean", "running_var")
        slots = {n: s for n, s in zip(names, seen[1:], strict=True) if isinstance(s, Static)}
        epsilon = node.get("epsilon", 1e-5)
        assert isinstance(epsilon, float)
        if not self._is_foldable(node, data):
            self._set(node, self._add_layer(node, ("batch norm",), [data], slots))
            return
        self.flow.norms.append(Norm(data, slots, epsilon))
        self._set(node, data)

    def _is_foldable(self, node: Node, data: Data) -> bool:
        """Whether a batch norm follows a layer whose output nothing else reads."""
        is_layer = self.flow.layers[data.layer].label[0] in _OUTPUTS
        is_only = self._readers[node.inputs[0]] == 1
        return is_layer and is_only and not data.parts and not self._normed(data)

    def _linear(self, node: Node, seen: list[Seen]) -> None:
        left, weight = seen[0], seen[1]
        if not isinstance(weight, Static) or not isinstance(left, Data):
            self._set(node, self._add_layer(node, (node.op, "left"), seen))
            return
        if node.op == "Gemm" and node.get("transB", 0):
            weight = weight.then(Permute((1, 0)))
        slots = {"weight": weight, **self._bias(node, seen)}
        shape = weight.shape
        while len(shape) > 2 and shape[0] == 1:  # a batch of one, where it is stated
            shape = shape[1:]
        self._set(node, self._add_layer(node, ("linear", shape), seen[:1], slots))

    def _conv(self, node: Node, data: Data, seen: list[Seen]) -> None:
        if isinstance(seen[1], Data):  # computed from the picture
            computed = (node.op, node.get("group", 1))
            self._set(node, self._add_layer(node, computed, seen, self._bias(node, seen)))
            return
        if not isinstance(seen[1], Static):
            raise InputError(f"{printable(node.name or node.op)} has no weight that is a constant")
        slots = {"weight": seen[1], **self._bias(node, seen)}
        label = (node.op, seen[1].shape, node.get("group", 1))
        self._set(node, self._add_layer(node, label, [data], slots))

    def _bias(self, node: Node, seen: list[Seen]) -> dict[str, Static]:
        """Return the bias that a layer has as its third input; one of one element is a constant."""
        bias = seen[2] if len(seen) > 2 else None
        if isinstance(bias, np.ndarray) and bias.size == 1:
            bias = self._scalar(node.inputs[2], bias)
        return {"bias": bias} if isinstance(bias, Static) else {}

    def _scaled(self, data: Data) -> Data:
        """Return what a gate scales and shifts by numbers before it is cut to 0 and 1."""
        shifted = self._shifted(data)
        return self._shifted(shifted, "Mul") if shifted != data else data

    def _shifted(self, data: Data, op: str = "Add") -> Data:
        """Return what a number was added to, as an epsilon below a root."""
        layer = self.flow.layers[data.layer]
        if layer.label != (op, ()) or layer.slots["weight"].root not in self.flow.scalars:
            return data
        return layer.operands[0]

    def _layer_norm(self, node: Node, data: Data, seen: list[Seen]) -> None:
        slots = {n: s for n, s in zip(("weight", "bias"), seen[1:], strict=False)
                 if isinstance(s, Static)}  # fmt: skip
        self._set(node, self._add_layer(node, ("norm",), [data], slots))

    def _concat(self, node: Node, seen: list[Seen]) -> None:
        datas = [value for value in seen if isinstance(value, Data)]
        if len(datas) == len(seen) and len({data.layer for data in datas}) == 1:
            self._set(node, Data(datas[0].layer, common_parts([data.parts for data in datas])))
            return
        operands = [self._parameter(node, v) if isinstance(v, Static) else v for v in seen]
        self._set(node, self._add_layer(node, ("Concat",), operands))

    def _parameter(self, node: Node, static: Static) -> Data:
        return self._add_layer(node, ("parameter", squeezed(static.shape)), [], {"weight": static})

    def _arithmetic(self, node: Node, seen: list[Seen]) -> None:
        if len(seen) == 2 and not all(isinstance(value, Data) for value in seen):
            data, other = (seen[0], seen[1]) if isinstance(seen[0], Data) else (seen[1], seen[0])
            assert isinstance(data, Data)
            self._set(node, self._with_static(node, data, other))
            return
        one, other = seen
        assert isinstance(one, Data)
        assert isinstance(other, Data)
        self._set(node, self._pattern(node, one, other))

    def _with_static(self, node: Node, data: Data, other: Seen) -> Data:
        """Add or multiply by a value that is not data: a bias, a scale, a table, or a scalar."""
        if not isinstance(other, Static):
            if node.op == "Pow" and not data.parts:
                return self._add_layer(node, ("square",), [data])
            if isinstance(other, np.ndarray) and is_scalar(other):
                if node.op == "Add":
                    self._added[node.outputs[0]] = float(other.reshape(()))
                if self._scalars and node.op in _COMMUTATIVE:
                    slots = {"weight": self._scalar(self._constant(node), other)}
                    return self._add_layer(node, (node.op, ()), [data], slots)
                if node.op == "Add":
                    self._add_scalar(node, data, other)
                return data
            if other is None:
                return data
            return self._add_layer(node, (node.op, "constant"), [data])
        layer = self.flow.layers[data.layer]
        kind, flat = layer.label[0], squeezed(other.shape)
        role = {"Add": "bias", "Mul": "weight"}.get(node.op, "")
        takes = {
            "linear": ("bias",), "Conv": ("bias",), "ConvTranspose": ("bias",),
            "norm": ("weight", "bias"),
        }  # fmt: skip
        if (
            role in takes.get(str(kind), ())
            and role not in layer.slots
            and not data.parts
            and len(flat) <= 1
            and not self._normed(data)
        ):
            layer.slots[role] = other
            layer.places.append(node.name)
            return data
        return self._add_layer(node, (node.op, flat), [data], {"weight": other})

    def _add_scalar(self, node: Node, data: Data, other: Array) -> None:
        """Note what is added: the bias of a layer of one output, or a part of a formula."""
        layer = self.flow.layers[data.layer]
        axis = _OUTPUTS.get(str(layer.label[0]))
        if axis is None or "bias" in layer.slots or layer.slots["weight"].shape[axis] != 1:
            return
        if self._normed(data):
            return
        layer.slots["bias"] = self._scalar(self._constant(node), other)

    def _constant(self, node: Node) -> str:
        """Return the name of the constant that a node adds, or multiplies by."""
        return next(n for n in node.inputs if isinstance(self._env.get(n), np.ndarray))

    def _scalar(self, name: str, value: Array) -> Static:
        """Return a constant of one element as a weight."""
        self.flow.scalars[name] = value.reshape(1)
        return Static(name, (1,))

    def _normed(self, data: Data) -> bool:
        return any(norm.data == data for norm in self.flow.norms)

    def _pattern(self, node: Node, one: Data, other: Data) -> Data:
        """Combine two data; recognise GELU and LayerNorm that were taken to pieces."""
        op, layers = node.op, self.flow.layers
        kinds = [layers[data.layer].label[0] for data in (one, other)]
        for x, y, kind in ((one, other, kinds[1]), (other, one, kinds[0])):
            if op == "Mul" and kind == "Erf" and layers[y.layer].operands == [x]:
                return self._add_layer(node, ("Gelu",), [x])
        if op == "Sub" and kinds[1] == "mean" and layers[other.layer].operands == [one]:
            return self._add_layer(node, ("centred",), [one])
        if op == "Mul" and one == other:
            return self._add_layer(node, ("square",), [one])
        if op == "Div" and kinds == ["centred", "Sqrt"] and self._is_deviation(one, other):
            norm = self._add_layer(node, ("norm",), layers[one.layer].operands)
            layers[norm.layer].epsilon = layers[other.layer].epsilon
            return norm
        return self._add_layer(node, (op,), [one, other], ordered=op not in _COMMUTATIVE)

    def _is_deviation(self, centred: Data, root: Data) -> bool:
        """Whether `root` is the square root of the mean of the squares of `centred`."""
        layers, data = self.flow.layers, root
        for kind in ("Sqrt", "mean", "square"):
            layer = layers[data.layer]
            if layer.label != (kind,) or len(layer.operands) != 1:
                return False
            data = layer.operands[0]
        # two exporters compute the difference twice
        return data == centred or layers[data.layer].operands == layers[centred.layer].operands


def _pads_with_constant(node: Node) -> bool:
    """Whether it is padding that others leave to the convolution or pool after it."""
    return node.get("mode", b"constant") == b"constant"
