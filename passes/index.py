"""Emitting the index arithmetic: where windows lie, and where in its pool each cell lies that a read wants.

What depends on one integer alone, be it a patch's origin, a window's start or its size, is tabulated here and looked
up by the graph. All windows, and all reads, go through the same few nodes together; only the last of a read's nodes,
which see every cell, are its own.
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.geometry import AxisMap, Lines, Sliding
from krypton_onnx.passes.emit import Emitter, IntArray, IntGraph
from krypton_onnx.passes.planner import Layout
from krypton_onnx.passes.windows import Inputs
from krypton_onnx.plan import Read, View

Placing = tuple[IntArray | NDArray[np.int64] | int, IntArray | int]
"""Strides and first cells of `Lines`; a number holds for all reads."""
_NEIGHBOURS: Placing = (1, 0)
Terms = tuple[IntArray, IntArray]
"""What the rows, or the columns, of one read contribute to its index: of the view and of the own window."""
_AXES = ("rows", "cols")


@dataclass(frozen=True, slots=True)
class _AxisRead:
    """One axis of a read.

    Attributes:
        window: the window that the reader computes, an index into all windows.
        own: the window of the tensor that is read.
        wanted: what one row of the reader's window reads.
        reader_extent: rows of the reader's tensor.
        extent: rows of the tensor that is read.
    """

    window: int
    own: int
    wanted: AxisMap
    reader_extent: int
    extent: int


class Index:
    """The windows of a batch, and the index into its pool of every read of the plan.

    Behind the windows of the plan stand two more: the patch, and one cell at the corner of a map of one cell, whose
    reader reads whole maps.

    Args:
        emitter: receives the nodes.
        inputs: of the graph.
        layout: the planner's decisions.

    Attributes:
        queries: Q, a scalar.
    """

    def __init__(self, emitter: Emitter, inputs: Inputs, layout: Layout) -> None:
        self.xp = IntGraph(emitter)
        self._emitter, self._layout = emitter, layout
        self._steps = [*(window.step for window in layout.windows), 0]
        self._patch = len(layout.windows)
        with emitter.scope("queries"):
            self.queries = self.xp.take(self.xp.cast(emitter.op("Shape", inputs.origins)), 0)
        with emitter.scope("windows/sizes"):
            self._sizes = self._window_sizes(inputs.patch_content, inputs.window_sizes)
        self._starts = self._window_starts(inputs)
        self._reads = [
            (number, read) for number, view in enumerate(layout.views) if not view.sums for read in view.reads
        ]
        self._terms = self._read_terms(inputs.view_rows) if self._reads else {}

    @property
    def lines(self) -> frozenset[str]:
        """Names of the tensors that hold where the rows, and the columns, of each read lie."""
        axes = (terms for of_read in self._terms.values() for terms in of_read)
        return frozenset(term.tensor.name for terms in axes for term in terms)

    def starts(self, window: int) -> tuple[IntArray, IntArray]:
        """The first row and the first column of a window, [Q, 1, 1] each."""
        rows, cols = (self.xp.expand_dims(self.xp.take(starts, window), (1, 2)) for starts in self._starts)
        return rows, cols

    def sizes(self, window: int) -> tuple[IntArray, IntArray]:
        """The rows and the columns of a window, scalars."""
        rows, cols = (self.xp.take(sizes, window) for sizes in self._sizes)
        return rows, cols

    def of_read(self, number: int, read: Read) -> IntArray:
        """`geometry.overlay_index` of a read of a view, by its number: [Q, rows, columns]."""
        rows, cols = self._terms[number, read]
        index: IntArray = geometry.overlay_index(rows, cols, padded=is_padded(read), xp=self.xp)
        return index

    # ---------------------------------------------------------------------------------------------- windows

    def _window_sizes(self, patch_content: gs.Variable, window_sizes: gs.Variable) -> tuple[IntArray, IntArray]:
        """Of all windows: [T + 2], per axis."""
        patch = self._emitter.op("Shape", patch_content, start=2, end=4)
        last = self._emitter.op("Unsqueeze", patch, self._emitter.constant(np.zeros(1, np.int64)))
        cell = self._emitter.constant(np.ones((1, 2), np.int64))
        sizes = self.xp.cast(self._emitter.op("Concat", window_sizes, last, cell, axis=0), "windows/sizes/int32")
        return self.xp.take(sizes, 0, axis=1), self.xp.take(sizes, 1, axis=1)

    def _window_starts(self, inputs: Inputs) -> tuple[IntArray, IntArray]:
        """Of all windows: [T + 2, Q], per axis."""
        if inputs.window_begins is None:
            origins = self.xp.cast(inputs.origins, "origins/int32")
            return self._axis_starts(0, self._begins(0, origins)), self._axis_starts(1, self._begins(1, origins))
        with self._emitter.scope("windows/begins"):
            patch = self._emitter.op("Unsqueeze", inputs.origins, self._emitter.constant(np.ones(1, np.int64)))
            corner = self._emitter.op("Sub", patch, patch)
            joined = self._emitter.op("Concat", inputs.window_begins, patch, corner, axis=1)
            begins = self.xp.cast(joined, "windows/begins/int32")
            rows, cols = (self.xp.transpose(self.xp.take(begins, axis, axis=2)) for axis in (0, 1))
        return self._axis_starts(0, rows), self._axis_starts(1, cols)

    def _begins(self, axis: int, origins: IntArray) -> IntArray:
        """Where windows begin that cover all that can change: [T + 2, Q] of [Q, 2]."""
        program = self._layout.program
        everywhere = np.arange(program[0].extents[axis])
        begins = geometry.begins(program, axis, everywhere)
        table = np.stack([*(begins[step] for step in self._steps), np.zeros_like(everywhere)])
        with self._emitter.scope(f"windows/{_AXES[axis]}/starts"):
            begins_by_origin = self.xp.constant(table, f"windows/{_AXES[axis]}/begins_by_origin")
            return self.xp.take(begins_by_origin, self.xp.take(origins, axis, axis=1), axis=1)

    def _axis_starts(self, axis: int, begins: IntArray) -> IntArray:
        program = self._layout.program
        extents = np.array([*(program[step].extents[axis] for step in self._steps), 1])[:, None]
        with self._emitter.scope(f"windows/{_AXES[axis]}/starts"):
            sizes = self.xp.expand_dims(self._sizes[axis], 1)
            starts: IntArray = geometry.window_start(begins, sizes, extents, self.xp)
        return starts

    # ------------------------------------------------------------------------------------------------ reads

    def _read_terms(self, view_rows: gs.Variable) -> dict[tuple[int, Read], tuple[Terms, Terms]]:
        """Of the rows and of the columns of each read."""
        with self._emitter.scope("reads"):
            rows, cols = self._lines(self.xp.cast(view_rows, "view_rows/int32"))
        terms = zip(self._axis_terms(rows, 0), self._axis_terms(cols, 1), strict=True)
        return dict(zip(self._reads, terms, strict=True))

    def _lines(self, view_rows: IntArray) -> tuple[Lines, Lines]:
        """The rows and the columns of all reads. Their pools hold the pad row, then window rows, then view rows."""
        views = [self._layout.views[number] for number, _ in self._reads]
        own = np.array([self._own(view) for view in views])
        own_rows, own_cols = (self.xp.take(sizes, own) for sizes in self._sizes)
        cells = own_rows * own_cols
        pads = np.array([int(is_padded(read)) for _, read in self._reads])
        width = np.array([view.cols for view in views])
        first_row = self.xp.take(view_rows, np.array([number for number, _ in self._reads]))
        in_view = width, cells * self.queries + pads - first_row * width
        in_own = own_cols, self.xp.expand_dims(cells, 1) * self.xp.arange(self.queries) + pads[:, None]
        with self._emitter.scope("reads/rows"):
            rows = self._axis_lines(0, in_view, in_own)
        with self._emitter.scope("reads/cols"):
            cols = self._axis_lines(1, _NEIGHBOURS, _NEIGHBOURS)
        return rows, cols

    def _axis_lines(self, axis: int, in_view: Placing, in_own: Placing) -> Lines:
        reads = [self._axis_read(self._layout.views[number], read, axis) for number, read in self._reads]
        windows, own = np.array([r.window for r in reads]), np.array([r.own for r in reads])
        tables = [geometry.wanted_tables(r.wanted, r.reader_extent) for r in reads]
        steps = [t.step for t in tables]
        sources, source_at = _stacked([t.rows for t in tables])
        looked_up = None in steps
        firsts = [t.begins + at if looked_up else t.rows[t.begins] for t, at in zip(tables, source_at, strict=True)]
        begins, begin_at = _stacked(firsts)
        counts, count_at = _stacked([t.counts for t in tables])
        begins_by_start = self.xp.constant(begins, f"{self._emitter.scoped}/begins_by_start")
        counts_by_size = self.xp.constant(counts, f"{self._emitter.scoped}/counts_by_size")
        sizes, starts = self._sizes[axis], self._starts[axis]
        return Lines(
            counts=self.xp.take(counts_by_size, self.xp.take(sizes, windows) + count_at),
            begins=self.xp.take(begins_by_start, self.xp.take(starts, windows) + begin_at[:, None]),
            steps=1 if looked_up or set(steps) == {1} else np.array(steps),
            sources=self.xp.constant(sources, f"{self._emitter.scoped}/sources") if looked_up else None,
            extents=np.array([r.extent for r in reads]),
            strides=in_view[0],
            firsts=in_view[1],
            own_sizes=self.xp.take(sizes, own),
            own_starts=self.xp.take(starts, own),
            own_strides=in_own[0],
            own_firsts=in_own[1],
        )

    def _axis_read(self, view: View, read: Read, axis: int) -> _AxisRead:
        extent = (view.rows, view.cols)[axis]
        if read.window is None:
            return _AxisRead(self._patch + 1, self._own(view), Sliding(span=extent), 1, extent)
        reader_extent = self._layout.program[self._steps[read.window]].extents[axis]
        return _AxisRead(read.window, self._own(view), (read.rows, read.cols)[axis], reader_extent, extent)

    def _own(self, view: View) -> int:
        """The number of a view's own window."""
        return self._patch if view.window is None else view.window

    def _axis_terms(self, lines: Lines, axis: int) -> list[Terms]:
        """Per read [Q, rows, 1], or [Q, 1, columns]."""
        names = [f"{self._layout.views[number].tensor}/{_reader(read)}_{_AXES[axis]}" for number, read in self._reads]
        with self._emitter.scope(f"reads/{_AXES[axis]}"):
            view, own = (self.xp.expand_dims(t, 2 - axis) for t in geometry.line_terms(lines, self.xp))
            in_view = self.xp.split(view, lines.counts, [f"{name}/view" for name in names], 1 + axis)
            in_own = self.xp.split(own, lines.counts, [f"{name}/own" for name in names], 1 + axis)
        return list(zip(in_view, in_own, strict=True))


def is_padded(read: Read) -> bool:
    """Whether some cell that is read can lie outside the tensor."""
    return read.rows.looks_outside or read.cols.looks_outside


def _stacked(tables: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tables behind each other in one, equal ones once, and where each of them begins there."""
    unique = {table.tobytes(): table for table in tables}
    begins = np.cumsum([0, *(len(table) for table in unique.values())])
    places = dict(zip(unique, begins, strict=False))
    return np.concatenate(list(unique.values())), np.array([places[table.tobytes()] for table in tables])


def _reader(read: Read) -> str:
    return "whole" if read.window is None else f"for_window{read.window}"
