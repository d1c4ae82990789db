"""The region algebra: every floor, ceiling and clamp of the project.

A *region* is, per axis, the interval of rows (or columns) of one tensor that can differ from the base run when
a patch is laid at origin ``a``. One table of transfers (`Transfer`) carries an interval from an operator's input
to its output; a `Step` applies a transfer per axis to the hull of some earlier steps, and a tuple of steps is a
*region program*. Step 0 is always the patch itself.

The same functions have two interpreters, chosen by the argument ``xp``: ``numpy``, for the planner and the
driver, and the emitter of `krypton_onnx.passes.emit`, which records the arithmetic as ONNX integer nodes. They
need no more of ``xp`` than ``minimum, maximum, clip, where, equal, arange, expand_dims`` and the operators
``+ - * //`` (floor division).
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = Any
"""A vector of integers: a numpy array, or a tensor of the graph that is being emitted."""

NOWHERE = 1 << 28
"""Beyond every row index; the sum of two still fits into int32. Marks cells that one source does not hold."""

Interval = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(first, last), inclusive; empty where first > last."""


# ---------------------------------------------------------------------------------------------- transfers


@dataclass(frozen=True, slots=True)
class Transfer:
    """How an operator carries an interval along one axis, from its input to its output.

    ``[first, last] -> [(mul·first + low) // div, (mul·last + high) // div]``, clipped to ``[0, extent − 1]``;
    empty stays empty.

    Attributes:
        mul, low, high, div: integers of the formula; mul and div are positive.
        extent: the output's extent on this axis.
    """

    mul: int
    low: int
    high: int
    div: int
    extent: int


@dataclass(frozen=True, slots=True)
class Sliding:
    """A window that slides along one axis (convolution, pooling, Pad as the one-cell case).

    Output row ``o`` reads the input rows ``o·stride − pad … o·stride − pad + span − 1``.

    Attributes:
        span: rows that one output row reads, ``(kernel − 1)·dilation + 1``.
        stride: step in input rows between neighbouring outputs.
        pad: padding before the first input row; negative where rows are cropped.
        pad_end: padding after the last input row.
    """

    span: int = 1
    stride: int = 1
    pad: int = 0
    pad_end: int = 0

    @property
    def is_pointwise(self) -> bool:
        """Whether output row o reads input row o and nothing else."""
        return self == Sliding()

    def extent(self, size: int) -> int:
        """Output rows for `size` input rows; zero or less where the input is too small."""
        return (size + self.pad + self.pad_end - self.span) // self.stride + 1

    def transfer(self, extent: int) -> Transfer:
        """To an output of `extent` rows: ``[⌈(first + pad − span + 1)/stride⌉, ⌊(last + pad)/stride⌋]``."""
        return Transfer(1, self.pad - self.span + self.stride, self.pad, self.stride, extent)


def unchanged(extent: int) -> Transfer:
    """The transfer of elementwise operators and merges."""
    return Transfer(1, 0, 0, 1, extent)


def ceil_mode_padding(size: int, window: Sliding) -> int:
    """End padding with which plain (floor) pooling gives the extent that ceil_mode asks for.

    The rule is ONNX Runtime's: the last window must start inside the input or its begin padding.

    Args:
        size: input rows.
        window: the pooling window with the padding that the model states.
    """
    steps = -(-(size + window.pad + window.pad_end - window.span) // window.stride)
    if steps * window.stride >= size + window.pad:
        steps -= 1
    return max(0, steps * window.stride + window.span - size - window.pad)


def same_padding(size: int, span: int, stride: int, *, upper: bool) -> tuple[int, int]:
    """Explicit (begin, end) padding for auto_pad SAME_UPPER or SAME_LOWER."""
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def cells_inside(size: int, window: Sliding, dilation: int = 1, counted: Sliding = Sliding()) -> NDArray[np.int64]:
    """How many of the rows that each output row looks at lie inside the input. Shape [extent].

    Args:
        size: input rows.
        window: the sliding window.
        dilation: it looks at every `dilation`-th row of its span.
        counted: its `pad` and `pad_end` rows of padding count as inside too.
    """
    begin = np.arange(window.extent(size)) * window.stride - window.pad
    looked_at = begin[:, None] + np.arange(0, window.span, dilation)
    inside: NDArray[np.int64] = ((looked_at >= -counted.pad) & (looked_at < size + counted.pad_end)).sum(axis=1)
    return inside


# --------------------------------------------------------------------------------------- region programs


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a region program: the hull of `sources`, carried by one transfer per axis.

    Attributes:
        sources: indices of earlier steps; empty for step 0, the patch.
        rows, cols: the transfers.
    """

    sources: tuple[int, ...]
    rows: Transfer
    cols: Transfer

    @property
    def extents(self) -> tuple[int, int]:
        """(rows, columns) of the tensors that this step describes."""
        return self.rows.extent, self.cols.extent

    def axis(self, axis: int) -> Transfer:
        """The transfer of axis 0 (rows) or 1 (columns)."""
        return (self.rows, self.cols)[axis]


Program = tuple[Step, ...]


def patch_step(height: int, width: int) -> Step:
    """Step 0 of every program: the patch, on an image of height × width."""
    return Step((), unchanged(height), unchanged(width))


def regions(program: Program, axis: int, origins: NDArray[np.int64], patch: int) -> list[Interval]:
    """Exact, clipped regions along one axis, for every step and every origin.

    Args:
        program: the region program.
        axis: 0 for rows, 1 for columns.
        origins: int [Q], the patch's first row (column).
        patch: its height (width).

    Returns:
        One (first, last) pair of int64 [Q] arrays a step.
    """
    results: list[Interval] = []
    for step in program:
        if not step.sources:
            results.append(_clip(origins, origins + patch - 1, step.axis(axis).extent))
            continue
        # An empty interval is (NOWHERE, -NOWHERE), which minimum and maximum ignore by themselves.
        first = reduce(np.minimum, [results[s][0] for s in step.sources])
        last = reduce(np.maximum, [results[s][1] for s in step.sources])
        results.append(_carry(first, last, step.axis(axis)))
    return results


def _carry(first: NDArray[np.int64], last: NDArray[np.int64], t: Transfer) -> Interval:
    low, high = _clip((first * t.mul + t.low) // t.div, (last * t.mul + t.high) // t.div, t.extent)
    empty = first > last
    return np.where(empty, NOWHERE, low), np.where(empty, -NOWHERE, high)


def _clip(first: NDArray[np.int64], last: NDArray[np.int64], extent: int) -> Interval:
    low, high = np.maximum(first, 0), np.minimum(last, extent - 1)
    return np.where(low > high, NOWHERE, low), np.where(low > high, -NOWHERE, high)


def begins(program: Program, axis: int, origins: Ints, xp: Any = np) -> list[Ints]:
    """A lower bound of every region's first row, as plain integer arithmetic on the origins.

    Neither clipped nor aware of empty regions, so that a graph can compute it in two or three nodes a step.

    Args:
        program: the region program.
        axis: 0 for rows, 1 for columns.
        origins: [Q].
        xp: numpy or the graph's emitter.
    """
    results: list[Ints] = []
    for step in program:
        t = step.axis(axis)
        if not step.sources:
            results.append(origins)
        else:
            hull = reduce(xp.minimum, [results[s] for s in step.sources])
            results.append((hull * t.mul + t.low) // t.div)
    return results


def window_start(begin: Ints, size: Ints, extent: int, xp: Any = np) -> Ints:
    """Where a window of `size` rows starts: at `begin`, moved so that it lies inside the tensor. Shape [Q]."""
    return xp.minimum(xp.maximum(begin, 0), extent - size)


def window_sizes(program: Program, axis: int, origins: NDArray[np.int64], patch: int) -> NDArray[np.int64]:
    """Rows that a window needs, from its start to its region's end, at least 1.

    Returns:
        int64 [steps, Q].
    """
    exact = regions(program, axis, origins, patch)
    lower = begins(program, axis, origins)
    return np.stack([np.maximum(last - np.maximum(low, 0) + 1, 1) for (_, last), low in zip(exact, lower, strict=True)])


def region_sizes(program: Program, axis: int, origins: NDArray[np.int64], patch: int) -> NDArray[np.int64]:
    """Rows of the exact region, 0 where it is empty. Shape int64 [steps, Q]."""
    return np.stack([np.maximum(last - first + 1, 0) for first, last in regions(program, axis, origins, patch)])


# ------------------------------------------------------------------------------- reading through the overlay


def read_count(size: Ints, window: Sliding) -> Ints:
    """Input rows that `size` neighbouring output rows read."""
    return (size - 1) * window.stride + window.span


def read_begin(start: Ints, window: Sliding) -> Ints:
    """First input row that output rows from `start` on read; negative in the begin padding."""
    return start * window.stride - window.pad


@dataclass(frozen=True, slots=True)
class AxisRead:
    """One axis of a read: which input rows are wanted, and where the query's own window lies.

    Vectors over the queries have the shape [Q, 1, 1], so that they broadcast with rows and columns as they are.

    Attributes:
        begin: [Q, 1, 1], the first row wanted.
        count: how many; a scalar, equal for all queries.
        own_start: [Q, 1, 1], first row of the query's own window of the tensor that is read.
        own_size: its rows; a scalar.
        extent: rows of that tensor.
        padded: whether a wanted row can lie outside the tensor.
    """

    begin: Ints
    count: Ints
    own_start: Ints
    own_size: Ints
    extent: int
    padded: bool


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


def _wanted_rows(read: AxisRead, xp: Any) -> Ints:
    """[Q, count, 1]."""
    return read.begin + xp.expand_dims(xp.arange(read.count), 1)


def _wanted_cols(read: AxisRead, xp: Any) -> Ints:
    """[Q, 1, count]."""
    return read.begin + xp.arange(read.count)


def _inside(position: Ints, size: Ints, xp: Any) -> Ints:
    return xp.equal(position, xp.clip(position, 0, size - 1))


def band(begin: NDArray[np.int64], count: int, extent: int) -> tuple[int, int]:
    """(first, stop) rows of a view that reads of `count` rows from each `begin` can touch. Never empty."""
    first = int(np.clip(begin.min(), 0, extent - 1))
    stop = int(np.clip(begin.max() + count, first + 1, extent))
    return first, stop


# ----------------------------------------------------------------------------------------------------- grid


def grid_axis(begin: int, end: int, patch: int, stride: int, *, cover: bool) -> NDArray[np.int64]:
    """Origins of a sliding window along one axis of the part ``[begin, end)`` of the image.

    The multiples of `stride` from `begin` on, and, to cover every pixel, ``end − patch`` itself.

    Returns:
        int64 [n], ascending, at least one; the caller has checked that patch ≤ end − begin.
    """
    origins = np.arange(begin, end - patch + 1, stride, dtype=np.int64)
    if cover and origins[-1] != end - patch:
        origins = np.append(origins, np.int64(end - patch))
    return origins
