"""`krypton-onnx tune`."""

from pathlib import Path
from typing import Any

import click

from krypton_onnx.cli.options import grid_options, json_option, preprocess_fields, preprocess_options
from krypton_onnx.cli.sources import say_json
from krypton_onnx.errors import KryptonError

_EXAMPLES = """\b
Examples:
  krypton-onnx tune resnet50.krypton photos/*.jpg
  krypton-onnx tune scans.krypton scans/*.png --patch 8 --stride 2 --fill mean
"""


@click.command(short_help="Sharpen what approximate heatmaps of a model may promise.", epilog=_EXAMPLES)
@click.argument("model", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("pictures", metavar="PICTURES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@grid_options
@click.option("--fill", metavar="FILL", help="What the patch shows; see `explain`. [default: black]")
@preprocess_options
@json_option
def tune(model: Path, pictures: tuple[Path, ...], **options: Any) -> None:
    """Learn from PICTURES what approximate heatmaps of this model may promise, and store it in DIR.

    Give 20 or more, of the kind that will be explained. For each the exact heatmap is computed. Then `explain
    --approximate` computes no more than this model needs for what it promises.
    """
    from tqdm import tqdm

    from krypton_onnx.artifact import open_artifact
    from krypton_onnx.cli.images import open_image, read_fill, see
    from krypton_onnx.runtime.questions import Question
    from krypton_onnx.tuning import FEWEST
    from krypton_onnx.tuning import tune as tuned

    if not model.is_dir():
        raise KryptonError(f"{model} is no compiled model: make one with 'krypton-onnx compile'.")
    if len(pictures) < FEWEST:
        raise KryptonError(f"{len(pictures)} pictures are too few to promise anything from: give {FEWEST} or more.")
    artifact, fill, fields = open_artifact(model), read_fill(options["fill"], tensor=False), preprocess_fields(options)
    seen = [see(artifact, open_image(picture), options["preprocess"], fields) for picture in pictures]
    question = Question("top", options["patch"], options["stride"], seen[0].fill(fill), "cover", None, None)
    tensors = tqdm((one.tensor for one in seen), total=len(seen), unit="picture", disable=None)
    calibration = tuned(artifact, tensors, question)
    report = {"artifact": str(model), "pictures": len(pictures), "promises": calibration.promises}
    if options["as_json"]:
        say_json(report)
    else:
        click.echo(f"Tuned {model} on {len(pictures)} pictures of its kind; 'explain --approximate' relies on them now")
