"""Policy, as in `planner`: whether the last layers run apart, for many batches at once.

The weights of a product with one row a query are read from memory for every batch, and windows of many sizes make
many batches. Cut off before such products, the rest of the graph has no windows and takes queries of any of them.
"""

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.batch_axes import BatchAxes
from krypton_onnx.passes.cost import streamed_bytes
from krypton_onnx.passes.footprint import static_bytes
from krypton_onnx.passes.network import Network, outputs, static_shape
from krypton_onnx.passes.per_query import query_shape
from krypton_onnx.passes.planner import Layout, held_type
from krypton_onnx.passes.regions import used_names
from krypton_onnx.plan import Tail

LEAST_SHARE = 0.05
"""Of a query's time that reading weights must take to be worth a graph of its own."""

QUERIES = 128
"""Of a run of the tail. More would save hardly anything."""

MOST_BYTES = 50_000_000
"""Activations of a run of the tail: it is for products of vectors, and maps do not go through it."""


def plan_tail(net: Network, layout: Layout, batch: BatchAxes) -> Tail | None:
    """The part of the model that is to run apart, or None. Any doubt means none.

    Args:
        net: the normalized model.
        layout: the decided layout.
        batch: where tensors have the batch.
    """
    if layout.full_inference:
        return None  # batches are as large as they should be, whatever the windows
    nodes = _from_the_first_product(net, batch)
    streamed = sum(streamed_bytes(node) for node in nodes)
    apart = replace(layout.costs, tail_batch=QUERIES)
    if not streamed or streamed * apart.machine.stream / apart.batch < LEAST_SHARE * apart.usual.incremental:
        return None
    tensors = net.graph.tensors()
    made = {t.name: t for node in nodes for t in outputs(node)}
    taken = dict.fromkeys(name for node in nodes for name in used_names(node) if name not in made and name in tensors)
    carried = {name: tensors[name] for name in taken if name in batch.axes}
    # The model's other inputs, and what depends on nothing else, stay with the windows.
    constant = all(isinstance(tensors[name], gs.Constant) for name in taken if name not in carried)
    results = [tensor for tensor in net.graph.outputs if tensor.name in made]
    batched = all(batch.axes.get(name) == 0 for name in (*made, *carried))
    one_row = all((static_shape(tensor) or ())[:1] == (1,) for tensor in carried.values())
    arrays = all(held_type(np.dtype(tensor.dtype)) == tensor.dtype for tensor in carried.values())
    if not (constant and batched and one_row and arrays and all(query_shape(t) != tuple(t.shape) for t in results)):
        return None
    held = sum(static_bytes(tensor) for tensor in (*made.values(), *carried.values()))
    if held * QUERIES > MOST_BYTES:
        return None
    return Tail(tuple(carried), tuple(tensor.name for tensor in results), QUERIES, held)


def _from_the_first_product(net: Network, batch: BatchAxes) -> list[gs.Node]:
    """The products whose weights are read for every batch, and all that depends on them."""
    nodes: list[gs.Node] = []
    made: set[str] = set()
    for node in net.graph.nodes:
        used = used_names(node)
        is_product = streamed_bytes(node) > 0 and not batch.axes.keys().isdisjoint(used)
        if is_product or not made.isdisjoint(used):
            nodes.append(node)
            made.update(tensor.name for tensor in outputs(node))
    return nodes
