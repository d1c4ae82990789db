"""Numbers as JSON holds them, which knows no types."""

from typing import Any

import numpy as np

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.engine import Array


def array_of(values: Any, dtype: np.dtype[Any]) -> Array:
    """Lists, nested as they may be, as an array of a type that loses nothing of them but digits.

    Args:
        values: of numbers.
        dtype: of the array.

    Raises:
        KryptonError: they are no array of numbers, or some of them are none of that type.
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise KryptonError(f"Nested lists are no array of numbers: {error}.") from error
    if array.dtype.kind not in "iufb":
        raise KryptonError(f"Lists hold something else than numbers, where {dtype} is wanted.")
    if not _fits(array, dtype):
        raise KryptonError(f"Lists hold numbers that are none of {dtype}.")
    with np.errstate(over="ignore"):  # what becomes infinite so is refused as such
        return array.astype(dtype)


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether whole numbers stay what they are, and truth values true or false."""
    if not array.size or dtype.kind not in "iub":
        return True
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
    return whole and bool(low <= array.min() and array.max() <= high)
