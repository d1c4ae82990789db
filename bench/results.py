"""What the benchmark measures, what it finds, and the file that keeps it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec
from operators import OperatorCost

from krypton_onnx.benchmark import Machine, Timing

Side = Literal["plain", "incremental", "uniform", "captum"]


@dataclass(frozen=True, slots=True)
class Case:
    """One heatmap.

    Attributes:
        model: one of `krypton_onnx.models.NAMES`.
        size: pixels of the square image along a side.
        patch, stride: pixels.
        growth: numbers of queries, at random positions, that the incremental side is asked beside the whole grid.
    """

    model: str
    size: int = 224
    patch: int = 16
    stride: int = 4
    growth: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As the tables call it; no two cases share it."""
        return f"{self.model} {self.size}², {self.patch}/{self.stride}"


GROWTH = (16, 64, 256, 1024)

CASES = (
    Case("vgg16", growth=GROWTH),
    Case("resnet18"),
    Case("resnet50", growth=GROWTH),
    Case("inception_v3", 299),
    Case("densenet121"),
    Case("mobilenet_v2"),
    Case("squeezenet1_1", growth=GROWTH),
    Case("resnet50", 512, 32, 16),
    Case("resnet50", 1024, 32, 16),
    Case("densenet121", 512, 32, 16),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What was found for one case.

    Attributes:
        case: what was asked.
        commit: of the tree that ran.
        machine: where.
        grid: queries of the whole heatmap.
        bound: on the speedup (`krypton_onnx.inspection`).
        batch: the plain model's best batch size.
        perturbations: Captum's best perturbations_per_eval; None where Captum is not installed.
        difference: the largest |incremental − plain| of any output on the plain model's queries.
        sides: the timing of each side; its turns are those of the others.
        growth: the incremental side's timings for few queries, asked again and again, base run included.
        base: timing of the base run; its queries are runs.
        single: timing of the plain model at batch 1.
        memory: bytes of private memory of each side at the peak.
        operators: of the incremental and of the plain graph.
    """

    case: Case
    commit: str
    machine: Machine
    grid: int
    bound: float
    batch: int
    perturbations: int | None
    difference: float
    sides: dict[Side, Timing]
    growth: tuple[Timing, ...]
    base: Timing
    single: Timing
    memory: dict[Side, int]
    operators: dict[Side, tuple[OperatorCost, ...]]

    def speedup(self, side: Side) -> float:
        """Times as fast as the plain model, per query: ratio of medians."""
        return self.sides["plain"].per_query / self.sides[side].per_query

    def spread(self, side: Side) -> float:
        """Half of (largest − smallest) of the turns' speedups ÷ their median."""
        plain, other = self.sides["plain"], self.sides[side]
        ratios = [a / b for a, b in zip(plain.seconds, other.seconds, strict=True)]
        return (max(ratios) - min(ratios)) / median(ratios) / 2

    @property
    def growth_speedups(self) -> list[tuple[int, float]]:
        """(queries, speedup) for few queries and for the whole grid, base run included."""
        plain = self.sides["plain"].per_query
        counts = self.case.growth
        few = [(count, plain / timing.per_query) for count, timing in zip(counts, self.growth, strict=True)]
        return [*few, (self.grid, self.speedup("incremental"))]

    @property
    def base_cost(self) -> float:
        """The base run's time ÷ one plain inference's."""
        return self.base.per_query / self.single.per_query


def read(path: Path) -> list[Result]:
    """The results that are kept; none where there is no file yet."""
    return msgspec.json.decode(path.read_bytes(), type=list[Result]) if path.is_file() else []


def write(path: Path, results: Iterable[Result]) -> None:
    """Keep results; a run that is interrupted meanwhile leaves the old file."""
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(list(results)), indent=1) + b"\n")
    fresh.replace(path)


def merge(known: Iterable[Result], fresh: Result) -> list[Result]:
    """Results with a fresh one in place of the last of its name, in the order of CASES; other cases are dropped."""
    by_name = {result.case.name: result for result in (*known, fresh)}
    return [by_name[case.name] for case in CASES if case.name in by_name]
