"""`krypton-onnx export-web`."""

import shlex
from pathlib import Path
from typing import Any

import click

from krypton_onnx.cli.options import single_file_options
from krypton_onnx.cli.single_file import say_made
from krypton_onnx.cli.sources import stored_with_model

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
    from krypton_onnx.web_export import export_web

    made = export_web(
        model,
        folder,
        **stored_with_model(preprocess, labels),
        verify=not no_verify,
        **options,
    )
    say_made(made, folder, verified=not no_verify, as_json=as_json)
    if not as_json:
        serve = f"python -m http.server --directory {shlex.quote(str(folder))}"
        click.echo(f"Serve it, for instance with {serve} and open localhost:8000")
