"""What each operator does to a window: the one table of window rules.

A rule answers: may this node run on windows of its image-dependent inputs, and if so, which input cells does one
output cell read and what lies beyond the border? Any doubt is a `NoRule` with its reason; the node then runs
dense, which costs speed and never correctness.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.geometry import Sliding
from krypton_onnx.passes import network
from krypton_onnx.passes.network import static_shape, values
from krypton_onnx.passes.normalize import constant_padding
from krypton_onnx.passes.static_shapes import kernel_shape, lowest, sliding_axes

# fmt: off
UNARY = frozenset({
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
})
NARY = frozenset({
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class WindowRule:
    """A node that can run on windows.

    Attributes:
        rows, cols: the input cells that one output cell reads, per axis.
        pad_value: what the node sees outside its input; None where it never looks there.
        spatial_constants: indices of inputs that are constant maps, of which a window has to be read too.
    """

    rows: Sliding = field(default=Sliding())
    cols: Sliding = field(default=Sliding())
    pad_value: float | None = None
    spatial_constants: tuple[int, ...] = ()

    @property
    def is_pointwise(self) -> bool:
        """Whether output cell (y, x) reads input cell (y, x) and nothing else."""
        return self.rows.is_pointwise and self.cols.is_pointwise


@dataclass(frozen=True, slots=True)
class NoRule:
    """Why a node has to run dense."""

    reason: str


def window_rule(node: gs.Node, moving: frozenset[str]) -> WindowRule | NoRule:
    """The node's rule.

    Args:
        node: with static shapes on its tensors.
        moving: names of the tensors that depend on the image. At least one is an input of the node.
    """
    if node.domain not in (None, "", "ai.onnx"):
        return NoRule(f"no rule for {node.domain}.{node.op}")
    if len(network.outputs(node)) > 1:
        return NoRule(f"{node.op} with several outputs")
    shapes = [static_shape(t) for t in (*network.present(node), node.outputs[0]) if t.name in moving | _results(node)]
    if any(s is None or len(s) != 4 for s in shapes):
        return NoRule("not a 4-D map")
    match node.op:
        case "Conv" | "MaxPool" | "AveragePool":
            return _sliding_rule(node, moving)
        case "Pad":
            return _pad_rule(node)
        case "BatchNormalization" | "LRN":
            return _per_channel_rule(node, moving)
        case "Concat":
            return _concat_rule(node, moving)
        case op if op in UNARY or op in NARY:
            return _elementwise_rule(node, moving)
        case op:
            return NoRule(f"no rule for {op}")


def _results(node: gs.Node) -> set[str]:
    return {node.outputs[0].name}


def _sliding_rule(node: gs.Node, moving: frozenset[str]) -> WindowRule | NoRule:
    if any(t.name in moving for t in node.inputs[1:]):
        return NoRule("its weights depend on the image")
    kernel = kernel_shape(node)
    if kernel is None or len(kernel) != 2:
        return NoRule("not a 2-D kernel")
    rows, cols = sliding_axes(node, kernel)
    padded = bool(rows.pad or rows.pad_end or cols.pad or cols.pad_end)
    if node.op == "AveragePool" and padded and not node.attrs.get("count_include_pad", 0):
        return NoRule("its divisor varies at the border in a way that has no rule")
    if not padded:
        return WindowRule(rows, cols)
    return WindowRule(rows, cols, float(lowest(np.dtype(node.inputs[0].dtype))) if node.op == "MaxPool" else 0.0)


def _pad_rule(node: gs.Node) -> WindowRule | NoRule:
    known = constant_padding(node)
    if known is None:
        return NoRule("Pad other than by a constant on rows and columns")
    (top, left, bottom, right), fill = known
    return WindowRule(Sliding(pad=top, pad_end=bottom), Sliding(pad=left, pad_end=right), fill)


def _per_channel_rule(node: gs.Node, moving: frozenset[str]) -> WindowRule | NoRule:
    if any(t.name in moving for t in node.inputs[1:]):
        return NoRule("its parameters depend on the image")
    return WindowRule()


def _concat_rule(node: gs.Node, moving: frozenset[str]) -> WindowRule | NoRule:
    if node.attrs["axis"] % 4 != 1:
        return NoRule("Concat over another axis than channels")
    if any(t.name not in moving for t in node.inputs):
        return NoRule("Concat with a tensor that is not computed from the image")
    return WindowRule()


def _elementwise_rule(node: gs.Node, moving: frozenset[str]) -> WindowRule | NoRule:
    extents = static_shape(node.outputs[0])
    spatial = []
    for index, tensor in enumerate(node.inputs):
        if network.is_absent(tensor):
            continue
        shape = static_shape(tensor)
        if shape is None or len(shape) > 4 or (len(shape) == 4 and shape[0] != 1):
            return NoRule("an operand whose shape does not follow the image")
        height, width = ((1,) * (4 - len(shape)) + shape)[2:]
        if tensor.name in moving:
            if (height, width) != extents[2:]:  # type: ignore[index]
                return NoRule("operands of different heights or widths")
        elif (height, width) != (1, 1):
            if values(tensor) is None:
                return NoRule("an operand that is a map of another input")
            spatial.append(index)
    return WindowRule(spatial_constants=tuple(spatial))
