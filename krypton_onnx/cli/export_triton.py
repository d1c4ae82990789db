"""`krypton-onnx export-triton`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.options import single_file_options
from krypton_onnx.cli.single_file import say_made
from krypton_onnx.cli.sources import stored_with_model

if TYPE_CHECKING:
    from krypton_onnx.plan import Device

_EXAMPLES = """\b
Examples:
  krypton-onnx export-triton resnet50.onnx models --preprocess preprocessor_config.json --labels imagenet.txt
  tritonserver --model-repository models
"""


@click.command("export-triton", short_help="Put heatmaps of your model into a Triton repository.", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("repository", metavar="MODEL_REPOSITORY", type=click.Path(path_type=Path))
@single_file_options(stride="4")
@click.option(
    "--name", metavar="NAME", help="Of the model in the repository. [default: MODEL's, with _heatmap behind it]"
)
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Requests that Triton answers side by side.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where Triton shall run it."
)
def export_repository(
    model: Path,
    repository: Path,
    preprocess: Path | None,
    labels: Path | None,
    no_verify: bool,
    as_json: bool,
    device: "Device",
    **options: Any,
) -> None:
    """Write MODEL into MODEL_REPOSITORY, as a model of Triton Inference Server whose outputs hold the heatmap.

    Triton's ONNX Runtime backend runs it; no code of ours is on the server. docs/serving.md has a client.
    """
    from krypton_onnx.triton_export import export_triton

    made = export_triton(
        model,
        repository,
        **stored_with_model(preprocess, labels),
        device=device,
        verify=not no_verify,
        **options,
    )
    say_made(made, made.path.parent.parent, verified=not no_verify, as_json=as_json)
