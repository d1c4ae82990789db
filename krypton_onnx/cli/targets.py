"""`--target` and what belongs to it: classes, a class in a mask, a detector's box, the cosine to the picture's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from krypton_onnx.cli.options import numbers, region, whole_numbers
from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krypton_onnx.runtime.targets import Target

Function = TypeVar("Function", bound=Callable[..., Any])


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


_TARGETS = """What to explain:

\b
top     the picture's largest class
N, N,M  classes by their index
mask:N  segmentation: class N where the picture
        has it; mask:N:FILE, in the white of a
        picture; mask:N:Y0,X0,Y1,X1
box:N   detection: the surest box of class N;
        box:N:Y0,X0,Y1,X1, boxes near that one;
        box:N:Y,X, boxes around a point
cosine  embedding: likeness to the picture's own
"""

Asked = int | list[int] | Literal["top", "cosine"] | Masked | Boxed


def target(text: str) -> Asked:
    """Read `--target`."""
    kind, _, rest = text.partition(":")
    index, _, place = rest.partition(":")
    match kind:
        case "top" | "cosine" if not rest:
            return "top" if kind == "top" else "cosine"
        case "mask":
            return _masked(_class(text, index), place)
        case "box":
            return _boxed(text, _class(text, index), place)
    indices = whole_numbers(text, ",")
    if indices is None:
        raise click.BadParameter(
            f"'{text}' is no target: give top, a class index such as 281, several, 281,282, mask:N, box:N or cosine."
        )
    return indices if len(indices) > 1 else indices[0]


def _class(text: str, index: str) -> int:
    found = whole_numbers(index, ",")
    if found is None or len(found) != 1:
        raise click.BadParameter(f"'{text}' names no class: give its index after the colon, such as mask:21 or box:17.")
    return found[0]


def _masked(index: int, place: str) -> Masked:
    if not place:
        return Masked(index)
    if whole_numbers(place, ",") is None:
        return Masked(index, file=Path(place))
    return Masked(index, rectangle=region(place))


def _boxed(text: str, index: int, place: str) -> Boxed:
    near = tuple(numbers(place)) if place else None
    if near is not None and len(near) not in (2, 4):
        raise click.BadParameter(f"'{text}' names no place: give a box y0,x0,y1,x1 or a point y,x.")
    return Boxed(index, near)


def target_options(function: Function) -> Function:
    """`--target`, and how a detector writes its boxes."""
    options = [
        click.option(
            "--target",
            type=target,
            default="top",
            show_default=True,
            metavar="TARGET",
            help=_TARGETS,
        ),
        click.option(
            "--box-head",
            type=click.Choice(["yolov5", "yolov8", "scores", "labels"]),
            help="What a detector gives: [N, 5 + classes]; [4 + classes, N]; boxes and scores per class; or boxes, "
            "scores and labels.",
        ),
        click.option("--box-outputs", metavar="NAME,...", help="The outputs' names, in that order."),
        click.option(
            "--box-coordinates",
            type=click.Choice(["xyxy", "yxyx", "xywh", "cxcywh"]),
            help="Two corners, a corner and the size, or the centre and the size. [default: cxcywh for a yolo head]",
        ),
        click.option("--box-normalized", is_flag=True, help="Coordinates are shares of the image, not pixels."),
        click.option("--box-activation", type=click.Choice(["sigmoid", "softmax"]), help="If scores are logits."),
        click.option("--box-min-iou", type=click.FloatRange(0, 1), help="Less overlap counts as none. [default: 0]"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def check_target(options: dict[str, Any]) -> None:
    """Refuse options of a detector without one, and a box without its head.

    Raises:
        KryptonError: naming the option.
    """
    given = [name for name, value in options.items() if name.startswith("box_") and value]
    if isinstance(options["target"], Boxed):
        if options["box_head"] is None:
            raise KryptonError(
                "A box target needs --box-head, which says how the detector writes its boxes: yolov5, yolov8, scores "
                "or labels; see 'krypton-onnx explain --help'."
            )
    elif given:
        raise KryptonError(f"--{given[0].replace('_', '-')} goes with --target box:CLASS; omit it.")


def as_target(asked: Asked, options: dict[str, Any], mask: "NDArray[Any] | None") -> "Target":
    """The target for `Session.explain`.

    Args:
        asked: what `target` read.
        options: the command's, for a detector's.
        mask: the mask in the model's image, where a file was named.
    """
    from krypton_onnx.runtime.boxes import BoxScore
    from krypton_onnx.runtime.targets import Cosine, InMask

    match asked:
        case Masked():
            return InMask(asked.index, asked.rectangle if mask is None else mask)
        case Boxed():
            return BoxScore(
                asked.index,
                asked.near,
                head=options["box_head"],
                outputs=(options["box_outputs"] or "").split(",") if options["box_outputs"] else (),
                coordinates=options["box_coordinates"],
                normalized=options["box_normalized"],
                activation=options["box_activation"],
                min_iou=options["box_min_iou"] or 0.0,
            )
        case "cosine":
            return Cosine()
    return asked
