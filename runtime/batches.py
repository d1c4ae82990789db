"""Batching: which queries run together, with which window sizes, on which bands of the views."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.classes import MAX_CLASSES, WindowTable, axis_classes
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.memory import Lanes

Integers = NDArray[np.int64]
Seconds = NDArray[np.float64]

CLASS_LIMITS = (MAX_CLASSES, 12, 8, 6, 4, 3, 2, 1)
"""Classes per axis that are tried, descending: more of them compute less, and leave more batches half empty."""

HALVINGS = 4
"""So often the largest batch is halved: few queries are sooner answered if every worker has its share."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Queries that run together.

    Attributes:
        queries: int64 [q], their positions among all queries.
        origins: int64 [q, 2].
        patch: (height, width) of their patches.
        window_sizes: int64 [T, 2], the graph's input.
        window_begins: int64 [q, T, 2], the graph's input, of a plan that has it.
        tau: the share of a map's rows, and columns, that the windows may have.
        bands: per view, the (first, stop) rows that the batch reads.
        seconds: that it is predicted to take, on one core of the reference machine.
        group: batches of the same number follow each other, run on one worker, and share a run of the tail, or a way to
            a device and back.
    """

    queries: Integers
    origins: Integers
    patch: tuple[int, int]
    window_sizes: Integers
    window_begins: Integers | None
    tau: float
    bands: tuple[tuple[int, int], ...]
    seconds: float
    group: int

    def cut(self, most: int) -> "list[Batch]":
        """The same queries in batches of no more than so many."""
        parts = np.array_split(np.arange(len(self.queries)), -(-len(self.queries) // most))
        begins = self.window_begins
        return [
            replace(
                self,
                queries=self.queries[part],
                origins=self.origins[part],
                window_begins=None if begins is None else begins[part],
            )
            for part in parts
        ]


@dataclass(frozen=True, eq=False)
class _Grouping:
    """Queries in window classes, and how many of a class run together.

    Attributes:
        plan: the artifact's plan.
        rows, cols: int64 [Q], the class of each query along either axis.
        row_sizes, col_sizes: int64 [classes, T].
        size: queries of a batch, at most.
        workers: that share the batches.
    """

    plan: Plan
    rows: Integers
    cols: Integers
    row_sizes: Integers
    col_sizes: Integers
    size: int
    workers: int

    @cached_property
    def classes(self) -> Integers:
        """Int64 [Q], the class of each query along both axes."""
        return self.rows * len(self.col_sizes) + self.cols

    @cached_property
    def query_seconds(self) -> Seconds:
        """Per class, what a query takes."""
        weights = [window.seconds for window in self.plan.windows]
        return ((self.row_sizes * weights) @ self.col_sizes.T).reshape(-1) + self.plan.query_seconds

    @cached_property
    def seconds(self) -> float:
        """What all of it takes at the most: the workers may end with one of them alone on the longest batch."""
        counts = np.bincount(self.classes, minlength=len(self.query_seconds))
        runs = -(-counts // self.size)
        total = counts @ self.query_seconds + runs.sum() * self.plan.run_seconds
        largest = -(-counts // np.maximum(runs, 1))
        longest = np.max(np.where(counts > 0, largest * self.query_seconds, 0.0)) + self.plan.run_seconds
        return float(total / self.workers + longest * (1 - 1 / self.workers))

    def batches(self, origins: Integers) -> list[Integers]:
        """Positions of the queries of each batch, neighbours together, the longest batches first."""
        # Neighbours read overlapping bands of the views, so that short bands serve a batch.
        order = np.lexsort((origins[:, 1], origins[:, 0], self.classes))
        members = np.split(order, np.flatnonzero(np.diff(self.classes[order])) + 1)
        batches = [part for one in members for part in np.array_split(one, -(-len(one) // self.size))]
        return sorted(batches, key=self.batch_seconds, reverse=True)

    def batch_seconds(self, queries: Integers) -> float:
        """What a batch takes."""
        return float(len(queries) * self.query_seconds[self.classes[queries[0]]]) + self.plan.run_seconds


def plan_batches(
    plan: Plan,
    tables: tuple[WindowTable, WindowTable],
    origins: Integers,
    patch: tuple[int, int],
    lanes: Lanes,
    tau: float = 1.0,
) -> Iterator[Batch]:
    """Cut queries into batches of one window class each, so that they are predicted to be answered soonest.

    Args:
        plan: the artifact's plan.
        tables: its window tables for this patch.
        origins: int64 [Q, 2], inside the image.
        patch: (height, width) of every query's patch.
        lanes: how many batches run at a time, and the largest number of queries of one.
        tau: the share of a map's rows, and columns, that the tables' windows may have.
    """
    if not len(origins):
        return
    best = min(_groupings(plan, tables, origins, lanes), key=lambda grouping: grouping.seconds)
    bands = _Bands(plan, tables[0], origins[:, 0], best.rows, best.row_sizes)
    for group, batches in enumerate(_groups(best, best.batches(origins), lanes)):
        for queries in batches:
            row, col = best.rows[queries[0]], best.cols[queries[0]]
            sizes = np.stack([best.row_sizes[row], best.col_sizes[col]], axis=1)
            begins = _begins(tables, origins[queries]) if plan.tau < 1 else None
            seconds = best.batch_seconds(queries)
            yield Batch(queries, origins[queries], patch, sizes, begins, tau, bands.of(queries), seconds, group)


def _begins(tables: tuple[WindowTable, WindowTable], origins: Integers) -> Integers:
    """Where windows begin: [q, T, 2]."""
    along = (table.begins[:, origins[:, axis]] for axis, table in enumerate(tables))
    return np.ascontiguousarray(np.stack(list(along), axis=-1).swapaxes(0, 1))


def _groupings(
    plan: Plan, tables: tuple[WindowTable, WindowTable], origins: Integers, lanes: Lanes
) -> Iterator[_Grouping]:
    along = (axis_classes(plan.windows, tables, axis, origins[:, axis], CLASS_LIMITS) for axis in (0, 1))
    sizes = [max(1, lanes.batch >> halvings) for halvings in range(HALVINGS + 1)]
    known: set[tuple[int, int, int]] = set()
    for (rows, row_sizes), (cols, col_sizes) in zip(*along, strict=True):
        most = int(np.bincount(rows * len(col_sizes) + cols).max())
        for size in (min(size, most) for size in sizes):
            if (key := (len(row_sizes), len(col_sizes), size)) not in known:
                known.add(key)
                yield _Grouping(plan, rows, cols, row_sizes, col_sizes, size, lanes.workers)


def _groups(grouping: _Grouping, batches: list[Integers], lanes: Lanes) -> list[list[Integers]]:
    """The batches that run one after another and share what is done for a group; without groups, each by itself.

    About equally long: each batch, the longest first, goes to the group that has the least to do as yet and has room.
    """
    if lanes.group is None:
        return [[batch] for batch in batches]
    queries = sum(len(batch) for batch in batches)
    workers = min(lanes.workers, len(batches))
    groups: list[list[Integers]] = [[] for _ in range(workers * -(-queries // (workers * lanes.group)))]
    room = [lanes.group] * len(groups)
    least = [(0.0, number) for number in range(len(groups))]
    for batch in batches:
        while least and room[least[0][1]] < len(batch):
            heapq.heappop(least)
        if not least:
            least, groups, room = [(0.0, len(groups))], [*groups, []], [*room, lanes.group]
        seconds, number = heapq.heappop(least)
        groups[number].append(batch)
        room[number] -= len(batch)
        heapq.heappush(least, (seconds + grouping.batch_seconds(batch), number))
    return [group for group in groups if group]


class _Bands:
    """Which rows of the views batches read.

    Args:
        plan: the artifact's plan.
        table: its window table of rows.
        origins: int64 [Q], first rows of the queries' patches.
        classes: int64 [Q], their classes along the rows.
        sizes: int64 [classes, T], the rows of the classes' windows.
    """

    def __init__(self, plan: Plan, table: WindowTable, origins: Integers, classes: Integers, sizes: Integers) -> None:
        self._views = len(plan.views)
        # A class and a first row determine what is read; many queries share them.
        stride = table.begins.shape[1]
        keys, self._place = np.unique(classes * stride + origins, return_inverse=True)
        rows, extents = sizes[keys // stride].T, table.extents[:, None]
        starts = geometry.window_start(table.begins[:, keys % stride], rows, extents)
        reads = [(number, read, view.rows) for number, view in enumerate(plan.views) for read in view.reads]
        self._view_of_read = np.array([number for number, _, _ in reads], np.int64)
        whole = np.zeros_like(keys)
        lines = [
            (whole, whole + extent)
            if read.window is None
            else geometry.bands(read.rows, starts[read.window], rows[read.window], extent)
            for _, read, extent in reads
        ]
        self._first = np.array([first for first, _ in lines], np.int64).reshape(len(reads), len(keys))
        self._stop = np.array([stop for _, stop in lines], np.int64).reshape(len(reads), len(keys))

    def of(self, queries: Integers) -> tuple[tuple[int, int], ...]:
        """Per view, the (first, stop) rows that these queries read."""
        places = np.unique(self._place[queries])
        first, stop = np.full(self._views, np.iinfo(np.int64).max), np.zeros(self._views, np.int64)
        np.minimum.at(first, self._view_of_read, self._first[:, places].min(axis=1))
        np.maximum.at(stop, self._view_of_read, self._stop[:, places].max(axis=1))
        return tuple(zip(first.tolist(), stop.tolist(), strict=True))
