"""`krypton-onnx explain`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.options import (
    grid_options,
    input_option,
    json_option,
    memory,
    model_options,
    preprocess_fields,
    preprocess_options,
    region,
)
from krypton_onnx.cli.sources import compiled, full_inference_text, label_of, read_inputs, read_labels, say_json
from krypton_onnx.cli.targets import Masked, as_target, check_target, target_options
from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from krypton_onnx.cli.images import Seen
    from krypton_onnx.heatmap import Heatmap
    from krypton_onnx.runtime.targets import Target

SUFFIXES = (".png", ".npy", ".npz")

_EXAMPLES = """\b
Examples:
  krypton-onnx explain resnet50.onnx cat.jpg --preprocess preprocessor_config.json
  krypton-onnx explain resnet50.krypton cat.jpg --target 281,285 --fill mean -o cats.png
  krypton-onnx explain net.onnx scan.png --channel-order L --mean 127.5 --scale 0.0078 --patch 8 --stride 2 -o scan.npz
  krypton-onnx explain segmenter.krypton street.jpg --target mask:11:person.png --fill blur
  krypton-onnx explain yolo.krypton street.jpg --target box:17:40,60,200,180 --box-head yolov8
"""


@click.command(short_help="Explain a picture: which parts does the prediction rest on?", epilog=_EXAMPLES)
@click.argument("model", metavar="MODEL|DIR", type=click.Path(path_type=Path))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A picture (.png), the scores (.npy), or all arrays (.npz). [default: PICTURE's name + .heatmap.png]",
)
@target_options
@grid_options
@click.option("--region", type=region, metavar="Y0,X0,Y1,X1", help="Ask about this part of the model's image only.")
@click.option(
    "--fill",
    metavar="FILL",
    help="What the patch shows: black, gray, white, a pixel value N from 0 to 255, R,G,B; mean, the picture's own mean "
    "colour; blur or blur:SIGMA, the picture blurred (by half a patch unless told, in pixels); noise or noise:SEED, "
    "like the picture's colours; a picture FILE. [default: black]",
)
@click.option(
    "--edge",
    type=click.Choice(["cover", "stop"]),
    default="cover",
    show_default=True,
    help="Add the last position that fits, so that every pixel is covered, or do not.",
)
@click.option("--output-name", metavar="NAME", help="Which output of the model to score. [default: the first]")
@preprocess_options
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="Class names, one a line.")
@model_options
@input_option
@click.option("--memory-budget", type=memory, metavar="SIZE", help="Most memory to use, such as 2GB.")
@click.option("--no-cache", is_flag=True, help="Compile MODEL for now alone, and keep nothing.")
@json_option
def explain(model: Path, picture: Path, output: Path | None, **options: Any) -> None:
    """Draw which parts of PICTURE the model's prediction rests on.

    A patch slides over the picture; where it makes the class's score drop, the model looked. The result is the same
    as that of running the whole model at every position, several times sooner.

    A MODEL is compiled first, which is kept for its next picture (see `krypton-onnx cache`); `compile` it to store
    preprocessing and labels with it.

    A PICTURE that ends in .npy is the model's input itself, [C, H, W], with as many channels as the model has. Numbers
    in --fill are then in its units.
    """
    from krypton_onnx.cli.images import open_image, read_fill, read_mask, see
    from krypton_onnx.labels import check_labels

    output = _checked_output(output or Path(f"{picture.stem}.heatmap.png"))
    fields, asked = preprocess_fields(options), options["target"]
    check_target(options)
    labels = None if options["labels"] is None else read_labels(options["labels"])
    opened = open_image(picture)
    fill = read_fill(options["fill"], tensor=picture.suffix.lower() == ".npy")
    mask = read_mask(asked.file if isinstance(asked, Masked) else None)
    inputs = read_inputs(options["inputs"])
    sizes = {key: options[key] for key in ("patch", "input_size", "image_input", "channels_last")}
    with compiled(model, **sizes, cache=not options["no_cache"]) as artifact:
        if labels is not None:
            check_labels(labels, artifact.plan)
        seen = see(artifact, opened, options["preprocess"], fields)
        target = as_target(asked, options, None if mask is None else seen.mask(mask))
        heatmap, seconds = _ask(seen, inputs, target, seen.fill(fill), options)
    labels = labels or seen.artifact.plan.labels
    names = _names(heatmap, labels)
    heatmap.save(output, seen.picture, title=names[0] if len(names) == 1 else names)
    plan = seen.artifact.plan
    expected = {"predicted_speedup": plan.predicted_speedup, "full_inference": plan.full_inference}
    report = _report(heatmap, labels, seconds, output) | expected
    if options["as_json"]:
        say_json({"model": str(model), "picture": str(picture), **report, "record": heatmap.record})
    else:
        click.echo(_text(report, names))


def _checked_output(output: Path) -> Path:
    """Refuse now what would fail only after all the work."""
    if output.suffix.lower() not in SUFFIXES:
        raise KryptonError(f"A heatmap cannot be saved as '{output}': let the name end in {', '.join(SUFFIXES)}.")
    if output.is_dir():
        raise KryptonError(f"The heatmap cannot be saved as {output}: that is a folder; give another name.")
    if not output.parent.is_dir():
        raise KryptonError(
            f"The heatmap cannot be saved as {output}: there is no folder {output.parent}; make it first."
        )
    return output


def _ask(
    seen: "Seen", inputs: dict[str, Any], target: "Target", fill: Any, options: dict[str, Any]
) -> "tuple[Heatmap, float]":
    """The heatmap, and the seconds that it took without loading the model."""
    from krypton_onnx.runtime.session import Session

    session = Session(seen.artifact, memory_budget=options["memory_budget"])
    started = time.perf_counter()
    heatmap = session.explain(
        session.materialize(seen.tensor, inputs),
        target,
        patch=options["patch"],
        stride=options["stride"],
        fill=fill,
        edge=options["edge"],
        region=options["region"],
        output=options["output_name"],
    )
    return heatmap, time.perf_counter() - started


def _targets(heatmap: "Heatmap") -> Sequence[int | None]:
    return heatmap.target if isinstance(heatmap.target, list) else [heatmap.target]


def _names(heatmap: "Heatmap", labels: Sequence[str] | None) -> list[str]:
    return ["similarity" if target is None else label_of(target, labels) for target in _targets(heatmap)]


def _report(heatmap: "Heatmap", labels: Sequence[str] | None, seconds: float, output: Path) -> dict[str, Any]:
    targets = []
    scores = heatmap.base_score if isinstance(heatmap.base_score, float) else heatmap.base_score.tolist()
    for number, index in enumerate(_targets(heatmap)):
        y, x, drop = heatmap.most_important(number)
        targets.append(
            {
                "index": index,
                "label": None if labels is None or index is None or index >= len(labels) else labels[index],
                "base_score": scores if isinstance(scores, float) else scores[number],
                "most_important": {"y": y, "x": x, "drop": drop},
            }
        )
    rows, cols = heatmap.origins.shape[:2]
    return {"targets": targets, "queries": rows * cols, "seconds": round(seconds, 3), "output": str(output)}


def _text(report: dict[str, Any], names: list[str]) -> str:
    lines = []
    for name, one in zip(names, report["targets"], strict=True):
        place = one["most_important"]
        lines.append(
            f"{name}: score {one['base_score']:.4g}; largest drop {place['drop']:.4g}, with the patch at "
            f"row {place['y']}, column {place['x']}"
        )
    lines.append(f"{report['queries']} queries in {report['seconds']:.2f} s")
    if report["full_inference"]:
        lines.append(full_inference_text(report["predicted_speedup"]))
    return "\n".join([*lines, f"Wrote {report['output']}"])
