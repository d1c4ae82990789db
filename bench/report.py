"""What the benchmark found, to be read: tables, a chart, and the places in the documentation where they go."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from chart import draw
from operators import ARITHMETIC, OperatorCost, total
from results import GROWTH, Result, Side
from tree import ROOT

RESULTS = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "images" / "benchmarks.svg"
README = ROOT / "README.md"

CASE = "model, image, patch/stride"
SPEED = (CASE, "queries", "full inference, ms a query", "incremental", "speedup", "bound", "share")
SIDES = (CASE, "incremental", "uniform windows", "Captum", "base run ÷ one inference", "difference")
MEMORY = (CASE, "full inference", "incremental", "uniform windows", "Captum")
OPERATORS = (
    CASE,
    "Conv and Gemm, share of time",
    "GFLOP/s",
    "plain GFLOP/s",
    "MB a query",
    "plain MB a query",
    "longest after them",
)
LONGEST_LISTED = 3
"""Operators in the last column."""


def render(results: Sequence[Result]) -> None:
    """Write the page, the chart and the README's table."""
    fill(PAGE, "machine", machines(results))
    fill(PAGE, "speed", table(SPEED, map(row, results)))
    fill(PAGE, "sides", table(SIDES, map(sides_row, results)))
    fill(PAGE, "growth", growth_table([result for result in results if result.growth]))
    fill(PAGE, "memory", table(MEMORY, map(memory_row, results)))
    fill(PAGE, "operators", table(OPERATORS, map(operators_row, results)))
    fill(README, "speed", f"{machines(results)}\n\n{table(SPEED, map(row, results))}")
    draw(results, CHART)


def fill(file: Path, name: str, block: str) -> None:
    """Put a block between a file's markers ``<!-- name -->`` and ``<!-- /name -->``."""
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"{file.name} has no place for {name}")
    file.write_text(f"{before}{begin}{block}\n{end}{after}", encoding="utf-8")


# --------------------------------------------------------------------------------------------------- tables


def table(header: Sequence[str], rows: Iterable[str]) -> str:
    """Lines under the names of their columns."""
    return "\n".join([cells(*header), "|---" * len(header) + "|", *rows])


def cells(*texts: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, texts))} |"


def row(result: Result) -> str:
    """The line of the speed table."""
    plain, ours = result.sides["plain"], result.sides["incremental"]
    return cells(
        result.case.name,
        result.grid,
        f"{plain.per_query * 1e3:.2f} (batch {result.batch})",
        f"{ours.per_query * 1e3:.2f}",
        faster(result, "incremental", strong=True),
        f"{result.bound:.2f}×",
        f"{result.speedup('incremental') / result.bound:.0%}",
    )


def sides_row(result: Result) -> str:
    """The line that compares the sides."""
    captum = f"{faster(result, 'captum')} ({result.perturbations} an evaluation)" if result.perturbations else ""
    return cells(
        result.case.name,
        faster(result, "incremental", strong=True),
        faster(result, "uniform"),
        captum,
        f"{result.base_cost:.1f}",
        f"{result.difference:.0e}",
    )


def faster(result: Result, side: Side, *, strong: bool = False) -> str:
    """A speedup and half its spread."""
    figure = f"{result.speedup(side):.2f}×"
    return f"{f'**{figure}**' if strong else figure} ±{result.spread(side):.0%}"


def growth_table(results: Sequence[Result]) -> str:
    """Speedup by number of queries."""
    rows = (cells(result.case.name, *(f"{gain:.2f}×" for _, gain in result.growth_speedups)) for result in results)
    return table((CASE, *map(str, GROWTH), "whole grid"), rows)


def memory_row(result: Result) -> str:
    """The line of the memory table, in MB."""
    sides: tuple[Side, ...] = ("plain", "incremental", "uniform", "captum")
    sizes = (f"{result.memory[side] / 1e6:.0f} MB" if side in result.memory else "" for side in sides)
    return cells(result.case.name, *sizes)


def operators_row(result: Result) -> str:
    """The line of the profiles' table."""
    ours, plain = result.operators["incremental"], result.operators["plain"]
    whole, arithmetic, theirs = total("", ours), counted(ours), counted(plain)
    others = [cost for cost in ours if cost.operator not in ARITHMETIC][:LONGEST_LISTED]
    return cells(
        result.case.name,
        f"{arithmetic.seconds / whole.seconds:.0%}",
        f"{arithmetic.flops / arithmetic.seconds / 1e9:.0f}",
        f"{theirs.flops / theirs.seconds / 1e9:.0f}",
        f"{whole.bytes / 1e6:.1f}",
        f"{total('', plain).bytes / 1e6:.1f}",
        ", ".join(f"{cost.operator} {cost.seconds / whole.seconds:.0%}" for cost in others),
    )


def counted(costs: Iterable[OperatorCost]) -> OperatorCost:
    """All of Conv, Gemm and MatMul."""
    return total("", (cost for cost in costs if cost.operator in ARITHMETIC))


def machines(results: Iterable[Result]) -> str:
    """Where it was measured, and what."""
    listed = list(results)
    found = sorted(
        {
            f"{m.cpu}, {m.cores} cores, {m.threads} threads, ONNX Runtime {m.onnxruntime}, {m.system}"
            for m in (result.machine for result in listed)
        }
    )
    commits = ", ".join(sorted({result.commit for result in listed}))
    turns = ", ".join(str(n) for n in sorted({len(result.sides["plain"].seconds) for result in listed}))
    return f"{'; '.join(found)}; commit {commits}; medians of {turns} turns."
