"""Speed and memory beside full inference, Krypton's uniform windows and Captum: docs/benchmarks.md, the README's table.

    python bench/speeds.py [--models resnet18,vgg16] [--repeats 5]
    python bench/speeds.py --render

Cases are measured one after the other, each part in a process of its own, and each is kept in docs/benchmarks.json as
soon as it is there: what an interrupted run has measured stays, and a case that is measured again replaces what is
known of it. Tables and chart are written anew from that file; `--render` does only this. docs/benchmarks.md says what
is compared. Captum's side needs the extra `bench`; memory is read as Linux tells it.
"""

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

from report import RESULTS, render, row
from results import CASES, Case, Result, merge, read, write
from sides import HAS_CAPTUM, Prepared, Times, operator_costs, peak, times
from tree import commit

from krypton_onnx import models
from krypton_onnx.benchmark import machine
from krypton_onnx.inspection import inspect_model

P = ParamSpec("P")
T = TypeVar("T")


def measure(case: Case, repeats: int) -> Result:
    """All there is to know about a case."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Prepared(case, Path(folder))
        apart(prepared.prepare)
        found = apart(times, prepared, repeats)
        sizes = {"captum": found.perturbations or 0}
        return Result(
            case=case,
            commit=commit(),
            machine=machine(),
            bound=inspect_model(prepared.model, patch=case.patch, stride=case.stride).bound,
            memory={side: apart(peak, prepared, side, sizes.get(side, found.batch)) for side in found.sides},
            operators=apart(operator_costs, prepared, found.batch),
            **{field.name: getattr(found, field.name) for field in fields(Times)},
        )


def apart(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """A call in a fresh process, so that nothing that ran before leaves memory or threads behind."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(models.NAMES), help="names, separated by commas; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    wanted = arguments.models.split(",")
    if unknown := set(wanted) - set(models.NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(models.NAMES)}")
    if not (HAS_CAPTUM or arguments.render):
        print("Without Captum's column: pip install '.[bench]' brings PyTorch and Captum.")
    for case in () if arguments.render else [case for case in CASES if case.model in wanted]:
        result = measure(case, arguments.repeats)
        write(RESULTS, merge(read(RESULTS), result))
        print(row(result), flush=True)
    if results := read(RESULTS):
        render(results)


if __name__ == "__main__":
    main()
