"""Reading through the overlay: where each cell that a reader wants lies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.geometry.axes import NOWHERE, AxisMap, Ints, Lookup


@dataclass(frozen=True, slots=True)
class AxisRead:
    """One axis of a read: which input rows are wanted, and where the query's own window lies.

    Vectors over the queries have the shape [Q, 1, 1], so that they broadcast with rows and columns as they are.

    Attributes:
        begin: [Q, 1, 1], the first row wanted; of `source`, if there is one.
        count: how many; a scalar, equal for all queries.
        own_start: [Q, 1, 1], first row of the query's own window of the tensor that is read.
        own_size: its rows; a scalar.
        extent: rows of that tensor.
        padded: whether a wanted row can lie outside the tensor.
        source: where the rows wanted are no neighbours, the table in which they stand; −1 for a row outside.
    """

    begin: Ints
    count: Ints
    own_start: Ints
    own_size: Ints
    extent: int
    padded: bool
    source: tuple[int, ...] | None = None


def overlay_index(
    rows: AxisRead, cols: AxisRead, first_row: Ints, pad_index: Ints, own_index: Ints, xp: Any = np
) -> Ints:
    """Where each wanted cell lies in `Concat(view rows, pad row, window rows)`: the one primitive.

    A cell inside the query's own window is taken from there, a cell outside the tensor from the pad row, and any
    other from the view. Row terms and column terms are formed apart and added, so that only four operations see
    every cell: ``max(own_row + own_col, min(view_row + view_col, pad))``.

    Args:
        rows, cols: what is wanted along each axis.
        first_row: the row of the tensor with which the view's band begins.
        pad_index: index of the pad row, the number of view rows.
        own_index: [Q, 1, 1], index of the first cell of each query's window.
        xp: numpy or the graph's emitter.

    Returns:
        Integers [Q, rows.count, cols.count].
    """
    own_y = _wanted_rows(rows, xp) - rows.own_start
    own_x = _wanted_cols(cols, xp) - cols.own_start
    own_rows = xp.where(_inside(own_y, rows.own_size, xp), own_y * cols.own_size + own_index, -NOWHERE)
    own_cols = xp.where(_inside(own_x, cols.own_size, xp), own_x, -NOWHERE)
    return xp.maximum(own_rows + own_cols, map_index(rows, cols, first_row, pad_index, xp))


def map_index(rows: AxisRead, cols: AxisRead, first_row: Ints, pad_index: Ints, xp: Any = np) -> Ints:
    """`overlay_index` without a window: where each wanted cell lies in `Concat(map rows, pad row)`."""
    y, x = _wanted_rows(rows, xp), _wanted_cols(cols, xp)
    view_y = (y - first_row) * cols.extent
    if rows.padded:
        view_y = xp.where(_inside(y, rows.extent, xp), view_y, NOWHERE)
    if cols.padded:
        x = xp.where(_inside(x, cols.extent, xp), x, NOWHERE)
    cell = view_y + x
    return xp.minimum(cell, pad_index) if rows.padded or cols.padded else cell


def window_index(rows: AxisRead, cols: AxisRead, own_index: Ints, xp: Any = np) -> Ints:
    """Where each wanted cell lies in the rows of the queries' own windows, which hold all of them."""
    own_y = _wanted_rows(rows, xp) - rows.own_start
    return own_y * cols.own_size + own_index + (_wanted_cols(cols, xp) - cols.own_start)


def patch_pixels(
    origins: tuple[Ints, Ints], patch: tuple[Ints, Ints], queries: Ints, image: tuple[int, int, int], xp: Any = np
) -> Ints:
    """Where the pixels of each query's patch lie among the pixels of copies of the image, one copy a query.

    Args:
        origins: (y, x), [Q, 1, 1, 1] each.
        patch: (height, width), scalars.
        queries: Q, a scalar.
        image: (channels, height, width).
        xp: numpy or the graph's emitter.

    Returns:
        Integers [Q, channels, patch height, patch width].
    """
    (y, x), (channels, height, width) = origins, image
    copy = xp.expand_dims(xp.arange(queries), (1, 2, 3))
    plane = copy * channels + xp.expand_dims(xp.arange(channels), (1, 2))
    row = plane * height + y + xp.expand_dims(xp.arange(patch[0]), 1)
    return row * width + x + xp.arange(patch[1])


def _wanted_rows(read: AxisRead, xp: Any) -> Ints:
    """[Q, count, 1]."""
    return _looked_up(read, read.begin + xp.expand_dims(xp.arange(read.count), 1), xp)


def _wanted_cols(read: AxisRead, xp: Any) -> Ints:
    """[Q, 1, count]."""
    return _looked_up(read, read.begin + xp.arange(read.count), xp)


def _looked_up(read: AxisRead, wanted: Ints, xp: Any) -> Ints:
    return wanted if read.source is None else xp.take(read.source, wanted)


def _inside(position: Ints, size: Ints, xp: Any) -> Ints:
    return xp.equal(position, xp.clip(position, 0, size - 1))


def band(axis: AxisMap, starts: NDArray[np.int64], size: int, extent: int) -> tuple[int, int]:
    """(first, stop) rows of a view that windows of `size` rows from each of `starts` read. Never empty.

    Args:
        axis: what one row of the window reads.
        starts: int64 [Q], where the windows start.
        size: rows of a window.
        extent: rows of the view.
    """
    if isinstance(axis, Lookup):
        wanted = np.take(axis.source, np.unique(starts)[:, None] + np.arange(size))
        low, high = wanted[wanted >= 0].min(initial=extent - 1), wanted.max() + 1
    else:
        begin = axis.begin(starts)
        low, high = begin.min(), begin.max() + axis.count(size)
    first = int(np.clip(low, 0, extent - 1))
    return first, int(np.clip(high, first + 1, extent))
