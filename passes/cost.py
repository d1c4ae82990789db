"""Predicting what a query costs, in full inference and with windows: the arithmetic and the bytes of every node.

The constants were fitted to the measured times of the seven models of the README, on two cores of a server's CPU, and
meet them within about a tenth. Only quotients of predictions are used, and no machine is asked, so that a plan is the
same wherever it is made.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.footprint import static_bytes
from krypton_onnx.passes.network import Network, static_shape
from krypton_onnx.passes.regions import Regions
from krypton_onnx.plan import View

_FLOP = 2.1e-12
"""Seconds for an operation of a convolution or a product."""

_DEPTHWISE_FLOP = 28e-12
"""The same where each channel has its own kernel."""

_NARROW_FLOP = 2.5e-12
"""What an operation costs more in a window of one column; in wider ones as much less as they are wider."""

_BYTE = 7.5e-12
"""Seconds for a byte that a node reads or writes, mostly in a cache."""

_READ_BYTE = 220e-12
"""Seconds for a byte that is read through the overlay: gathered, transposed, and brought into place before."""

_READ_CELL = 7e-9
"""Seconds for the index of a cell that is read."""

_FUSED = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "Add"})
"""Operators that runtimes compute together with the convolution before them."""

Sizes = tuple[float, float]
"""Rows and columns of a window."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds a query, and the arithmetic bound.

    Attributes:
        full: by full inference in batches.
        incremental: with the planned windows.
        bound: full arithmetic ÷ that of the mean query if exactly what can change were computed.
    """

    full: float
    incremental: float
    bound: float

    @property
    def speedup(self) -> float:
        """Full ÷ incremental; 1 where nothing is counted."""
        return self.full / self.incremental if self.incremental else 1.0


def predict(
    net: Network, regions: Regions, shares: Mapping[str, float], windows: Mapping[str, Sizes], reads: float
) -> Prediction:
    """Predict what the mean query costs.

    Args:
        net: the normalized model.
        regions: its analysis.
        shares: by name, the exact mean region's share of the map, for tensors that have a region.
        windows: by name, the mean window of the tensors that are computed in windows.
        reads: seconds that the mean query takes to read through the overlay.
    """
    full = incremental = arithmetic = exact = 0.0
    for node in net.graph.nodes:
        result = node.outputs[0].name
        if result not in regions.states:
            continue
        seconds = _seconds(node, regions)
        full += seconds
        if result in windows:
            incremental += _in_window(node, seconds, windows[result], regions.step(result).extents)
        else:
            incremental += seconds
        arithmetic += flops(node)
        exact += flops(node) * shares.get(result, 1.0)
    return Prediction(full, incremental + reads, arithmetic / exact if exact else 1.0)


def read_seconds(views: Sequence[View], windows: Sequence[Sizes]) -> float:
    """What a query reads through the overlay takes, the plan's windows having these sizes."""
    total = 0.0
    for view in views:
        for read in view.reads:
            rows, cols = (view.rows, view.cols) if read.window is None else windows[read.window]
            cells = int(read.rows.count(math.ceil(rows)) * read.cols.count(math.ceil(cols)))
            cell_bytes = view.channels * np.dtype(view.dtype).itemsize
            total += cells * (cell_bytes * _READ_BYTE + _READ_CELL)
    return total


def streamed_bytes(net: Network, regions: Regions) -> int:
    """Bytes of the weights of products with one row a query, which nothing but a batch lets be used twice."""
    total = 0
    for node in net.graph.nodes:
        shape = static_shape(node.outputs[0])
        if node.op in ("Gemm", "MatMul") and node.outputs[0].name in regions.states and shape:
            total += static_bytes(node.inputs[1]) if math.prod(shape[:-1]) == 1 else 0
    return total


def _seconds(node: gs.Node, regions: Regions) -> float:
    """Of one inference of a node, in a batch."""
    shape = static_shape(node.outputs[0]) or (0, 0)
    depthwise = node.op == "Conv" and node.attrs.get("group", 1) == shape[1] > 1
    arithmetic = flops(node) * (_DEPTHWISE_FLOP if depthwise else _FLOP)
    return arithmetic if _is_fused(node) else arithmetic + _moved(node, regions) * _BYTE


def _moved(node: gs.Node, regions: Regions) -> int:
    return sum(static_bytes(t) for t in (*node.outputs, *(t for t in node.inputs if t.name in regions.states)))


def _is_fused(node: gs.Node) -> bool:
    producers = [p for t in node.inputs for p in t.inputs]
    return node.op in _FUSED and any(p.op == "Conv" and len(p.outputs[0].outputs) == 1 for p in producers)


def _in_window(node: gs.Node, seconds: float, window: Sizes, extents: Sizes) -> float:
    rows, cols = window
    share = rows * cols / (extents[0] * extents[1])
    return share * (seconds + flops(node) * _NARROW_FLOP / cols)
