"""Types and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from krypton_onnx.errors import KryptonError

Function = TypeVar("Function", bound=Callable[..., Any])

_MEMORY_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Size(click.ParamType[tuple[int, int]]):
    """``16`` or ``16x24``, height first, as (height, width)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        numbers = _whole_numbers(str(value).lower().replace("×", "x"), "x")
        if numbers is None or len(numbers) > 2 or min(numbers) < 1:
            self.fail(f"'{value}' is no size: give whole pixels from 1 on, 16 or 16x24 (height x width).", param, ctx)
        return numbers[0], numbers[-1]


class Region(click.ParamType[tuple[int, int, int, int]]):
    """``y0,x0,y1,x1``."""

    name = "region"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int, int]:
        numbers = _whole_numbers(str(value), ",")
        if numbers is None or len(numbers) != 4:
            self.fail(f"'{value}' is no region: give four whole numbers y0,x0,y1,x1, such as 0,0,112,112.", param, ctx)
        y0, x0, y1, x1 = numbers
        return y0, x0, y1, x1


class Target(click.ParamType["int | list[int] | Literal['top']"]):
    """``top``, ``281`` or ``281,282``."""

    name = "target"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | list[int] | Literal["top"]:
        if value == "top":
            return "top"
        numbers = _whole_numbers(str(value), ",")
        if numbers is None:
            self.fail(f"'{value}' is no target: give top, a class index such as 281, or several, 281,282.", param, ctx)
        return numbers if len(numbers) > 1 else numbers[0]


class Numbers(click.ParamType[list[float]]):
    """``0.5`` or ``123.7,116.3,103.5``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            return [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"'{value}' is neither a number nor numbers with commas between them.", param, ctx)


class Memory(click.ParamType[int]):
    """``512MB`` or ``2GiB``, in bytes."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().upper()
        number = text.rstrip("BGIKM")
        unit = text[len(number) :].strip()
        try:
            size = float(number) * _MEMORY_UNITS[unit]
        except (ValueError, KeyError):
            size = 0.0
        if not 1 <= size < 2**62:
            self.fail(f"'{value}' is no amount of memory: give bytes, or 512MB, or 2GB.", param, ctx)
        return int(size)


class Count(click.ParamType["int | Literal['all']"]):
    """``500`` or ``all``."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["all"]:
        if value == "all":
            return "all"
        numbers = _whole_numbers(str(value), ",")
        if numbers is None or len(numbers) != 1 or numbers[0] < 1:
            self.fail(f"'{value}' is no number of queries: give a whole number from 1 on, or all.", param, ctx)
        return numbers[0]


def _whole_numbers(text: str, separator: str) -> list[int] | None:
    try:
        return [int(part) for part in text.split(separator)]
    except ValueError:
        return None


def model_options(function: Function) -> Function:
    """What a model may leave open: its size, and which input is the image."""
    return _all(
        click.option("--input-size", type=Size(), metavar="HxW", help="Image size, where the model leaves it open."),
        click.option("--image-input", metavar="NAME", help="The image input, where several inputs have 4 dimensions."),
    )(function)


def grid_options(function: Function) -> Function:
    """Patch and stride."""
    return _all(
        click.option(
            "--patch", type=Size(), default="16", show_default=True, metavar="N|HxW", help="The patch's size in pixels."
        ),
        click.option(
            "--stride",
            type=Size(),
            default="4",
            show_default=True,
            metavar="N|HxW",
            help="Pixels between neighbouring positions, down and across.",
        ),
    )(function)


def json_option(function: Function) -> Function:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(function)


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
        click.option("--resize", metavar="N|HxW|none", help="Shorter side, or exact size, in pixels."),
        click.option("--crop", metavar="N|HxW|none", help="Centre crop after the resize."),
        click.option("--mean", type=Numbers(), metavar="M|M,M,M", help="Subtracted from the pixels (0 to 255)."),
        click.option("--scale", type=Numbers(), metavar="S|S,S,S", help="What the difference is multiplied with."),
        click.option("--channel-order", type=click.Choice(["RGB", "BGR", "L"], case_sensitive=False)),
        click.option("--layout", type=click.Choice(["NCHW", "NHWC"], case_sensitive=False)),
        click.option(
            "--resample", type=click.Choice(["bilinear", "bicubic", "lanczos", "nearest"]), help="Filter of the resize."
        ),
    )(function)


def preprocess_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Preprocess` that were given as single options.

    Args:
        given: the command's parameters.

    Raises:
        KryptonError: a size is malformed.
    """
    names = ("resize", "crop", "mean", "scale", "channel_order", "layout", "resample")
    fields = {name: given[name] for name in names if given[name] is not None}
    for name in ("resize", "crop"):
        if name in fields:
            fields[name] = _extent(name, fields[name])
    return fields


def _extent(name: str, text: str) -> int | tuple[int, int] | None:
    if text.lower() == "none":
        return None
    numbers = _whole_numbers(text.lower().replace("×", "x"), "x")
    if numbers is None or len(numbers) > 2 or min(numbers) < 1:
        raise KryptonError(f"--{name} '{text}' is no size: give pixels, 224 or 224x224 (height x width), or none.")
    if len(numbers) == 1:
        return numbers[0] if name == "resize" else (numbers[0], numbers[0])
    return numbers[0], numbers[1]


def _all(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    def decorated(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorated
