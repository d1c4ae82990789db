"""The grid: origins of a sliding window."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def strided_count(count: int, first: Any, step: Any) -> Any:
    """How many of first, first + step, … lie below `count`: numbers, or arrays of the graph, with 0 ≤ first < step."""
    return (count - first + step - 1) // step
