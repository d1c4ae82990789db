"""Operators that compute each cell from the same cell of their operands."""

import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import static_shape, values
from krypton_onnx.passes.rules.rule import Axes, NoRule, Rule, WindowRule

# fmt: off
UNARY = frozenset({
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
})
NARY = frozenset({
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Clip", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum",
    "Where", "Xor",
})
# fmt: on


def rule(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """Elementwise operators, with constant operands that broadcast, or that are maps themselves."""
    extents = static_shape(node.outputs[0]) or ()
    maps = []
    for index, tensor in enumerate(node.inputs):
        if network.is_absent(tensor):
            continue
        shape = static_shape(tensor)
        if shape is None or len(shape) > 4 or (len(shape) == 4 and shape[0] != 1):
            return NoRule("an operand whose shape does not follow the image")
        aligned = (1,) * (4 - len(shape)) + shape
        if tensor.name in moving:
            if any(aligned[axis] != extents[axis] for axis in axes.spatial):
                return NoRule("operands of different heights or widths")
        elif any(aligned[axis] != 1 for axis in axes.spatial):
            if values(tensor) is None:
                return NoRule("an operand that is a map of another input")
            maps.append(index)
    return WindowRule(spatial_constants=tuple(maps), axes=axes)
