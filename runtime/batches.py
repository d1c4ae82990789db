"""Batching: which queries run together, with which window sizes, on which bands of the views."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.classes import MAX_CLASSES, WindowTable, axis_classes
from krypton_onnx.plan import Plan, Read, View

Integers = NDArray[np.int64]

CLASS_LIMITS = (MAX_CLASSES, 6, 4, 3, 2, 1)
"""Classes per axis that are tried, descending: more of them compute less, and leave more batches half empty."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Queries that run together.

    Attributes:
        queries: int64 [q], their positions among all queries.
        origins: int64 [q, 2].
        patch: (height, width) of their patches.
        window_sizes: int64 [T, 2], the graph's input.
        bands: per view, the (first, stop) rows that the batch reads.
    """

    queries: Integers
    origins: Integers
    patch: tuple[int, int]
    window_sizes: Integers
    bands: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Grouping:
    """Queries in window classes.

    Attributes:
        rows, cols: int64 [Q], the class of each query along either axis.
        row_sizes, col_sizes: int64 [classes, T].
        flops: what all of it costs, runs included.
    """

    rows: Integers
    cols: Integers
    row_sizes: Integers
    col_sizes: Integers
    flops: float


def plan_batches(
    plan: Plan, tables: tuple[WindowTable, WindowTable], origins: Integers, patch: tuple[int, int], size: int
) -> Iterator[Batch]:
    """Cut queries into batches of one window class each, neighbours together.

    Args:
        plan: the artifact's plan.
        tables: its window tables for this patch.
        origins: int64 [Q, 2], inside the image.
        patch: (height, width) of every query's patch.
        size: the largest number of queries in a batch.
    """
    if not len(origins):
        return
    best = min(_groupings(plan, tables, origins, size), key=lambda grouping: grouping.flops)
    # Neighbours read overlapping bands of the views, so that short bands serve a batch.
    order = np.lexsort((origins[:, 1], origins[:, 0], best.cols, best.rows))
    classes = (best.rows * len(best.col_sizes) + best.cols)[order]
    for members in np.split(order, np.flatnonzero(np.diff(classes)) + 1):
        sizes = np.stack([best.row_sizes[best.rows[members[0]]], best.col_sizes[best.cols[members[0]]]], axis=1)
        for queries in np.array_split(members, -(-len(members) // size)):
            yield Batch(
                queries, origins[queries], patch, sizes, _bands(plan, tables[0], origins[queries, 0], sizes[:, 0])
            )


def _groupings(
    plan: Plan, tables: tuple[WindowTable, WindowTable], origins: Integers, size: int
) -> Iterator[_Grouping]:
    along = (axis_classes(plan.windows, tables, axis, origins[:, axis], CLASS_LIMITS) for axis in (0, 1))
    for (rows, row_sizes), (cols, col_sizes) in zip(*along, strict=True):
        counts = np.bincount(rows * len(col_sizes) + cols, minlength=len(row_sizes) * len(col_sizes))
        flops = ((row_sizes * [w.flops for w in plan.windows]) @ col_sizes.T).reshape(-1)
        runs = -(-counts // size)
        yield _Grouping(rows, cols, row_sizes, col_sizes, float(counts @ flops + runs.sum() * plan.run_flops))


def _bands(plan: Plan, table: WindowTable, origins: Integers, sizes: Integers) -> tuple[tuple[int, int], ...]:
    starts = geometry.window_start(table.begins[:, origins], sizes[:, None], table.extents[:, None])
    return tuple(_band(view, starts, sizes) for view in plan.views)


def _band(view: View, starts: Integers, sizes: Integers) -> tuple[int, int]:
    bands = [_read_band(view, read, starts, sizes) for read in view.reads]
    return min(first for first, _ in bands), max(stop for _, stop in bands)


def _read_band(view: View, read: Read, starts: Integers, sizes: Integers) -> tuple[int, int]:
    if read.window is None:
        return 0, view.rows
    return geometry.band(read.rows, starts[read.window], int(sizes[read.window]), view.rows)
