"""What each operator does to a window: the one table of window rules.

A rule answers: may this node run on windows of its image-dependent inputs, and if so, which input cells does one
output cell read and what lies beyond the border? Any doubt is a `NoRule` with its reason; the node then runs
dense, which costs speed and never correctness.
"""

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import static_shape
from krypton_onnx.passes.rules import channels, contrib, elementwise, sliding, spatial
from krypton_onnx.passes.rules.elementwise import NARY, UNARY
from krypton_onnx.passes.rules.rule import Axes, NoRule, Rule

_WHOLE_MAP = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization", "GroupNormalization"}
    | {"MeanVarianceNormalization", "NonMaxSuppression", "NonZero", "TopK", "DynamicQuantizeLinear"}
)


def window_rule(node: gs.Node, moving: Mapping[str, Axes]) -> Rule:
    """The node's rule.

    Args:
        node: with static shapes on its tensors.
        moving: the tensors that depend on the image, by name, and which of their axes is which. At least one is an
            input of the node, and all of its inputs that depend on the image are computed in windows.
    """
    if len(network.outputs(node)) > 1:
        return NoRule(f"{node.op} with several outputs")
    used = [t for t in network.present(node) if t.name in moving]
    shapes = [static_shape(t) for t in (*used, node.outputs[0])]
    if not used or any(s is None or len(s) != 4 for s in shapes):
        return NoRule("not a 4-D map")
    axes = moving[used[0].name]
    if any(moving[t.name] != axes for t in used):
        return NoRule("operands whose channels stand at different places")
    if network.domain(node):
        return contrib.rule(node, axes, frozenset(moving))
    return _standard_rule(node, axes, frozenset(moving))


def _standard_rule(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    match node.op:
        case op if op in UNARY or op in NARY:
            return elementwise.rule(node, axes, moving)
        case op if op in sliding.OPERATORS:
            return sliding.rule(node, axes, moving)
        case op if op in spatial.RULES:
            return spatial.RULES[op](node, axes, moving)
        case op if op in channels.RULES or op.startswith("Reduce"):
            return channels.rule(node, axes, moving)
        case op if op in _WHOLE_MAP:
            return NoRule(f"{op} looks at the whole map")
        case op:
            return NoRule(f"no rule for {op}")
