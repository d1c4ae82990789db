"""What real exports gain: the page docs/coverage.md.

    python bench/coverage.py [--models resnet18,yolo_ts13] [--resume] [--output docs/coverage.md]

A row for every export of `tests/exports.py`, random weights filled in, and for every architecture of
`krypton_onnx.models`. What fails is a row too, with the sentence that says why. Rows are kept in a JSON file beside the
page, which is written anew after each: `--resume` measures only what is missing there, and what `--models` names.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from tree import ROOT, commit

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.benchmark import benchmark, machine
from krypton_onnx.errors import KryptonError
from krypton_onnx.inspection import inspect_model
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.passes.regions import Dense
from krypton_onnx.plan import Plan

sys.path.append(str(ROOT / "tests"))

import exports

NAMES = (*exports.NAMES, *models.NAMES)
PATCH, STRIDE, REPEATS = 16, 4, 3
LONGEST = 90
"""Characters of a reason in the table."""

HEADER = "| model | exporter | opset | windowed | dense | where windows end | bound | error | speedup | |"
LEGEND = f"""\
**windowed**, **dense**: operators that depend on the image and are computed in windows, and the others. **bound**: full
arithmetic ÷ arithmetic of what a patch can change, the most that any exact method can gain (`krypton-onnx inspect`).
**error**: the largest share of the difference from full inference that [exact](architecture.md) allows; at most 1 is
exact. **speedup**: time of a query by full inference at its best batch ÷ ours, patch {PATCH}, stride {STRIDE}, base run
included; samples of the whole grid (`krypton-onnx bench --queries sample`), medians of {REPEATS} turns."""


@dataclass
class Row:
    """A line of the table; what stands after a failure stays None.

    Attributes:
        model: its name.
        exporter: who wrote the file.
        opset: of the standard domain.
        machine: where it was measured.
        windowed, dense: operators.
        end: where windows end, or would end if they were worth their cost, and why.
        bound: on the speedup.
        share: worst share of what exact allows.
        speedup: full inference's time ÷ ours.
        batch: of full inference.
        full, ours: milliseconds a query.
        note: how the graph runs, where that is unusual.
        error: why there is no more.
    """

    model: str
    exporter: str
    opset: int
    machine: str
    windowed: int | None = None
    dense: int | None = None
    end: str | None = None
    bound: float | None = None
    share: float | None = None
    speedup: float | None = None
    batch: int | None = None
    full: float | None = None
    ours: float | None = None
    note: str = ""
    error: str | None = None


def measured(name: str) -> Row:
    """Everything about one model, or as much as can be had."""
    built = name in models.NAMES
    model = models.build(name) if built else exports.load_export(name)
    here = machine()
    row = Row(
        model=name,
        exporter="krypton_onnx.models" if built else model.doc_string or model.producer_name,
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        machine=f"{here.cpu}, {here.threads} threads, ONNX Runtime {here.onnxruntime}, {here.system}",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        onnx.save(model, path)
        del model
        try:
            fill(row, path)
        except Exception as error:  # a row says what went wrong, whatever it was
            row.error = sentence(error).replace(str(path), path.name)
    gc.collect()
    return row


def fill(row: Row, path: Path) -> None:
    """Compile, verify, inspect and time, in place."""
    artifact = kx.compile(path, patch=PATCH, verify=False)
    row.note = note(artifact.plan)
    found = inspect_model(path, patch=PATCH, stride=STRIDE)
    row.windowed = sum(tensor.windowed for tensor in found.tensors)
    row.dense, row.bound = len(found.tensors) - row.windowed, found.bound
    row.end = ending(path, artifact.plan)
    row.share = max(check.share for check in kx.verify(path, artifact, queries=16))
    result = benchmark(path, artifact, patch=PATCH, stride=STRIDE, queries="sample", repeats=REPEATS)
    row.speedup, row.batch = result.speedup, result.batch
    row.full, row.ours = result.full.per_query * 1e3, result.incremental.per_query * 1e3


def ending(path: Path, plan: Plan) -> str | None:
    """Where windows end first, or would end if they were worth their cost, and why; None if nowhere."""
    if not plan.full_inference:
        return next((f"{entry.reason}: {entry.node}" for entry in plan.dense), None)
    _, regions = normalized(path)
    without = (state for state in regions.states.values() if isinstance(state, Dense))
    return next((f"{state.reason}: {state.node}" for state in without), None)


def note(plan: Plan) -> str:
    """What is unusual about how the graph runs."""
    if plan.full_inference:
        return f"full inference: windows are predicted to gain {plan.predicted_speedup:.2f}×"
    if plan.one_query:
        return "one query a run"
    return "one query at a time where windows end" if plan.per_query else ""


def sentence(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, KryptonError) else f"{type(error).__name__}: {text}"


def line(row: Row) -> str:
    """A line of the table."""
    exact = "" if row.share is None else f"{row.share:.2g}" if row.share <= 1 else f"**{row.share:.2g}**"
    cells = (
        row.model,
        row.exporter,
        row.opset,
        "" if row.windowed is None else row.windowed,
        "" if row.dense is None else row.dense,
        short(row.end or ""),
        "" if row.bound is None else f"{row.bound:.2f}×",
        exact,
        "" if row.speedup is None else f"{row.speedup:.2f}×",
        f"**failed**: {short(row.error, 3 * LONGEST)}" if row.error else row.note,
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def short(text: str, longest: int = LONGEST) -> str:
    """The beginning, fit for a cell."""
    text = text.replace("|", "\\|")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def page(rows: Iterable[Row]) -> str:
    """The whole page."""
    listed = list(rows)
    failed = sum(row.error is not None for row in listed)
    inexact = sum(row.share is not None and row.share > 1 for row in listed)
    faster = sum(row.speedup is not None and row.speedup >= 1 for row in listed)
    columns = HEADER.count("|") - 1
    return "\n".join(
        [
            "# Coverage",
            "",
            f"Written by `python bench/coverage.py`, commit {commit()}; do not edit.",
            f"Measured on {'; '.join(sorted({row.machine for row in listed}))}.",
            "",
            f"{len(listed)} models: {len(listed) - failed} run, {failed} fail; "
            f"{inexact} of those that run are not exact; "
            f"{faster} are at least as fast as full inference.",
            "",
            LEGEND,
            "",
            HEADER,
            "|---" * columns + "|",
            *(line(row) for row in listed),
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names, separated by commas; all by default")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "coverage.md")
    arguments = parser.parse_args()
    store = arguments.output.with_suffix(".json")
    rows: dict[str, Row] = {}
    if arguments.resume and store.is_file():
        rows = {entry["model"]: Row(**entry) for entry in json.loads(store.read_text())}
    wanted = arguments.models.split(",") if arguments.models else [name for name in NAMES if name not in rows]
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    for name in wanted:
        rows[name] = measured(name)
        print(line(rows[name]), flush=True)
        listed = [rows[name] for name in NAMES if name in rows]
        store.write_text(json.dumps([asdict(row) for row in listed], indent=1) + "\n")
        arguments.output.write_text(page(listed), encoding="utf-8")


if __name__ == "__main__":
    main()
