"""Analysis: how far the patch reaches, tensor by tensor."""

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.geometry import Program, Step, unchanged
from krypton_onnx.passes import network
from krypton_onnx.passes.network import Network, describe, outputs, static_shape
from krypton_onnx.passes.operators import window_rule
from krypton_onnx.passes.rules.rule import NCHW, Axes, NoRule, WindowRule


@dataclass(frozen=True, slots=True)
class Windowed:
    """A tensor of which each query changes one region.

    Attributes:
        step: index into the region program.
        axes: which of its axes is which.
    """

    step: int
    axes: Axes


@dataclass(frozen=True, slots=True)
class Dense:
    """A tensor that has to be computed in full for each query.

    Attributes:
        reason: why, in words; of the first operator upstream that made it so.
        node: that operator, as messages name it.
    """

    reason: str
    node: str


State = Windowed | Dense
"""What the analysis knows of a tensor that depends on the image. Tensors without a state are `Unchanged`:
constants, and whatever is computed from the model's other inputs alone."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Result of the analysis.

    Attributes:
        program: the region program; step 0 is the patch.
        states: by tensor name, for every tensor that depends on the image.
        rules: by the name of a node's first output, for nodes whose output is windowed.
    """

    program: Program
    states: dict[str, State]
    rules: dict[str, WindowRule]

    def step(self, tensor: str) -> Step:
        """The region of a windowed tensor."""
        state = self.states[tensor]
        assert isinstance(state, Windowed)
        return self.program[state.step]

    def axes(self, tensor: str) -> Axes:
        """Which axes of a windowed tensor are which."""
        state = self.states[tensor]
        assert isinstance(state, Windowed)
        return state.axes


def analyse_regions(net: Network) -> Regions:
    """Walk the graph once, in topological order, and carry regions through the table of window rules."""
    _, _, height, width = static_shape(net.image_tensor) or (0, 0, 0, 0)
    analysis = _Analysis(net.image, height, width)
    for node in net.graph.nodes:
        analysis.visit(node)
    return Regions(tuple(analysis.program), analysis.states, analysis.rules)


def used_names(node: gs.Node) -> list[str]:
    """Names of all tensors that a node reads, inside its subgraphs too, but not of those that these make themselves."""
    names = [t.name for t in node.inputs]
    if not network.has_subgraph(node):
        return names
    made: set[str] = set()
    for sub in node.subgraphs(recursive=True):
        names += [t.name for inner in sub.nodes for t in inner.inputs] + [t.name for t in sub.outputs]
        made.update(t.name for inner in sub.nodes for t in inner.outputs)
        made.update(t.name for t in sub.inputs)
    outside = {t.name for t in node.inputs}
    return [name for name in names if name in outside or name not in made]


class _Analysis:
    """What is known so far on the walk."""

    def __init__(self, image: str, height: int, width: int) -> None:
        self.program = [geometry.patch_step(height, width)]
        self.states: dict[str, State] = {image: Windowed(0, NCHW)}
        self.rules: dict[str, WindowRule] = {}
        self._numbers = {self.program[0]: 0}

    def visit(self, node: gs.Node) -> None:
        """Give the node's outputs a state, if it depends on the image."""
        reached = {name: self.states[name] for name in used_names(node) if name in self.states}
        if reached:
            state = self._state_after(node, reached)
            self.states.update({t.name: state for t in outputs(node)})

    def _state_after(self, node: gs.Node, reached: dict[str, State]) -> State:
        windowed: dict[str, Windowed] = {}
        for name, state in reached.items():
            if isinstance(state, Dense):
                return state
            windowed[name] = state
        rule = window_rule(node, {name: state.axes for name, state in windowed.items()})
        if isinstance(rule, NoRule):
            return Dense(rule.reason, describe(node))
        self.rules[node.outputs[0].name] = rule
        sources = tuple(sorted({state.step for state in windowed.values()}))
        if rule.is_pointwise and len(sources) == 1:
            return Windowed(sources[0], rule.axes)
        shape = static_shape(node.outputs[0]) or (0, 0, 0, 0)
        rows, cols = shape[rule.axes.rows], shape[rule.axes.cols]
        if rule.is_pointwise:
            return Windowed(self._number(Step(sources, unchanged(rows), unchanged(cols))), rule.axes)
        return Windowed(self._number(Step(sources, rule.rows.transfer(rows), rule.cols.transfer(cols))), rule.axes)

    def _number(self, step: Step) -> int:
        """Its place in the program; a step that is known already keeps its own."""
        number = self._numbers.setdefault(step, len(self.program))
        if number == len(self.program):
            self.program.append(step)
        return number
