"""`krypton-onnx compile --single-file`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.sources import bytes_text, full_inference_text, say_json, size_text

if TYPE_CHECKING:
    from krypton_onnx.single_file import SingleFile


def compile_single(model: Path, target: Path, *, as_json: bool, **options: Any) -> None:
    """Compile MODEL into one file, and say what it is."""
    from krypton_onnx.single_file import compile_single_file

    made = compile_single_file(model, target, **options)
    report = _report(made, verified=options["verify"])
    if as_json:
        say_json(report)
    else:
        click.echo(_text(report))


def _report(made: "SingleFile", *, verified: bool) -> dict[str, Any]:
    plan = made.plan
    return {
        "file": str(made.path),
        "bytes": made.path.stat().st_size,
        "model": plan.source.file,
        "inputs": [{"name": one.name, "type": one.dtype, "shape": one.shape} for one in made.inputs],
        "outputs": [{"name": one.name, "type": one.dtype, "shape": one.shape} for one in made.outputs],
        "patch": plan.patch,
        "grid": made.origins.shape[:2],
        "batches": made.batches,
        "predicted_speedup": plan.predicted_speedup,
        "full_inference": plan.full_inference,
        "verified": verified,
    }


def _text(report: dict[str, Any]) -> str:
    def listed(tensors: list[dict[str, Any]]) -> str:
        return ", ".join(f"{t['name']} {t['type']} [{', '.join(map(str, t['shape']))}]" for t in tensors)

    lines = [
        f"Wrote {report['file']}, {bytes_text(report['bytes'])}: heatmaps of {size_text(report['grid'])} positions, "
        f"patches of {size_text(report['patch'])}",
        f"Takes {listed(report['inputs'])}",
        f"Gives {listed(report['outputs'])}",
    ]
    if report["full_inference"]:
        lines.append(full_inference_text(report["predicted_speedup"]))
    checked = "Verified against the model on random pictures" if report["verified"] else "Not verified (--no-verify)"
    return "\n".join([*lines, checked])
