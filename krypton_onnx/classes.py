"""Window classes: which origins share window sizes, so that their queries batch.

Along one axis every origin needs a window size per window of the plan. A few classes, each as large as its
largest member, keep nearly all of the gain of exact sizes and let thousands of queries share shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.geometry import Program
from krypton_onnx.plan import Window

Sizes = NDArray[np.int64]

MAX_CLASSES = 16
"""Window classes per axis. More save hardly any arithmetic."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowTable:
    """What a plan's windows need along one axis, for every origin.

    Attributes:
        begins: int64 [T, origins], where they begin if they need no more than `sizes`.
        sizes: int64 [T, origins].
        extents: int64 [T], rows (columns) of the maps.
    """

    begins: Sizes
    sizes: Sizes
    extents: Sizes


def window_table(program: Program, windows: Sequence[Window], axis: int, patch: int, tau: float) -> WindowTable:
    """The table of axis 0 (rows) or 1 (columns), for patches of this height (width); see `window_tables`."""
    steps = [w.step for w in windows]
    origins = np.arange(program[0].extents[axis] - patch + 1)
    begins, sizes = geometry.capped_windows(program, axis, origins, patch, tau)
    return WindowTable(begins[steps], sizes[steps], np.array([program[step].extents[axis] for step in steps], np.int64))


def window_tables(
    program: Program, windows: Sequence[Window], patch: tuple[int, int], tau: float = 1.0
) -> tuple[WindowTable, WindowTable]:
    """Of rows and of columns.

    Args:
        program: the region program.
        windows: the plan's windows.
        patch: (height, width) of the queries.
        tau: the share of a map's rows, and columns, that a window may have; 1 for all that can change.
    """
    return window_table(program, windows, 0, patch[0], tau), window_table(program, windows, 1, patch[1], tau)


def mean_seconds(windows: Sequence[Window], tables: tuple[WindowTable, WindowTable]) -> float:
    """What the windows of the mean query of an image take, on one core of the reference machine."""
    cells = tables[0].sizes.mean(axis=1) * tables[1].sizes.mean(axis=1)
    return float(sum(window.seconds * area for window, area in zip(windows, cells, strict=True)))


Classes = tuple[NDArray[np.int64], Sizes]
"""The class of each origin [n], and the sizes [classes, windows]."""


def axis_classes(
    windows: Sequence[Window],
    tables: tuple[WindowTable, WindowTable],
    axis: int,
    origins: NDArray[np.int64],
    limits: Sequence[int],
) -> list[Classes]:
    """Group origins of one axis into at most so many classes.

    Classes are merged pairwise, always the two whose union costs the least time more.

    Args:
        windows: the plan's windows.
        tables: of rows and of columns.
        axis: 0 for rows, 1 for columns.
        origins: int64 [n], may repeat.
        limits: the largest numbers of classes, descending.

    Returns:
        The classes for each limit.
    """
    # the mean window along the other axis turns rows into time
    weights = np.array([w.seconds for w in windows], np.float64) * tables[1 - axis].sizes.mean(axis=1)
    needed = tables[axis].sizes[:, origins].T
    sizes, members, counts = np.unique(needed, axis=0, return_inverse=True, return_counts=True)
    found = _agglomerate(sizes, counts.astype(np.float64), weights, limits)
    return [(merged[members.reshape(-1)], classes) for merged, classes in found]


def _agglomerate(
    sizes: Sizes, counts: NDArray[np.float64], weights: NDArray[np.float64], limits: Sequence[int]
) -> Iterator[Classes]:
    label = np.arange(len(sizes))
    alive = list(range(len(sizes)))
    sizes, counts = sizes.copy(), counts.copy()
    cost = counts * (sizes @ weights)
    # extra[i, j]: what merging j into i costs beyond keeping both
    extra = np.full((len(sizes), len(sizes)), np.inf)
    for i in alive:
        extra[i, i + 1 :] = _extra(sizes, counts, cost, weights, i)[i + 1 :]
    for limit in limits:
        while len(alive) > limit:
            i, j = divmod(int(np.argmin(extra)), len(sizes))
            sizes[i] = np.maximum(sizes[i], sizes[j])
            counts[i] += counts[j]
            cost[i] = counts[i] * (sizes[i] @ weights)
            label[label == j] = i
            alive.remove(j)
            extra[j, :] = extra[:, j] = np.inf
            fresh = _extra(sizes, counts, cost, weights, i)
            others = np.array([a for a in alive if a != i], np.int64)
            extra[np.minimum(others, i), np.maximum(others, i)] = fresh[others]
        order = np.array(alive)
        yield np.searchsorted(order, label), sizes[order]


def _extra(
    sizes: Sizes, counts: NDArray[np.float64], cost: NDArray[np.float64], weights: NDArray[np.float64], i: int
) -> NDArray[np.float64]:
    union = np.maximum(sizes, sizes[i]) @ weights
    result: NDArray[np.float64] = (counts + counts[i]) * union - cost - cost[i]
    return result
