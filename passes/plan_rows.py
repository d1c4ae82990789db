"""Policy, as in `planner`: which windows are rows [cells, C] and which are maps [Q, C, h, w].

Convolutions of wider kernels and poolings need maps, which ONNX Runtime blocks by channels; views, and what is read
through the overlay, are rows. Where the two meet, a pass over the tensor changes the layout. Few bytes of such passes
are sought by letting each unit, a node with the elementwise nodes that follow it, in turn choose what is cheaper
beside its neighbours, until none changes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import Network, static_shape
from krypton_onnx.passes.on_rows import can_run_on_rows
from krypton_onnx.passes.rules.rule import WindowRule
from krypton_onnx.passes.through import Through

LOAD = 0.5
"""Passes, in units of one copy: from rows to maps, which a convolution blocks as it takes them."""
STORE = 1.0
"""From maps to rows."""
TRANSPOSE = 2.0
"""From rows to maps that no convolution takes."""
UNFUSED = 0.5
"""For each operand of an elementwise node that no convolution or product computes on its way."""

_BLOCKING = frozenset({"Conv", "MaxPool", "AveragePool"})
_FUSED_WITH_PRODUCT = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu"})
_SWEEPS = 8


def plan_rows(
    net: Network,
    rules: Mapping[str, WindowRule],
    window_of: Mapping[str, int],
    viewed: frozenset[str],
    cells: Sequence[float],
    moving: frozenset[str],
    through: Through,
) -> frozenset[str]:
    """The tensors to compute as rows.

    Args:
        net: the normalized model.
        rules: of the tensors that are computed in windows.
        window_of: their windows.
        viewed: the tensors that are read through the overlay.
        cells: of each window, for the mean query.
        moving: the tensors that depend on the image.
        through: the tensors that are read as integers; who reads them stays beside them, on maps.
    """
    nodes = [node for node in net.graph.nodes if node.outputs[0].name in window_of]
    choice = _Choice(nodes, rules, window_of, viewed, cells)
    able = [
        n
        for n in nodes
        if can_run_on_rows(n, rules[n.outputs[0].name], moving) and not any(t.name in through.nodes for t in n.inputs)
    ]
    units = _units(able, choice)
    for _ in range(_SWEEPS):
        if sum(choice.improve(unit) for unit in units) == 0:
            break
    return frozenset(choice.on_rows)


def _units(nodes: Sequence[gs.Node], choice: "_Choice") -> list[list[gs.Node]]:
    """Each node together with the nodes of one operand that continue it."""
    unit_of: dict[str, list[gs.Node]] = {}
    for node in nodes:
        name = node.outputs[0].name
        sources = [t.name for t in node.inputs if t.name in unit_of and not choice.is_read(t.name, name)]
        alone = node.op not in ("Conv", "Concat") and len(sources) == 1 and len(choice.readers[sources[0]]) == 1
        unit_of[name] = unit_of[sources[0]] if alone and len(choice.operands(node)) == 1 else []
        unit_of[name].append(node)
    return list({id(unit): unit for unit in unit_of.values()}.values())


class _Choice:
    """What has been chosen so far; everything on maps at first."""

    def __init__(
        self,
        nodes: Sequence[gs.Node],
        rules: Mapping[str, WindowRule],
        window_of: Mapping[str, int],
        viewed: frozenset[str],
        cells: Sequence[float],
    ) -> None:
        self.on_rows: set[str] = set()
        self.readers: dict[str, list[gs.Node]] = {node.outputs[0].name: [] for node in nodes}
        self._rules, self._window_of, self._viewed, self._cells = rules, window_of, viewed, cells
        self._nodes = {node.outputs[0].name: node for node in nodes}
        for node in nodes:
            for name in self.operands(node):
                self.readers.setdefault(name, []).append(node)

    def operands(self, node: gs.Node) -> list[str]:
        """What a node reads that is computed in windows."""
        return list(dict.fromkeys(t.name for t in node.inputs if t.name in self._nodes))

    def is_read(self, tensor: str, result: str) -> bool:
        """Whether a reader takes it through the overlay."""
        same = self._window_of[tensor] == self._window_of[result]
        return not (same and self._rules[result].is_pointwise)

    def improve(self, unit: list[gs.Node]) -> bool:
        """Let a unit have the cheaper layout; whether that is another than before."""
        names = {node.outputs[0].name for node in unit}
        near = {id(n): n for name in names for n in (self._nodes[name], *self.readers[name])}.values()
        before = sum(self._moved(n) for n in near)
        self.on_rows ^= names
        if sum(self._moved(n) for n in near) < before:
            return True
        self.on_rows ^= names
        return False

    def _moved(self, node: gs.Node) -> float:
        """Bytes that a node's layout, beside those of its operands, makes move."""
        name = node.outputs[0].name
        moved = sum(self._load(operand, node) for operand in self.operands(node))
        if name in self._viewed and name not in self.on_rows:
            moved += STORE * self._bytes(name)
        unfused = 0 if self._is_fused(node) else len(self.operands(node))
        return moved + unfused * UNFUSED * self._bytes(name)

    def _load(self, operand: str, node: gs.Node) -> float:
        result = node.outputs[0].name
        wants_rows = result in self.on_rows
        has_rows = self.is_read(operand, result) or operand in self.on_rows
        if wants_rows == has_rows:
            return 0.0
        passes = STORE if wants_rows else (LOAD if node.op in _BLOCKING else TRANSPOSE)
        return passes * self._bytes(operand, self._window_of[result])

    def _is_fused(self, node: gs.Node) -> bool:
        name, operands = node.outputs[0].name, self.operands(node)
        if node.op in _BLOCKING or node.op == "Concat" or not operands:
            return True
        if name in self.on_rows:
            return node.op in _FUSED_WITH_PRODUCT and self._nodes[operands[0]].op == "Conv"
        if any(self.is_read(operand, name) or operand in self.on_rows for operand in operands):
            return False
        return all(self._is_fused(self._nodes[operand]) for operand in operands)

    def _bytes(self, tensor: str, window: int | None = None) -> float:
        """Of a tensor in its own window, or in a reader's."""
        result = self._nodes[tensor].outputs[0]
        shape = static_shape(result) or (0, 0)
        cells = self._cells[self._window_of[tensor] if window is None else window]
        return cells * shape[1] * int(np.dtype(result.dtype).itemsize)
