"""What each operator does to the batch axis: the one table of batch rules.

A tensor *is a batch along axis a* if, for Q queries computed together, it is the concatenation along axis a of what
the model makes for each query alone. Its extent there is then Q times the extent for one image, which is mostly, but
need not be, one. A rule answers: given the axes of the inputs, along which axis are the outputs a batch? Any doubt is
a `Doubt` with its reason.
"""

import math
from collections.abc import Iterable, Mapping

import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.batch_layout import LAYOUT_RULES
from krypton_onnx.passes.batch_operands import (
    ALONG,
    COMPUTED,
    MIXED,
    PARAMETERS,
    SEVERAL,
    SUMMED,
    Doubt,
    Operand,
    Rule,
    known_integers,
    only_first,
    parallel,
    result_rank,
    spread,
)
from krypton_onnx.passes.network import outputs, static_shape
from krypton_onnx.passes.rules.elementwise import NARY, UNARY


def batch_rule(node: gs.Node, axes: Mapping[str, int]) -> int | Doubt:
    """The axis along which all outputs of a node are a batch.

    Args:
        node: with the shapes that its tensors have for one image.
        axes: the batch axis of every input that depends on the image, by name. There is at least one.
    """
    rule = None if network.has_subgraph(node) else _RULES.get(_qualified(node))
    if rule is None:
        return Doubt("no batch rule for this operator")
    operands = [Operand(t, static_shape(t), axes.get(t.name)) for t in node.inputs]
    results = [static_shape(t) for t in outputs(node)]
    if any(s is None for s in results) or any(o.shape is None for o in operands if o.moves):
        return Doubt("its shape is not known")
    if any(0 in (s or ()) for s in results):
        return Doubt("its result is empty")
    return rule(node, operands)


def _qualified(node: gs.Node) -> str:
    domain = network.domain(node)
    return f"{domain}.{node.op}" if domain else node.op


# ------------------------------------------------------------------------------------------------ elementwise


def _elementwise(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moving = [o for o in operands if o.moves]
    if not parallel(moving):
        return MIXED
    if not all(spread(o, moving[0].place) for o in operands if not o.moves):
        return Doubt("a constant operand has an extent on the batch axis")
    return result_rank(node) + moving[0].place


def _quantize(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    moved, scale = only_first(operands), operands[1].shape
    if moved is None:
        return PARAMETERS
    shape, axis = moved
    if scale is None or len(scale) > 1 or node.attrs.get("block_size", 0):
        return Doubt("its scale is neither one number nor one a channel")
    if math.prod(scale) == 1:
        return axis
    return axis if node.attrs.get("axis", 1) % len(shape) != axis else ALONG


# ------------------------------------------------------------------------------- operators that know of a batch


def _rows(*positions: int) -> Rule:
    """Operators on [N, …] that never look across N; the inputs at these positions have it as their first axis."""

    def rule(node: gs.Node, operands: list[Operand]) -> int | Doubt:
        rows = [o for i, o in enumerate(operands) if i in positions and not network.is_absent(o.tensor)]
        if any(o.moves and o not in rows for o in operands):
            return PARAMETERS
        if not all(o.axis == 0 for o in rows):
            return Doubt("its first axis is not the batch")
        return 0 if len({o.share for o in rows}) == 1 else MIXED

    return rule


def _max_pool(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    if len(outputs(node)) > 1:
        return Doubt("its indices count across the batch")
    return _rows(0)(node, operands)


# --------------------------------------------------------------------------------------- along some of the axes


def _along(default: int) -> Rule:
    """Operators that work along one axis, their attribute, and keep all of them."""

    def rule(node: gs.Node, operands: list[Operand]) -> int | Doubt:
        return _beside(operands, node.attrs.get("axis", default))

    return rule


def _cumulative(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    along = known_integers(node, 1)
    return COMPUTED if along is None else _beside(operands, along[0])


def _beside(operands: list[Operand], along: int) -> int | Doubt:
    """The first operand's axis, unless it is the one that is worked along."""
    moved = only_first(operands)
    if moved is None:
        return COMPUTED
    shape, axis = moved
    return axis if along % len(shape) != axis else ALONG


def _reduced(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    """Reductions, whose axes are an attribute (up to opset 17) or an input."""
    given = network.input_or_none(node, 1) is not None
    axes = known_integers(node, 1) if given else node.attrs.get("axes", [])
    if axes is None:
        return COMPUTED
    if len(axes) == 0 and not node.attrs.get("noop_with_empty_axes", 0):
        axes = range(len(operands[0].shape or ()))
    return _without(operands, axes, keepdims=bool(node.attrs.get("keepdims", 1)))


def _arg(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    return _without(operands, [node.attrs.get("axis", 0)], keepdims=bool(node.attrs.get("keepdims", 1)))


def _mean_variance(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    return _without(operands, node.attrs.get("axes", [0, 2, 3]), keepdims=True)


def _without(operands: list[Operand], axes: Iterable[int], *, keepdims: bool) -> int | Doubt:
    moved = only_first(operands)
    if moved is None:
        return COMPUTED
    shape, axis = moved
    reduced = {int(a) % len(shape) for a in axes}
    if axis in reduced:
        return Doubt("it reduces the batch axis")
    return axis if keepdims else axis - sum(a < axis for a in reduced)


def _from_axis_on(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    """Normalization over an axis and all behind it."""
    moved = only_first(operands)
    if moved is None:
        return PARAMETERS
    shape, axis = moved
    if axis >= node.attrs.get("axis", -1) % len(shape):
        return ALONG
    return axis if all(spread(o, axis - len(shape)) for o in operands[1:]) else PARAMETERS


# ------------------------------------------------------------------------------------------------------ products


def _mat_mul(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    return _product(node, operands[0], operands[1])


def _mat_mul_integer(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    left, right, *zeros = operands
    return _quantized_product(node, left, right, zeros[:1], zeros[1:])


def _qlinear_mat_mul(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    left, right = operands[0], operands[3]
    return _quantized_product(node, left, right, operands[1:3] + operands[6:], operands[4:6] + operands[6:])


def _quantized_product(
    node: gs.Node, left: Operand, right: Operand, of_left: list[Operand], of_right: list[Operand]
) -> int | Doubt:
    if any(o.moves for o in (*of_left, *of_right)):
        return PARAMETERS
    quantized = [o for factor, parameters in ((left, of_left), (right, of_right)) if factor.moves for o in parameters]
    return _product(node, left, right) if all(_is_single(o) for o in quantized) else SEVERAL


def _is_single(operand: Operand) -> bool:
    return network.is_absent(operand.tensor) or (operand.shape is not None and math.prod(operand.shape) == 1)


def _product(node: gs.Node, left: Operand, right: Operand) -> int | Doubt:
    if any(o.shape is None or len(o.shape) < 2 for o in (left, right)):
        return Doubt("a product with a vector")
    if all(o.place < -2 for o in (left, right) if o.moves):
        return _elementwise(node, [left, right])
    if left.moves and not right.moves and left.place == -2:
        return result_rank(node) - 2
    if right.moves and not left.moves and right.place == -1:
        return result_rank(node) - 1
    return SUMMED


def _gemm(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    return _rows_of_product(node, operands, operands[2:3])


def _qgemm(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    return _rows_of_product(node, operands, operands[6:7]) if all(map(_is_single, operands[1:3])) else SEVERAL


def _rows_of_product(node: gs.Node, operands: list[Operand], addend: list[Operand]) -> int | Doubt:
    moved = only_first(operands)
    if moved is None:
        return Doubt("it is no product with a constant matrix")
    if moved[1] != (1 if node.attrs.get("transA", 0) else 0):
        return SUMMED
    return 0 if all(spread(o, -2) for o in addend) else Doubt("a constant operand has an extent on the batch axis")


def _einsum(node: gs.Node, operands: list[Operand]) -> int | Doubt:
    equation = node.attrs["equation"].replace(" ", "")
    if "." in equation or "->" not in equation:
        return Doubt("its equation is not explicit")
    sides = equation.split("->")
    terms, result = sides[0].split(","), sides[1]
    batch = {t[o.axis] for t, o in zip(terms, operands, strict=True) if o.axis is not None}
    if len(batch) != 1 or len({o.share for o in operands if o.moves}) != 1:
        return MIXED
    (letter,) = batch
    if any(t.count(letter) != o.moves for t, o in zip(terms, operands, strict=True)):
        return Doubt("a constant operand has an extent on the batch axis")
    return result.index(letter) if letter in result else SUMMED


_RULES: dict[str, Rule] = {
    **LAYOUT_RULES,
    **dict.fromkeys(UNARY | NARY | {"Dropout"}, _elementwise),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize),
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "BatchNormalization"), _rows(0)),
    **dict.fromkeys(("AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN"), _rows(0)),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth"), _rows(0)),
    "MaxPool": _max_pool,
    "GridSample": _rows(0, 1),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK"), _along(-1)),
    "Split": _along(0),
    "CumSum": _cumulative,
    "ArgMax": _arg,
    "ArgMin": _arg,
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"), _reduced),
    **dict.fromkeys(("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), _reduced),
    "MeanVarianceNormalization": _mean_variance,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _from_axis_on),
    "MatMul": _mat_mul,
    "MatMulInteger": _mat_mul_integer,
    "QLinearMatMul": _qlinear_mat_mul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    **dict.fromkeys(("com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear"), _quantize),
    **dict.fromkeys(("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul"), _elementwise),
    **dict.fromkeys(("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu"), _elementwise),
    "com.microsoft.QLinearSoftmax": _from_axis_on,
    **dict.fromkeys(("com.microsoft.QLinearGlobalAveragePool", "com.microsoft.QLinearAveragePool"), _rows(0)),
    "com.microsoft.QGemm": _qgemm,
}
