"""Benchmark: exact incremental heatmaps against full inference at its own best batch size.

Both sides run in the same ONNX Runtime with the same options, in turns (A B A B …), on the same image, and give the
same answers: their largest difference is part of the result. Ours includes the base run. Full inference includes
laying the patches on the image, and nothing else that it could do without.

`krypton_onnx.plain_model` says how full inference is run.
"""

import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike

from krypton_onnx.artifact import Artifact
from krypton_onnx.plain_model import PlainModel, timed
from krypton_onnx.runtime.base import Output, Outputs
from krypton_onnx.runtime.engine import Array, quiet_options
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.questions import Pair
from krypton_onnx.runtime.session import Session
from krypton_onnx.runtime.side_by_side import available_cores
from krypton_onnx.sweep import Origins, Sweep, answered

Queries = int | Literal["all", "sample"] | None


@dataclass(frozen=True, slots=True)
class Timing:
    """One side of the comparison.

    Attributes:
        queries: per repetition.
        seconds: of each repetition.
    """

    queries: int
    seconds: tuple[float, ...]

    @property
    def per_query(self) -> float:
        """Median seconds a query."""
        return median(self.seconds) / self.queries

    @property
    def spread(self) -> float:
        """(slowest − fastest) ÷ median."""
        return (max(self.seconds) - min(self.seconds)) / median(self.seconds)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured.

    Attributes:
        cpu: its name.
        cores: that this process may use.
        threads: of ONNX Runtime, per graph.
        onnxruntime: its version.
        system: the operating system.
    """

    cpu: str
    cores: int
    threads: int
    onnxruntime: str
    system: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The result of `benchmark`.

    Attributes:
        model: file name.
        patch, stride: (height, width), (y, x).
        grid: queries of the whole heatmap.
        incremental: ours, the base run included.
        full: the plain model's, at its best batch size.
        batch: that size.
        batch_seconds: seconds a query of the plain model, by batch size tried.
        fixed_batch: whether the plain model runs only in the batch that was exported.
        difference: the largest |incremental − full| of any output.
        movement: the largest |full − base|: how much the queries change the outputs.
        machine: where.
    """

    model: str
    patch: tuple[int, int]
    stride: tuple[int, int]
    grid: int
    incremental: Timing
    full: Timing
    batch: int
    batch_seconds: dict[int, float]
    fixed_batch: bool
    difference: float
    movement: float
    machine: Machine

    @property
    def speedup(self) -> float:
        """Full ÷ incremental, per query."""
        return self.full.per_query / self.incremental.per_query


def benchmark(
    model: str | os.PathLike[str],
    artifact: Artifact,
    *,
    patch: Pair = 16,
    stride: Pair = 4,
    queries: Queries = None,
    repeats: int = 3,
    threads: int | None = None,
    seed: int = 0,
    inputs: Mapping[str, ArrayLike] | None = None,
) -> Benchmark:
    """Time the heatmap of one random image.

    Args:
        model: the source model.
        artifact: compiled from it.
        patch: its (height, width).
        stride: pixels between neighbouring positions, (y, x).
        queries: a number: both sides answer this many random queries of the grid. "all": both answer the whole grid.
            None: ours answers the whole grid and the plain model a random sample of it. "sample": so does ours, an even
            sample of the batches in which it would answer the grid, and of the base run's time only their share counts.
        repeats: how often.
        threads: of ONNX Runtime; its own choice by default.
        seed: of the image and of the samples.
        inputs: the model's inputs beside the image, by name.

    Raises:
        KryptonError: the patch does not fit, or ONNX Runtime refuses the model.
    """
    rng = np.random.default_rng(seed)
    sweep = Sweep.random(artifact.plan, patch, stride, rng, inputs or {})
    options = quiet_options(threads)
    plain = PlainModel(Path(model), artifact.plan, options, sweep.others)
    session = Session(artifact, [CPU], threads=threads)
    batch_seconds = plain.best_batch(sweep.image, sweep.content)
    batch = min(batch_seconds, key=lambda size: batch_seconds[size])
    ours, theirs = _samples(rng, sweep, queries, batch, batch_seconds[batch])
    base = session.materialize(sweep.image, sweep.others)
    answers = session.infer(base, theirs, sweep.content), plain.run(sweep.image, theirs, sweep.content, batch)
    enough = len(theirs) if queries == "sample" else None
    seconds = in_turns(
        {
            "full": lambda: timed(lambda: plain.run(sweep.image, theirs, sweep.content, batch)),
            "incremental": lambda: sweep.seconds(session, ours, enough),
        },
        repeats,
    )
    return Benchmark(
        model=Path(model).name,
        patch=sweep.patch,
        stride=sweep.stride,
        grid=len(sweep.origins),
        incremental=Timing(answered(sweep.batches(session, ours, enough)), seconds["incremental"]),
        full=Timing(len(theirs), seconds["full"]),
        batch=batch,
        batch_seconds=batch_seconds,
        fixed_batch=plain.batch is not None,
        difference=largest_difference(*answers),
        movement=largest_difference(answers[1], base.outputs),
        machine=machine(threads),
    )


def in_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, tuple[float, ...]]:
    """The seconds that each side gives, by its name: A B C A B C …, so that a slow minute is shared by all."""
    turns = [{name: side() for name, side in sides.items()} for _ in range(repeats)]
    return {name: tuple(turn[name] for turn in turns) for name in sides}


def largest_difference(a: Outputs, b: Outputs) -> float:
    """The largest absolute difference of any output.

    NaN where one of them is not a number, infinity where one query's extents differ.
    """
    return max(_difference(one, other) for name in a for one, other in _pairs(a[name], b[name]))


def _pairs(a: Output, b: Output) -> list[tuple[Array, Array]]:
    """Arrays to compare; b may hold one query for all of a's."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return [(a, b)]
    others = b if len(b) == len(a) else [b[0]] * len(a)
    return [(one[None], other[None]) for one, other in zip(a, others, strict=True)]


def _difference(a: Array, b: Array) -> float:
    if a.shape[1:] != b.shape[1:]:
        return math.inf
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0))


def machine(threads: int | None = None) -> Machine:
    """This machine, for the record.

    Args:
        threads: that ONNX Runtime was told to use; None for its own choice, one per core.
    """
    cores = available_cores()
    return Machine(_cpu_name(), cores, threads or cores, ort.__version__, f"{platform.system()} {platform.machine()}")


def _cpu_name() -> str:
    with_names = Path("/proc/cpuinfo")
    if with_names.is_file():
        for line in with_names.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _samples(
    rng: np.random.Generator, sweep: Sweep, queries: Queries, batch: int, seconds: float
) -> tuple[Origins, Origins]:
    """(ours, the plain model's) queries."""
    match queries:
        case "all":
            return sweep.origins, sweep.origins
        case int():
            sample = sweep.sample(rng, queries)
            return sample, sample
        case _:
            return sweep.origins, sweep.plain_sample(rng, batch, seconds)
