"""What ONNX Runtime's failures mean: it raises a class of its own per status code, without a common base."""

import re

from krypton_onnx.errors import KryptonError

_NO_ROOM = (
    "Failed to allocate memory",
    "Available memory of",
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What ONNX Runtime, CUDA and its libraries say where memory ends."""

_LOST = (
    "unspecified launch failure",
    "illegal memory access",
    "illegal instruction was encountered",
    "misaligned address",
    "device-side assert",
    "uncorrectable ECC error",
    "devices unavailable",
    "has fallen off the bus",
    "CUDA_ERROR_LAUNCH_FAILED",
)
"""What they say where nothing will ever work again in the same process."""


class FailedRunError(KryptonError):
    """ONNX Runtime failed at what it was asked to compute."""


class OutOfMemoryError(FailedRunError):
    """There is no room for what is computed, on the device or in the host's memory."""


def failure(error: Exception) -> FailedRunError:
    """The error to raise in its place."""
    said = str(error)
    if isinstance(error, MemoryError) or any(sign in said for sign in _NO_ROOM):
        return OutOfMemoryError(f"There is no memory for this: {reason(error)}.")
    if any(sign in said for sign in _LOST):
        return FailedRunError(
            f"The device stopped working, and this process can use it no more: start another ({reason(error)})."
        )
    return FailedRunError(f"ONNX Runtime failed: {reason(error)}.")


def reason(error: Exception) -> str:
    """ONNX Runtime's message without its codes and places: ``file.cc:63 … [ONNXRuntimeError] : 1 : FAIL : …``."""
    text = re.sub(r"^.*\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return re.sub(r"\S+\.(?:h|cc|cu):\d+ \S+ ", "", text)[:400].rstrip(". ")
