"""`krypton-onnx compile --single-file`, and what the commands say that put such files somewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.cli.sources import bytes_text, full_inference_text, say_json, size_text

if TYPE_CHECKING:
    from krypton_onnx.single_file import Port, SingleFile


def compile_single(model: Path, target: Path, *, as_json: bool, **options: Any) -> None:
    """Compile MODEL into one file, and say what it is."""
    from krypton_onnx.single_file import compile_single_file

    made = compile_single_file(model, target, **options)
    say_made(made, target, verified=options["verify"], as_json=as_json)


def say_made(made: "SingleFile", place: Path, *, verified: bool, as_json: bool) -> None:
    """Say what was written.

    Args:
        made: the single file.
        place: the file, or the folder that it is in with all that belongs to it.
        verified: whether it was compared with its model.
        as_json: as one JSON object, not as text.
    """
    report = _report(made, place, verified=verified)
    if as_json:
        say_json(report)
    else:
        click.echo(_text(report))


def _report(made: "SingleFile", place: Path, *, verified: bool) -> dict[str, Any]:
    plan, files = made.plan, [place, *place.rglob("*")]
    return {
        "written": str(place),
        "bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "model": plan.source.file,
        "inputs": _ports(made.inputs),
        "outputs": _ports(made.outputs),
        "scored": made.scored,
        "patch": plan.patch,
        "grid": made.origins.shape[:2],
        "batches": made.batches,
        "predicted_speedup": plan.predicted_speedup,
        "full_inference": plan.full_inference,
        "verified": verified,
    }


def _ports(ports: "tuple[Port, ...]") -> list[dict[str, Any]]:
    return [{"name": one.name, "type": one.dtype, "shape": one.shape} for one in ports]


def _text(report: dict[str, Any]) -> str:
    def listed(tensors: list[dict[str, Any]]) -> str:
        return ", ".join(f"{t['name']} {t['type']} [{', '.join(map(str, t['shape']))}]" for t in tensors)

    lines = [
        f"Wrote {report['written']}, {bytes_text(report['bytes'])}: heatmaps of {size_text(report['grid'])} positions, "
        f"patches of {size_text(report['patch'])}",
        f"Takes {listed(report['inputs'])}",
        f"Gives {listed(report['outputs'])}",
    ]
    if report["full_inference"]:
        lines.append(full_inference_text(report["predicted_speedup"]))
    checked = "Verified against the model on random pictures" if report["verified"] else "Not verified (--no-verify)"
    return "\n".join([*lines, checked])
