"""Region programs: how far a patch reaches, tensor by tensor, and the windows that cover it."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.geometry.axes import NOWHERE, AxisTransfer, Ints, unchanged

Interval = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(first, last), inclusive; empty where first > last."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a region program: the hull of `sources`, carried by one transfer per axis.

    Attributes:
        sources: indices of earlier steps; empty for step 0, the patch.
        rows, cols: the transfers.
    """

    sources: tuple[int, ...]
    rows: AxisTransfer
    cols: AxisTransfer

    @property
    def extents(self) -> tuple[int, int]:
        """(rows, columns) of the tensors that this step describes."""
        return self.rows.extent, self.cols.extent

    def axis(self, axis: int) -> AxisTransfer:
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


def _carry(first: NDArray[np.int64], last: NDArray[np.int64], transfer: AxisTransfer) -> Interval:
    low, high = _clip(transfer.first(first), transfer.last(last), transfer.extent)
    empty = first > last
    return np.where(empty, NOWHERE, low), np.where(empty, -NOWHERE, high)


def _clip(first: NDArray[np.int64], last: NDArray[np.int64], extent: int) -> Interval:
    low, high = np.maximum(first, 0), np.minimum(last, extent - 1)
    return np.where(low > high, NOWHERE, low), np.where(low > high, -NOWHERE, high)


def begins(program: Program, axis: int, origins: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A lower bound of every region's first row: where windows begin.

    Neither clipped nor aware of empty regions, so that it depends on the origin alone, and not on the patch.

    Args:
        program: the region program.
        axis: 0 for rows, 1 for columns.
        origins: int [Q].

    Returns:
        int64 [Q] a step.
    """
    results: list[NDArray[np.int64]] = []
    for step in program:
        hull = reduce(np.minimum, [results[s] for s in step.sources]) if step.sources else origins
        results.append(step.axis(axis).first(hull) if step.sources else hull)
    return results


def ends(program: Program, axis: int, origins: NDArray[np.int64], patch: int) -> list[NDArray[np.int64]]:
    """An upper bound of every region's last row, not clipped: the counterpart of `begins`."""
    results: list[NDArray[np.int64]] = []
    for step in program:
        hull = reduce(np.maximum, [results[s] for s in step.sources]) if step.sources else origins + patch - 1
        results.append(step.axis(axis).last(hull) if step.sources else hull)
    return results


def window_start(begin: Ints, size: Ints, extent: Ints, xp: Any = np) -> Ints:
    """Where a window of `size` rows starts: at `begin`, moved so that it lies inside the tensor.

    The arguments broadcast: one window on many origins, or many windows at once.
    """
    return xp.minimum(xp.maximum(begin, 0), extent - size)


def window_sizes(program: Program, axis: int, origins: NDArray[np.int64], patch: int) -> NDArray[np.int64]:
    """Rows that a window needs, from its start to its region's end, at least 1.

    Returns:
        int64 [steps, Q].
    """
    exact = regions(program, axis, origins, patch)
    lower = begins(program, axis, origins)
    return np.stack([np.maximum(last - np.maximum(low, 0) + 1, 1) for (_, last), low in zip(exact, lower, strict=True)])


def share_cap(extent: Ints, tau: float) -> Ints:
    """Rows that a window may have at the most where it may cover this share of a map: projective field thresholding.

    Args:
        extent: rows of the map.
        tau: the share, over 0 and up to 1; halves are rounded up, and one row is always left.
    """
    return np.maximum(np.floor(np.asarray(extent) * tau + 0.5).astype(np.int64), 1)


def capped_windows(
    program: Program, axis: int, origins: NDArray[np.int64], patch: int, tau: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where windows begin and how many rows they have that may cover this share of a map at the most.

    One that is cut lies in the middle of what the patch reaches, as if the map had no border: there, too, the nearest
    cells are kept. Others begin where their regions do (`begins`).

    Returns:
        int64 [steps, Q], twice.
    """
    extents = np.array([step.extents[axis] for step in program], np.int64)[:, None]
    lower, upper = np.stack(begins(program, axis, origins)), np.stack(ends(program, axis, origins, patch))
    needed = window_sizes(program, axis, origins, patch)
    sizes = np.minimum(needed, share_cap(extents, tau))
    middle = np.clip((lower + upper + 1 - sizes) // 2, 0, extents - sizes)
    return np.where(sizes < needed, middle, lower), sizes


def region_sizes(program: Program, axis: int, origins: NDArray[np.int64], patch: int) -> NDArray[np.int64]:
    """Rows of the exact region, 0 where it is empty. Shape int64 [steps, Q]."""
    return np.stack([np.maximum(last - first + 1, 0) for first, last in regions(program, axis, origins, patch)])
