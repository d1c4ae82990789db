"""Convolutions and poolings: operators whose kernel slides over rows and columns."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.geometry import Expanding, Lookup, Sliding
from krypton_onnx.passes.network import static_shape
from krypton_onnx.passes.rules.rule import Axes, Form, NoRule, Rule, WindowRule, by_axis, moving_beyond, numbers
from krypton_onnx.passes.static_shapes import kernel_shape, lowest, sliding_axes

OPERATORS = frozenset({"Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
_ZERO_POINT = {"ConvInteger": 2, "QLinearConv": 2}
"""The input that says which number stands for zero."""


def rule(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """Any of them."""
    if axes.channel != 1:
        return NoRule("its channels do not stand where it expects them")
    if moving_beyond(node, moving):
        return NoRule("its weights depend on the image")
    kernel = kernel_shape(node)
    if kernel is None or len(kernel) != 2:
        return NoRule("not a 2-D kernel")
    return _transposed(node, axes, kernel) if node.op == "ConvTranspose" else _sliding(node, axes, kernel)


def _sliding(node: gs.Node, axes: Axes, kernel: tuple[int, ...]) -> Rule:
    maps = sliding_axes(node, kernel)
    if all(m.span == 1 and not m.pad and not m.pad_end for m in maps) and any(m.stride > 1 for m in maps):
        every = _every(node, maps)
        rows, cols = by_axis(axes, {2: every[0], 3: every[1]})
        return WindowRule(rows, cols, axes=axes)
    rows, cols = by_axis(axes, {2: maps[0], 3: maps[1]})
    if not any(m.pad or m.pad_end for m in maps):
        return WindowRule(rows, cols, axes=axes)
    if node.op == "AveragePool" and not node.attrs.get("count_include_pad", 0):
        return NoRule("its divisor varies at the border in a way that has no rule")
    pad_value = _beyond_the_border(node)
    if pad_value is None:
        return NoRule("its zero point is computed")
    return WindowRule(rows, cols, pad_value, axes=axes)


def _every(node: gs.Node, maps: tuple[Sliding, ...]) -> tuple[Lookup, ...]:
    """The rows and the columns that a kernel of one cell looks at: no others need be read."""
    given, made = (static_shape(t) or () for t in (node.inputs[0], node.outputs[0]))
    sizes = zip(given[2:], made[2:], maps, strict=True)
    return tuple(Lookup(tuple(range(0, count * m.stride, m.stride)), size) for size, count, m in sizes)


def _beyond_the_border(node: gs.Node) -> float | None:
    if node.op == "MaxPool":
        return float(lowest(np.dtype(node.inputs[0].dtype)))
    if node.op not in _ZERO_POINT or len(node.inputs) <= _ZERO_POINT[node.op]:
        return 0.0
    zero = numbers(node, _ZERO_POINT[node.op])
    return None if zero is None or zero.size != 1 else float(zero.reshape(-1)[0])


def _transposed(node: gs.Node, axes: Axes, kernel: tuple[int, ...]) -> Rule:
    """A transposed convolution whose padding is explicit (`static_shapes`)."""
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attrs:
        return NoRule("its padding is not explicit")
    maps = sliding_axes(node, kernel)
    if any(window.span < window.stride for window in maps):
        return NoRule("its kernel is smaller than its stride")
    rows, cols = by_axis(axes, {2 + i: Expanding(w.span, w.stride, w.pad) for i, w in enumerate(maps)})
    return WindowRule(rows, cols, 0.0, axes=axes, form=Form.PICK)
