"""Emitting reads through the overlay: the mechanics of `geometry.overlay_index` on the tensors of a graph."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.geometry import Blend, Expanding
from krypton_onnx.passes.emit import INDEX, Emitter, IntArray
from krypton_onnx.passes.footprint import Bytes
from krypton_onnx.passes.index import Index, is_padded
from krypton_onnx.passes.network import Array, element_type
from krypton_onnx.passes.planner import Layout, largest_windows
from krypton_onnx.passes.rules.rule import NCHW, NHWC, Axes
from krypton_onnx.passes.windows import Box, Inputs, Maps, Source
from krypton_onnx.plan import Read

_INDEX_BYTES = 3 * np.dtype(INDEX).itemsize
"""A cell: three integer tensors of a read's full size are alive together."""


class Overlay:
    """Reads windows of views over which each query's own window is laid.

    Args:
        emitter: receives the nodes.
        inputs: of the graph.
        layout: the planner's decisions.
        patch: (height, width) of the patch that they are made for.
    """

    def __init__(
        self,
        emitter: Emitter,
        inputs: Inputs,
        layout: Layout,
        patch: tuple[int, int],
    ) -> None:
        self.emitter = emitter
        self._inputs, self._layout = inputs, layout
        self._index = Index(emitter, inputs, layout)
        self.xp = self._index.xp
        self._expected = largest_windows(layout, patch)
        self._patch = patch
        every = self.leading_queries(4)
        self._content = emitter.op("Expand", inputs.patch_content, every, name="patch_content/every_query")

    @property
    def lines(self) -> frozenset[str]:
        """Names of the tensors that hold where the rows, and the columns, of each read lie."""
        return self._index.lines

    # ------------------------------------------------------------------------------------------------ boxes

    def box(self, window: int) -> Box:
        """Where a window of the plan lies."""
        with self.emitter.scope(f"window{window}"):
            starts, sizes = self._index.starts(window), self._index.sizes(window)
        extents = self._layout.program[self._layout.windows[window].step].extents
        return Box(window, starts, sizes, extents, self._expected[window])

    def whole(self, rows: int, cols: int) -> Box:
        """The whole map, as a box."""
        return Box(None, (0, 0), (rows, cols), (rows, cols), (rows, cols))

    def leading_queries(self, rank: int) -> gs.Variable:
        """The shape [Q, 1, …] of so many axes, to expand to."""
        queries = self.emitter.op("Shape", self._inputs.origins, start=0, end=1)
        ones = self.emitter.constant(np.ones(rank - 1, np.int64))
        return self.emitter.op("Concat", queries, ones, name=f"queries/of_rank_{rank}", axis=0)

    # ------------------------------------------------------------------------------------------------ reads

    def read(self, source: Source, target: Box, maps: Maps, pad_value: float | None, name: str) -> gs.Variable:
        """What the cells of `target` read of a view under the overlay.

        Args:
            source: the view.
            target: the box that the reader computes.
            maps: what one of its rows, and one of its columns, reads.
            pad_value: what lies outside the tensor; None if nothing there is read.
            name: of the result.

        Returns:
            [Q, read rows, read columns, C].
        """
        cells = self._cells(source, target, maps, pad_value, name)
        if source.dtype != np.dtype(source.view.dtype):
            cells = self.emitter.op("Cast", cells, name=f"{name}/model_type", to=element_type(source.dtype))
            self.emitter.sizes[cells.name] = target.memory(source.cell_bytes, maps)
        return cells

    def blend(self, source: Source, target: Box, maps: tuple[Blend, Blend], name: str) -> gs.Variable:
        """Weighted sums of what the cells of `target` lie between: a linear Resize.

        Along an axis the weight of input row i for a cell at position p is max(0, 1 − |p − i|), so that two products
        with small matrices, one an axis, give the window, whatever the scale.
        """
        cells = self._cells(source, target, maps, 0.0, name)
        with self.emitter.scope(f"{name}/weights"):
            tall, wide = (self._weights(target, axis, blend, source.view.dtype) for axis, blend in enumerate(maps))
            keep = self.emitter.constant(np.array([0, 0, -1], np.int64))
            split = self.emitter.constant(np.array([0, 0, -1, source.view.channels], np.int64))
            every = self.emitter.op("Unsqueeze", wide, self.emitter.constant(np.array([1], np.int64)))
        rows = self.emitter.op("MatMul", tall, self.emitter.op("Reshape", cells, keep), name=f"{name}/rows")
        both = self.emitter.op("MatMul", every, self.emitter.op("Reshape", rows, split), name=f"{name}/cells")
        memory = target.memory(source.cell_bytes)
        self.emitter.sizes.update({rows.name: memory, both.name: memory})
        return self.as_maps(both, source.axes, name, memory)

    def pick(
        self, raw: gs.Variable, axes: Axes, target: Box, maps: tuple[Expanding, Expanding], channels: int, name: str
    ) -> gs.Variable:
        """The cells of `target` out of a map [Q, C, raw rows, raw columns] that holds more.

        Args:
            raw: what an expanding operator makes of the cells that `target` reads.
            axes: of that map and of the result.
            target: the box that is wanted.
            maps: how the operator expands rows and columns.
            channels: of the map.
            name: of the result.
        """
        table = self.maps_as_rows(raw, axes, channels, f"{name}/raw")
        with self.emitter.scope(f"{name}/index"):
            rows, cols = (
                self.xp.take(axis.raw_count(np.arange(extent + 1)), size)
                for axis, extent, size in zip(maps, target.extents, target.sizes, strict=True)
            )
            offsets = [
                self.xp.take(axis.raw_offset(np.arange(extent)), start)
                for axis, extent, start in zip(maps, target.extents, target.starts, strict=True)
            ]
            first = self.xp.expand_dims(self.xp.arange(self._index.queries), (1, 2)) * (rows * cols)
            index = geometry.box_index(offsets, target.sizes, cols, first, self.xp)
        memory = target.memory(channels * np.dtype(raw.dtype).itemsize)
        cells = self._gather(table, index, f"{name}/cells", memory, target.memory(_INDEX_BYTES))
        return self.as_maps(cells, axes, name, memory)

    def read_constant(self, values: Array, axes: Axes, target: Box, name: str) -> gs.Variable:
        """The part of a constant map [1, C, H, W], or in another order, that lies in a box."""
        channels, rows, cols = (values.shape[axis] for axis in (axes.channel, axes.rows, axes.cols))
        table = self.emitter.constant(values.transpose(axes.to_rows).reshape(rows * cols, channels), f"{name}/rows")
        with self.emitter.scope(f"{name}/index"):
            index = geometry.box_index(target.starts, target.sizes, cols, 0, self.xp)
        memory = target.memory(channels * values.dtype.itemsize)
        return self.as_maps(
            self._gather(table, index, f"{name}/cells", memory, target.memory(_INDEX_BYTES)), axes, name, memory
        )

    # -------------------------------------------------------------------------------------- maps and rows

    def as_maps(self, cells: gs.Variable, axes: Axes, name: str, memory: Bytes) -> gs.Variable:
        """Cells [Q, rows, columns, C] in the order of these axes."""
        if axes == NHWC:
            return cells
        maps = self.emitter.op("Transpose", cells, name=name, perm=axes.from_rows)
        self.emitter.sizes[maps.name] = memory
        return maps

    def as_rows(self, cells: gs.Variable, channels: int, name: str) -> gs.Variable:
        """Cells [Q, rows, columns, C] as rows [cells, C]."""
        return self.emitter.op("Reshape", cells, self.emitter.constant(np.array([-1, channels], np.int64)), name=name)

    def maps_as_rows(self, maps: gs.Variable, axes: Axes, channels: int, name: str) -> gs.Variable:
        """Maps of all queries as rows [cells, C]."""
        last = maps
        if axes != NHWC:
            last = self.emitter.op("Transpose", maps, name=f"{name}/channels_last", perm=axes.to_rows)
        return self.as_rows(last, channels, f"{name}/window_rows")

    def rows_as_maps(self, rows: gs.Variable, window: int, axes: Axes, channels: int, name: str) -> gs.Variable:
        """Rows [cells, C] of a window as maps in the order of these axes."""
        number = self.emitter.constant(np.array(window, np.int64))
        cells = self.emitter.op("Gather", self._inputs.window_sizes, number, name=f"window{window}/rows_cols", axis=0)
        ends = [self.emitter.constant(np.array([n], np.int64)) for n in (-1, channels)]
        shape = self.emitter.op("Concat", ends[0], cells, ends[1], name=f"window{window}/of_{channels}", axis=0)
        apart = self.emitter.op("Reshape", rows, shape, name=f"{name}/cells")
        return self.as_maps(
            apart, axes, f"{name}/maps", Bytes(window=4 * channels * int(np.prod(self._expected[window])))
        )

    def _cells(self, source: Source, target: Box, maps: Maps, pad_value: float | None, name: str) -> gs.Variable:
        """[Q, read rows, read columns, C]."""
        read = Read(target.window, *maps)
        assert pad_value is not None or not is_padded(read), "who looks outside says what lies there"
        with self.emitter.scope(f"{name}/index"):
            index = self._index.of_read(source.number, read)
        pool = self._pool(source, pad_value if is_padded(read) else None)
        memory = target.memory(source.cell_bytes, maps)
        return self._gather(pool, index, f"{name}/cells", memory, target.memory(_INDEX_BYTES, maps))

    def _pool(self, source: Source, pad_value: float | None) -> gs.Variable:
        """`Concat(pad row, window rows, view rows)`."""
        view, rows = source.view, source.own
        if rows is None:
            rows = self.maps_as_rows(self._content, NCHW, view.channels, view.tensor)
        if source.dtype != np.dtype(view.dtype):
            rows = self.emitter.op("Cast", rows, name=f"{view.tensor}/view_type", to=element_type(view.dtype))
        parts: list[gs.Tensor] = [rows, source.tensor]
        if pad_value is not None:
            parts.insert(0, self.emitter.constant(np.full((1, view.channels), pad_value, view.dtype), "pad_row"))
        pool = self.emitter.op("Concat", *parts, name=f"{view.tensor}/overlay", axis=0)
        own_rows, own_cols = self._patch if view.window is None else self._expected[view.window]
        memory = Bytes(window=own_rows * own_cols * source.cell_bytes)
        held = Bytes(fixed=view.rows * view.cols * source.cell_bytes)
        self.emitter.sizes.update({rows.name: memory, pool.name: memory + held})
        return pool

    def _gather(self, table: gs.Tensor, index: IntArray, name: str, memory: Bytes, index_memory: Bytes) -> gs.Variable:
        cells = self.emitter.op("Gather", table, index.tensor, name=name, axis=0)
        self.emitter.sizes.update({index.tensor.name: index_memory, cells.name: memory})
        return cells

    def _weights(self, target: Box, axis: int, blend: Blend, dtype: str) -> gs.Variable:
        """Weights [Q, rows of the box, rows that it reads] along one axis."""
        start, size, extent = target.starts[axis], target.sizes[axis], target.extents[axis]
        wanted = start + self.xp.expand_dims(self.xp.arange(size), 1)
        count = self.xp.take(blend.count(np.arange(extent + 1)), size)
        read = self.xp.take(blend.begin(np.arange(extent)), start) + self.xp.arange(count)
        positions = self.emitter.constant(np.array(blend.positions, dtype), f"{self.emitter.scoped}/positions")
        where = self.emitter.op("Gather", positions, wanted.tensor, axis=0)
        rows = self.emitter.op("Cast", read.tensor, to=np.dtype(dtype).type)
        distance = self.emitter.op("Abs", self.emitter.op("Sub", where, rows))
        one = self.emitter.constant(np.ones((), dtype))
        return self.emitter.op("Relu", self.emitter.op("Sub", one, distance))
