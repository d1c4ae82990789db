"""Targets: which number of the model's outputs is explained. docs/heatmap.md defines each of them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.base import Output
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.outputs import Pick
from krypton_onnx.runtime.scores import NamedTarget, Score, Setting, array_of, class_index

Reducer = Callable[[Mapping[str, Any]], ArrayLike]
"""A batch's outputs, by name, to one float a query."""

Target = int | Sequence[int] | Literal["top"] | NamedTarget | Reducer

_NO_TARGET = "is none of: an index, a list of indices, 'top', InMask, BoxScore, Cosine, a function"


def score_of(target: Target, setting: Setting) -> Score:
    """What is explained.

    Args:
        target: see `Session.explain`.
        setting: what the image itself gives.

    Raises:
        KryptonError: no such output, or a target that does not fit it.
    """
    values = setting.output(setting.name)
    if isinstance(target, NamedTarget):
        return target.score(setting)
    if callable(target):
        return Score(None, _own_reduction(target), "function")
    classes = array_of(values, setting.name).reshape(1, -1)[0]
    chosen = _indices(target, classes, setting.name)
    pick = Pick(setting.name, (chosen,) if isinstance(chosen, int) else tuple(chosen))

    def scores(outputs: Mapping[str, Output]) -> NDArray[np.float32]:
        found = pick.of(array_of(outputs[setting.name], setting.name))
        return found[:, 0] if isinstance(chosen, int) else found

    return Score(chosen, scores, chosen, pick)


def _indices(target: Any, classes: Array, name: str) -> int | list[int]:
    if isinstance(target, str):
        if target != "top":
            raise KryptonError(f"The target '{target}' {_NO_TARGET}.")
        return int(np.argmax(classes))
    wanted = np.asarray(target)
    if wanted.dtype.kind not in "iu" or wanted.ndim > 1:
        raise KryptonError(f"The target {target!r} {_NO_TARGET}.")
    indices = [int(i) for i in np.atleast_1d(wanted)]
    wrong = [i for i in indices if not 0 <= i < len(classes)]
    if wrong or not indices:
        raise KryptonError(
            f"The target {wrong[0] if wrong else '[]'} is out of range: output '{name}' has {len(classes)} classes, "
            f"0 to {len(classes) - 1}."
        )
    return indices if wanted.ndim else indices[0]


def _own_reduction(reducer: Reducer) -> Callable[[Mapping[str, Output]], NDArray[np.float32]]:
    def scores(outputs: Mapping[str, Output]) -> NDArray[np.float32]:
        queries = len(next(iter(outputs.values())))
        values = np.asarray(reducer(outputs), np.float32)
        if values.shape != (queries,):
            raise KryptonError(
                f"The target function returned the shape {list(values.shape)} for a batch of {queries} queries; "
                f"it must return [{queries}], one score a query."
            )
        return values

    return scores


@dataclass(frozen=True, slots=True)
class Cosine(NamedTarget):
    """How much an output stays what it is for the image itself: the cosine of the angle between the two, flattened.

    The image's own score is 1. For embeddings, and for whatever else has a direction.
    """

    def score(self, setting: Setting) -> Score:
        """See `NamedTarget.score`."""
        name, own = setting.name, _directions(setting.array())[0]
        if not own.any():
            raise KryptonError(f"The output '{name}' is all zeros for the image, so that it has no direction.")

        def scores(outputs: Mapping[str, Output]) -> NDArray[np.float32]:
            return np.asarray(_directions(array_of(outputs[name], name)) @ own, np.float32)

        return Score(None, scores, {"cosine": name})


def _directions(values: Array) -> NDArray[np.float64]:
    """Rows of unit length, float64 [q, n]; zeros stay zeros."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths != 0))


@dataclass(frozen=True, slots=True, eq=False)
class InMask(NamedTarget):
    """A class of a segmentation, in a part of the map.

    On maps of logits or probabilities, [C, h, w], the mean of the class's map in the mask. On label maps, [h, w] or
    [1, h, w] of whole numbers, the share of the mask's cells that are labelled with the class.

    Attributes:
        index: the class.
        mask: where, bool or integers (not zero is inside) in the output's resolution [h, w], or in the image's [H, W],
            of which every cell of the map takes the pixel at its centre; or a rectangle (y0, x0, y1, x1) in pixels of
            the model's image. None for the cells that the base run gives to the class.
        channels_last: whether the maps are [h, w, C]; None if they are as the model takes its image.
    """

    index: int
    mask: ArrayLike | None = None
    channels_last: bool | None = None

    def score(self, setting: Setting) -> Score:
        """See `NamedTarget.score`."""
        last = setting.channels_last if self.channels_last is None else self.channels_last
        index = class_index(self.index)
        maps = _Maps(setting.name, index, last)
        own = setting.array()
        inside = self._inside(maps, own, setting.image_size)

        def scores(outputs: Mapping[str, Output]) -> NDArray[np.float32]:
            found = maps.of_class(array_of(outputs[setting.name], setting.name))
            return np.asarray(found[:, inside].mean(axis=1, dtype=np.float64), np.float32)

        return Score(index, scores, {"class": index, "mask": self._record(inside)})

    def _inside(self, maps: "_Maps", own: Array, image_size: tuple[int, int]) -> NDArray[np.bool_]:
        extents = maps.of_class(own).shape[1:]
        if self.mask is None:
            inside = maps.region(own)
            if not inside.any():
                raise KryptonError(
                    f"The base run gives no cell of the output '{maps.name}' to class {self.index}: give a mask, or "
                    "another class."
                )
            return inside
        inside = _resampled(_as_mask(self.mask, image_size), extents, image_size, maps.name)
        if not inside.any():
            raise KryptonError(
                f"The mask holds no cell of the {extents[0]}x{extents[1]} output '{maps.name}': enlarge it."
            )
        return inside

    def _record(self, inside: NDArray[np.bool_]) -> dict[str, Any]:
        found: dict[str, Any] = {"cells": int(inside.sum())}
        given = None if self.mask is None else np.asarray(self.mask)
        if given is None:
            return {"of": "base run", **found}
        if given.ndim == 1:
            return {"of": [int(corner) for corner in given], **found}
        return {"of": {"sha256": hashlib.sha256(np.packbits(inside).tobytes()).hexdigest()}, **found}


@dataclass(frozen=True, slots=True)
class _Maps:
    """One class in a batch of segmentations."""

    name: str
    index: int
    last: bool

    def of_class(self, values: Array) -> Array:
        """[q, h, w]: the class's map, or where the label is the class."""
        if values.ndim not in (3, 4):
            raise KryptonError(
                f"InMask is about maps, [C, h, w] or labels [h, w], and the output '{self.name}' is "
                f"{list(values.shape[1:])}: name another output."
            )
        maps = self._channels_first(values)
        if self._are_labels(maps):
            return np.asarray(maps[:, 0] == self.index)
        if not 0 <= self.index < maps.shape[1]:
            raise KryptonError(
                f"The class {self.index} is out of range: output '{self.name}' has {maps.shape[1]} maps, 0 to "
                f"{maps.shape[1] - 1}."
            )
        return maps[:, self.index]

    def region(self, own: Array) -> NDArray[np.bool_]:
        """[h, w]: the cells that one image's output gives to the class."""
        maps = self._channels_first(own)
        if self._are_labels(maps):
            return np.asarray(maps[0, 0] == self.index)
        if maps.shape[1] == 1:
            raise KryptonError(f"The output '{self.name}' is a single map, without a region of its own: give a mask.")
        return np.asarray(maps[0].argmax(axis=0) == self.index)

    def _channels_first(self, values: Array) -> Array:
        if values.ndim == 3:
            return values[:, None]
        return values.transpose(0, 3, 1, 2) if self.last else values

    def _are_labels(self, maps: Array) -> bool:
        return maps.shape[1] == 1 and maps.dtype.kind in "iub"


def _as_mask(mask: ArrayLike, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask as bool [rows, cols], a rectangle drawn in the image's resolution.

    Raises:
        KryptonError: it is neither.
    """
    given = np.asarray(mask)
    rectangle = given.shape == (4,) and given.dtype.kind in "iu"
    if not rectangle and not (given.ndim == 2 and given.dtype.kind in "biu"):
        raise KryptonError(
            f"A mask must be bool or whole numbers [rows, columns], or a rectangle (y0, x0, y1, x1); this is "
            f"{given.dtype} {list(given.shape)}."
        )
    if not rectangle:
        return np.asarray(given != 0)
    y0, x0, y1, x1 = (int(corner) for corner in given)
    if not (0 <= y0 < y1 <= image_size[0] and 0 <= x0 < x1 <= image_size[1]):
        raise KryptonError(
            f"The rectangle {y0},{x0},{y1},{x1} is no part (y0,x0,y1,x1) of the {image_size[0]}x{image_size[1]} image."
        )
    drawn = np.zeros(image_size, np.bool_)
    drawn[y0:y1, x0:x1] = True
    return drawn


def _resampled(
    mask: NDArray[np.bool_], extents: tuple[int, ...], image_size: tuple[int, int], name: str
) -> NDArray[np.bool_]:
    """The mask in the output's resolution: each cell takes the pixel under its centre."""
    if mask.shape == extents:
        return mask
    if mask.shape != image_size:
        raise KryptonError(
            f"The mask is {mask.shape[0]}x{mask.shape[1]}; it must be as large as the output '{name}', "
            f"{extents[0]}x{extents[1]}, or as the model's image, {image_size[0]}x{image_size[1]}."
        )
    rows, cols = ((2 * np.arange(n) + 1) * size // (2 * n) for n, size in zip(extents, image_size, strict=True))
    return mask[np.ix_(rows, cols)]
