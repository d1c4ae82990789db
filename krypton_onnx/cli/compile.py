"""`krypton-onnx compile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.options import json_option, model_options, size
from krypton_onnx.cli.sources import bytes_text, full_inference_text, read_labels, say_json, size_text

if TYPE_CHECKING:
    from krypton_onnx.artifact import Artifact
    from krypton_onnx.plan import Device

_EXAMPLES = """\b
Examples:
  krypton-onnx compile resnet50.onnx
  krypton-onnx compile resnet50.onnx -o r50.krypton --preprocess preprocessor_config.json --labels imagenet.txt
  krypton-onnx compile fully_convolutional.onnx --input-size 512x768
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
@click.option(
    "--preprocess",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="How a picture becomes the input, stored with the model; Hugging Face's preprocessor_config.json works.",
)
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="Class names, one a line, stored too.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where it is to be fast."
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
    no_verify: bool,
    as_json: bool,
) -> None:
    """Compile MODEL once, to explain many pictures with it.

    Writes a folder with two plain ONNX graphs, their weights and a plan, which `explain`, the Python API, or any
    program that runs ONNX can use. A heatmap with any patch and stride can be asked of it.
    """
    from krypton_onnx.compiler import compile
    from krypton_onnx.preprocess import Preprocess

    artifact = compile(
        model,
        output,
        patch=patch,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
        preprocess=None if preprocess is None else Preprocess.from_json(preprocess),
        labels=None if labels is None else read_labels(labels),
        device=device,
        verify=not no_verify,
    )
    report = _report(artifact, verified=not no_verify)
    if as_json:
        say_json(report)
    else:
        click.echo(_text(report))


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
    checked = "Verified against the model on random queries" if report["verified"] else "Not verified (--no-verify)"
    return "\n".join([*lines, f"{checked}; 'krypton-onnx verify' does more of them"])
