"""`krypton-onnx bench`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from krypton_onnx.cli.options import count, grid_options, input_option, json_option, model_options
from krypton_onnx.cli.sources import ON_CPU, compiled, read_inputs, say_json, size_text
from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from krypton_onnx.benchmark import Benchmark, Queries

_EXAMPLES = """\b
Examples:
  krypton-onnx bench resnet50.onnx
  krypton-onnx bench resnet50.onnx --queries all --repeats 5 --threads 4 --json
"""


@click.command(short_help="Measure the speedup on this machine.", epilog=_EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@grid_options
@click.option(
    "--queries",
    type=count,
    metavar="N|all|sample",
    help="Both sides answer N random queries, or the whole grid, or a sample of it each. [default: the whole grid for "
    "the incremental side, a sample for full inference, whose time is linear in them]",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Turns, A B A B ...")
@click.option("--threads", type=click.IntRange(1), help="Of ONNX Runtime. [default: one per core]")
@model_options
@input_option
@json_option
def bench(
    model: Path,
    patch: tuple[int, int],
    stride: tuple[int, int],
    queries: "Queries",
    repeats: int,
    threads: int | None,
    input_size: tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    inputs: tuple[tuple[str, Path], ...],
    as_json: bool,
) -> None:
    """Measure how much faster a heatmap of MODEL is here than full inference.

    Full inference runs at its own best batch size, both sides in the same ONNX Runtime, in turns, and the base run
    counts. Medians are compared. Close other programs: the spread tells how quiet the machine was.
    """
    from krypton_onnx.benchmark import benchmark

    if not model.is_file():
        raise KryptonError(f"There is no model file at {model}.")
    given = read_inputs(inputs)
    opened = compiled(
        model,
        patch=patch,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
        providers=ON_CPU,
    )
    with opened as artifact:
        found = benchmark(
            model,
            artifact,
            patch=patch,
            stride=stride,
            queries=queries,
            repeats=repeats,
            threads=threads,
            inputs=given,
        )
    if as_json:
        say_json(
            {
                **asdict(found),
                "speedup": found.speedup,
                "full_per_query": found.full.per_query,
                "incremental_per_query": found.incremental.per_query,
            }
        )
    else:
        click.echo(_text(found))


def _text(found: "Benchmark") -> str:
    machine, ours, full = found.machine, found.incremental, found.full
    tried = ", ".join(f"{batch}: {seconds * 1e3:.3g}" for batch, seconds in found.batch_seconds.items())
    fixed = " (as exported; the model runs in no other)" if found.fixed_batch else ""
    lines = [
        f"{found.model}, patch {size_text(found.patch)}, stride {size_text(found.stride)}: {found.grid} queries",
        f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads; ONNX Runtime {machine.onnxruntime}, "
        f"{machine.system}",
        f"full inference  {full.per_query * 1e3:8.3f} ms a query, batch {found.batch}{fixed}, "
        f"{full.queries} queries a turn, spread {full.spread:.1%}",
        f"incremental     {ours.per_query * 1e3:8.3f} ms a query, base run included, "
        f"{ours.queries} queries a turn, spread {ours.spread:.1%}",
        f"speedup         {found.speedup:8.2f}x, medians of {len(ours.seconds)} turns",
        f"largest difference {found.difference:.3g} where the queries move the outputs by up to {found.movement:.3g}",
        f"milliseconds a query of full inference by batch size: {tried}",
    ]
    if full.queries < ours.queries:
        lines.append(
            f"Full inference was timed on {full.queries} of the {ours.queries} queries: its time is linear in their "
            "number (--queries all times every one)"
        )
    return "\n".join(lines)
