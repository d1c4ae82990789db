"""Window classes: which origins share window sizes, so that their queries batch.

Along one axis every origin needs a window size per window of the plan. A few classes, each as large as its
largest member, keep nearly all of the gain of exact sizes and let thousands of queries share shapes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.geometry import Program
from krypton_onnx.plan import Window

Sizes = NDArray[np.int64]

MAX_CLASSES = 8
"""Window classes per axis. More save little arithmetic and leave batches half empty."""


def axis_classes(
    program: Program,
    windows: Sequence[Window],
    axis: int,
    origins: NDArray[np.int64],
    patch: int,
    limit: int,
) -> tuple[NDArray[np.int64], Sizes]:
    """Group origins of one axis into at most `limit` classes.

    Classes are merged pairwise, always the two whose union costs the least arithmetic more.

    Args:
        program: the region program.
        windows: the plan's windows.
        axis: 0 for rows, 1 for columns.
        origins: int64 [n], may repeat.
        patch: the patch's height (width).
        limit: the largest number of classes.

    Returns:
        (class of each origin [n], sizes [classes, windows]).
    """
    steps = [w.step for w in windows]
    needed = geometry.window_sizes(program, axis, origins, patch)[steps].T
    sizes, members, counts = np.unique(needed, axis=0, return_inverse=True, return_counts=True)
    weights = np.array([w.flops for w in windows], np.float64) * _other_axis(program, steps, 1 - axis, patch)
    merged, classes = _agglomerate(sizes, counts.astype(np.float64), weights, limit)
    return merged[members.reshape(-1)], classes


def _other_axis(program: Program, steps: list[int], axis: int, patch: int) -> NDArray[np.float64]:
    """Mean window size along the other axis, which turns rows into arithmetic."""
    origins = np.arange(program[0].extents[axis] - patch + 1) if patch <= program[0].extents[axis] else np.zeros(1, int)
    mean: NDArray[np.float64] = geometry.window_sizes(program, axis, origins, patch)[steps].mean(axis=1)
    return mean


def _agglomerate(
    sizes: Sizes, counts: NDArray[np.float64], weights: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.int64], Sizes]:
    label = np.arange(len(sizes))
    alive = list(range(len(sizes)))
    sizes, counts = sizes.copy(), counts.copy()
    cost = counts * (sizes @ weights)
    # extra[i, j]: what merging j into i costs beyond keeping both
    extra = np.full((len(sizes), len(sizes)), np.inf)
    for i in alive:
        extra[i, i + 1 :] = _extra(sizes, counts, cost, weights, i)[i + 1 :]
    while len(alive) > max(limit, 1):
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
    return np.searchsorted(order, label), sizes[order]


def _extra(
    sizes: Sizes, counts: NDArray[np.float64], cost: NDArray[np.float64], weights: NDArray[np.float64], i: int
) -> NDArray[np.float64]:
    union = np.maximum(sizes, sizes[i]) @ weights
    result: NDArray[np.float64] = (counts + counts[i]) * union - cost - cost[i]
    return result
