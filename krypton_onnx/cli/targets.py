"""`--target` and what belongs to it: classes, a class in a mask, a detector's box, the cosine to the picture's own."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from krypton_onnx.errors import KryptonError
from krypton_onnx.target_text import Boxed, Read, read_target

Function = TypeVar("Function", bound=Callable[..., Any])

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


def target(text: str) -> Read:
    """Read `--target`."""
    try:
        return read_target(text)
    except KryptonError as error:
        raise click.BadParameter(str(error)) from error


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
