"""Memory: how many queries fit into a budget."""

import math
from dataclasses import dataclass

import numpy as np

from krypton_onnx import geometry
from krypton_onnx.classes import WindowTable, mean_seconds
from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.side_by_side import WAITING

ALLOCATOR_OVERHEAD = 2.0
"""What ONNX Runtime's arena holds at its peak, over what is alive of the graph in it: it keeps freed blocks of other
sizes, and copies of tensors in the layouts in which it computes."""

PIECES = 3.0
"""What the arena of a device holds over what is alive in it, where batches of several classes run two at a time."""

MOST_CELLS = geometry.NOWHERE // 4
"""Cells that the windows of a batch may have, so that the graph's int32 indices hold them with room to spare."""


OVERHEAD = 0.1
"""Of the time of a batch's queries, what a run may cost once, whatever the caches would like."""

LARGEST_BATCH = 64
"""Queries to which that may lead."""

WAITING_BYTES, WAITING_SHARE = 256_000_000, 0.25
"""Of outputs that wait on a device, to come back together, and of a budget at the most."""

WAITING_QUERIES = 1024
"""Beyond which nothing is saved, and nothing is seen of the work for too long."""

_MOST_BYTES = 8
"""Of a number, whatever its type."""

TAIL_SHARE = 0.25
"""Of a budget's bytes beside the views, for what waits to go through the tail together."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """What runs at a time.

    Attributes:
        workers: batches side by side.
        batch: queries of each, at the most.
        group: queries of the batches that share a run of the tail, or a way to a device and back, at the most; None
            for each batch by itself.
    """

    workers: int
    batch: int
    group: int | None


def lanes(
    plan: Plan, patch: tuple[int, int], tables: tuple[WindowTable, WindowTable], budget: int | None, workers: int
) -> Lanes:
    """The plan's number of queries per batch, fewer for a larger patch; within a budget as many as it allows.

    More where so few could not share what a run costs once.

    Args:
        plan: the artifact's plan.
        patch: (height, width) of the queries.
        tables: window tables for this patch.
        budget: bytes for everything beyond weights; None for no limit.
        workers: batches that may run side by side. A budget that would cut them to less than half gets fewer of them.

    Raises:
        KryptonError: not even one query fits; says how much is needed.
    """
    growth, work = _growths(plan, tables)
    # A batch for larger windows, or for a patch whose cells int32 could not count, is smaller.
    planned = max(1, min(int(plan.batch / work), MOST_CELLS // (patch[0] * patch[1])))
    most = max(planned, min(_least_batch(plan, tables), MOST_CELLS // (patch[0] * patch[1])))
    if budget is None:
        return Lanes(workers, most, max(most, plan.tail.batch) if plan.tail else None)
    held = view_bytes(plan)
    per_query = max(1.0, plan.memory.dense + plan.memory.window * growth)
    handed = 2 * plan.tail.memory if plan.tail else 0  # as they come, and joined
    needed = ALLOCATOR_OVERHEAD * max(plan.memory.base, held + plan.memory.fixed + per_query + handed)
    if budget < needed:
        raise KryptonError(
            f"A memory budget of {_megabytes(budget)} is too small: this model needs {_megabytes(needed)} beyond its "
            f"weights for one query at a time, the patch being {patch[0]}x{patch[1]}."
        )
    free = budget / ALLOCATOR_OVERHEAD - held
    fitting = [_fitting(plan, free, n, per_query, handed, most) for n in range(workers, 0, -1)]
    return next((lane for lane in fitting if 2 * lane.batch >= planned), fitting[-1])


def grown_by_doubling(plan: Plan, budget: int) -> int:
    """A budget of `lanes` by which an arena that grows by powers of two stays within this one, or nearly so."""
    held = view_bytes(plan)
    room = max(1.0, budget - ALLOCATOR_OVERHEAD * held)  # the views' own arena doubles, too
    return int(ALLOCATOR_OVERHEAD * (held + 2 ** math.floor(math.log2(room)) / PIECES))


def waiting_bytes(budget: int | None) -> int:
    """Of a budget, what may wait on a device: outputs, to come back together, and what was sent for them."""
    return WAITING_BYTES if budget is None else min(WAITING_BYTES, int(WAITING_SHARE * budget))


def queries_that_wait(plan: Plan, patch: tuple[int, int], waiting: int) -> int:
    """How many queries' outputs, origins and contents may wait in so many bytes."""
    channels = plan.image.shape[0] or 1
    content = math.prod(patch) * channels * _MOST_BYTES
    return min(WAITING_QUERIES, waiting // (_outputs(plan) + content + 2 * _MOST_BYTES))


def _least_batch(plan: Plan, tables: tuple[WindowTable, WindowTable]) -> int:
    """Queries enough to share what a run costs once; of full inference, the dense batch is planned."""
    if plan.one_query or plan.full_inference:
        return 1
    query = mean_seconds(plan.windows, tables) + plan.query_seconds
    return min(LARGEST_BATCH, int(plan.run_seconds / (OVERHEAD * query))) if query > 0 else 1


def _fitting(plan: Plan, free: float, workers: int, per_query: float, handed: int, most: int) -> Lanes:
    """What so many workers may do with so many bytes, for what runs and for results that wait to be taken."""
    waiting = (workers + WAITING if workers > 1 else 0) * _outputs(plan)
    least = 1 if workers == 1 else 0
    free -= workers * plan.memory.fixed
    if plan.tail is None:
        batch = min(most, max(least, int(free // (workers * per_query + waiting))))
        return Lanes(workers, batch, None)
    group = max(1, min(plan.tail.batch, int(TAIL_SHARE * free // (workers * handed + waiting))))
    batch = int((free - group * (workers * handed + waiting)) // (workers * per_query))
    return Lanes(workers, min(most, group, max(least, batch)), group)


def _outputs(plan: Plan) -> int:
    """Bytes of a query's outputs."""
    return sum(math.prod(extent or 1 for extent in o.shape) * np.dtype(o.dtype).itemsize for o in plan.outputs)


def view_bytes(plan: Plan) -> int:
    """What the views of one image take."""
    return sum(v.rows * v.cols * v.channels * np.dtype(v.dtype).itemsize for v in plan.views)


def _growths(plan: Plan, tables: tuple[WindowTable, WindowTable]) -> tuple[float, float]:
    """How much larger this patch's windows are than the planned patch's: the most, and by the time they take."""
    if not plan.windows:
        return 1.0, 1.0
    areas = np.prod([table.sizes.max(axis=1) for table in tables], axis=0, dtype=float)
    planned = np.prod([np.max(c.sizes, axis=0) for c in (plan.row_classes, plan.col_classes)], axis=0, dtype=float)
    weights = np.array([w.seconds for w in plan.windows], float)
    by_work = (areas @ weights) / (planned @ weights) if weights.any() else 1.0
    return max(1.0, float(np.max(areas / planned))), max(1.0, float(by_work))


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB"
