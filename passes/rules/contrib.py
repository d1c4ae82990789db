"""Operators of ONNX Runtime's own domain, as its quantizer writes them, and the refusal of all others."""

import onnx_graphsurgeon as gs

from krypton_onnx.passes.contrib import DOMAIN
from krypton_onnx.passes.rules import elementwise
from krypton_onnx.passes.rules.rule import Axes, NoRule, Rule, WindowRule, moving_beyond

_OPERANDS = {"QLinearAdd": (0, 3), "QLinearMul": (0, 3), "QLinearLeakyRelu": (0,), "QLinearSigmoid": (0,)}
"""Elementwise operators, and which of their inputs are data; the others are scales and zero points."""


def rule(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """A node of another domain than ONNX's."""
    if node.domain == DOMAIN and node.op in _OPERANDS:
        if moving_beyond(node, moving, _OPERANDS[node.op]):
            return NoRule("its scales depend on the image")
        return elementwise.rule(node, axes, moving)
    if node.domain == DOMAIN and node.op == "QLinearConcat":
        return _concat(node, axes, moving)
    return NoRule(f"no rule for {node.domain}.{node.op}")


def _concat(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """Inputs: the result's scale and zero point, then tensor, scale and zero point of each part."""
    data = range(2, len(node.inputs), 3)
    if moving_beyond(node, moving, data) or any(node.inputs[i].name not in moving for i in data):
        return NoRule("Concat with a tensor that is not computed from the image")
    return WindowRule(axes=axes) if node.attrs["axis"] % 4 == axes.channel else NoRule("Concat over rows or columns")
