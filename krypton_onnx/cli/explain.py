"""`krypton-onnx explain`."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.live import watched
from krypton_onnx.cli.modes import approximation_text, as_mode, mode_options
from krypton_onnx.cli.options import (
    device_option,
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
from krypton_onnx.cli.targets import check_target, target_options
from krypton_onnx.errors import KryptonError
from krypton_onnx.target_text import Masked, as_target

if TYPE_CHECKING:
    from krypton_onnx.cli.images import Seen
    from krypton_onnx.heatmap import Heatmap
    from krypton_onnx.modes import Mode
    from krypton_onnx.runtime.targets import Target

SUFFIXES = (".png", ".npy", ".npz")

_EXAMPLES = """\b
Examples:
  krypton-onnx explain resnet50.onnx cat.jpg --preprocess preprocessor_config.json
  krypton-onnx explain resnet50.krypton cat.jpg --target 281,285 --fill mean -o cats.png
  krypton-onnx explain net.onnx scan.png --channel-order L --mean 127.5 --scale 0.0078 --patch 8 --stride 2 -o scan.npz
  krypton-onnx explain segmenter.krypton street.jpg --target mask:11:person.png --fill blur
  krypton-onnx explain resnet50.krypton cat.jpg --approximate --live
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
@device_option
@click.option("--memory-budget", type=memory, metavar="SIZE", help="Most memory to use, such as 2GB.")
@mode_options
@click.option(
    "--live",
    is_flag=True,
    help="Show the heatmap while it is computed: in a terminal, else by writing FILE anew.",
)
@click.option("--no-cache", is_flag=True, help="Compile MODEL for now alone, and keep nothing.")
@json_option
def explain(model: Path, picture: Path, output: Path | None, **options: Any) -> None:
    """Draw which parts of PICTURE the model's prediction rests on.

    A patch slides over the picture; where it makes the class's score drop, the model looked. The result is the same
    as that of running the whole model at every position, several times sooner. `--approximate` is sooner still: some
    positions are asked and others expected, and it is checked on the picture that the result is similar enough.

    A MODEL is compiled first, which is kept for its next picture (see `krypton-onnx cache`); `compile` it to store
    preprocessing and labels with it.

    A PICTURE that ends in .npy is the model's input itself, [C, H, W], with as many channels as the model has. Numbers
    in --fill are then in its units.
    """
    from krypton_onnx.cli.images import open_image, read_fill, read_mask, see
    from krypton_onnx.labels import check_labels

    output = _checked_output(output or Path(f"{picture.stem}.heatmap.png"))
    fields, asked, mode = preprocess_fields(options), options["target"], as_mode(options)
    check_target(options)
    labels = None if options["labels"] is None else read_labels(options["labels"])
    opened = open_image(picture)
    fill = read_fill(options["fill"], tensor=picture.suffix.lower() == ".npy")
    mask = read_mask(asked.file if isinstance(asked, Masked) else None)
    inputs = read_inputs(options["inputs"])
    sizes = {key: options[key] for key in ("patch", "input_size", "image_input", "channels_last", "providers")}
    with compiled(model, **sizes, cache=not options["no_cache"]) as artifact:
        if labels is not None:
            check_labels(labels, artifact.plan)
        seen = see(artifact, opened, options["preprocess"], fields)
        target = as_target(asked, options, None if mask is None else seen.mask(mask))
        labels = labels or seen.artifact.plan.labels
        ask = _asking(seen, inputs, target, seen.fill(fill), mode, options)
        started = time.perf_counter()
        if options["live"]:
            heatmap = watched(ask(live=True), output, seen.picture, lambda draft: _title(_names(draft, labels)))
        else:
            (heatmap,) = ask(live=False)
        seconds = time.perf_counter() - started
    names = _names(heatmap, labels)
    heatmap.save(output, seen.picture, title=_title(names))
    plan = seen.artifact.plan
    expected = {"predicted_speedup": plan.predicted_speedup, "full_inference": plan.full_inference}
    done = heatmap.record.get("approximation")
    report = _report(heatmap, labels, seconds, output) | expected | ({} if done is None else {"approximation": done})
    report["precision"] = heatmap.record["precision"]
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


def _asking(
    seen: "Seen", inputs: dict[str, Any], target: "Target", fill: Any, mode: "Mode", options: dict[str, Any]
) -> "Callable[..., Iterable[Heatmap]]":
    """A function that computes the heatmap, and only that: the model is loaded by then."""
    from krypton_onnx.runtime.session import Session

    session = Session(seen.artifact, options["providers"], memory_budget=options["memory_budget"])
    question = {name: options[name] for name in ("patch", "stride", "edge", "region")}

    def ask(*, live: bool) -> "Iterable[Heatmap]":
        base = session.materialize(seen.tensor, inputs)
        named = {"fill": fill, "output": options["output_name"], "mode": mode}
        if live:
            return session.explain_progressively(base, target, **question, **named)
        return (session.explain(base, target, **question, **named),)

    return ask


def _title(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


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
    lines, exact = [], "approximation" not in report
    for name, one in zip(names, report["targets"], strict=True):
        place = one["most_important"]
        lines.append(
            f"{name}: score {one['base_score']:.4g}; largest drop {place['drop']:.4g}, with the patch at "
            f"row {place['y']}, column {place['x']}"
        )
    lines.append(f"{report['queries']} {'queries' if exact else 'positions'} in {report['seconds']:.2f} s")
    if not exact:
        lines.append(approximation_text(report["approximation"]))
    if report["precision"] != "float32":
        lines.append(f"Computed in {report['precision']}, which is not exact")
    if report["full_inference"]:
        lines.append(full_inference_text(report["predicted_speedup"]))
    return "\n".join([*lines, f"Wrote {report['output']}"])
