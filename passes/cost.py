"""Predicting what a query costs on one core, in full inference and by a plan: arithmetic, bytes and nodes.

Every node costs its floating-point operations over a rate that knows how narrow its window is, the bytes that it moves
if no convolution computes it on its way, and its share of what a runtime spends on any node. Every read through the
overlay costs the bytes of each pass over what is read. `machines` holds the constants: no machine is asked, so that a
plan is the same wherever it is made.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.flops import flops, scales_channels
from krypton_onnx.passes.footprint import static_bytes
from krypton_onnx.passes.machines import CPU, Machine
from krypton_onnx.passes.network import Network, static_shape
from krypton_onnx.passes.regions import Regions, Windowed
from krypton_onnx.passes.rules.rule import Axes
from krypton_onnx.plan import Read, Segment

READ_NODES = 7
"""Nodes of a read: where its cells lie, the pool, the cells, their layout."""

INDEX_NODES = 220
"""Nodes that find out for all reads together where windows and their rows lie."""

ALIVE = 2.2
"""Bytes of a query's activations at the most, over those that the node with the largest maps reads and writes: views
and windows are brought beside each other, and layouts change, in copies."""

_FUSED = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "Add"})
"""Operators that runtimes compute together with the convolution before them."""
_FUSED_WITH_PRODUCT = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh"})
_BLOCKING = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool"})
"""Operators that compute in blocks of channels."""

Sizes = tuple[float, float]
"""Rows and columns of a window."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One read through the overlay.

    Attributes:
        tensor: what is read.
        read: which cells; of the whole map, if that has no window.
        node: who reads; None for an output of the model.
    """

    tensor: str
    read: Read
    node: gs.Node | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds a query on one core, and the arithmetic bound.

    Attributes:
        full: by full inference in batches.
        segments: of the plan, in the order in which the graph first comes to them.
        bound: full arithmetic ÷ that of the mean query if exactly what can change were computed.
    """

    full: float
    segments: tuple[Segment, ...]
    bound: float

    @property
    def incremental(self) -> float:
        """Seconds a query by the plan."""
        return sum(segment.seconds for segment in self.segments)

    @property
    def speedup(self) -> float:
        """Full ÷ incremental; 1 where nothing is counted."""
        return self.full / self.incremental if self.incremental else 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """What one inference of a node takes, whatever the plan.

    Attributes:
        flops: floating-point operations.
        arithmetic: seconds that these take.
        moved: bytes of what depends on the image that it reads and writes.
        streamed: see `streamed_bytes`.
        dense: seconds that it takes in full, in a batch, but for what it streams.
    """

    flops: int
    arithmetic: float
    moved: int
    streamed: int
    dense: float


def _work(node: gs.Node, regions: Regions, machine: Machine) -> Work:
    arithmetic, moved = _arithmetic(node, machine), _moved(node, regions)
    far = moved * machine.far_byte if moved > machine.near_bytes else 0.0
    dense = arithmetic + far + (0.0 if _is_fused(node) else moved * machine.byte)
    return Work(flops(node), arithmetic, moved, streamed_bytes(node), dense)


@dataclass(frozen=True)
class Costs:
    """What the parts of one plan cost.

    Attributes:
        net: the normalized model.
        regions: its analysis.
        shares: by name, the exact mean region's share of the map, for tensors that have a region.
        windows: by name, the mean window of the tensors that are computed in windows.
        on_rows: those of them that are computed as rows.
        readings: every read through the overlay.
        machine: that it is predicted for.
        tail_batch: queries that share the reading of weights, where that is done apart.
        index_apart: whether the index arithmetic runs beside it all.
        works: what is known of nodes already, by their first results; plans of one model and machine share it.
    """

    net: Network
    regions: Regions
    shares: Mapping[str, float]
    windows: Mapping[str, Sizes]
    on_rows: frozenset[str]
    readings: Sequence[Reading]
    machine: Machine = CPU
    tail_batch: int | None = None
    index_apart: bool = False
    works: dict[str, Work] = field(default_factory=dict)

    @cached_property
    def batch(self) -> int:
        """Queries per run: few enough for the caches, and enough to share what a run costs once."""
        held = max((self._maps(node) for node in self._nodes.values()), default=0.0) * ALIVE
        return min(
            self.machine.batches, key=lambda batch: self.run_seconds / batch + self.machine.spill * held**2 * batch
        )

    @cached_property
    def usual(self) -> Prediction:
        """The prediction for the best batch, by which plans are compared."""
        return self.predict(self.batch)

    def predict(self, batch: float) -> Prediction:
        """Predict what the mean query costs in batches of so many."""
        cost = self.machine
        index_nodes = 0 if self.index_apart else INDEX_NODES
        full = arithmetic = exact = 0.0
        parts: dict[tuple[tuple[int, int] | None, bool], tuple[list[str], list[float]]] = {}
        if self.windows:
            parts[None, True] = (
                [],
                [index_nodes * cost.node / batch + len(self.readings) * cost.index_read],
            )
        for result, node in self._nodes.items():
            work = self._work(node)
            full += work.dense + (work.streamed * cost.stream + cost.node) / cost.full_batch
            arithmetic += work.flops
            exact += work.flops * self.shares.get(result, 1.0)
            names, times = parts.setdefault((self._extents(result), result in self.windows), ([], []))
            names.append(result)
            times.append(self._seconds(node, batch))
        segments = tuple(Segment(*how, tuple(names), sum(times)) for how, (names, times) in parts.items())
        return Prediction(full, segments, arithmetic / exact if exact else 1.0)

    @cached_property
    def run_seconds(self) -> float:
        """What a run takes however many queries it has."""
        return self.predict(1).incremental - self._together.incremental

    @cached_property
    def query_seconds(self) -> float:
        """What every query of however large a batch takes, whatever its windows are."""
        windowed = math.fsum(self._seconds(self._nodes[name], math.inf) for name in self.windows)
        return self._together.incremental - windowed

    def cell_seconds(self, tensors: Sequence[str]) -> float:
        """What a cell of the window that these tensors share takes, likewise."""
        rows, cols = self.windows[tensors[0]]
        return math.fsum(self._seconds(self._nodes[name], math.inf) for name in tensors) / (rows * cols)

    @cached_property
    def _together(self) -> Prediction:
        """Of queries in a batch without end."""
        return self.predict(math.inf)

    def _seconds(self, node: gs.Node, batch: float) -> float:
        windowed = node.outputs[0].name in self.windows
        own = self._window_seconds(node, batch) if windowed else self._whole_seconds(node, batch)
        return own + self._overlay_seconds(node, batch)

    def _whole_seconds(self, node: gs.Node, batch: float) -> float:
        work = self._work(node)
        streamed = work.streamed * self.machine.stream / (self.tail_batch or batch)
        return work.dense + streamed + self.machine.node / batch

    def _work(self, node: gs.Node) -> Work:
        result = node.outputs[0].name
        if result not in self.works:
            self.works[result] = _work(node, self.regions, self.machine)
        return self.works[result]

    def _window_seconds(self, node: gs.Node, batch: float) -> float:
        result = node.outputs[0].name
        rows, cols = self.windows[result]
        height, width = self.regions.step(result).extents
        narrow = 1.0 if result in self.on_rows else 1.0 + self.machine.narrow / cols
        moved = 0.0 if self._is_fused(node) else self._maps(node) * self.machine.byte
        return rows * cols / (height * width) * self._work(node).arithmetic * narrow + moved + self.machine.node / batch

    def _maps(self, node: gs.Node) -> float:
        """Bytes of a query that a node reads and writes, of windows if it computes one."""
        result, moved = node.outputs[0].name, self._work(node).moved
        if result not in self.windows:
            return moved
        rows, cols = self.windows[result]
        height, width = self.regions.step(result).extents
        return moved * rows * cols / (height * width)

    def _is_fused(self, node: gs.Node) -> bool:
        result = node.outputs[0].name
        if node.op in ("Conv", "QLinearConv"):
            return not scales_channels(node)
        if any(reading.node is node for reading in self._by_result.get(result, ())):
            return False
        if result in self.on_rows:
            return node.op in _FUSED_WITH_PRODUCT and _follows_conv(node)
        return _is_fused(node)

    # ------------------------------------------------------------------------------------------------ reads

    @cached_property
    def _by_result(self) -> dict[str, list[Reading]]:
        found: dict[str, list[Reading]] = {}
        for reading in self.readings:
            found.setdefault(reading.node.outputs[0].name if reading.node else reading.tensor, []).append(reading)
        return found

    @cached_property
    def _viewed(self) -> frozenset[str]:
        return frozenset(reading.tensor for reading in self.readings)

    def _overlay_seconds(self, node: gs.Node, batch: float) -> float:
        """What a node reads, and what makes its result ready to be read."""
        result = node.outputs[0].name
        read = sum(self._read_seconds(reading, batch) for reading in self._by_result.get(result, ()))
        return read + (self._pool_seconds(result, batch) if result in self._viewed and result in self.windows else 0.0)

    def _read_seconds(self, reading: Reading, batch: float) -> float:
        cost, read, extents = self.machine, reading.read, self.regions.step(reading.tensor).extents
        reader = None if reading.node is None else reading.node.outputs[0].name
        rows, cols = extents if read.window is None or reader is None else self.windows[reader]
        cells = int(read.rows.count(math.ceil(rows)) * read.cols.count(math.ceil(cols)))
        order = 0.0 if reader in self.on_rows else self._load(reading.node)
        return (
            cells * (self._cell_bytes(reading.tensor) * (cost.gather + order) + cost.index_cell)
            + READ_NODES * cost.node / batch
        )

    def _load(self, node: gs.Node | None) -> float:
        if node is not None and node.op == "QLinearConv":
            return 0.0
        return self.machine.load if node is not None and node.op in _BLOCKING else self.machine.transpose

    def _pool_seconds(self, tensor: str, batch: float) -> float:
        """Bringing windows and the view beside each other."""
        rows, cols = self.windows[tensor]
        height, _ = self.regions.step(tensor).extents
        band = min(height, 2 * rows) * self.regions.step(tensor).extents[1] / batch
        in_bytes = self._tensors[tensor].dtype == np.uint8  # whose kernels compute with channels last
        store = 0.0 if tensor in self.on_rows or in_bytes else self.machine.store
        return self._cell_bytes(tensor) * (rows * cols * (self.machine.pool + store) + band * self.machine.pool)

    # --------------------------------------------------------------------------------------- small change

    def _cell_bytes(self, tensor: str) -> int:
        found = self._tensors[tensor]
        shape = static_shape(found) or (0, 0, 0, 0)
        return shape[self._axes(tensor).channel] * int(np.dtype(found.dtype).itemsize)

    @cached_property
    def _nodes(self) -> dict[str, gs.Node]:
        """Those that depend on the image, by their first results."""
        made = ((node.outputs[0].name, node) for node in self.net.graph.nodes)
        return {name: node for name, node in made if name in self.regions.states}

    @cached_property
    def _tensors(self) -> dict[str, gs.Tensor]:
        found: dict[str, gs.Tensor] = self.net.graph.tensors()
        return found

    def _axes(self, tensor: str) -> Axes:
        return self.regions.axes(tensor)

    def _extents(self, tensor: str) -> tuple[int, int] | None:
        state = self.regions.states[tensor]
        if isinstance(state, Windowed):
            return self.regions.program[state.step].extents
        shape = static_shape(self._tensors[tensor]) or ()
        return shape[2:] if len(shape) == 4 and shape[2:] != (1, 1) else None


def rounded(seconds: float) -> float:
    """As many digits as a prediction is worth."""
    return float(f"{seconds:.4g}")


def streamed_bytes(node: gs.Node) -> int:
    """Bytes of the weights of a product with one row a query, which nothing but a batch lets be used twice."""
    shape = static_shape(node.outputs[0])
    alone = node.op in ("Gemm", "MatMul") and shape and math.prod(shape[:-1]) == 1
    return static_bytes(node.inputs[1]) if alone and isinstance(node.inputs[1], gs.Constant) else 0


def _arithmetic(node: gs.Node, machine: Machine) -> float:
    shape = static_shape(node.outputs[0]) or (0, 0)
    depthwise = node.op == "Conv" and node.attrs.get("group", 1) == shape[1] > 1
    if node.op == "QLinearConv" and machine.bytes_flop is not None:
        return flops(node) * machine.bytes_flop
    return flops(node) * (machine.depthwise_flop if depthwise else machine.flop)


def _moved(node: gs.Node, regions: Regions) -> int:
    return sum(static_bytes(t) for t in (*node.outputs, *(t for t in node.inputs if t.name in regions.states)))


def _is_fused(node: gs.Node) -> bool:
    if node.op in ("Conv", "QLinearConv"):
        return not scales_channels(node)
    return node.op in _FUSED and _follows_conv(node)


def _follows_conv(node: gs.Node) -> bool:
    producers: Iterator[gs.Node] = (p for t in node.inputs for p in t.inputs)
    return any(p.op == "Conv" and len(p.outputs[0].outputs) == 1 for p in producers)
