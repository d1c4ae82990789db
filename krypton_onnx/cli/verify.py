"""`krypton-onnx verify`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.options import device_option, input_option, json_option, model_options, size
from krypton_onnx.cli.sources import compiled, read_inputs, say_json, table
from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from krypton_onnx.verification import OutputCheck

WRONG = 1

_EXAMPLES = """\b
Examples:
  krypton-onnx verify resnet50.onnx
  krypton-onnx verify resnet50.krypton --model resnet50.onnx --queries 500 --seed 1
"""


@click.command(short_help="Compare a compiled model with the original.", epilog=_EXAMPLES)
@click.argument("model", metavar="MODEL|DIR", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "source",
    type=click.Path(path_type=Path),
    metavar="SOURCE",
    help="The model that DIR was compiled from. [default: its file name, beside DIR]",
)
@click.option("--queries", type=click.IntRange(8), default=64, show_default=True, help="How many to compare.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random queries.")
@click.option("--patch", type=size, default="16", show_default=True, metavar="N|HxW", help="To compile MODEL for.")
@model_options
@input_option
@device_option
@json_option
def verify(
    model: Path,
    source: Path | None,
    queries: int,
    seed: int,
    patch: tuple[int, int],
    input_size: tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    inputs: tuple[tuple[str, Path], ...],
    providers: list[str | tuple[str, dict[str, Any]]] | None,
    as_json: bool,
) -> None:
    """Prove the compiled model right: compare random queries with the unmodified model.

    Patches of many sizes, corners and borders among them, are answered by both. Exits with 0 if every output is
    exact, with 1 if not. What computes in fewer bits is held to what these leave open.
    """
    from krypton_onnx.verification import verify as verify_artifact

    given = read_inputs(inputs)
    opened = compiled(
        model,
        patch=patch,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
        providers=providers,
        verify=False,
    )
    with opened as artifact:
        if model.is_dir():
            source = source or model.resolve().parent / artifact.plan.source.file
            if not source.is_file():
                raise KryptonError(
                    f"The model that {model} was compiled from is not at {source}; name it with --model."
                )
        elif source is not None:
            raise KryptonError(f"--model goes with a compiled model, and {model} is not a folder; omit it.")
        else:
            source = model
        checks = verify_artifact(source, artifact, queries=queries, seed=seed, inputs=given, providers=providers)
    exact = all(check.exact for check in checks)
    if as_json:
        asked = {"queries": queries, "seed": seed, "precision": artifact.plan.precision}
        say_json({"exact": exact, **asked, "outputs": [_as_dict(c) for c in checks]})
    else:
        right = "exact" if artifact.plan.precision == "float32" else f"as {artifact.plan.precision} rounds"
        click.echo(_text(checks, queries, right))
    if not exact:
        click.get_current_context().exit(WRONG)


def _as_dict(check: "OutputCheck") -> dict[str, Any]:
    return {**asdict(check), "exact": check.exact}


def _text(checks: "tuple[OutputCheck, ...]", queries: int, right: str) -> str:
    heading = ("output", "largest error", "of what is allowed", "movement", "noise", "verdict")
    rows = [
        (
            c.name,
            f"{c.error:.3g}",
            f"{c.share:.1%}",
            f"{c.moved:.3g}",
            f"{c.noise:.3g}",
            right if c.exact else "WRONG",
        )
        for c in checks
    ]
    return f"{table([heading, *rows], '<>>>><')}\n{queries} random queries"
