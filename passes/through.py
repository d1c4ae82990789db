"""Reading through: a reader of a dequantized tensor reads the quantized one, and dequantizes what it has read.

Views then hold bytes instead of floats, and ONNX Runtime finds DequantizeLinear, Conv, QuantizeLinear side by side,
which it fuses into the integer convolution that it runs in the source model too.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import Network, values
from krypton_onnx.passes.static_shapes import lowest


@dataclass(frozen=True, slots=True)
class Through:
    """The tensors that are read through.

    Attributes:
        nodes: the DequantizeLinear that makes each, by its name.
    """

    nodes: dict[str, gs.Node] = field(default_factory=dict)

    def node(self, tensor: str) -> gs.Node:
        """The DequantizeLinear that makes the tensor."""
        return self.nodes[tensor]

    def source(self, tensor: str, pad_value: float | None) -> tuple[str, float | None]:
        """The tensor to read instead, and what lies beyond its border; the tensor itself if there is no other.

        Args:
            tensor: what a reader wants.
            pad_value: what it sees beyond the border; None if it never looks there.
        """
        node = self.nodes.get(tensor)
        if node is None:
            return tensor, pad_value
        if pad_value is None:
            return node.inputs[0].name, None
        beyond = _quantized(node, pad_value)
        return (tensor, pad_value) if beyond is None else (node.inputs[0].name, beyond)


def read_through(net: Network, windowed: set[str]) -> Through:
    """Find the dequantized tensors among those that are computed in windows."""
    nodes = [n for n in net.graph.nodes if n.op == "DequantizeLinear" and n.outputs[0].name in windowed]
    return Through({n.outputs[0].name: n for n in nodes if _zero_point(n) is not None})


def _quantized(node: gs.Node, value: float) -> float | None:
    """The integer that stands for zero, or for what is lower than all others; None for other values."""
    if value == 0.0:
        return _zero_point(node)
    if value == float(lowest(np.dtype(node.outputs[0].dtype))):
        return float(lowest(np.dtype(node.inputs[0].dtype)))
    return None


def _zero_point(node: gs.Node) -> float | None:
    """The same one for all channels, or None."""
    if len(node.inputs) < 3:
        return 0.0
    zero = values(node.inputs[2])
    return None if zero is None or np.size(zero) != 1 else float(np.reshape(zero, ()))
