"""`krypton-onnx inspect`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from krypton_onnx.cli.options import grid_options, input_option, json_option, model_options
from krypton_onnx.cli.sources import ON_CPU, compiled, full_inference_text, read_inputs, say_json, size_text, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krypton_onnx.inspection import Inspection, TensorReport
    from krypton_onnx.plan import Segment
    from krypton_onnx.segment_times import SegmentTime

_EXAMPLES = """\b
Examples:
  krypton-onnx inspect resnet50.onnx
  krypton-onnx inspect resnet50.onnx --input-size 1024x1024 --patch 32 --stride 16
  krypton-onnx inspect resnet50.onnx --plan --measure
  krypton-onnx inspect resnet50.onnx --json | jq .bound
"""


@click.command(short_help="Show how far a patch reaches in a model.", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@grid_options
@click.option("--plan", is_flag=True, help="Show the parts of the plan and what each is predicted to take.")
@click.option("--measure", is_flag=True, help="Run a sample of the grid, and show what each part of the plan takes.")
@model_options
@input_option
@json_option
def inspect(
    model: Path,
    patch: tuple[int, int],
    stride: tuple[int, int],
    plan: bool,
    measure: bool,
    input_size: tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    inputs: tuple[tuple[str, Path], ...],
    as_json: bool,
) -> None:
    """Show how far a patch reaches in MODEL, and how much faster that can make a heatmap.

    Lists every tensor that depends on the image with the rows and columns that the mean patch can change, where
    windows end and why, and the arithmetic of it. Runs nothing, unless told to --measure.
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
    times = None
    if measure:
        from krypton_onnx.segment_times import measure_segments

        how = {"input_size": input_size, "image_input": image_input, "channels_last": channels_last}
        with compiled(model, patch=patch, providers=ON_CPU, verify=False, **how) as artifact:  # type: ignore[arg-type]
            times = measure_segments(model, artifact, patch, stride, read_inputs(inputs))
    if as_json:
        measured = {} if times is None else {"measured": [asdict(time) for time in times]}
        say_json({**asdict(found), "bound": found.bound, "planned": found.planned, **measured})
    elif times is not None:
        click.echo(_measured_text(found, times))
    else:
        click.echo(_plan_text(found) if plan else _text(found))


def _plan_text(found: "Inspection") -> str:
    total = sum(segment.seconds for segment in found.segments)
    if not total:
        return f"Nothing in {found.model} that takes time depends on the image."
    heading = ("maps", "computed", "tensors", "predicted, ms", "share")
    rows = [(*_segment(s), f"{s.seconds * 1e3:.3f}", f"{s.seconds / total:.1%}") for s in found.segments]
    whole = ("", "", "", f"{total * 1e3:.3f}", "100.0%")
    return "\n".join(
        [
            table([heading, *rows, whole], "<<>>>"),
            "",
            "Predicted for the mean query on one core of the machine that the cost model was fitted to; full "
            f"inference {found.full_seconds * 1e3:.3f} ms, speedup {found.full_seconds / total:.2f}x.",
            *_tail_lines(found),
        ]
    )


def _tail_lines(found: "Inspection") -> list[str]:
    if found.tail is None:
        return []
    return [f"All from {', '.join(found.tail.inputs)} on runs apart, up to {found.tail.batch} queries at once."]


def _measured_text(found: "Inspection", times: "Sequence[SegmentTime]") -> str:
    heading = ("maps", "computed", "tensors", "predicted, ms", "measured, ms", "off by")
    predicted, measured = (sum(getattr(t, of) for t in times) for of in ("predicted", "measured"))
    rows = [(*_segment(t.segment), *_compared(t.predicted, t.measured)) for t in times]
    whole = ("", "", "", *_compared(predicted, measured))
    return "\n".join(
        [
            table([heading, *rows, whole], "<<>>>>"),
            "",
            "The mean query on one core; predictions are scaled so that full inference takes what it takes here.",
            *_tail_lines(found),
        ]
    )


def _segment(segment: "Segment") -> tuple[str, str, str]:
    if segment.extents is None and segment.windowed:
        return "where windows lie", "", ""
    maps = "no map" if segment.extents is None else size_text(segment.extents)
    return maps, "in windows" if segment.windowed else "in full", str(len(segment.tensors))


def _compared(predicted: float, measured: float) -> tuple[str, str, str]:
    return f"{predicted * 1e3:.3f}", f"{measured * 1e3:.3f}", f"{predicted / measured - 1:+.0%}" if measured else ""


def _text(found: "Inspection") -> str:
    heading = ("node", "operator", "output", "region", "share", "GFLOP", "query", "runs")
    rows = [heading, *(_row(tensor) for tensor in found.tensors)]
    return "\n".join(
        [
            table(rows, "<<<>>>><"),
            "",
            f"{found.model}: image '{found.image}' {list(found.image_shape)}, patch {size_text(found.patch)}, "
            f"stride {size_text(found.stride)}: {found.queries} queries",
            f"One inference {found.flops / 1e9:.3f} GFLOP, the mean query {found.query_flops / 1e9:.3f} GFLOP if "
            "exactly what can change is computed",
            f"Bound on the speedup {found.bound:.2f}x; arithmetic of the planned windows {found.planned:.2f}x",
            *([full_inference_text(found.predicted_speedup)] if found.full_inference else []),
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
