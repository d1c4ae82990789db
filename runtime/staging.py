"""Memory of the host in which pieces are put together that go to a device: kept for the next, page-locked for CUDA.

From page-locked memory a device copies by itself, and several times as fast; and memory that was used before need not
be mapped anew, which takes as long as filling it.
"""

import ctypes
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

LEAST = 1 << 20
"""Bytes of the smallest piece of memory; larger ones double."""

_RUNTIME = "cudart64_13.dll" if sys.platform == "win32" else "libcudart.so.13"

_PORTABLE = 1
"""cudaHostAllocPortable: page-locked for all devices."""

_free: list[Bytes] = []
"""What nobody fills at present. Lists pop and append in one step, whatever the thread."""


@contextmanager
def staging(size: int, locked_by: int | None) -> Iterator[Bytes]:
    """So many bytes, whatever they hold, for as long as the block lasts.

    Args:
        size: bytes.
        locked_by: the CUDA device to which they go; None for memory like any other.
    """
    kept = _free.pop() if _free else None
    if kept is None or len(kept) < size:
        room = max(LEAST, 1 << (size - 1).bit_length())
        kept = None if locked_by is None else page_locked(room, locked_by)
        kept = np.empty(room, np.uint8) if kept is None else kept
    try:
        yield kept[:size]
    finally:
        _free.append(kept)


def page_locked(size: int, device: int) -> Bytes | None:
    """So many bytes of page-locked memory; None where CUDA's runtime gives none.

    Args:
        size: bytes.
        device: whose context locks them, and which is the thread's from then on.
    """
    try:
        runtime = ctypes.CDLL(_RUNTIME)  # which ONNX Runtime has loaded
        place = ctypes.c_void_p()
        given = ctypes.byref(place), ctypes.c_size_t(size), ctypes.c_uint(_PORTABLE)
        if runtime.cudaSetDevice(device) or runtime.cudaHostAlloc(*given) or not place.value:
            return None
    except (OSError, AttributeError):
        return None
    memory = (ctypes.c_uint8 * size).from_address(place.value)
    weakref.finalize(memory, runtime.cudaFreeHost, place).atexit = False  # the driver has gone by then
    return np.frombuffer(memory, np.uint8)
