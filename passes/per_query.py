"""Emitting the part of a model that has lost its batch axis: a Scan over the queries, its body as exported."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.emit import Emitter


@dataclass(frozen=True, slots=True)
class Carried:
    """A tensor that the part reads.

    Attributes:
        tensor: of all queries.
        shape: for one image.
        axis: along which the queries' shares follow one another.
    """

    tensor: gs.Tensor
    shape: tuple[int, ...]
    axis: int


def run_one_by_one(
    emitter: Emitter,
    nodes: list[gs.Node],
    carried: dict[str, Carried],
    wanted: list[gs.Variable],
    outer: dict[str, gs.Tensor],
) -> list[gs.Variable]:
    """Run nodes once a query.

    Before: ``x [1, 8, 4] → Reshape[1, 32] … → y``.
    After: ``x [Q, 8, 4] → Reshape[-1, 1, 8, 4] → Scan{ slice [1, 8, 4] → Reshape[1, 32] … → y } → y [Q, …]``.

    Args:
        emitter: receives the Scan node.
        nodes: of the model, in topological order, left as they are.
        carried: the full tensors that they read, by their names in the model.
        wanted: outputs of the model that they compute.
        outer: constants and other tensors that do not depend on the image, by name; the body refers to them.

    Returns:
        One tensor [Q, …] for each wanted output, under its name.
    """
    inner: dict[str, gs.Tensor] = {}
    body: list[gs.Node] = []
    axis = network.constant(emitter.unique("per_query/axis"), np.zeros(1, np.int64))
    slices = [_by_query(emitter, batch) for batch in carried.values()]
    for name, batch in carried.items():
        inner[name] = gs.Variable(emitter.unique(f"{name}/one"), batch.tensor.dtype)
    for node in nodes:
        inputs = [_resolve(t, inner, outer) for t in node.inputs]
        outputs = [gs.Variable(emitter.unique(f"{t.name}/one") if t.name else "", t.dtype) for t in node.outputs]
        inner.update({t.name: o for t, o in zip(node.outputs, outputs, strict=True)})
        body.append(node.copy(inputs=inputs, outputs=outputs, tensor_map={**outer, **inner}))
    results = []
    for output in wanted:
        one = inner[output.name]
        if list(output.shape[:1]) == [1]:  # the leading 1 of a single image becomes the axis of queries
            squeezed = gs.Variable(emitter.unique(f"{output.name}/squeezed"), output.dtype)
            body.append(gs.Node("Squeeze", squeezed.name, {}, [one, axis], [squeezed]))
            one = squeezed
        one.shape = list(query_shape(output))  # Scan stacks nothing of unknown rank
        results.append(one)
    stacked = [gs.Variable(t.name, t.dtype) for t in wanted]
    graph = gs.Graph(body, [inner[name] for name in carried], results, name="one_query")
    attrs = {"body": graph, "num_scan_inputs": len(slices), "scan_input_axes": [b.axis for b in carried.values()]}
    emitter.nodes.append(gs.Node("Scan", "per_query", attrs, slices, stacked))
    return stacked


def query_shape(output: gs.Variable) -> tuple[int | None, ...]:
    """One query's share of a model output: its shape for one image, without a leading 1."""
    shape = tuple(d if isinstance(d, int) else None for d in output.shape)
    return shape[1:] if shape[:1] == (1,) else shape


def _by_query(emitter: Emitter, batch: Carried) -> gs.Variable:
    """The tensor with an axis of queries, in front of the one that holds their shares."""
    shape = np.array([*batch.shape[: batch.axis], -1, *batch.shape[batch.axis :]], np.int64)
    return emitter.op("Reshape", batch.tensor, emitter.constant(shape))


def _resolve(tensor: gs.Tensor, inner: dict[str, gs.Tensor], outer: dict[str, gs.Tensor]) -> gs.Tensor:
    if network.is_absent(tensor):
        return tensor.copy()
    return inner[tensor.name] if tensor.name in inner else outer[tensor.name]
