"""Exact heatmaps against full inference on the seven full-size models: the table of the README.

    python bench/speedups.py [--models resnet18,vgg16] [--repeats 5] [--json FILE]

Every model is built with random weights (speed does not depend on them), compiled, and timed by
`krypton_onnx.benchmark`: both sides in turns in one process, the whole grid on our side, base run included; full
inference at its own best batch size, on a random sample of the grid. Beside each speedup stands the bound that
`krypton-onnx inspect` gives: no exact method that computes every value that may change can pass it at the same rate
of arithmetic.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import onnx

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.benchmark import Benchmark, benchmark
from krypton_onnx.inspection import inspect_model

HEADER = "| model | queries | full, ms a query | incremental | speedup | bound | share | difference |"


def measure(name: str, folder: Path, repeats: int) -> tuple[Benchmark, float]:
    """One row: the benchmark and the bound."""
    path = folder / f"{name}.onnx"
    onnx.save(models.build(name), path)
    result = benchmark(path, kx.compile(path, verify=False), repeats=repeats)
    return result, inspect_model(path).bound


def row(name: str, result: Benchmark, bound: float) -> str:
    """A line of the table."""
    full, ours = result.full, result.incremental
    return (
        f"| {name} | {result.grid} | {full.per_query * 1e3:.2f} (batch {result.batch}, ±{full.spread / 2:.0%}) "
        f"| {ours.per_query * 1e3:.2f} (±{ours.spread / 2:.0%}) | **{result.speedup:.2f}×** | {bound:.2f}× "
        f"| {result.speedup / bound:.0%} | {result.difference:.0e} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(models.NAMES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    print(HEADER, "|---" * HEADER.count(" | ") + "|---|", sep="\n")
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            result, bound = measure(name, Path(folder), arguments.repeats)
        print(row(name, result, bound), flush=True)
        results.append({"name": name, "bound": bound, "speedup": result.speedup, **asdict(result)})
    machine = result.machine
    print(f"\n{machine.cpu}, {machine.threads} threads, ONNX Runtime {machine.onnxruntime}, {machine.system}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
