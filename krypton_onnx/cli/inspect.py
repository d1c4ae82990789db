"""`krypton-onnx inspect`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from krypton_onnx.cli.options import grid_options, json_option, model_options
from krypton_onnx.cli.sources import say_json, size_text, speed_text, table

if TYPE_CHECKING:
    from krypton_onnx.inspection import Inspection, TensorReport

_EXAMPLES = """\b
Examples:
  krypton-onnx inspect resnet50.onnx
  krypton-onnx inspect resnet50.onnx --input-size 1024x1024 --patch 32 --stride 16
  krypton-onnx inspect resnet50.onnx --json | jq .bound
"""


@click.command(short_help="Show how far a patch reaches in a model.", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@grid_options
@model_options
@json_option
def inspect(
    model: Path,
    patch: tuple[int, int],
    stride: tuple[int, int],
    input_size: tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    as_json: bool,
) -> None:
    """Show how far a patch reaches in MODEL, and how much faster that can make a heatmap.

    Lists every tensor that depends on the image with the rows and columns that the mean patch can change, where
    windows end and why, and the arithmetic of it. Runs nothing.
    """
    from krypton_onnx.inspection import inspect_model

    found = inspect_model(
        model,
        patch=patch,
        stride=stride,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
    )
    if as_json:
        say_json({**asdict(found), "bound": found.bound, "planned": found.planned})
    else:
        click.echo(_text(found))


def _text(found: "Inspection") -> str:
    heading = ("node", "operator", "output", "region", "share", "GFLOP", "query", "runs")
    rows = [heading, *(_row(tensor) for tensor in found.tensors)]
    expected = speed_text(found.predicted_speedup, full_inference=found.full_inference)
    return "\n".join(
        [
            table(rows, "<<<>>>><"),
            "",
            f"{found.model}: image '{found.image}' {list(found.image_shape)}, patch {size_text(found.patch)}, "
            f"stride {size_text(found.stride)}: {found.queries} queries",
            f"One inference {found.flops / 1e9:.3f} GFLOP, the mean query {found.query_flops / 1e9:.3f} GFLOP if "
            "exactly what can change is computed",
            f"Bound on the speedup {found.bound:.2f}x; arithmetic of the planned windows {found.planned:.2f}x",
            *([expected] if expected else []),
        ]
    )


def _row(tensor: "TensorReport") -> tuple[str, ...]:
    rows, cols = tensor.region or (None, None)
    return (
        tensor.node,
        tensor.operator,
        "?" if tensor.shape is None else size_text(tensor.shape),
        "" if rows is None or cols is None else f"{rows:.1f} x {cols:.1f}",
        f"{tensor.share:.1%}",
        f"{tensor.flops / 1e9:.3f}" if tensor.flops else "",
        f"{tensor.query_flops / 1e9:.3f}" if tensor.flops else "",
        "windowed" if tensor.windowed else f"dense: {tensor.reason}",
    )
