"""Reading through the overlay: where each cell that a reader wants lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.geometry.axes import NOWHERE, AxisMap, Ints, Lookup


@dataclass(frozen=True, slots=True)
class WantedTables:
    """What windows want along one axis of what they read, tabulated.

    Attributes:
        rows: int64, all rows that any window wants, in order; −1 for one outside the tensor that a `Lookup` names.
        begins: int64, per start of a window, where in `rows` stands the first that it wants.
        counts: int64, per size of a window, how many it wants from there on.
    """

    rows: NDArray[np.int64]
    begins: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def step(self) -> int | None:
        """From each of the rows to the next, if it is always the same."""
        steps = set(np.diff(self.rows).tolist())
        return None if len(steps) > 1 else steps.pop() if steps else 1


def wanted_tables(axis: AxisMap, extent: int) -> WantedTables:
    """Tabulate an axis for the windows of a tensor of `extent` rows."""
    begins, counts = axis.begin(np.arange(extent)), axis.count(np.arange(extent + 1))
    if isinstance(axis, Lookup):
        return WantedTables(np.array(axis.source), begins, counts)
    # A window of n rows starts at row extent − n at the latest.
    stop = (begins[::-1] + counts[1:]).max()
    return WantedTables(np.arange(begins[0], stop), begins - begins[0], counts)


@dataclass(frozen=True, slots=True)
class Lines:
    """One axis of many reads: which rows (or columns) each of them wants, and where those lie.

    Integers, for R reads and Q queries. In a pool, row r of a map begins at ``r · stride + first``: rows of the view
    with one stride and first cell, those of the query's own window with another. For columns, which are neighbours in
    the pool, they are 1 and 0.

    Attributes:
        counts: [R], how many rows a read wants.
        begins: [R, Q], the first of them; with `sources` its place there.
        steps: [R], from one of them to the next; or one number.
        sources: a table of rows, −1 for one outside the tensor; None if steps lead from each to the next.
        extents: [R], rows of the tensor that is read.
        strides, firsts: [R], of the view; or one number.
        own_sizes: [R], rows of the query's own window.
        own_starts: [R, Q], the first of them.
        own_strides, own_firsts: [R] and [R, Q], of the own window; or one number.
    """

    counts: Ints
    begins: Ints
    steps: Ints
    sources: Ints | None
    extents: Ints
    strides: Ints
    firsts: Ints
    own_sizes: Ints
    own_starts: Ints
    own_strides: Ints
    own_firsts: Ints


def line_terms(lines: Lines, xp: Any = np) -> tuple[Ints, Ints]:
    """What each wanted row contributes to the places of its cells in the pool; see `overlay_index`.

    The rows that all reads want stand behind each other, so that the same few operations serve them all.

    Returns:
        (view, own): integers [Q, sum of counts], −NOWHERE for a row outside the tensor, NOWHERE for one outside the
        query's own window.
    """
    read, place = xp.nonzero(xp.expand_dims(lines.counts, 1) > xp.arange(xp.max(lines.counts)))

    def spread(values: Ints) -> Ints:
        """[R] to [total]."""
        return values if isinstance(values, int) else xp.take(values, read, axis=0)

    def spread_queries(values: Ints) -> Ints:
        """[R, Q] to [Q, total]."""
        return values if isinstance(values, int) else xp.transpose(spread(values))

    wanted = spread_queries(lines.begins) + place * spread(lines.steps)
    row = wanted if lines.sources is None else xp.take(lines.sources, wanted, axis=0)
    view = row * spread(lines.strides) + spread(lines.firsts)
    own_row = row - spread_queries(lines.own_starts)
    own = own_row * spread(lines.own_strides) + spread_queries(lines.own_firsts)
    return (
        xp.where(_inside(row, spread(lines.extents)), view, -NOWHERE),
        xp.where(_inside(own_row, spread(lines.own_sizes)), own, NOWHERE),
    )


def overlay_index(rows: tuple[Ints, Ints], cols: tuple[Ints, Ints], *, padded: bool, xp: Any = np) -> Ints:
    """Where each wanted cell lies in `Concat(pad row, window rows, view rows)`: the one primitive.

    A cell inside the query's own window is taken from there, a cell outside the tensor from the pad row, and any
    other from the view. Rows and columns contribute apart, so that only these four operations see every cell.

    Args:
        rows: what `line_terms` gives for the rows of one read, [Q, rows, 1] each.
        cols: the same for its columns, [Q, 1, columns].
        padded: whether a wanted cell can lie outside the tensor; if not, there is no pad row.
        xp: numpy or the graph's emitter.

    Returns:
        Integers [Q, rows, columns].
    """
    (view_rows, own_rows), (view_cols, own_cols) = rows, cols
    index = xp.minimum(own_rows + own_cols, view_rows + view_cols)
    return xp.maximum(index, 0) if padded else index


def box_index(starts: Sequence[Ints], sizes: Sequence[Ints], cols: Ints, first: Ints, xp: Any = np) -> Ints:
    """Where the cells of a box lie among the rows of maps that hold all of them.

    Args:
        starts: first row and column of the box, [Q, 1, 1] each.
        sizes: its rows and columns, scalars.
        cols: of the maps.
        first: where the query's map begins, [Q, 1, 1], or 0 if there is one map for all queries.
        xp: numpy or the graph's emitter.

    Returns:
        Integers [Q, rows, columns].
    """
    rows = starts[0] + xp.expand_dims(xp.arange(sizes[0]), 1)
    return rows * cols + first + (starts[1] + xp.arange(sizes[1]))


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


def _inside(position: Ints, size: Ints) -> Ints:
    return (position >= 0) & (position < size)


def bands(
    axis: AxisMap, starts: NDArray[np.int64], sizes: NDArray[np.int64], extent: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and stop, int64 [Q] each, of the rows of a view that windows read. Never empty.

    Args:
        axis: what one row of the window reads.
        starts: int64 [Q], where the windows start.
        sizes: int64 [Q], their rows.
        extent: rows of the view.
    """
    if isinstance(axis, Lookup):
        # Rows beyond a window repeat its last one, so that all are equally long.
        rows = starts[:, None] + np.minimum(np.arange(sizes.max()), sizes[:, None] - 1)
        wanted = np.take(axis.source, rows)
        low = np.where(wanted >= 0, wanted, extent - 1).min(axis=1)
        high = wanted.max(axis=1) + 1
    else:
        low = axis.begin(starts)
        high = low + axis.count(sizes)
    first = np.minimum(np.maximum(low, 0), extent - 1)
    return first, np.minimum(np.maximum(high, first + 1), extent)
