"""Analysis: how far the patch reaches, tensor by tensor."""

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.geometry import Program, Step, unchanged
from krypton_onnx.passes.network import Network, describe, outputs, static_shape
from krypton_onnx.passes.operators import NoRule, WindowRule, window_rule


@dataclass(frozen=True, slots=True)
class Windowed:
    """A tensor of which each query changes one region.

    Attributes:
        step: index into the region program.
    """

    step: int


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


def analyse_regions(net: Network) -> Regions:
    """Walk the graph once, in topological order, and carry regions through the table of window rules."""
    _, _, height, width = static_shape(net.image_tensor) or (0, 0, 0, 0)
    program = [geometry.patch_step(height, width)]
    states: dict[str, State] = {net.image: Windowed(0)}
    rules: dict[str, WindowRule] = {}
    for node in net.graph.nodes:
        reached = [states[name] for name in used_names(node) if name in states]
        if not reached:
            continue
        state = _state_after(node, reached, frozenset(states), program, rules)
        states.update({t.name: state for t in outputs(node)})
    return Regions(tuple(program), states, rules)


def used_names(node: gs.Node) -> list[str]:
    """Names of all tensors that a node reads, inside its subgraphs too."""
    names = [t.name for t in node.inputs]
    for sub in node.subgraphs(recursive=True):
        names += [t.name for inner in sub.nodes for t in inner.inputs] + [t.name for t in sub.outputs]
    return names


def _state_after(
    node: gs.Node,
    reached: list[State],
    moving: frozenset[str],
    program: list[Step],
    rules: dict[str, WindowRule],
) -> State:
    for state in reached:
        if isinstance(state, Dense):
            return state
    rule = window_rule(node, moving)
    if isinstance(rule, NoRule):
        return Dense(rule.reason, describe(node))
    rules[node.outputs[0].name] = rule
    sources = tuple(sorted({s.step for s in reached if isinstance(s, Windowed)}))
    if rule.is_pointwise and len(sources) == 1:
        return Windowed(sources[0])
    rows, cols = (static_shape(node.outputs[0]) or (0, 0, 0, 0))[2:]
    if rule.is_pointwise:
        step = Step(sources, unchanged(rows), unchanged(cols))
    else:
        step = Step(sources, rule.rows.transfer(rows), rule.cols.transfer(cols))
    if step not in program:
        program.append(step)
    return Windowed(program.index(step))
