"""Refining a map, always where it is most doubtful: until a promised quality is met, or until a budget is spent."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from krypton_onnx.calibration import LEAST_SHARE, Calibration
from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.approximate.anchors import PEAK, Anchors, Judged
from krypton_onnx.runtime.approximate.outlook import Outlook, Way
from krypton_onnx.runtime.approximate.quality import PROBES, WINDOW, Check, Floats
from krypton_onnx.runtime.approximate.sketch import Sketch, lattice_of, listed, sketches
from krypton_onnx.runtime.survey import LOOKING, PLANNING, Level, Survey

QUICK_SECONDS = 0.15
"""Exact answers that are predicted to take less, on one core, are sooner asked than spared."""

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
        ssim_bound: the SSIM that it has at least: 1 for the exact map, None without probes, and where too few positions
            have been asked for a promise.
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
    for sketch in sketches(survey, level):
        done = bool(sketch.known.all())
        scores = sketch.maps.reshape(len(survey.places), -1)
        yield Draft(scores, level.name, sketch.share, None, 1.0 if done and level.exact else None, done)


def until_good(
    survey: Survey, levels: Sequence[Level], target: float, calibration: Calibration, seed: int
) -> Iterator[Draft]:
    """Refine until the SSIM is promised, by more positions, by more anchors, or at a better level.

    Args:
        survey: what to ask.
        levels: the last is exact.
        target: the SSIM.
        calibration: what makes a promise of probes.
        seed: of the probes' positions.
    """
    exact = levels[-1]
    quick = survey.query_seconds(exact) * len(survey.places) < QUICK_SECONDS
    if quick or not is_worth_it(survey) or not np.isfinite(survey.own).all():
        yield everything(survey, exact)
        return
    work = _Refinement(survey, levels, PROBES, calibration, seed)
    least = calibration.least_share(target)
    while True:
        way = work.outlook.soonest(target)
        sketch, draft = work.go_on(way)
        if not np.isfinite(draft.scores).all():  # of what is no number nothing can be promised
            yield everything(survey, exact)
            return
        if not draft.done and draft.share >= least and sketch.knows_its_peak and _promises(draft, target):
            draft = work.settled(way.level, target)
        yield draft
        if draft.done:
            return


def _promises(draft: Draft, target: float) -> bool:
    return draft.ssim_bound is not None and bool(draft.ssim_bound >= target)


def until_spent(
    survey: Survey, levels: Sequence[Level], seconds: float, calibration: Calibration, seed: int
) -> Iterator[Draft]:
    """Refine until a budget is spent.

    Args:
        survey: what to ask.
        levels: the last is exact.
        seconds: on one core of the reference machine, the image's own runs included.
        calibration: says what to expect of levels, positions and anchors.
        seed: of the probes' positions.

    Raises:
        KryptonError: not even the coarsest map can be had for it.
    """
    exact = levels[-1]
    if survey.query_seconds(exact) * len(survey.places) <= seconds or not is_worth_it(survey):
        yield everything(survey, exact)
        return
    level, least = _coarsest(survey, levels)
    if least > seconds:
        raise TooFastError(least)
    probes = min(PROBES, int(min(PROBE_SHARE * seconds, seconds - least) / survey.query_seconds(exact)))
    work = _Refinement(survey, levels, probes if probes >= FEWEST_PROBES else 0, calibration, seed)
    peak = _peak_seconds(survey, exact)
    among = levels
    while way := work.outlook.best(lambda: seconds - survey.seconds - peak, among):
        level, among = way.level, [way.level]
        _, draft = work.go_on(way)
        yield draft
        if draft.done:
            return
    yield work.settled(level)


def _coarsest(survey: Survey, levels: Sequence[Level]) -> tuple[Level, float]:
    """The level at which the coarsest map is soonest there, and the seconds that it takes, all in all."""
    positions = int((lattice_of(survey).stages == 0).sum())
    costs = [positions * survey.query_seconds(level) + survey.image_seconds(level) for level in levels]
    place = int(np.argmin(costs))
    return levels[place], costs[place] + survey.seconds + PLANNING + _peak_seconds(survey, levels[-1])


def _peak_seconds(survey: Survey, exact: Level) -> float:
    """What exact answers around the largest drops take, and the last looks."""
    positions = min(max(1, int(survey.own.size)) * (2 * PEAK + 1) ** 2, len(survey.places))
    looking = 2 * LOOKING * len(survey.places)
    run: float = exact.driver.plan.run_seconds
    return positions * survey.query_seconds(exact) + run + PLANNING + looking


class TooFastError(KryptonError):
    """Carries the seconds that the coarsest map takes."""

    def __init__(self, seconds: float) -> None:
        super().__init__("not even the coarsest map can be had for this")
        self.seconds = seconds


class _Refinement:
    """The sketches of one survey, at every level as far as it has come, and the anchors that they share.

    Args:
        survey: what to ask.
        levels: the last is exact.
        probes: how many.
        calibration: what makes a promise of probes.
        seed: of the probes' positions.
    """

    def __init__(
        self, survey: Survey, levels: Sequence[Level], probes: int, calibration: Calibration, seed: int
    ) -> None:
        self._survey, self._calibration = survey, calibration
        self._anchors = Anchors(survey, levels[-1], probes, seed)
        self._anchors.truth(self._anchors.probes)  # before any budget is shared out
        self._drawing: dict[str, Generator[Sketch, int | None, None]] = {}
        self._drawn: dict[str, Sketch] = {}
        self.outlook = Outlook(survey, levels, self._anchors, calibration, self._drawn, self._begun)

    def go_on(self, way: Way) -> tuple[Sketch, Draft]:
        """A step of the way: to its anchors if its positions have been asked by then, and not to all at once."""
        level, sketch = way.level, self._begun(way.level)
        more = round((way.share - sketch.share) * sketch.known.size)
        if more > 0:
            sketch = self._drawn[level.name] = self._drawing[level.name].send(more)
        if level.exact and sketch.known.all():
            return sketch, Draft(listed(sketch.maps), level.name, 1.0, None, 1.0, done=True)
        if sketch.known.sum() >= round(way.share * sketch.known.size):
            self._anchors.extend(min(way.anchors, 2 * len(self._anchors)), sketch.known)
        return sketch, self._draft(level, self._anchors.judged(level, sketch))

    def settled(self, level: Level, target: float | None = None) -> Draft:
        """The map with exact answers around its largest drops; the last one, if it keeps a promise.

        Args:
            level: to go on from.
            target: the SSIM that is promised; None for no promise.
        """
        draft = self._draft(level, self._anchors.settle(level, self._begun(level)))
        return replace(draft, done=target is None or _promises(draft, target))

    def _draft(self, level: Level, judged: Judged) -> Draft:
        self._survey.charge_look()
        share, check = self._drawn[level.name].share, judged.check
        self.outlook.learn(level, check)
        unknown = check is None or share < LEAST_SHARE or not np.isfinite(judged.maps).all()
        bound = None if check is None or unknown else self._calibration.ssim_bound(check.loss)
        return Draft(listed(judged.maps), level.name, share, check, bound, done=False)

    def _begun(self, level: Level) -> Sketch:
        """The latest sketch, if need be the first."""
        if level.name not in self._drawn:
            self._drawing[level.name] = sketches(self._survey, level)
            self._drawn[level.name] = next(self._drawing[level.name])
        return self._drawn[level.name]


def is_worth_it(survey: Survey) -> bool:
    """Whether a grid is large enough for probes to pay, and for SSIM to mean anything."""
    rows, cols = survey.origins.shape[:2]
    return len(survey.places) >= 4 * PROBES and min(rows, cols) >= WINDOW
