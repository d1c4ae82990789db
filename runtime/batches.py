"""Batching: which queries run together, with which window sizes, on which bands of the views."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.classes import MAX_CLASSES, axis_classes
from krypton_onnx.plan import Plan, Read, View

Integers = NDArray[np.int64]

BATCHES_PER_CLASS = 2
"""There are no more classes than leave this many full batches to the mean one."""


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


def plan_batches(plan: Plan, origins: Integers, patch: tuple[int, int], size: int) -> Iterator[Batch]:
    """Cut queries into batches of one window class each, neighbours together.

    Args:
        plan: the artifact's plan.
        origins: int64 [Q, 2], inside the image.
        patch: (height, width) of every query's patch.
        size: the largest number of queries in a batch.
    """
    limit = min(MAX_CLASSES, max(1, math.isqrt(len(origins) // (BATCHES_PER_CLASS * size))))
    rows, row_sizes = axis_classes(plan.program, plan.windows, 0, origins[:, 0], patch[0], limit)
    cols, col_sizes = axis_classes(plan.program, plan.windows, 1, origins[:, 1], patch[1], limit)
    # Neighbours read overlapping bands of the views, so that short bands serve a batch.
    order = np.lexsort((origins[:, 1], origins[:, 0], cols, rows))
    classes = (rows * (cols.max(initial=0) + 1) + cols)[order]
    for members in np.split(order, np.flatnonzero(np.diff(classes)) + 1):
        sizes = np.stack([row_sizes[rows[members[0]]], col_sizes[cols[members[0]]]], axis=1)
        for start in range(0, len(members), size):
            queries = members[start : start + size]
            yield Batch(queries, origins[queries], patch, sizes, _bands(plan, origins[queries, 0], sizes[:, 0]))


def _bands(plan: Plan, origins: Integers, sizes: Integers) -> tuple[tuple[int, int], ...]:
    begins = geometry.begins(plan.program, 0, origins)
    starts = [
        geometry.window_start(begins[w.step], n, plan.program[w.step].rows.extent)
        for w, n in zip(plan.windows, sizes, strict=True)
    ]
    return tuple(_band(view, starts, sizes) for view in plan.views)


def _band(view: View, starts: list[Integers], sizes: Integers) -> tuple[int, int]:
    bands = [_read_band(view, read, starts, sizes) for read in view.reads]
    return min(first for first, _ in bands), max(stop for _, stop in bands)


def _read_band(view: View, read: Read, starts: list[Integers], sizes: Integers) -> tuple[int, int]:
    if read.window is None:
        return 0, view.rows
    return geometry.band(read.rows, starts[read.window], int(sizes[read.window]), view.rows)
