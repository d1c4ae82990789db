"""Arrays that stay on the device where graphs run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from krypton_onnx.runtime.failures import failure
from krypton_onnx.runtime.providers import CUDA, TENSORRT, Provider, name_of, options_of
from krypton_onnx.runtime.staging import staging

Shape = tuple[int, ...]

_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of ONNX's element types (onnx.TensorProto.DataType)."""

_ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
             "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16}  # fmt: skip
"""The element types by numpy's names."""

_ALIGNMENT = 256
"""Bytes on whose multiples arrays begin that share a piece of memory, as CUDA's own do."""

FLOAT32 = _ELEMENTS["float32"]


def can_hold(dtype: str) -> bool:
    """Whether memory can be had beforehand for this type, by numpy's name."""
    return dtype in _ELEMENTS


@dataclass(frozen=True, slots=True)
class Device:
    """Where a session's arrays live.

    Attributes:
        kind: ONNX Runtime's name for it, ``cuda``; ``cpu`` works like any other.
        number: which of its kind.
    """

    kind: str
    number: int = 0

    @property
    def address(self) -> tuple[str, int]:
        """Kind and number, as ONNX Runtime takes them."""
        return self.kind, self.number

    def put(self, array: NDArray[np.generic]) -> "Resident":
        """A copy of an array of the host."""
        found = self.empty(array.shape, array.dtype.name)
        _update(found.value, array)
        return found

    def put_together(self, arrays: Mapping[str, NDArray[np.generic]]) -> "dict[str, Resident]":
        """Copies of arrays of the host, by name, which go there in one piece."""
        if not arrays:
            return {}
        whole = self.empty((_offsets(arrays)[-1],), "uint8")
        self._fill(whole, arrays)
        return {
            name: replace(whole, shape=array.shape, element=_ELEMENTS[array.dtype.name], offset=offset)
            for (name, array), offset in zip(arrays.items(), _offsets(arrays)[:-1], strict=True)
        }

    def refill(self, together: "Mapping[str, Resident]", arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Put other numbers into the place of what `put_together` has put there, by the same names."""
        if together:
            self._fill(next(iter(together.values())), {name: arrays[name] for name in together})

    def _fill(self, whole: "Resident", arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Put the bytes of all where they belong in one piece of memory."""
        *offsets, end = _offsets(arrays)
        with staging(end, self.number if self.kind == "cuda" else None) as piece:
            for array, offset in zip(arrays.values(), offsets, strict=True):
                piece[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            _update(whole.value, piece)

    def empty(self, shape: Shape, dtype: str) -> "Resident":
        """Memory for an array of this shape and, by numpy's name, type."""
        # ONNX Runtime gives no address to what has no elements.
        size = [max(1, math.prod(shape))]
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(size, _ELEMENTS[dtype], self.kind, self.number)
        except Exception as error:  # ONNX Runtime's
            raise failure(error) from error
        return Resident(value, shape, _ELEMENTS[dtype])


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """An array on a device, or rows of one that follow each other.

    Attributes:
        value: that holds the memory, and keeps it.
        shape: of the array.
        element: its type, as ONNX numbers them.
        offset: bytes from the beginning of the memory.
    """

    value: ort.OrtValue
    shape: Shape
    element: int
    offset: int = 0

    @property
    def pointer(self) -> int:
        """Address on the device."""
        return int(self.value.data_ptr()) + self.offset

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * _SIZES[self.element]

    def rows(self, first: int, stop: int) -> "Resident":
        """Rows of it, in the same memory."""
        row = math.prod(self.shape[1:]) * _SIZES[self.element]
        return replace(self, shape=(stop - first, *self.shape[1:]), offset=self.offset + first * row)

    def reshaped(self, shape: Shape) -> "Resident":
        """The same elements in another shape, in the same memory."""
        return replace(self, shape=shape)

    def fetched(self) -> NDArray[np.generic]:
        """A copy on the host. All of the memory is copied for that, whatever rows of it are asked for."""
        try:
            whole = np.asarray(self.value.numpy())
        except Exception as error:  # ONNX Runtime's
            raise failure(error) from error
        if self.element not in _SIZES:  # strings
            return whole
        if self.value.device_name() == "cpu":  # whose memory ONNX Runtime does not copy
            whole = whole.copy()
        start = self.offset // _SIZES[self.element]
        return whole.reshape(-1)[start : start + math.prod(self.shape)].reshape(self.shape)


def _update(value: ort.OrtValue, array: NDArray[np.generic]) -> None:
    try:
        value.update_inplace(np.ascontiguousarray(array))
    except Exception as error:  # ONNX Runtime's
        raise failure(error) from error


def _offsets(arrays: Mapping[str, NDArray[np.generic]]) -> list[int]:
    """Where each begins in one piece of memory; and, last, where that ends."""
    sizes = (-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays.values())
    return list(accumulate(sizes, initial=0))


def numpy_name(onnx_type: str) -> str:
    """``tensor(float)`` as ``float32``; what is no tensor stays as it is."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def device_of(providers: Sequence[Provider]) -> Device | None:
    """Where arrays live if graphs run on these; None for the host's memory, from which ONNX Runtime copies them."""
    first = providers[0]
    if name_of(first) not in (CUDA, TENSORRT):
        return None
    return Device("cuda", int(options_of(first).get("device_id", 0)))


def held_by(value: ort.OrtValue) -> Resident:
    """What ONNX Runtime has allocated."""
    return Resident(value, tuple(value.shape()), value.element_type())
