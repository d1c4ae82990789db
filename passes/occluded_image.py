"""Emitting the image with each query's patch laid over it, in full: what full inference starts from."""

import math

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.passes.emit import Emitter, IntArray, IntGraph
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
    xp = IntGraph(emitter, np.int64)  # which holds the place of any pixel of any batch
    sizes = (view.channels, view.rows, view.cols)
    last = emitter.op("Reshape", rows, _vector(emitter, 1, view.rows, view.cols, view.channels))
    image = emitter.op("Transpose", last, name=f"{view.tensor}/base", perm=[0, 3, 1, 2])
    copies = emitter.op("Expand", image, shape)
    patches = emitter.op("Expand", content, shape, name="patch_content/every_query")
    places = geometry.patch_pixels(
        (_column(xp, origins, 0), _column(xp, origins, 1)),
        (_extent(xp, content, 2), _extent(xp, content, 3)),
        _extent(xp, origins, 0),
        sizes,
        xp,
    )
    flat = _vector(emitter, -1)
    # ScatterND would do the same, and takes several times as long for single elements.
    written = emitter.op(
        "ScatterElements",
        emitter.op("Reshape", copies, flat),
        emitter.op("Reshape", places.tensor, flat),
        emitter.op("Reshape", patches, flat),
        axis=0,
    )
    memory = Bytes(dense=math.prod(sizes) * np.dtype(view.dtype).itemsize)
    emitter.sizes.update({copies.name: memory, written.name: memory})
    return emitter.op("Reshape", written, _vector(emitter, -1, *sizes), name=f"{view.tensor}/whole")


def _column(xp: IntGraph, origins: gs.Variable, axis: int) -> IntArray:
    """[Q, 1, 1, 1]."""
    column = xp.emitter.op("Gather", origins, xp.emitter.constant(np.array(axis, np.int64)), axis=1)
    return xp.expand_dims(xp.wrap(column), (1, 2, 3))


def _extent(xp: IntGraph, tensor: gs.Variable, axis: int) -> IntArray:
    """A scalar."""
    extent = xp.emitter.op("Shape", tensor, start=axis, end=axis + 1)
    return xp.wrap(xp.emitter.op("Squeeze", extent, _vector(xp.emitter, 0)))


def _vector(emitter: Emitter, *numbers: int) -> gs.Constant:
    return emitter.constant(np.array(numbers, np.int64))
