"""`krypton-onnx export-web`."""

import shlex
from pathlib import Path
from typing import Any

import click

from krypton_onnx.cli.options import single_file_options
from krypton_onnx.cli.sources import bytes_text, full_inference_text, read_labels, say_json, size_text

_EXAMPLES = """\b
Examples:
  krypton-onnx export-web resnet50.onnx page --preprocess preprocessor_config.json --labels imagenet.txt
  python -m http.server --directory page
"""


@click.command("export-web", short_help="Write a web page that explains pictures with your model.", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@single_file_options(stride="8")
@click.option(
    "--sample",
    "samples",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PICTURE",
    help="A picture to offer on the page; once for each.",
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of an installed npm package onnxruntime-web. [default: npm fetches it]",
)
def export_page(
    model: Path,
    folder: Path,
    preprocess: Path | None,
    labels: Path | None,
    no_verify: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write DIR, a web page that explains pictures with MODEL in the browser.

    Any web server can serve it as it is: the model runs in the visitor's browser (ONNX Runtime as WebAssembly), and no
    picture leaves it.
    """
    from krypton_onnx.preprocess import Preprocess
    from krypton_onnx.web_export import export_web

    made = export_web(
        model,
        folder,
        preprocess=None if preprocess is None else Preprocess.from_json(preprocess),
        labels=None if labels is None else read_labels(labels),
        verify=not no_verify,
        **options,
    )
    plan = made.plan
    report: dict[str, Any] = {
        "folder": str(folder),
        "model": plan.source.file,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "patch": plan.patch,
        "grid": made.origins.shape[:2],
        "predicted_speedup": plan.predicted_speedup,
        "full_inference": plan.full_inference,
        "verified": not no_verify,
    }
    if as_json:
        say_json(report)
        return
    click.echo(
        f"Wrote {folder}, {bytes_text(report['bytes'])}: heatmaps of {size_text(report['grid'])} positions, patches of "
        f"{size_text(plan.patch)}"
    )
    if plan.full_inference:
        click.echo(full_inference_text(plan.predicted_speedup))
    if not no_verify:
        click.echo("Verified against the model on random pictures")
    serve = f"python -m http.server --directory {shlex.quote(str(folder))}"
    click.echo(f"Serve it, for instance with {serve} and open localhost:8000")
