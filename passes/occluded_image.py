"""Emitting the image with each query's patch laid over it, in full: what full inference starts from."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.emit import Emitter
from krypton_onnx.passes.footprint import Bytes
from krypton_onnx.plan import View


def occluded_image(
    emitter: Emitter, rows: gs.Variable, view: View, origins: gs.Variable, content: gs.Variable, shape: gs.Variable
) -> gs.Variable:
    """Copy the image once a query and write the patches into the copies.

    Args:
        emitter: receives the nodes.
        rows: the image's view, whole: [H·W, C].
        view: its description.
        origins: int64 [Q, 2].
        content: [Q or 1, C, h, w].
        shape: int64 [4], to which something of one query is expanded: [Q, 1, 1, 1].

    Returns:
        [Q, C, H, W].
    """
    index = _Integers(emitter)
    last = emitter.op("Reshape", rows, index.constant([1, view.rows, view.cols, view.channels]))
    image = emitter.op("Transpose", last, name=f"{view.tensor}/base", perm=[0, 3, 1, 2])
    copies = emitter.op("Expand", image, shape)
    patches = emitter.op("Expand", content, shape, name="patch_content/every_query")
    query = index.count(emitter.op("Shape", origins, start=0, end=1), [1, 2, 3])
    channel = index.constant(np.arange(view.channels).reshape(-1, 1, 1))
    y, x = (index.column(origins, axis) for axis in (0, 1))
    i = index.count(emitter.op("Shape", content, start=2, end=3), [1])
    j = index.count(emitter.op("Shape", content, start=3, end=4), [])
    # ((query · C + channel) · H + row) · W + column, the pixel's place among those of all copies
    plane = index.sum(index.product(query, view.channels), channel)
    row = index.sum(index.sum(index.product(plane, view.rows), y), i)
    places = index.sum(index.product(row, view.cols), index.sum(x, j))
    flat = index.constant([-1])
    written = emitter.op(
        "ScatterND",
        emitter.op("Reshape", copies, flat),
        emitter.op("Reshape", places, index.constant([-1, 1])),
        emitter.op("Reshape", patches, flat),
    )
    memory = Bytes(dense=view.channels * view.rows * view.cols * np.dtype(view.dtype).itemsize)
    emitter.sizes.update({copies.name: memory, written.name: memory})
    maps = index.constant([-1, view.channels, view.rows, view.cols])
    return emitter.op("Reshape", written, maps, name=f"{view.tensor}/whole")


class _Integers:
    """Arithmetic in int64, which holds the place of any pixel of any batch."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter

    def constant(self, numbers: object) -> gs.Constant:
        return self.emitter.constant(np.array(numbers, np.int64))

    def sum(self, a: gs.Tensor, b: gs.Tensor) -> gs.Variable:
        return self.emitter.op("Add", a, b)

    def product(self, a: gs.Tensor, factor: int) -> gs.Variable:
        return self.emitter.op("Mul", a, self.constant(factor))

    def count(self, extent: gs.Variable, axes: list[int]) -> gs.Variable:
        """0 … extent − 1, with axes of one behind."""
        numbers = self.emitter.op("Range", self.constant(0), self._scalar(extent), self.constant(1))
        return self.emitter.op("Unsqueeze", numbers, self.constant(axes)) if axes else numbers

    def column(self, origins: gs.Variable, axis: int) -> gs.Variable:
        """[Q, 1, 1, 1]."""
        column = self.emitter.op("Gather", origins, self.constant(axis), axis=1)
        return self.emitter.op("Unsqueeze", column, self.constant([1, 2, 3]))

    def _scalar(self, extent: gs.Variable) -> gs.Variable:
        return self.emitter.op("Squeeze", extent, self.constant([0]))
