"""How runs take queries, once the layout is decided: one or many, and of which graph. Policy, as in `planner`."""

import math
from dataclasses import dataclass, replace

from krypton_onnx.passes.batch_axes import BatchAxes, batch_axes
from krypton_onnx.passes.cost import Costs
from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.network import Network, outputs, static_shape
from krypton_onnx.passes.plan_tail import plan_tail
from krypton_onnx.passes.planner import Layout, Sized, mean_windows
from krypton_onnx.passes.regions import Regions
from krypton_onnx.plan import Tail

LONELY_SHARE = 0.8
"""Where this share of a query's arithmetic has lost the batch axis, batches gain nothing."""

DENSE_BATCH_BYTES = 16_000_000
DENSE_BATCHES = (2, 4, 8, 16, 32)
"""Activations of a batch of full inference, which has no index arithmetic to spread, and the queries that come nearest
to them."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What was decided.

    Attributes:
        batch: where tensors have the batch.
        one_query: why a run takes one query only; None if it takes a batch.
        tail: what runs apart, for several batches at once.
        index_apart: whether the index arithmetic runs apart, on the host of a device.
        costs: of the layout, with the tail apart.
    """

    batch: BatchAxes
    one_query: str | None
    tail: Tail | None
    index_apart: bool
    costs: Costs

    def undivided(self) -> "Runs":
        """The same, but nothing runs apart."""
        return replace(
            self, tail=None, index_apart=False, costs=replace(self.costs, tail_batch=None, index_apart=False)
        )

    def speedup(self, layout: Layout) -> float:
        """Predicted over full inference; of full inference what windows would give."""
        return layout.predicted_speedup if layout.full_inference else self.costs.usual.speedup


def plan_runs(net: Network, regions: Regions, layout: Layout, patch: tuple[int, int]) -> Runs:
    """Decide how runs take queries.

    Args:
        net: the normalized model.
        regions: its analysis.
        layout: the decided layout.
        patch: (height, width) of the patch to tune for.
    """
    batch = batch_axes(net, frozenset(regions.states), frozenset(layout.window_of))
    one_query = one_query_reason(net, layout, batch, patch)
    tail = None if one_query else plan_tail(net, layout, batch)
    costs = replace(layout.costs, tail_batch=tail.batch if tail else None)
    return Runs(batch, one_query, tail, costs.machine.index_apart, costs)


def one_query_reason(net: Network, layout: Layout, batch: BatchAxes, patch: tuple[int, int]) -> str | None:
    """Why a run should take one query only, or None if it should take a batch.

    Args:
        net: the normalized model.
        layout: the decided layout.
        batch: where tensors have the batch.
        patch: (height, width) of the patch to tune for.
    """
    for tensor in net.graph.outputs:
        if tensor.name in batch.lost and static_shape(tensor) is None:
            return f"{batch.lost[tensor.name]}; and the extents of the output '{tensor.name}' vary"
    mean = mean_windows(layout.program, layout.windows, Sized(patch, layout.tau))
    together = sum(w.flops * math.prod(size) for w, size in zip(layout.windows, mean, strict=True))
    alone = 0
    for node in net.graph.nodes:
        name = outputs(node)[0].name
        if name in batch.lost:
            alone += flops(node)
        elif name in batch.axes and name not in layout.window_of:
            together += flops(node)
    return next(iter(batch.lost.values())) if alone > LONELY_SHARE * (alone + together) else None


def dense_batch_for(query_bytes: int) -> int:
    """Queries per run of full inference, likewise."""
    return min(DENSE_BATCHES, key=lambda batch: abs(math.log(batch * max(query_bytes, 1) / DENSE_BATCH_BYTES)))
