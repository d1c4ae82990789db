"""Targets as text and plain values: what the command line and requests to the service can say."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krypton_onnx.runtime.targets import Target


@dataclass(frozen=True, slots=True)
class Masked:
    """``mask:21``, ``mask:21:person.png`` or ``mask:21:y0,x0,y1,x1``."""

    index: int
    rectangle: tuple[int, int, int, int] | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Boxed:
    """``box:17``, ``box:17:y0,x0,y1,x1`` or ``box:17:y,x``."""

    index: int
    near: tuple[float, ...] | None = None


Read = int | list[int] | Literal["top", "cosine"] | Masked | Boxed
"""A target as it was read; `as_target` makes a `Target` of it."""

Number = TypeVar("Number", int, float)


def read_target(text: str) -> Read:
    """Read a target: ``top``, ``281``, ``281,282``, ``mask:21``, ``box:17:40,60``, ``cosine``.

    Raises:
        KryptonError: it is none of these.
    """
    kind, _, rest = text.partition(":")
    index, _, place = rest.partition(":")
    match kind:
        case "top" | "cosine" if not rest:
            return "top" if kind == "top" else "cosine"
        case "mask":
            return _masked(_class(text, index), place)
        case "box":
            return _boxed(text, _class(text, index), place)
    indices = _numbers(text, int)
    if indices is None:
        raise KryptonError(
            f"'{text}' is no target: give top, a class index such as 281, several, 281,282, mask:N, box:N or cosine."
        )
    return indices if len(indices) > 1 else indices[0]


def _class(text: str, index: str) -> int:
    found = _numbers(index, int)
    if found is None or len(found) != 1:
        raise KryptonError(f"'{text}' names no class: give its index after the colon, such as mask:21 or box:17.")
    return found[0]


def _masked(index: int, place: str) -> Masked:
    if not place:
        return Masked(index)
    corners = _numbers(place, int)
    if corners is None:
        return Masked(index, file=Path(place))
    if len(corners) != 4:
        raise KryptonError(f"'{place}' is no region: give four whole numbers y0,x0,y1,x1, such as 0,0,112,112.")
    return Masked(index, rectangle=(corners[0], corners[1], corners[2], corners[3]))


def _boxed(text: str, index: int, place: str) -> Boxed:
    if not place:
        return Boxed(index)
    near = _numbers(place, float)
    if near is None or len(near) not in (2, 4):
        raise KryptonError(f"'{text}' names no place: give a box y0,x0,y1,x1 or a point y,x.")
    return Boxed(index, tuple(near))


def _numbers(text: str, kind: type[Number]) -> list[Number] | None:
    """Numbers with commas between them; None for anything else."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        return None


def as_target(read: Read, options: Mapping[str, Any], mask: "NDArray[Any] | None" = None) -> "Target":
    """The target for `Session.explain`.

    Args:
        read: what `read_target` read.
        options: how a detector writes its boxes: box_head, box_outputs (names, with commas between them),
            box_coordinates, box_normalized, box_activation, box_min_iou, as `BoxScore` takes them; None for its
            defaults.
        mask: the mask in the model's image, where a file was named.

    Raises:
        KryptonError: the options contradict one another.
    """
    from krypton_onnx.runtime.boxes import BoxScore
    from krypton_onnx.runtime.targets import Cosine, InMask

    match read:
        case Masked():
            return InMask(read.index, read.rectangle if mask is None else mask)
        case Boxed():
            return BoxScore(
                read.index,
                read.near,
                head=options["box_head"],
                outputs=options["box_outputs"].split(",") if options["box_outputs"] else (),
                coordinates=options["box_coordinates"],
                normalized=options["box_normalized"],
                activation=options["box_activation"],
                min_iou=options["box_min_iou"] or 0.0,
            )
        case "cosine":
            return Cosine()
    return read
