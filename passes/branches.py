"""Transform: branches whose condition is known take the place of their If."""

import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import values


def inline_known_branches(graph: gs.Graph) -> bool:
    """Put the nodes of the branch that will run where the If stands. True if any was.

    Exporters write conditions on shapes, such as whether an axis to be squeezed has an extent of one.

    Before: ``x → If(yes){ then: Squeeze(x) → y1; else: Identity(x) → y2 } → y``. After: ``x → Squeeze → y``.
    """
    taken = network.Names(graph)
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        condition = values(node.inputs[0]) if node.op == "If" else None
        nodes += [node] if condition is None else _branch(node, bool(condition.reshape(-1)[0]), taken)
    changed = len(nodes) != len(graph.nodes) or any(a is not b for a, b in zip(nodes, graph.nodes, strict=True))
    graph.nodes = nodes
    if changed:
        graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return changed


def _branch(node: gs.Node, condition: bool, taken: network.Names) -> list[gs.Node]:
    branch: gs.Graph = node.attrs["then_branch" if condition else "else_branch"]
    results, wanted = list(branch.outputs), list(node.outputs)
    node.outputs.clear()
    node.inputs.clear()
    for inner in branch.nodes:
        # Names of one branch are not known outside it, where others may have them.
        for tensor in inner.outputs:
            if not network.is_absent(tensor):
                tensor.name = taken.fresh(tensor.name)
        for tensor in inner.inputs:
            if isinstance(tensor, gs.Constant):
                tensor.name = taken.fresh(tensor.name)
    ends = [gs.Node("Identity", o.name, {}, [r], [o]) for r, o in zip(results, wanted, strict=True)]
    return [*branch.nodes, *ends]
