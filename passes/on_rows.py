"""Windows as rows [cells, C]: which nodes can compute on them, and as what.

On rows a 1×1 convolution is a matrix product, as fast as a convolution, and what it reads through the overlay and what
is read of it are rows already: nothing changes its layout. A wider kernel needs maps.
"""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.emit import Emitter
from krypton_onnx.passes.network import static_shape, values
from krypton_onnx.passes.rules.elementwise import NARY, UNARY
from krypton_onnx.passes.rules.rule import NCHW, Form, WindowRule


def can_run_on_rows(node: gs.Node, rule: WindowRule, moving: frozenset[str]) -> bool:
    """Whether a node's window can be computed as rows.

    Args:
        node: computed in windows by this rule.
        rule: of a node whose inputs have their channels where the result has them.
        moving: the tensors that depend on the image.
    """
    if rule.axes != NCHW or rule.form is not Form.RUN or rule.spatial_constants or network.domain(node):
        return False
    if any(t.dtype != np.float32 for t in (*network.present(node), node.outputs[0])):
        return False
    if node.op == "Conv":
        return _is_product(node)
    if node.op == "Concat":
        return True
    still = [t for t in network.present(node) if t.name not in moving]
    return node.op in UNARY | NARY and all(_is_by_channel(t) for t in still)


def _is_product(node: gs.Node) -> bool:
    weights, *others = (values(t) for t in node.inputs[1:] if not network.is_absent(t))
    if weights is None or any(known is None for known in others) or node.attrs.get("group", 1) != 1:
        return False
    return weights.shape[2:] == (1, 1) and not any(node.attrs.get("pads", ()))


def _is_by_channel(tensor: gs.Tensor) -> bool:
    known = values(tensor)
    return known is not None and (known.size == 1 or (known.ndim >= 3 and known.shape[-2:] == (1, 1)))


def row_operator(node: gs.Node) -> tuple[str, dict[str, Any]]:
    """The operator and its attributes."""
    match node.op:
        case "Conv":
            return "Gemm", {"transB": 1}
        case "Concat":
            return "Concat", {"axis": 1}
        case op:
            return op, dict(node.attrs)


def row_constant(emitter: Emitter, node: gs.Node, index: int) -> gs.Tensor:
    """A constant operand, shaped for rows: weights [K, C], else a value a channel."""
    tensor = node.inputs[index]
    if network.is_absent(tensor):
        return tensor.copy()
    known = np.asarray(values(tensor))
    if node.op == "Conv":
        shape = known.shape[:2] if index == 1 else known.shape
    else:
        shape = () if known.size == 1 else (static_shape(tensor) or ())[-3:-2]
    return network.constant(emitter.unique(f"{tensor.name}/on_rows"), known.reshape(shape))
