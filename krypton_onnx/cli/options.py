"""How options are read, and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

_MEMORY_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(text: str) -> tuple[int, int]:
    """``16`` or ``16x24``, height first, as (height, width)."""
    numbers = whole_numbers(_plain(text), "x")
    if numbers is None or len(numbers) > 2 or min(numbers) < 1:
        raise click.BadParameter(f"'{text}' is no size: give whole pixels from 1 on, 16 or 16x24 (height x width).")
    return numbers[0], numbers[-1]


def region(text: str) -> tuple[int, int, int, int]:
    """``y0,x0,y1,x1``."""
    numbers = whole_numbers(text, ",")
    if numbers is None or len(numbers) != 4:
        raise click.BadParameter(f"'{text}' is no region: give four whole numbers y0,x0,y1,x1, such as 0,0,112,112.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def numbers(text: str) -> list[float]:
    """``0.5`` or ``123.7,116.3,103.5``."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"'{text}' is neither a number nor numbers with commas between them.") from None


def extent(text: str) -> tuple[int, ...] | Literal["none"]:
    """``224``, ``224x256`` or ``none``; a single number stays single."""
    if text.lower() == "none":
        return "none"
    found = whole_numbers(_plain(text), "x")
    if found is None or len(found) > 2 or min(found) < 1:
        raise click.BadParameter(f"'{text}' is no size: give pixels, 224 or 224x256 (height x width), or none.")
    return tuple(found)


def memory(text: str) -> int:
    """``512MB`` or ``2GiB``, in bytes."""
    number = text.strip().upper().rstrip("BGIKM")
    unit = text.strip().upper()[len(number) :]
    try:
        amount = float(number) * _MEMORY_UNITS[unit]
    except (ValueError, KeyError):
        amount = 0.0
    if not 1 <= amount < 2**62:
        raise click.BadParameter(f"'{text}' is no amount of memory: give bytes, or 512MB, or 2GB.")
    return int(amount)


def device(text: str) -> list[str | tuple[str, dict[str, Any]]]:
    """``cpu``, ``cuda``, ``cuda:1`` or ``cuda+tf32``, as execution providers."""
    place, plus, precision = text.lower().partition("+")
    name, colon, number = place.partition(":")
    if name == "cuda" and (number.isdecimal() or not colon) and precision == ("tf32" if plus else ""):
        options = {"device_id": int(number or 0), **({"use_tf32": "1"} if plus else {})}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    if text.lower() == "cpu":
        return ["CPUExecutionProvider"]
    raise click.BadParameter(
        f"'{text}' is no device: give cpu, cuda, or cuda:1 for the second one; cuda+tf32 is faster, and not exact."
    )


def named_file(text: str) -> tuple[str, Path]:
    """``name=file.npy``."""
    name, _, file = text.rpartition("=")
    if not name or not file:
        raise click.BadParameter(f"'{text}' names no input: give its name and a file, NAME=FILE.npy.")
    return name, Path(file)


def count(text: str) -> int | Literal["all", "sample"]:
    """``500``, ``all`` or ``sample``."""
    if text == "all":
        return "all"
    if text == "sample":
        return "sample"
    found = whole_numbers(text, ",")
    if found is None or len(found) != 1 or found[0] < 1:
        raise click.BadParameter(f"'{text}' is no number of queries: give a whole number from 1 on, all, or sample.")
    return found[0]


def _plain(text: str) -> str:
    return text.lower().replace("×", "x")


def whole_numbers(text: str, separator: str) -> list[int] | None:
    """Whole numbers with a separator between them; None for anything else."""
    try:
        return [int(part) for part in text.split(separator)]
    except ValueError:
        return None


def model_options(function: Function) -> Function:
    """What a model may leave open: its size, which input is the image, and the order of that one's axes."""
    return _all(
        click.option("--input-size", type=size, metavar="HxW", help="Image size, where the model leaves it open."),
        click.option("--image-input", metavar="NAME", help="The image input, where several inputs have 4 dimensions."),
        click.option(
            "--channels-last/--channels-first",
            default=None,
            help="Whether the image input is [N, H, W, C] or [N, C, H, W]; by default its extents tell.",
        ),
    )(function)


def grid_options(function: Function) -> Function:
    """Patch and stride."""
    return _all(
        click.option(
            "--patch", type=size, default="16", show_default=True, metavar="N|HxW", help="The patch's size in pixels."
        ),
        click.option(
            "--stride",
            type=size,
            default="4",
            show_default=True,
            metavar="N|HxW",
            help="Pixels between neighbouring positions, down and across.",
        ),
    )(function)


def single_file_options(stride: str) -> Callable[[Function], Function]:
    """What a file that emits heatmaps is asked, and what is stored with it; `stride` is the default."""

    def decorated(function: Function) -> Function:
        return _all(
            click.option(
                "--patch",
                type=size,
                default="16",
                show_default=True,
                metavar="N|HxW",
                help="The patch's size in pixels.",
            ),
            click.option(
                "--stride",
                type=size,
                default=stride,
                show_default=True,
                metavar="N|HxW",
                help="Pixels between neighbouring positions, down and across.",
            ),
            click.option(
                "--edge",
                type=click.Choice(["cover", "stop"]),
                default="cover",
                show_default=True,
                help="Add the last position that fits, so that every pixel is covered, or do not.",
            ),
            click.option(
                "--output-name",
                "scored",
                metavar="NAME",
                help="Which output of the model to score. [default: the first]",
            ),
            model_options,
            picture_options,
            click.option("--no-verify", is_flag=True, help="Write without comparing with the model first."),
            json_option,
        )(function)

    return decorated


def picture_options(function: Function) -> Function:
    """What goes with a model: how a picture becomes its input, and class names."""
    return _all(
        click.option(
            "--preprocess",
            type=click.Path(path_type=Path),
            metavar="FILE.json",
            help="How a picture becomes the input; Hugging Face's preprocessor_config.json works.",
        ),
        click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="Class names, one a line."),
    )(function)


def device_option(function: Function) -> Function:
    """`--device`."""
    return click.option(
        "--device",
        "providers",
        type=device,
        metavar="cpu|cuda[:N][+tf32]",
        help="Where to compute; tf32 is faster, and not exact. [default: cuda where it works, else cpu]",
    )(function)


def json_option(function: Function) -> Function:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(function)


def input_option(function: Function) -> Function:
    """`--input`: the model's inputs beside the image."""
    return click.option(
        "--input",
        "inputs",
        type=named_file,
        multiple=True,
        metavar="NAME=FILE.npy",
        help="Another input of the model, beside the image; once for each.",
    )(function)


def preprocess_options(function: Function) -> Function:
    """How a picture becomes the input: a file, and single fields that override it."""
    return _all(
        click.option(
            "--preprocess",
            type=click.Path(path_type=Path),
            metavar="FILE.json",
            help="How the model's pictures were prepared: this tool's own fields, or Hugging Face's "
            "preprocessor_config.json. The options below override single fields.",
        ),
        click.option("--resize", type=extent, metavar="N|HxW|none", help="Shorter side, or exact size, in pixels."),
        click.option("--crop", type=extent, metavar="N|HxW|none", help="Centre crop after the resize."),
        click.option("--mean", type=numbers, metavar="M|M,M,M", help="Subtracted from the pixels (0 to 255)."),
        click.option("--scale", type=numbers, metavar="S|S,S,S", help="What the difference is multiplied with."),
        click.option("--channel-order", type=click.Choice(["RGB", "BGR", "L"])),
        click.option("--layout", type=click.Choice(["NCHW", "NHWC"])),
        click.option(
            "--resample", type=click.Choice(["bilinear", "bicubic", "lanczos", "nearest"]), help="Filter of the resize."
        ),
    )(function)


def preprocess_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Preprocess` that were given as single options.

    Args:
        given: the command's parameters.
    """
    names = ("resize", "crop", "mean", "scale", "channel_order", "layout", "resample")
    fields = {name: given[name] for name in names if given[name] is not None}
    match fields.get("resize"):
        case "none":
            fields["resize"] = None
        case (side,):
            fields["resize"] = side
    match fields.get("crop"):
        case "none":
            fields["crop"] = None
        case (side,):
            fields["crop"] = (side, side)
    return fields


def _all(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    def decorated(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorated
