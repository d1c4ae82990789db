"""Memory of the host in which pieces are put together that go to a device: kept for the next, page-locked for CUDA.

From page-locked memory a device copies by itself, and several times as fast; and memory that was used before need not
be mapped anew, which takes as long as filling it.
"""

import ctypes
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

LEAST = 1 << 20
"""Bytes of the smallest piece of memory; larger ones double."""

_RUNTIME = "cudart64_13.dll" if sys.platform == "win32" else "libcudart.so.13"

_PORTABLE = 1
"""cudaHostAllocPortable: page-locked for all devices."""

_free: list[Bytes] = []
"""What nobody fills at present."""

_choosing = Lock()


@contextmanager
def staging(size: int, locked_by: int | None) -> Iterator[Bytes]:
    """So many bytes, whatever they hold, for as long as the block lasts.

    Args:
        size: bytes.
        locked_by: the CUDA device to which they go; None for memory like any other.
    """
    with _choosing:
        place = next((place for place, memory in enumerate(_free) if len(memory) >= size), None)
        memory = None if place is None else _free.pop(place)
    memory = _memory(max(LEAST, 1 << (size - 1).bit_length()), locked_by) if memory is None else memory
    try:
        yield memory[:size]
    finally:
        with _choosing:
            _free.append(memory)


def _memory(size: int, locked_by: int | None) -> Bytes:
    locked = None if locked_by is None else page_locked(size, locked_by)
    return np.empty(size, np.uint8) if locked is None else locked


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
    return np.ctypeslib.as_array(memory)
