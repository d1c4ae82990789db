"""The weights of an artifact on a device, once, for all of its graphs.

ONNX Runtime copies weights for every session, and an artifact has up to six. It takes instead what is lent to it:
values that do not own their memory, made here over one copy of weights.bin by patching what DLPack says of that.
"""

import ctypes
from threading import Lock

import numpy as np
import onnxruntime as ort

from krypton_onnx.artifact import WEIGHTS_FILE, Artifact, Weight
from krypton_onnx.runtime.resident import Device, Resident


class LentWeights:
    """Lends the weights of one artifact to sessions. Must live as long as they do.

    Args:
        artifact: whose weights; a device has no use for those of the index.
        device: where they are to lie.
    """

    def __init__(self, artifact: Artifact, device: Device) -> None:
        self._artifact, self._device = artifact, device
        self._whole: Resident | None = None
        self._lent: list[ort.OrtValue] = []
        self._opening = Lock()

    def lend(self, options: ort.SessionOptions, file: str) -> None:
        """Let a session that is opened with these options use the weights of a graph.

        Args:
            options: for this graph alone.
            file: the graph's name in the artifact.

        Raises:
            OutOfMemoryError: the device has no room for the weights.
        """
        weights = [weight for weight in self._artifact.weights.get(file, ()) if weight.dtype in _CODES]
        with self._opening:
            if self._whole is None and weights:
                self._whole = self._device.put(np.fromfile(self._artifact.folder / WEIGHTS_FILE, np.uint8))
            for weight in weights:
                assert self._whole is not None
                value = _part(self._whole.value, weight)
                options.add_initializer(weight.name, value)
                self._lent.append(value)


class _DLTensor(ctypes.Structure):
    """DLPack's description of a tensor, of which a capsule holds the address."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_INTEGERS = {f"int{bits}": 0 for bits in (8, 16, 32, 64)} | {f"uint{bits}": 1 for bits in (8, 16, 32, 64)}
_CODES = {"bool": 1, "float16": 2, "float32": 2, "float64": 2, **_INTEGERS}
"""DLPack's numbers for kinds of types, by numpy's names; each session has its own of what is not among them."""

_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _part(whole: ort.OrtValue, weight: Weight) -> ort.OrtValue:
    """A weight, over the memory of all of them, which lives at least as long."""
    capsule, dtype = whole._ortvalue.__dlpack__(), np.dtype(weight.dtype)
    extents = (ctypes.c_int64 * max(1, len(weight.shape)))(*weight.shape)
    tensor = _DLTensor.from_address(_address(capsule, b"dltensor"))
    tensor.data += weight.offset
    tensor.ndim, tensor.shape, tensor.strides = len(weight.shape), extents, None
    tensor.code, tensor.bits, tensor.lanes = _CODES[weight.dtype], 8 * dtype.itemsize, 1
    return ort.OrtValue(type(whole._ortvalue).from_dlpack(capsule, dtype == np.bool_))
