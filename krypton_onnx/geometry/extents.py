"""ONNX's own rules for extents, padding and resampling, as ONNX Runtime applies them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.geometry.axes import Sliding

UNPADDED = Sliding()


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
    return halves(total, upper=upper)


def halves(total: int, *, upper: bool) -> tuple[int, int]:
    """(begin, end) of so many rows in all, the odd one at the end for SAME_UPPER, at the begin for SAME_LOWER."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def cells_inside(size: int, window: Sliding, dilation: int = 1, counted: Sliding = UNPADDED) -> NDArray[np.int64]:
    """How many of the rows that each output row looks at lie inside the input. Shape [extent].

    Args:
        size: input rows.
        window: the sliding window.
        dilation: it looks at every `dilation`-th row of its span.
        counted: its `pad` and `pad_end` rows of padding count as inside too.
    """
    return np.asarray(_inside(size, window, dilation, counted).sum(axis=1))


def taps_inside(size: int, window: Sliding, dilation: int = 1) -> NDArray[np.float64]:
    """For each row of a window, of how many of the output rows it lies inside the input, as a share. Shape [kernel].

    Args:
        size, window, dilation: see `cells_inside`.
    """
    return np.asarray(_inside(size, window, dilation, UNPADDED).mean(axis=0))


def _inside(size: int, window: Sliding, dilation: int, counted: Sliding) -> NDArray[np.bool_]:
    """Whether what each output row looks at lies inside: [extent, kernel]."""
    looked_at = window.begin(np.arange(window.extent(size)))[:, None] + np.arange(0, window.span, dilation)
    return np.asarray((looked_at >= -counted.pad) & (looked_at < size + counted.pad_end))


def padded_rows(size: int, begin: int, end: int, mode: str) -> tuple[int, ...]:
    """Per row of a Pad's output, the input row that it shows.

    Args:
        size: input rows.
        begin, end: rows added, less than `size`.
        mode: edge, reflect or wrap.
    """
    return tuple(np.pad(np.arange(size), (begin, end), mode).tolist())  # type: ignore[call-overload]


def resize_positions(size: int, extent: int, scale: float, mode: str) -> NDArray[np.float32] | None:
    """Where the rows of a Resize's output lie among the input rows; None for a mode without such a rule.

    Computed in float32, as runtimes do: at a tie between two rows the last bit decides.

    Args:
        size: input rows.
        extent: output rows.
        scale: output rows per input row.
        mode: coordinate_transformation_mode.
    """
    row, ratio, half = np.arange(extent, dtype=np.float32), np.float32(scale), np.float32(0.5)
    match mode:
        case _ if ratio == 1:
            return row
        case "asymmetric":
            return row / ratio
        case "half_pixel":
            return (row + half) / ratio - half
        case "pytorch_half_pixel":
            return (row + half) / ratio - half if extent > 1 else np.zeros(1, np.float32)
        case "tf_half_pixel_for_nn":
            return (row + half) / ratio
        case "align_corners":
            return row * np.float32(size - 1) / np.float32(extent - 1) if extent > 1 else np.zeros(1, np.float32)
        case "half_pixel_symmetric":
            adjustment = np.float32(extent) / (ratio * np.float32(size))
            offset = np.float32(size) / 2 * (1 - adjustment)
            return np.float32(offset) + (row + half) / ratio - half
        case _:
            return None


def resized_extents(sizes: NDArray[np.int64], scales: NDArray[np.float32]) -> NDArray[np.int64]:
    """Output rows of a Resize, per axis: ONNX Runtime multiplies in float32, which can round up to a whole number."""
    extents: NDArray[np.int64] = np.floor(sizes.astype(np.float32) * scales).astype(np.int64)
    return extents


def nearest_rows(positions: NDArray[np.float32], size: int, rounding: str) -> tuple[int, ...]:
    """The input row that each row of a nearest Resize shows.

    Args:
        positions: from `resize_positions`.
        size: input rows.
        rounding: nearest_mode.
    """
    whole = _ROUNDING[rounding](positions).astype(np.int64)
    return tuple(np.clip(whole, 0, size - 1).tolist())


def _rounded(positions: NDArray[np.float32], tie: float) -> NDArray[np.float32]:
    """The nearest whole numbers; a tie, or what float rounding has made of one, moved by `tie`."""
    half = np.floor(positions) + np.float32(0.5)
    return np.where(np.abs(positions - half) < _TIE, half + np.float32(tie), np.floor(positions + np.float32(0.5)))


_TIE = 1e-6
"""ONNX Runtime takes positions that are so close to the middle for the middle."""

_ROUNDING: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: _rounded(x, -0.5),
    "round_prefer_ceil": lambda x: _rounded(x, 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
