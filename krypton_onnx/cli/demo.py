"""`krypton-onnx demo`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from krypton_onnx.cli.options import json_option
from krypton_onnx.cli.sources import say_json, table
from krypton_onnx.errors import KryptonError
from krypton_onnx.folders import temporary_folder

if TYPE_CHECKING:
    from krypton_onnx.demonstration import Shown

_EXAMPLES = """\b
Examples:
  krypton-onnx demo
  krypton-onnx demo -o /tmp/heatmaps
"""


@click.command(short_help="See it work on a bundled model.", epilog=_EXAMPLES)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="krypton-demo",
    show_default=True,
    metavar="DIR",
    help="Where the heatmaps go.",
)
@json_option
def demo(output: Path, as_json: bool) -> None:
    """See it work: explain the bundled model's pictures, and check every number against full inference.

    Compiles a small digit classifier, draws a heatmap of each of its pictures, computes the same maps by running the
    whole model at every position, and tells both times and the largest difference.
    """
    from krypton_onnx.demonstration import demo_files, demonstrate

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KryptonError(
            f"The folder {output} cannot be made ({error.strerror or error}); choose another."
        ) from error
    with demo_files() as files, temporary_folder() as folder:
        shown = list(demonstrate(files, folder / "demo.krypton", output))
    if as_json:
        say_json({"pictures": [asdict(one) for one in shown], "output": str(output)})
    else:
        click.echo(_text(shown, output))


def _text(shown: "list[Shown]", output: Path) -> str:
    heading = ("picture", "class", "score", "largest drop", "at", "incremental", "full inference", "difference")
    rows = [
        (
            one.picture,
            one.label,
            f"{one.base_score:.3f}",
            f"{one.place[2]:.3f}",
            f"{one.place[0]},{one.place[1]}",
            f"{one.incremental_seconds:.2f} s",
            f"{one.full_seconds:.2f} s",
            f"{one.difference:.1e}",
        )
        for one in shown
    ]
    ours, full = sum(one.incremental_seconds for one in shown), sum(one.full_seconds for one in shown)
    return "\n".join(
        [
            table([heading, *rows], "<<>>>>>>"),
            "",
            f"{shown[0].queries} queries a picture: {ours:.2f} s incrementally, {full:.2f} s by full inference at its "
            f"best batch size: {full / ours:.2f} times as fast, the same numbers; 'krypton-onnx inspect' tells what "
            "other models can gain",
            f"Wrote {len(shown)} heatmaps into {output}",
        ]
    )
