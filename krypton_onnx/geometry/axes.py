"""What one axis of an operator reads, and how it carries an interval from its input to its output."""

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Ints = Any
"""A vector of integers: a numpy array, or a tensor of the graph that is being emitted."""

NOWHERE = 1 << 28
"""Beyond every row index; the sum of two still fits into int32. Marks cells that one source does not hold."""


# ---------------------------------------------------------------------------------------------- transfers


class Transfer(msgspec.Struct, frozen=True, tag="affine"):
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

    def first(self, first: Ints) -> Ints:
        """The output's first row, for the input's; not clipped."""
        return (first * self.mul + self.low) // self.div

    def last(self, last: Ints) -> Ints:
        """The output's last row, for the input's; not clipped."""
        return (last * self.mul + self.high) // self.div


class TableTransfer(msgspec.Struct, frozen=True, tag="table"):
    """The same, for an axis that follows no formula: ``[first, last] -> [lows[first], highs[last]]``.

    Attributes:
        lows: per input row, the first output row that reads it or any later row; `extent` if none does.
        highs: per input row, the last output row that reads it or any earlier row; −1 if none does.
        extent: the output's extent on this axis.
    """

    lows: tuple[int, ...]
    highs: tuple[int, ...]
    extent: int

    def first(self, first: Ints) -> Ints:
        """The output's first row, for the input's."""
        return np.take(self.lows, np.clip(first, 0, len(self.lows) - 1))

    def last(self, last: Ints) -> Ints:
        """The output's last row, for the input's."""
        return np.take(self.highs, np.clip(last, 0, len(self.highs) - 1))


AxisTransfer = Transfer | TableTransfer


def unchanged(extent: int) -> Transfer:
    """The transfer of elementwise operators and merges."""
    return Transfer(1, 0, 0, 1, extent)


def _table_transfer(size: int, extent: int, *reads: NDArray[np.int64]) -> TableTransfer:
    """The transfer of an axis of which output row o reads the input rows ``reads[…][o]``; −1 for none."""
    lows, highs = np.full(size, extent), np.full(size, -1)
    for source in reads:
        rows = np.flatnonzero(source >= 0)
        np.minimum.at(lows, source[rows], rows)
        np.maximum.at(highs, source[rows], rows)
    lows, highs = np.minimum.accumulate(lows[::-1])[::-1], np.maximum.accumulate(highs)
    return TableTransfer(tuple(lows.tolist()), tuple(highs.tolist()), extent)


# ------------------------------------------------------------------------------------- what an axis reads


class Sliding(msgspec.Struct, frozen=True, tag="sliding"):
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

    @property
    def looks_outside(self) -> bool:
        """Whether a row that it reads can lie outside the input."""
        return self.pad > 0 or self.pad_end > 0

    def extent(self, size: int) -> int:
        """Output rows for `size` input rows; zero or less where the input is too small."""
        return (size + self.pad + self.pad_end - self.span) // self.stride + 1

    def transfer(self, extent: int) -> AxisTransfer:
        """To an output of `extent` rows: ``[⌈(first + pad − span + 1)/stride⌉, ⌊(last + pad)/stride⌋]``."""
        return Transfer(1, self.pad - self.span + self.stride, self.pad, self.stride, extent)

    def begin(self, start: Ints) -> Ints:
        """First input row that output rows from `start` on read; negative in the begin padding."""
        return start * self.stride - self.pad

    def count(self, size: Ints) -> Ints:
        """Input rows that `size` neighbouring output rows read."""
        return (size - 1) * self.stride + self.span


class Expanding(msgspec.Struct, frozen=True, tag="expanding"):
    """A transposed convolution or DepthToSpace along one axis: input row ``i`` spreads over ``span`` output rows.

    It reaches the output rows ``i·stride − pad … i·stride − pad + span − 1``. Run on a few input rows, the operator
    makes a *raw* map of more rows than are wanted, which begins at output row ``begin·stride − pad``.

    Attributes:
        span: output rows that one input row reaches, ``(kernel − 1)·dilation + 1``; not less than the stride.
        stride: output rows between neighbouring inputs.
        pad: output rows that are cut off at the begin.
    """

    span: int
    stride: int
    pad: int = 0

    looks_outside = True
    is_pointwise = False

    def transfer(self, extent: int) -> AxisTransfer:
        """To an output of `extent` rows."""
        return Transfer(self.stride, -self.pad, self.span - 1 - self.pad, 1, extent)

    def begin(self, start: Ints) -> Ints:
        """First input row that reaches output row `start`."""
        return (start + (self.pad - self.span + self.stride)) // self.stride

    def count(self, size: Ints) -> Ints:
        """The most input rows that reach `size` neighbouring output rows."""
        return (size + (self.span - 2)) // self.stride + 1

    def raw_count(self, size: Ints) -> Ints:
        """Rows of the raw map of which `size` are wanted."""
        return (self.count(size) - 1) * self.stride + self.span

    def raw_offset(self, start: Ints) -> Ints:
        """Row of the raw map at which output row `start` lies."""
        return start + self.pad - self.begin(start) * self.stride


class Lookup(msgspec.Struct, frozen=True, tag="lookup"):
    """An axis whose output rows are input rows (nearest Resize, Slice with steps, Pad by reflection).

    Attributes:
        source: per output row, the input row that it is; −1 for one that lies outside.
        size: input rows.
    """

    source: tuple[int, ...]
    size: int

    is_pointwise = False

    @property
    def looks_outside(self) -> bool:
        """Whether an output row is none of the input's."""
        return min(self.source) < 0

    def transfer(self, extent: int) -> AxisTransfer:
        """To its own output; `extent` is the number of its rows."""
        return _table_transfer(self.size, extent, np.array(self.source))

    def begin(self, start: Ints) -> Ints:
        """First entry of `source` that is wanted: `start`."""
        return start

    def count(self, size: Ints) -> Ints:
        """Entries of `source` that are wanted: `size`."""
        return size


class Blend(msgspec.Struct, frozen=True, tag="blend"):
    """An axis whose output rows lie between two input rows each (linear Resize).

    Attributes:
        positions: per output row, where it lies among the input rows; ascending, within ``[0, size − 1]``.
        size: input rows.
    """

    positions: tuple[float, ...]
    size: int

    looks_outside = True
    """Windows of one size read blocks of one size, the last of which can end outside, where no weight lies."""
    is_pointwise = False

    def transfer(self, extent: int) -> AxisTransfer:
        """To its own output; `extent` is the number of its rows."""
        return _table_transfer(self.size, extent, *_neighbours(self.positions))

    def begin(self, start: Ints) -> Ints:
        """First input row that output rows from `start` on read."""
        return np.take(tuple(_neighbours(self.positions)[0].tolist()), start)

    def count(self, size: Ints) -> Ints:
        """The most input rows that `size` neighbouring output rows read."""
        return np.take(_blend_counts(self.positions), size)


AxisMap = Sliding | Expanding | Lookup | Blend
"""What one axis of an operator reads."""


def _neighbours(positions: tuple[float, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.floor(positions).astype(np.int64), np.ceil(positions).astype(np.int64)


@lru_cache
def _blend_counts(positions: tuple[float, ...]) -> tuple[int, ...]:
    """Per number of output rows, from none to all."""
    firsts, lasts = _neighbours(positions)
    sizes = range(1, len(positions) + 1)
    return (0, *(int((lasts[n - 1 :] - firsts[: len(firsts) - n + 1]).max()) + 1 for n in sizes))
