"""Emitting reads through the overlay: the mechanics of `geometry.overlay_index` on the tensors of a graph."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.geometry import AxisRead, Sliding
from krypton_onnx.passes.emit import INDEX, Emitter, IntArray, IntGraph
from krypton_onnx.passes.footprint import Bytes
from krypton_onnx.passes.network import Array
from krypton_onnx.passes.planner import Layout, largest_windows
from krypton_onnx.plan import View

TO_ROWS = [0, 2, 3, 1]
TO_MAPS = [0, 3, 1, 2]
POINT = (Sliding(), Sliding())
_INDEX_BYTES = 3 * np.dtype(INDEX).itemsize
"""A cell: three integer tensors of a read's full size are alive together."""


@dataclass(frozen=True, slots=True)
class Box:
    """A window of each query.

    Attributes:
        starts: [Q, 1, 1], per axis; 0 where every query starts there.
        sizes: scalars, per axis.
        expected: its largest size for the patch that the plan is made for, to count memory with.
        whole: whether it is the whole map, whatever the patch.
    """

    starts: tuple[IntArray | int, IntArray | int]
    sizes: tuple[IntArray | int, IntArray | int]
    expected: tuple[int, int]
    whole: bool = False

    def memory(self, cell_bytes: int, sliding: tuple[Sliding, Sliding] = POINT) -> Bytes:
        """What a tensor over the cells that one query's box reads takes, at so many bytes a cell."""
        rows, cols = (geometry.read_count(n, s) for n, s in zip(self.expected, sliding, strict=True))
        total = int(rows * cols) * cell_bytes
        return Bytes(dense=total) if self.whole else Bytes(window=total)


class Overlay:
    """Reads windows of views over which each query's own window is laid.

    Args:
        emitter: receives the nodes.
        origins: int64 [Q, 2].
        patch_content: [Q or 1, C, h, w].
        window_sizes: int64 [T, 2].
        view_rows: int64 [V].
        layout: the planner's decisions.
        patch: (height, width) of the patch that they are made for.
    """

    def __init__(
        self,
        emitter: Emitter,
        origins: gs.Variable,
        patch_content: gs.Variable,
        window_sizes: gs.Variable,
        view_rows: gs.Variable,
        layout: Layout,
        patch: tuple[int, int],
    ) -> None:
        self.emitter = emitter
        self.xp = IntGraph(emitter)
        self._origins = origins
        columns = [self._per_query(self._element(origins, axis, along=1), f"origin/{n}") for axis, n in enumerate("yx")]
        self._query = self._per_query(self.xp.arange(self._dimension(origins, 0)).tensor, "query")
        with emitter.scope("region"):
            self._begins = [geometry.begins(layout.program, axis, columns[axis], self.xp) for axis in (0, 1)]
        self._program, self._windows = layout.program, layout.windows
        self._expected = largest_windows(layout, patch)
        self._sizes = self._index(self._flat(window_sizes), "window_sizes/int32")
        self._view_rows = self._index(view_rows, "view_rows/int32")
        self._patch = Box(
            (columns[0], columns[1]), (self._dimension(patch_content, 2), self._dimension(patch_content, 3)), patch
        )
        every = self.leading_queries(4)
        self._content = emitter.op("Expand", patch_content, every, name="patch_content/every_query")

    # ------------------------------------------------------------------------------------------------ boxes

    def box(self, window: int | None) -> Box:
        """Where a window lies; None is the patch."""
        if window is None:
            return self._patch
        step = self._windows[window].step
        with self.emitter.scope(f"window{window}"):
            sizes = [
                self.xp.wrap(self._element(self._sizes.tensor, 2 * window + axis, name=f"window{window}/{n}"))
                for axis, n in enumerate(("rows", "cols"))
            ]
            starts = [
                geometry.window_start(self._begins[axis][step], sizes[axis], self._program[step].extents[axis], self.xp)
                for axis in (0, 1)
            ]
        return Box((starts[0], starts[1]), (sizes[0], sizes[1]), self._expected[window])

    def whole(self, rows: int, cols: int) -> Box:
        """The whole map, as a box."""
        return Box((0, 0), (rows, cols), (rows, cols), whole=True)

    def leading_queries(self, rank: int) -> gs.Variable:
        """The shape [Q, 1, …] of so many axes, to expand to."""
        queries = self.emitter.op("Shape", self._origins, start=0, end=1)
        ones = self.emitter.constant(np.ones(rank - 1, np.int64))
        return self.emitter.op("Concat", queries, ones, axis=0)

    # ------------------------------------------------------------------------------------------------ reads

    def read(
        self,
        source: gs.Variable,
        number: int,
        view: View,
        own: gs.Variable | None,
        target: Box,
        sliding: tuple[Sliding, Sliding],
        pad_value: float | None,
        name: str,
    ) -> gs.Variable:
        """What the cells of `target` read of a view under the overlay.

        Args:
            source: the view's graph input [rows, C].
            number: the view's position in view_rows.
            view: its description.
            own: the queries' own windows [Q, C, h, w]; None for the image, whose windows are the patches.
            target: the box that the reader computes.
            sliding: what one of its cells reads, per axis.
            pad_value: what lies outside the tensor; None if nothing there is read.
            name: of the result.

        Returns:
            [Q, C, read rows, read columns].
        """
        boxed = self.box(view.window)
        with self.emitter.scope(f"{name}/index"):
            index = self._read_index(source, number, view, boxed, target, sliding, padded=pad_value is not None)
        pool = self._pool(source, view, own, boxed, pad_value)
        cell_bytes = view.channels * np.dtype(view.dtype).itemsize
        return self._gather(pool, index, name, target.memory(cell_bytes, sliding), target.memory(_INDEX_BYTES, sliding))

    def _read_index(
        self,
        source: gs.Variable,
        number: int,
        view: View,
        boxed: Box,
        target: Box,
        sliding: tuple[Sliding, Sliding],
        *,
        padded: bool,
    ) -> IntArray:
        """`geometry.overlay_index` for the pool that `_pool` makes."""
        first_row = self.xp.wrap(self._element(self._view_rows.tensor, number, name=f"{view.name}/first_row"))
        held_cells = self._dimension(source, 0)
        reads = [
            AxisRead(
                geometry.read_begin(target.starts[axis], sliding[axis]),
                geometry.read_count(target.sizes[axis], sliding[axis]),
                boxed.starts[axis],
                boxed.sizes[axis],
                (view.rows, view.cols)[axis],
                padded and (sliding[axis].pad > 0 or sliding[axis].pad_end > 0),
            )
            for axis in (0, 1)
        ]
        own_index = self._query * boxed.sizes[0] * boxed.sizes[1] + (held_cells + int(padded))
        index: IntArray = geometry.overlay_index(reads[0], reads[1], first_row, held_cells, own_index, self.xp)
        return index

    def _pool(
        self, source: gs.Variable, view: View, own: gs.Variable | None, boxed: Box, pad_value: float | None
    ) -> gs.Variable:
        """`Concat(view rows, pad row, window rows)`."""
        cell_bytes = view.channels * np.dtype(view.dtype).itemsize
        maps = self._content if own is None else own
        last = self.emitter.op("Transpose", maps, name=f"{view.tensor}/channels_last", perm=TO_ROWS)
        flat = self.emitter.constant(np.array([-1, view.channels], np.int64))
        rows = self.emitter.op("Reshape", last, flat, name=f"{view.tensor}/window_rows")
        self.emitter.sizes[last.name] = boxed.memory(cell_bytes)
        parts = [source, rows]
        if pad_value is not None:
            parts.insert(1, self.emitter.constant(np.full((1, view.channels), pad_value, view.dtype), "pad_row"))
        pool = self.emitter.op("Concat", *parts, name=f"{view.tensor}/overlay", axis=0)
        self.emitter.sizes[pool.name] = boxed.memory(cell_bytes) + Bytes(fixed=view.rows * view.cols * cell_bytes)
        return pool

    def read_constant(self, values: Array, target: Box, name: str) -> gs.Variable:
        """The part of a constant map [C, H, W] that lies in a box. Returns [Q, C, rows, columns]."""
        channels, rows, cols = values.shape
        table = self.emitter.constant(values.transpose(1, 2, 0).reshape(rows * cols, channels), f"{name}/rows")
        axes = [
            AxisRead(target.starts[axis], target.sizes[axis], target.starts[axis], 0, values.shape[axis + 1], False)
            for axis in (0, 1)
        ]
        with self.emitter.scope(f"{name}/index"):
            index = geometry.map_index(axes[0], axes[1], 0, 0, self.xp)
        memory = target.memory(channels * values.dtype.itemsize)
        return self._gather(table, index, name, memory, target.memory(_INDEX_BYTES))

    def _gather(self, table: gs.Tensor, index: IntArray, name: str, memory: Bytes, index_memory: Bytes) -> gs.Variable:
        cells = self.emitter.op("Gather", table, index.tensor, name=f"{name}/cells", axis=0)
        maps = self.emitter.op("Transpose", cells, name=name, perm=TO_MAPS)
        self.emitter.sizes.update({index.tensor.name: index_memory, cells.name: memory, maps.name: memory})
        return maps

    # ---------------------------------------------------------------------------------------- small change

    def _per_query(self, tensor: gs.Variable, name: str) -> IntArray:
        """[Q] as int32 [Q, 1, 1], to be broadcast over rows and columns."""
        axes = self.emitter.constant(np.array([1, 2], np.int64))
        return self._index(self.emitter.op("Unsqueeze", tensor, axes), name)

    def _index(self, tensor: gs.Variable, name: str) -> IntArray:
        return self.xp.wrap(self.emitter.op("Cast", tensor, name=name, to=INDEX))

    def _element(self, tensor: gs.Variable, position: int, along: int = 0, name: str | None = None) -> gs.Variable:
        return self.emitter.op(
            "Gather", tensor, self.emitter.constant(np.array(position, np.int64)), name=name, axis=along
        )

    def _dimension(self, tensor: gs.Variable, axis: int) -> IntArray:
        shape = self.emitter.op("Shape", tensor, name=f"{tensor.name}/shape")
        return self._index(self._element(shape, axis), f"{tensor.name}/extent{axis}")

    def _flat(self, tensor: gs.Variable) -> gs.Variable:
        return self.emitter.op("Reshape", tensor, self.emitter.constant(np.array([-1], np.int64)))
