"""Shapes that onnx's inference does not know: of what ONNX Runtime's quantizer adds, and of GroupNormalization."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper

DOMAIN = "com.microsoft"
STANDARD = ("", "ai.onnx")
"""Names of ONNX's own domain."""

_AXES_ARE_AN_INPUT = 18
"""From this opset on, a reduction takes its axes as an input."""


def with_standard_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace operators of ONNX Runtime by ONNX's own with results of the same shape and type, in place.

    Before: ``QLinearGlobalAveragePool(x, …) → y``. After: ``ReduceMax(x, axes=[2, 3]) → y``.

    The model then computes something else: it serves for shape inference alone. Operators that are not known here stay.
    """
    if not any(_stand_in(node) for node in model.graph.node):
        return model
    opset = next(o.version for o in model.opset_import if o.domain in STANDARD)
    types = {t.name: t.data_type for t in model.graph.initializer}
    types.update({i.name: i.type.tensor_type.elem_type for i in model.graph.input})
    nodes = [new for node in model.graph.node for new in _standing_for(node, opset, types)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _standing_for(node: NodeProto, opset: int, types: dict[str, int]) -> Iterator[NodeProto]:
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    make = _stand_in(node)
    if make is None or attrs.get("channels_last", 0) or attrs.get("ceil_mode", 0):
        yield node
    else:
        yield from make(node, attrs, opset, types)


def _stand_in(node: NodeProto) -> "StandIn | None":
    if node.domain == DOMAIN:
        return _STAND_INS.get(node.op_type)
    return _UNKNOWN_TO_ONNX.get(node.op_type) if node.domain in STANDARD else None


StandIn = Callable[[NodeProto, dict[str, Any], int, dict[str, int]], Iterator[NodeProto]]


def _as(op: str, *positions: int, keep: tuple[str, ...] = ()) -> StandIn:
    """The same operator on plain numbers: these inputs, and these attributes."""

    def make(node: NodeProto, attrs: dict[str, Any], opset: int, types: dict[str, int]) -> Iterator[NodeProto]:
        kept = {name: value for name, value in attrs.items() if name in keep}
        yield helper.make_node(op, [node.input[p] for p in positions], [node.output[0]], node.name, **kept)

    return make


def _concat(node: NodeProto, attrs: dict[str, Any], opset: int, types: dict[str, int]) -> Iterator[NodeProto]:
    yield helper.make_node("Concat", list(node.input[2::3]), [node.output[0]], node.name, axis=attrs["axis"])


def _global_pool(node: NodeProto, attrs: dict[str, Any], opset: int, types: dict[str, int]) -> Iterator[NodeProto]:
    if opset < _AXES_ARE_AN_INPUT:
        yield helper.make_node("ReduceMax", [node.input[0]], [node.output[0]], node.name, axes=[2, 3], keepdims=1)
    else:
        axes = f"{node.output[0]}/axes"
        yield helper.make_node("Constant", [], [axes], value=helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]))
        yield helper.make_node("ReduceMax", [node.input[0], axes], [node.output[0]], node.name, keepdims=1)


def _gemm(node: NodeProto, attrs: dict[str, Any], opset: int, types: dict[str, int]) -> Iterator[NodeProto]:
    quantized = len(node.input) > 8 and node.input[8] in types
    names = (f"{node.output[0]}/float{n}" for n in count())
    left, right, product = next(names), next(names), next(names)
    yield helper.make_node("Cast", [node.input[0]], [left], to=TensorProto.FLOAT)
    yield helper.make_node("Cast", [node.input[3]], [right], to=TensorProto.FLOAT)
    turned = {name: attrs.get(name, 0) for name in ("transA", "transB")}
    yield helper.make_node("Gemm", [left, right], [product], **turned)
    to = types[node.input[8]] if quantized else TensorProto.FLOAT
    yield helper.make_node("Cast", [product], [node.output[0]], node.name, to=to)


def _cast(node: NodeProto, attrs: dict[str, Any], opset: int, types: dict[str, int]) -> Iterator[NodeProto]:
    typed = node.input[1] if node.op_type == "DequantizeLinear" else (*node.input, "", "")[2]
    to = types.get(typed, TensorProto.UINT8 if node.op_type == "QuantizeLinear" else TensorProto.FLOAT)
    yield helper.make_node("Cast", [node.input[0]], [node.output[0]], node.name, to=to)


_STAND_INS: dict[str, StandIn] = {
    **dict.fromkeys(("Gelu", "FastGelu", "QuickGelu"), _as("Identity", 0)),
    "QLinearAdd": _as("Add", 0, 3),
    "QLinearMul": _as("Mul", 0, 3),
    "QLinearSigmoid": _as("Identity", 0),
    "QLinearLeakyRelu": _as("Identity", 0),
    "QLinearSoftmax": _as("Identity", 0),
    "QLinearAveragePool": _as("MaxPool", 0, keep=("auto_pad", "kernel_shape", "pads", "strides")),
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearConcat": _concat,
    "QGemm": _gemm,
    "QuantizeLinear": _cast,
    "DequantizeLinear": _cast,
}

_UNKNOWN_TO_ONNX: dict[str, StandIn] = {"GroupNormalization": _as("Identity", 0)}
"""Operators of ONNX, of whose results its inference says nothing."""
