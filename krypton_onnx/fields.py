"""Checking the fields of a preprocessing file. Each raises `KryptonError` naming the key."""

from typing import Any

import numpy as np

from krypton_onnx.errors import KryptonError

MAX_SIDE = 32768
"""Pixels that a picture's side may have."""


def one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed."""
    if value not in allowed:
        raise KryptonError(f"'{key}' must be one of {', '.join(allowed)}, not {value!r}")


def is_int(value: object) -> bool:
    """Whether it is a whole number, and not a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def side_or_pair(key: str, value: Any) -> int | tuple[int, int]:
    """A side in pixels, or (height, width)."""
    return pair(key, (value, value))[0] if is_int(value) else pair(key, value)


def pair(key: str, value: Any) -> tuple[int, int]:
    """(height, width) in whole pixels from 1 to `MAX_SIDE`."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(is_int(n) and 1 <= n <= MAX_SIDE for n in value):
        form = "the shorter side or (height, width)" if key in ("resize", "size") else "(height, width)"
        raise KryptonError(f"'{key}' must be {form} in whole pixels from 1 to {MAX_SIDE}, not {value!r}")
    return int(value[0]), int(value[1])


def numbers(key: str, value: Any, channels: int) -> tuple[float, ...]:
    """A tuple of 1 or `channels` finite floats."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    numeric = all(isinstance(n, int | float) and not isinstance(n, bool) for n in values)
    # NaN fails the comparison too; far beyond 1e30 a float32 tensor overflows
    if not numeric or not all(abs(n) < 1e30 for n in values):
        raise KryptonError(f"'{key}' must be finite numbers, one or one per channel, not {value!r}")
    if len(values) not in (1, channels):
        raise KryptonError(f"'{key}' has {len(values)} values: give one, or {channels}, one per channel")
    return tuple(float(n) for n in values)
