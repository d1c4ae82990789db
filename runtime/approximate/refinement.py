"""Refining a map, always where it is most doubtful: until a promised quality is met, or until a budget is spent."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.calibration import LEAST_SHARE, Calibration
from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.approximate.anchors import PEAK, Anchors, Judged, around_lowest
from krypton_onnx.runtime.approximate.choice import Choice
from krypton_onnx.runtime.approximate.lattice import Lattice
from krypton_onnx.runtime.approximate.quality import (
    PROBES,
    WINDOW,
    Check,
    Floats,
)
from krypton_onnx.runtime.survey import Level, Survey

GROWTH = 1.0
"""Positions that are asked before the map is judged again, at the most, over those that are known. Smaller steps choose
hardly better ones, and fill fewer batches."""

LEAST_STEP = 0.025
"""The same at the least, over all positions."""

QUICK_SECONDS = 0.15
"""Exact answers that are predicted to take less, on one core, are sooner asked than spared."""

NEAR_PEAK = 2
"""Rows and columns around the largest drop that are asked whatever the doubt."""

PROBE_SHARE = 0.1
"""Of a budget that may go into checking the result."""

FEWEST_PROBES = 16
"""Fewer say nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A map, perhaps not yet the last.

    Attributes:
        scores: [N, T], at every position of the grid.
        level: the name of the one that it comes from.
        share: of the positions that have been asked; the others are expected.
        check: what probes say of it; None without probes.
        ssim_bound: the SSIM that it has at least; None without probes.
        done: whether it is the last.
    """

    scores: Floats
    level: str
    share: float
    check: Check | None
    ssim_bound: float | None
    done: bool


def everything(survey: Survey, level: Level) -> Draft:
    """The whole grid at one level, at once."""
    survey.expect(len(survey.places))
    scores = survey.at(level, np.arange(len(survey.places))).astype(np.float64)
    return Draft(scores, level.name, 1.0, None, 1.0 if level.exact else None, done=True)


def stepwise(survey: Survey, level: Level) -> Iterator[Draft]:
    """The same, from coarse to fine."""
    for scores, known in refined(survey, level, lambda: len(survey.places)):
        done = bool(known.all())
        yield Draft(scores, level.name, float(known.mean()), None, 1.0 if done and level.exact else None, done)


def until_good(
    survey: Survey, levels: Sequence[Level], target: float, calibration: Calibration, seed: int
) -> Iterator[Draft]:
    """Refine until the SSIM is promised; if a level cannot reach it, go on with a better one.

    Args:
        survey: what to ask.
        levels: the last is exact.
        target: the SSIM.
        calibration: what makes a promise of probes.
        seed: of the probes' positions.
    """
    if not is_worth_it(survey) or _query_seconds(levels[-1], survey) * len(survey.places) < QUICK_SECONDS:
        yield everything(survey, levels[-1])
        return
    anchors = Anchors(survey, levels[-1], PROBES, seed)
    choice = Choice(anchors, calibration, lambda level: _outline(survey, level))

    def cost(level: Level) -> float:
        share = calibration.share_needed(target, choice.loss(level))
        if share > 1 and not level.exact:
            return math.inf
        return _query_seconds(level, survey) * min(share, 1.0)

    left = list(levels)
    while True:
        level = choice.best(left, cost)
        for draft in _promised(survey, level, anchors, target, calibration):
            yield draft
            if draft.done:
                return
        left = [other for other in left if choice.loss(other) < choice.loss(level)]


def _promised(
    survey: Survey, level: Level, anchors: Anchors, target: float, calibration: Calibration
) -> Iterator[Draft]:
    """Refine at one level; the last map is done, or nothing that this level gives would be good enough."""
    missing, least = 1.0, max(LEAST_SHARE, min(calibration.share_needed(target, 0.0), 1.0))

    def room() -> int:
        return int(missing * len(survey.places))

    for scores, known in refined(survey, level, room):
        maps, share = as_maps(survey, scores), float(known.mean())
        if level.exact and known.all():
            yield Draft(scores, level.name, 1.0, None, 1.0, done=True)
            return
        if not level.exact and calibration.ssim_bound(anchors.loss_at_best(level, maps), 1.0) < target:
            return
        judged = anchors.judged(maps)
        enough = share >= least and known[around_lowest(maps, NEAR_PEAK)].all()
        if (bound := _bound(judged, share, calibration)) >= target and enough:
            judged = anchors.settle(maps)
            bound = _bound(judged, share, calibration)
        done = bound >= target and bool(enough)
        yield Draft(judged.maps.reshape(scores.shape), level.name, share, judged.check, bound, done)
        if done:
            return
        missing = max(calibration.share_missing(bound, target), least - share, LEAST_STEP)


def _bound(judged: Judged, share: float, calibration: Calibration) -> float:
    return 0.0 if judged.check is None else calibration.ssim_bound(judged.check.loss, share)


def until_spent(
    survey: Survey, levels: Sequence[Level], seconds: float, calibration: Calibration, seed: int
) -> Iterator[Draft]:
    """Refine until a budget is spent.

    Args:
        survey: what to ask.
        levels: the last is exact.
        seconds: on one core of the reference machine, for the queries alone.
        calibration: says which level to expect most of.
        seed: of the probes' positions.

    Raises:
        KryptonError: not even the coarsest map can be had for it.
    """
    exact, count = levels[-1], len(survey.places)
    costs = [_query_seconds(level, survey) for level in levels]
    if costs[-1] * count <= seconds or not is_worth_it(survey):
        yield everything(survey, exact)
        return
    probes = min(PROBES, int(PROBE_SHARE * seconds / costs[-1]))
    anchors = Anchors(survey, exact, probes if probes >= FEWEST_PROBES else 0, seed)
    anchored = (len(anchors.probes) + (2 * PEAK + 1) ** 2) * costs[-1]
    left = seconds - anchored
    coarsest = int((_lattice(survey).stages == 0).sum())
    shares = [left / (cost * count) for cost in costs]
    affordable = [n for n, share in enumerate(shares) if share * count >= coarsest]
    if not affordable:
        raise TooFastError(coarsest * min(costs) + anchored)
    choice = Choice(anchors, calibration, lambda level: _outline(survey, level))
    shares_of = {levels[n].name: min(shares[n], 1.0) for n in affordable}
    within = [levels[n] for n in affordable]
    level = choice.best(within, lambda level: calibration.typical_loss(shares_of[level.name], choice.loss(level)))

    def room() -> int:
        spent = sum(one.seconds for one in survey.spent.values())
        mean = survey.spent[level.name].seconds / survey.spent[level.name].queries
        return int((seconds - (2 * PEAK + 1) ** 2 * costs[-1] - spent) / mean)

    maps, share = np.empty(0), 0.0
    for scores, known in refined(survey, level, room):
        if maps.size:
            yield _drafted(anchors.judged(maps), level, share, calibration, done=False)
        maps, share = as_maps(survey, scores), float(known.mean())
    yield _drafted(anchors.settle(maps), level, share, calibration, done=True)


def _drafted(judged: Judged, level: Level, share: float, calibration: Calibration, *, done: bool) -> Draft:
    bound = None if judged.check is None else calibration.ssim_bound(judged.check.loss, share)
    scores = judged.maps.reshape(-1, judged.maps.shape[2])
    return Draft(scores, level.name, share, judged.check, bound, done)


class TooFastError(KryptonError):
    """Carries the seconds that the coarsest map takes."""

    def __init__(self, seconds: float) -> None:
        super().__init__("not even the coarsest map can be had for this")
        self.seconds = seconds


def refined(survey: Survey, level: Level, room: Callable[[], int]) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Maps [N, T], each better than the one before, and which positions have been asked for it.

    Args:
        survey: what to ask.
        level: how to answer.
        room: how many positions more may be asked; the last map is the one for which there are none.
    """
    lattice, eagerness = _lattice(survey), _lattice(survey).eagerness.reshape(-1)
    known = lattice.stages.reshape(-1) == 0
    new = np.flatnonzero(known)
    values = np.zeros((len(known), max(1, survey.own.size)))
    while True:
        values[new] = survey.at(level, new)
        maps, spread = lattice.expected(as_maps(survey, values), known.reshape(lattice.shape))
        yield maps.reshape(values.shape), known
        count = min(int(GROWTH * known.sum()) + 1, int((~known).sum()), room())
        if count <= 0:
            return
        seen = np.where(np.isfinite(values[known]), values[known], np.nan)
        ranges = np.fmax(np.nanmax(seen, axis=0) - np.nanmin(seen, axis=0), np.finfo(np.float32).tiny)
        doubt = (np.nan_to_num(spread, nan=np.inf).reshape(values.shape) / ranges).max(axis=1) * eagerness
        doubt[around_lowest(maps, NEAR_PEAK)] = np.inf
        doubt[known] = -1.0
        new = np.sort(np.argpartition(-doubt, count - 1)[:count])
        known = known.copy()
        known[new] = True


def _outline(survey: Survey, level: Level) -> Floats:
    """The coarsest map [rows, cols, T]."""
    scores, _ = next(refined(survey, level, lambda: 0))
    return as_maps(survey, scores)


def _query_seconds(level: Level, survey: Survey) -> float:
    return level.driver.query_seconds(survey.question.patch, level.tau)


def _lattice(survey: Survey) -> Lattice:
    return Lattice(*survey.origins.shape[:2])


def as_maps(survey: Survey, scores: Floats) -> Floats:
    """[rows, cols, T] of [N, T]."""
    return scores.reshape(*survey.origins.shape[:2], -1)


def is_worth_it(survey: Survey) -> bool:
    """Whether a grid is large enough for probes to pay, and for SSIM to mean anything."""
    rows, cols = survey.origins.shape[:2]
    return len(survey.places) >= 4 * PROBES and min(rows, cols) >= WINDOW
