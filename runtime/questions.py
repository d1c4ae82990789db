"""What `explain` is asked: which score, where, and what the patch shows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx import geometry
from krypton_onnx.errors import KryptonError
from krypton_onnx.preprocess import Fill
from krypton_onnx.runtime.targets import Target

Pair = int | tuple[int, int]
Edge = Literal["cover", "stop"]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The arguments of `Session.explain`, with sizes as (h, w)."""

    target: Target
    patch: tuple[int, int]
    stride: tuple[int, int]
    fill: Fill | ArrayLike
    edge: Edge
    region: tuple[int, int, int, int] | None
    output: str | None


def pair(value: Pair, what: str) -> tuple[int, int]:
    """An int or (h, w) as (h, w), both at least 1.

    Raises:
        KryptonError: naming `what`, for anything else.
    """
    numbers = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value, value)
    if len(numbers) != 2 or any(not _is_whole(n) or n < 1 for n in numbers):
        raise KryptonError(f"The {what} must be a whole number of pixels from 1 on, or a (height, width) of such.")
    return int(numbers[0]), int(numbers[1])


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def grid(
    size: tuple[int, int],
    patch: tuple[int, int],
    stride: tuple[int, int],
    edge: Edge,
    region: tuple[int, int, int, int] | None,
) -> NDArray[np.int64]:
    """Origins of the sliding window, int64 [rows, cols, 2]; see docs/heatmap.md.

    Args:
        size: (H, W) of the image.
        patch: (h, w).
        stride: (y, x).
        edge: "cover" or "stop".
        region: (y0, x0, y1, x1), the part of the image to ask about; None for all of it.

    Raises:
        KryptonError: the patch does not fit.
    """
    if edge not in ("cover", "stop"):
        raise KryptonError(f"edge is '{edge}'; it can be 'cover' or 'stop'.")
    corners = np.asarray((0, 0, *size) if region is None else region)
    if corners.shape != (4,) or corners.dtype.kind not in "iu":
        raise KryptonError("The region must be four whole numbers, (y0, x0, y1, x1).")
    y0, x0, y1, x1 = (int(corner) for corner in corners)
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        raise KryptonError(f"The region {y0},{x0},{y1},{x1} is no part (y0,x0,y1,x1) of the {size[0]}x{size[1]} image.")
    if patch[0] > y1 - y0 or patch[1] > x1 - x0:
        place = "image" if region is None else "region"
        raise KryptonError(f"A patch of {patch[0]}x{patch[1]} does not fit into the {y1 - y0}x{x1 - x0} {place}.")
    rows = geometry.grid_axis(y0, y1, patch[0], stride[0], cover=edge == "cover")
    cols = geometry.grid_axis(x0, x1, patch[1], stride[1], cover=edge == "cover")
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)
