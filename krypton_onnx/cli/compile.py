"""`krypton-onnx compile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.options import json_option, model_options, picture_options, size
from krypton_onnx.cli.single_file import compile_single
from krypton_onnx.cli.sources import bytes_text, full_inference_text, say_json, size_text, stored_with_model

if TYPE_CHECKING:
    from krypton_onnx.artifact import Artifact
    from krypton_onnx.plan import Device, Precision

_EXAMPLES = """\b
Examples:
  krypton-onnx compile resnet50.onnx
  krypton-onnx compile resnet50.onnx -o r50.krypton --preprocess preprocessor_config.json --labels imagenet.txt
  krypton-onnx compile fully_convolutional.onnx --input-size 512x768
  krypton-onnx compile resnet50.onnx --single-file heatmap.onnx --patch 16 --stride 8
"""


@click.command("compile", short_help="Prepare a model once, to explain many pictures.", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder to write. [default: MODEL.krypton]",
)
@click.option("--patch", type=size, default="16", show_default=True, metavar="N|HxW", help="Patches to tune for.")
@model_options
@picture_options
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where it is to be fast."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float16 is faster on devices, and not exact; how far it is off is measured.",
)
@click.option(
    "--single-file",
    type=click.Path(path_type=Path),
    metavar="FILE.onnx",
    help="Write one ONNX file that emits heatmaps itself, in any ONNX Runtime, in place of a folder.",
)
@click.option("--stride", type=size, metavar="N|HxW", help="Of the single file's heatmaps. [default: 4]")
@click.option("--edge", type=click.Choice(["cover", "stop"]), help="Of their grid, as of `explain`. [default: cover]")
@click.option("--output-name", metavar="NAME", help="Which output of the model they score. [default: the first]")
@click.option(
    "--no-defaults",
    is_flag=True,
    help="Let callers of the single file give every input, as ONNX Runtime's JavaScript packages have to.",
)
@click.option("--no-verify", is_flag=True, help="Write without comparing a few queries with the model first.")
@json_option
def compile_model(
    model: Path,
    output: Path | None,
    patch: tuple[int, int],
    input_size: tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    preprocess: Path | None,
    labels: Path | None,
    device: "Device",
    precision: "Precision",
    single_file: Path | None,
    no_verify: bool,
    as_json: bool,
    **question: Any,
) -> None:
    """Compile MODEL once, to explain many pictures with it.

    Writes a folder with two plain ONNX graphs, their weights and a plan, which `explain`, the Python API, or any
    program that runs ONNX can use. A heatmap with any patch and stride can be asked of it.

    With --single-file, writes one ONNX file instead, whose outputs are the model's own and the heatmap, for the
    patch and the stride that are given here. docs/embedding.md lists its inputs.
    """
    from krypton_onnx.compiler import compile

    asked = _asked(single_file, output, question)
    common: dict[str, Any] = {
        "patch": patch,
        "input_size": input_size,
        "image_input": image_input,
        "channels_last": channels_last,
        **stored_with_model(preprocess, labels),
        "device": device,
        "verify": not no_verify,
    }
    if single_file is not None:
        if precision != "float32":
            raise click.UsageError("A single file computes as the model does: leave out --precision.")
        compile_single(model, single_file, **common, **asked, as_json=as_json)
        return
    artifact = compile(model, output, **common, precision=precision)
    report = _report(artifact, verified=not no_verify)
    if as_json:
        say_json(report)
    else:
        click.echo(_text(report))


def _asked(single_file: Path | None, output: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """What a single file is asked; an error if there is none, or a folder as well."""
    asked = {name: value for name, value in given.items() if value}
    if single_file is None and asked:
        raise click.UsageError(
            f"--{next(iter(asked)).replace('_', '-')} is for a single file: add --single-file FILE.onnx, or ask it of "
            "'krypton-onnx explain' later."
        )
    if single_file is not None and output is not None:
        raise click.UsageError("--output names a folder and --single-file a file: give one of them.")
    renamed = {"scored": asked.pop("output_name", None), "defaults": not asked.pop("no_defaults", False)}
    return {**asked, **renamed}


def _report(artifact: "Artifact", *, verified: bool) -> dict[str, Any]:
    plan = artifact.plan
    return {
        "artifact": str(artifact.folder),
        "model": plan.source.file,
        "image": {"name": plan.image.name, "shape": plan.model_shape, "dtype": plan.image.dtype},
        "patch": plan.patch,
        "windows": len(plan.windows),
        "views": len(plan.views),
        "dense": [{"node": entry.node, "reason": entry.reason} for entry in plan.dense],
        "per_query": plan.per_query,
        "one_query": plan.one_query,
        "predicted_speedup": plan.predicted_speedup,
        "full_inference": plan.full_inference,
        "precision": plan.precision,
        "precision_error": plan.precision_error,
        "files": {file.name: file.stat().st_size for file in sorted(artifact.folder.iterdir())},
        "verified": verified,
    }


def _text(report: dict[str, Any]) -> str:
    image = report["image"]
    sizes = ", ".join(f"{name} {bytes_text(size)}" for name, size in report["files"].items())
    lines = [
        f"Wrote {report['artifact']}: {sizes}",
        f"Image '{image['name']}' {list(image['shape'])} {image['dtype']}, tuned for patches of "
        f"{size_text(report['patch'])}; {report['windows']} windows, {report['views']} views",
    ]
    if report["full_inference"]:
        lines.append(full_inference_text(report["predicted_speedup"]))
    else:
        lines += [f"Windows end at {entry['node']}: {entry['reason']}" for entry in report["dense"]]
    if report["per_query"]:
        part = "The model" if report["one_query"] else "The rest"
        lines.append(f"{part} runs one query at a time, because of {report['per_query']}")
    if report["precision"] != "float32":
        error = report["precision_error"]
        off = "how far off was not measured" if error is None else f"off by {error:.2%} or more of what queries change"
        lines.append(f"Computes in {report['precision']}, which is not exact: {off}")
    done = "Verified against" if report["precision"] == "float32" else "Compared with"
    checked = f"{done} the model on random queries" if report["verified"] else "Not verified (--no-verify)"
    return "\n".join([*lines, f"{checked}; 'krypton-onnx verify' does more of them"])
