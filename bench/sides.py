"""The sides of the benchmark and what is measured of them.

`times`, `peak` and `operator_costs` are each meant for a process of their own.
"""

import importlib.util
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from memory import peak_private_bytes, private_bytes
from operators import OperatorCost, costs, profile_incremental, profile_plain
from results import Case, Side

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.benchmark import Timing, in_turns, largest_difference
from krypton_onnx.plain_model import PlainModel, timed
from krypton_onnx.runtime import batches as driver
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.sweep import SAMPLE, Origins, Sweep, answered, repetitions

LARGEST_WHOLE = 299
"""Pixels along a side of the largest image whose whole grid the incremental side answers; beyond, an even sample."""

RUNS = 8
"""Base runs, and plain inferences at batch 1, of a turn."""

HAS_CAPTUM = all(importlib.util.find_spec(name) for name in ("torch", "captum"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case's model, built and compiled.

    Attributes:
        case: what it is for.
        folder: where its files are.
    """

    case: Case
    folder: Path

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / "model.onnx"

    @property
    def artifact(self) -> Path:
        """What it is compiled to."""
        return self.folder / "model.krypton"

    def prepare(self) -> None:
        """Build, with random weights, and compile."""
        onnx.save(models.build(self.case.model, input_size=self.case.size), self.model)
        kx.compile(self.model, self.artifact, patch=self.case.patch, verify=False)

    def sweep(self, rng: np.random.Generator) -> Sweep:
        """What is asked."""
        return Sweep.random(kx.open_artifact(self.artifact).plan, self.case.patch, self.case.stride, rng, {})

    def plain(self) -> PlainModel:
        """The unmodified model."""
        return PlainModel(self.model, kx.open_artifact(self.artifact).plan)


def uniform_windows() -> AbstractContextManager[object]:
    """While it lasts, sessions batch in Krypton's manner: one window per layer, large enough for every query.

    All else is as ever: the same graph, frontier, views and batch size.
    """
    return mock.patch.multiple(driver, CLASS_LIMITS=(1,), HALVINGS=0)


# ---------------------------------------------------------------------------------------------------- time


@dataclass(frozen=True, slots=True)
class Asked:
    """What one side does in a turn.

    Attributes:
        queries: that it answers.
        seconds: answers them and says how long that took.
    """

    queries: int
    seconds: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Times:
    """The part of a `Result` that is timed; its attributes are described there."""

    grid: int
    batch: int
    perturbations: int | None
    difference: float
    sides: dict[Side, Timing]
    growth: tuple[Timing, ...]
    base: Timing
    single: Timing


def times(prepared: Prepared, repeats: int) -> Times:
    """Time all sides in turns."""
    rng = np.random.default_rng(0)
    sweep, plain, session = prepared.sweep(rng), prepared.plain(), kx.Session(prepared.artifact, [CPU])
    tried = plain.best_batch(sweep.image, sweep.content)
    batch = min(tried, key=lambda size: tried[size])
    sample = sweep.plain_sample(rng, batch, tried[batch])
    enough = len(sample) if prepared.case.size > LARGEST_WHOLE else None
    sides: dict[Side, Asked] = {
        "plain": Asked(len(sample), _timed(plain.run, sweep.image, sample, sweep.content, batch)),
        "incremental": _asked(session, sweep, sweep.origins, enough),
        "uniform": _uniform(session, sweep, len(sample)),
    }
    perturbations = None
    if HAS_CAPTUM:
        perturbations, sides["captum"] = _captum(prepared, sweep)
    growth = {str(count): _few(session, sweep, sweep.sample(rng, count)) for count in prepared.case.growth}
    runs = {
        "base": Asked(RUNS, _timed(lambda: [session.materialize(sweep.image) for _ in range(RUNS)])),
        "single": Asked(RUNS, _timed(plain.run, sweep.image, sample[:RUNS], sweep.content, 1)),
    }
    everything: dict[str, Asked] = {**sides, **growth, **runs}
    seconds = in_turns({name: asked.seconds for name, asked in everything.items()}, repeats)
    timings = {name: Timing(asked.queries, seconds[name]) for name, asked in everything.items()}
    return Times(
        grid=len(sweep.origins),
        batch=batch,
        perturbations=perturbations,
        difference=largest_difference(
            session.infer(session.materialize(sweep.image), sample, sweep.content),
            plain.run(sweep.image, sample, sweep.content, batch),
        ),
        sides={side: timings[side] for side in sides},
        growth=tuple(timings[count] for count in growth),
        base=timings["base"],
        single=timings["single"],
    )


def _captum(prepared: Prepared, sweep: Sweep) -> tuple[int, Asked]:
    """(its best perturbations_per_eval, its side)."""
    from captum_side import EVALUATIONS, attribute, best_size
    from torch_twin import torch_twin

    network = torch_twin(onnx.load(prepared.model))
    size = best_size(network, sweep.image)
    sweeps = math.ceil(SAMPLE / EVALUATIONS)
    return size, Asked(
        sweeps * EVALUATIONS, _timed(lambda: [attribute(network, sweep.image, size) for _ in range(sweeps)])
    )


def _asked(session: kx.Session, sweep: Sweep, origins: Origins, enough: int | None = None) -> Asked:
    queries = answered(sweep.batches(session, origins, enough))
    return Asked(queries, partial(sweep.seconds, session, origins, enough))


def _few(session: kx.Session, sweep: Sweep, origins: Origins) -> Asked:
    """The same queries again and again: what is over at once would be timed as cold as others leave the machine."""
    once = _asked(session, sweep, origins)
    once.seconds()
    times = repetitions(once.seconds())
    return Asked(times * once.queries, lambda: sum(once.seconds() for _ in range(times)))


def _uniform(session: kx.Session, sweep: Sweep, enough: int) -> Asked:
    def seconds() -> float:
        with uniform_windows():
            return sweep.seconds(session, sweep.origins, enough)

    with uniform_windows():
        return Asked(answered(sweep.batches(session, sweep.origins, enough)), seconds)


def _timed(function: Callable[..., object], *arguments: object) -> Callable[[], float]:
    return lambda: timed(lambda: function(*arguments))


# -------------------------------------------------------------------------------------------------- memory


def peak(prepared: Prepared, side: Side, size: int) -> int:
    """Bytes of private memory that a side takes at the peak of answering a sample, beyond this process without it.

    Reading the files is over by then; what it leaves behind, the weights among it, counts.

    Args:
        prepared: the case.
        side: which.
        size: of the plain model's batch; Captum's perturbations_per_eval.
    """
    sweep = prepared.sweep(np.random.default_rng(0))
    if side == "captum":
        importlib.import_module("captum_side")
    before = private_bytes()
    return peak_private_bytes(_OPEN[side](prepared, sweep, size)) - before


def _open_plain(prepared: Prepared, sweep: Sweep, size: int) -> Callable[[], object]:
    return partial(prepared.plain().run, sweep.image, sweep.origins[: max(SAMPLE, size)], sweep.content, size)


def _open_incremental(prepared: Prepared, sweep: Sweep, _: int) -> Callable[[], object]:
    return partial(sweep.seconds, kx.Session(prepared.artifact, [CPU]), sweep.origins, SAMPLE)


def _open_uniform(prepared: Prepared, sweep: Sweep, _: int) -> Callable[[], object]:
    return _uniform(kx.Session(prepared.artifact, [CPU]), sweep, SAMPLE).seconds


def _open_captum(prepared: Prepared, sweep: Sweep, size: int) -> Callable[[], object]:
    from captum_side import attribute
    from torch_twin import torch_twin

    return partial(attribute, torch_twin(onnx.load(prepared.model)), sweep.image, size)


_OPEN: dict[Side, Callable[[Prepared, Sweep, int], Callable[[], object]]] = {
    "plain": _open_plain,
    "incremental": _open_incremental,
    "uniform": _open_uniform,
    "captum": _open_captum,
}


# ----------------------------------------------------------------------------------------------- operators


def operator_costs(prepared: Prepared, batch: int) -> dict[Side, tuple[OperatorCost, ...]]:
    """Where time and bytes go in the incremental and in the plain graph.

    Args:
        prepared: the case.
        batch: of the plain model.
    """
    sweep = prepared.sweep(np.random.default_rng(0))
    artifact = kx.open_artifact(prepared.artifact)
    return {
        "incremental": costs(profile_incremental(artifact, sweep)),
        "plain": costs(profile_plain(prepared.model, artifact.plan, sweep, batch)),
    }
