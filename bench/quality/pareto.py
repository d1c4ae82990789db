"""What `evaluate.py` finds: samples, what they say of each method, who is fastest at equal quality, and the file.

A method's speedup on a subject is the time of full inference over its own, both summed over the pictures. "At equal
quality" means by mean SSIM: of a family the fastest setting that reaches it, the exact map being a setting of each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from measures import Measures
from methods import Family

from krypton_onnx.benchmark import Machine

TARGETS = (0.9, 0.95, 0.98)
"""Mean SSIMs at which methods are compared."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One method on one picture.

    Attributes:
        picture: its name.
        family, method, target: see `Method`.
        seconds: by the clock, base runs included.
        measures: beside the exact map.
        ssim_bound: what was promised afterwards; None if nothing was.
        level: that the map comes from.
        share_asked: of the positions, at this level.
        flops_saved: share of full inference's arithmetic that queries were spared; None for the exact map.
    """

    picture: str
    family: Family
    method: str
    target: float | None
    seconds: float
    measures: Measures
    ssim_bound: float | None = None
    level: str | None = None
    share_asked: float | None = None
    flops_saved: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One method on all pictures of a subject.

    Attributes:
        family, method, target: see `Method`.
        pictures: how many.
        speedup: over full inference.
        worst, low: the smallest SSIM, and the 5 % quantile.
        means: of every measure; `same_place` is the share of pictures.
        kept: share of the pictures on which the target was reached; None without one.
        shortfall: the most that was missing to it.
        saved: mean of `flops_saved`.
    """

    family: Family
    method: str
    target: float | None
    pictures: int
    speedup: float
    worst: float
    low: float
    means: dict[str, float]
    kept: float | None
    shortfall: float | None
    saved: float | None

    @property
    def mean(self) -> float:
        """The mean SSIM."""
        return self.means["ssim"]


@dataclass(frozen=True, slots=True)
class SubjectResult:
    """All that was found for one model.

    Attributes:
        name: of the subject.
        size: pixels of the square image along a side.
        positions: of the grid.
        trained: whether all weights are.
        commit, machine, versions: with what.
        batch: full inference's best batch size.
        plain_seconds: a query of full inference at it, measured again for every picture.
        skipped: pictures whose exact map has no range.
        refused: methods that could not keep to what was asked, once a picture.
        krypton_taus, krypton_ssims: what Krypton's tau was chosen by.
        samples: of all methods and pictures.
    """

    name: str
    size: int
    positions: int
    trained: bool
    commit: str
    machine: Machine
    versions: dict[str, str]
    batch: int
    plain_seconds: tuple[float, ...]
    skipped: tuple[str, ...]
    refused: tuple[str, ...]
    krypton_taus: tuple[float, ...]
    krypton_ssims: tuple[float, ...]
    samples: tuple[Sample, ...]

    @property
    def full_seconds(self) -> float:
        """Of one picture, by full inference."""
        return median(self.plain_seconds) * self.positions

    @property
    def pictures(self) -> int:
        """How many were compared."""
        return len({sample.picture for sample in self.samples})

    def summaries(self) -> list[Summary]:
        """Of every method, in the order in which they were first listed."""
        groups: dict[tuple[Family, str], list[Sample]] = {}
        for sample in self.samples:
            groups.setdefault((sample.family, sample.method), []).append(sample)
        return [summary(group, self.full_seconds) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class OctResult:
    """Krypton's setting for one model, on one picture.

    Attributes:
        subject, picture: names.
        level: how queries were answered.
        published: the speedup in Krypton's paper.
        full_seconds: of full inference.
        seconds: of the method.
        measures: beside the exact map.
    """

    subject: str
    picture: str
    level: str
    published: float
    full_seconds: float
    seconds: float
    measures: Measures


@dataclass(frozen=True, slots=True)
class Found:
    """The file: results by subject, and by Krypton's own settings."""

    subjects: dict[str, SubjectResult] = field(default_factory=dict)
    oct: dict[str, list[OctResult]] = field(default_factory=dict)


def read(path: Path) -> Found:
    """What is kept; nothing where there is no file yet."""
    return msgspec.json.decode(path.read_bytes(), type=Found) if path.is_file() else Found()


def write(path: Path, found: Found) -> None:
    """Keep it; a run that is interrupted meanwhile leaves the old file."""
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(msgspec.json.encode(found) + b"\n")
    fresh.replace(path)


def summary(group: Sequence[Sample], full_seconds: float) -> Summary:
    """What samples of one method say.

    Args:
        group: one a picture.
        full_seconds: of one picture, by full inference.
    """
    first, ssims = group[0], np.array([one.measures.ssim for one in group])
    names = [one.name for one in fields(Measures)]
    saved = [one.flops_saved for one in group if one.flops_saved is not None]
    target = first.target
    return Summary(
        first.family,
        first.method,
        target,
        pictures=len(group),
        speedup=full_seconds * len(group) / sum(one.seconds for one in group),
        worst=float(ssims.min()),
        low=float(np.quantile(ssims, 0.05)),
        means={name: float(np.mean([getattr(one.measures, name) for one in group])) for name in names},
        kept=None if target is None else float((ssims >= target).mean()),
        shortfall=None if target is None else float(np.maximum(target - ssims, 0).max()),
        saved=float(np.mean(saved)) if saved else None,
    )


def of_families(summaries: Iterable[Summary], *families: Family) -> list[Summary]:
    """The settings of these families, and the exact map."""
    return [one for one in summaries if one.family in (*families, "exact")]


def exact_one(summaries: Iterable[Summary]) -> Summary:
    """The setting that asks all."""
    return next(one for one in summaries if one.family == "exact")


def fastest(settings: Iterable[Summary], target: float) -> Summary:
    """The fastest setting whose mean SSIM reaches the target.

    Args:
        settings: with the exact one among them.
        target: the mean SSIM.
    """
    return max((one for one in settings if one.mean >= target), key=lambda one: one.speedup)


def frontier(settings: Iterable[Summary]) -> list[Summary]:
    """The settings than which none is both faster and better, from rough to good."""
    found: list[Summary] = []
    for one in sorted(settings, key=lambda one: (one.mean, one.speedup), reverse=True):
        if not found or one.speedup > found[-1].speedup:
            found.append(one)
    return found[::-1]


def interpolated(settings: Iterable[Summary], target: float) -> float:
    """The speedup at a mean SSIM between those of two settings: linear, in the speedup's logarithm."""
    edge = frontier(settings)
    return float(np.exp(np.interp(target, [one.mean for one in edge], np.log([one.speedup for one in edge]))))
