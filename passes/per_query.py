"""Emitting the part of a model that has lost its batch axis: a Scan over the queries, its body as exported."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.emit import Emitter


def per_query_tail(
    emitter: Emitter,
    nodes: list[gs.Node],
    carried: list[gs.Tensor],
    wanted: list[gs.Variable],
    outer: dict[str, gs.Tensor],
) -> list[gs.Variable]:
    """Run nodes once a query.

    Before: ``x [1, 8, 4] → Reshape[1, 32] … → y``.
    After: ``x [Q, 8, 4] → Scan{ slice [8, 4] → Unsqueeze(0) → Reshape[1, 32] … → y } → y [Q, …]``.

    Args:
        emitter: receives the Scan node.
        nodes: of the model, in topological order, left as they are.
        carried: full tensors [Q, …] that they read.
        wanted: outputs of the model that they compute.
        outer: tensors that do not depend on the image, by name; the body refers to them.

    Returns:
        One tensor [Q, …] for each wanted output, under its name.
    """
    inner: dict[str, gs.Tensor] = {}
    body: list[gs.Node] = []
    slices = []
    axis = network.constant("per_query/axis", np.zeros(1, np.int64))
    for tensor in carried:
        piece = gs.Variable(f"{tensor.name}/query", tensor.dtype)
        inner[tensor.name] = gs.Variable(f"{tensor.name}/one", tensor.dtype)
        body.append(gs.Node("Unsqueeze", inner[tensor.name].name, {}, [piece, axis], [inner[tensor.name]]))
        slices.append(piece)
    for node in nodes:
        inputs = [_resolve(t, inner, outer) for t in node.inputs]
        outputs = [gs.Variable(f"{t.name}/one" if t.name else "", t.dtype) for t in node.outputs]
        inner.update({t.name: o for t, o in zip(node.outputs, outputs, strict=True)})
        body.append(node.copy(inputs=inputs, outputs=outputs, tensor_map={**outer, **inner}))
    results = []
    for output in wanted:
        one = inner[output.name]
        if list(output.shape[:1]) == [1]:  # the leading 1 of a single image becomes the axis of queries
            squeezed = gs.Variable(f"{output.name}/squeezed", output.dtype)
            body.append(gs.Node("Squeeze", squeezed.name, {}, [one, axis], [squeezed]))
            one = squeezed
        results.append(one)
    stacked = [gs.Variable(t.name, t.dtype) for t in wanted]
    graph = gs.Graph(body, slices, results, name="one_query")
    attrs = {"body": graph, "num_scan_inputs": len(slices)}
    emitter.nodes.append(gs.Node("Scan", "per_query", attrs, list(carried), stacked))
    return stacked


def _resolve(tensor: gs.Tensor, inner: dict[str, gs.Tensor], outer: dict[str, gs.Tensor]) -> gs.Tensor:
    if tensor.name in inner:
        return inner[tensor.name]
    if isinstance(tensor, gs.Constant) or network.is_absent(tensor):
        return tensor.copy()
    return outer[tensor.name]
