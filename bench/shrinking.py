"""Reducing a random net that goes wrong: outputs and nodes are left out as long as it goes wrong in the same way."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import onnx
from nets import Net
from onnx import helper, shape_inference
from outcomes import Outcome


def shrink(net: Net, outcome: Outcome, attempt: Callable[[Net], Outcome]) -> tuple[Net, Outcome]:
    """The smallest net, by greedy steps, that fares as the given one does.

    Args:
        net: goes wrong.
        outcome: how it does.
        attempt: tries another net.
    """
    smaller = True
    while smaller:
        smaller = False
        for candidate in candidates(net.model):
            tried = replace(net, model=candidate)
            found = attempt(tried)
            if (found.kind, found.reason) == (outcome.kind, outcome.reason):
                net, outcome, smaller = tried, found, True
                break
    return net, outcome


def candidates(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Models that are one step smaller, the largest steps first."""
    graph = model.graph
    if len(graph.output) > 1:
        for output in graph.output:
            yield cut(model, [output.name])
    types, finals = known_types(model), {o.name for o in graph.output}
    results = [name for node in graph.node for name in node.output]
    for name in results:  # end early
        if name in types and name not in finals:
            yield cut(model, [name], types[name])
    for node in reversed(graph.node):
        if node.op_type == "Identity" and node.output[0] in finals:
            continue  # would be replaced by itself
        for source in node.input:
            if source in types and types.get(node.output[0]) == types[source]:
                yield bypassed(model, node, source)


def known_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Types by name, as far as inference for one image goes."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for given in single.graph.input:
        first = given.type.tensor_type.shape.dim[:1]
        if given.name == "image" and not first[0].HasField("dim_value"):
            first[0].dim_value = 1
    for output in single.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(single, data_prop=True).graph
    return {info.name: info.type for info in (*inferred.input, *inferred.value_info, *inferred.output)}


def cut(model: onnx.ModelProto, outputs: list[str], kind: onnx.TypeProto | None = None) -> onnx.ModelProto:
    """The model with these outputs only, of rank and type `kind` where they are new."""
    known = {o.name: o for o in model.graph.output}
    infos = []
    for name in outputs:
        if name in known:
            infos.append(known[name])
        elif kind is not None:
            rank = len(kind.tensor_type.shape.dim)
            infos.append(
                helper.make_tensor_value_info(name, kind.tensor_type.elem_type, [f"d{i}" for i in range(rank)])
            )
    return cleaned(model, list(model.graph.node), infos)


def bypassed(model: onnx.ModelProto, node: onnx.NodeProto, source: str) -> onnx.ModelProto:
    """The model without a node, whose consumers read `source`."""
    result = node.output[0]
    nodes = []
    for other in model.graph.node:
        if other.name == node.name:
            if result in {o.name for o in model.graph.output}:
                nodes.append(helper.make_node("Identity", [source], [result], name=f"{node.name}/gone"))
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(other)
        copy.input[:] = [source if name == result else name for name in other.input]
        nodes.append(copy)
    return cleaned(model, nodes, list(model.graph.output))


def cleaned(model: onnx.ModelProto, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """A copy with these outputs and what they need; subgraphs may need anything."""
    needed = {o.name for o in outputs}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                needed.update(name for inner in attribute.g.node for name in inner.input)
    small = onnx.ModelProto()
    small.CopyFrom(model)
    weights = [w for w in model.graph.initializer if w.name in needed]
    named = {w.name for w in model.graph.initializer} - {w.name for w in weights}
    inputs = [i for i in model.graph.input if i.name not in named and (i.name in needed or i.name == "image")]
    for values, wanted in (
        (small.graph.node, kept[::-1]),
        (small.graph.output, outputs),
        (small.graph.initializer, weights),
        (small.graph.input, inputs),
    ):
        del values[:]
        values.extend(wanted)  # type: ignore[arg-type]
    return small
