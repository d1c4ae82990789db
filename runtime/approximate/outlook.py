"""The outlook: what it would take to go on with a map, at which level, and how good it would then be.

What is lost has two sources. Between the positions that have been asked, less is lost the more of them there are; by
answers that are not exact, less the more anchors correct them. What other images have taught of either is believed
until this image has been seen: the first sketch tells how smooth the map is, a level that would be best is tried at
the probes, and what is found there says something about other levels of its variant, too.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from krypton_onnx.calibration import Calibration
from krypton_onnx.runtime.approximate.anchors import Anchors
from krypton_onnx.runtime.approximate.quality import PROBES, Check
from krypton_onnx.runtime.approximate.sketch import Sketch, lattice_of
from krypton_onnx.runtime.survey import PLANNING, Level, Survey

DENSER = -0.2
"""Of the number of anchors, the power with which what a level loses typically falls."""

CAUTION = 1.5
"""By this factor less must be lost at a level for it to be begun for a promise: if it fails, all of it was in vain."""

TELLING = 1.5
"""More anchors by this factor tell with which power it falls here."""

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Of the anchors' number, that are thought of."""

MOST_ANCHORS, MOST_ANCHORED = 1024, 0.3
"""Anchors, and their share of the positions; of those that have been asked at a level, half may be anchors."""

LEAST_STEP = 0.02
"""Of the positions that are asked at a time, at the least."""

_ROUNDING = 1 + 1e-9
_LEAST_LOSS = 1e-6


@dataclass(frozen=True, slots=True)
class Way:
    """A way to go on.

    Attributes:
        level: to answer at.
        share: of the positions to have asked.
        anchors: to have.
        seconds: that this takes from here, on one core of the reference machine.
        loss: 1 − SSIM that is then expected.
    """

    level: Level
    share: float
    anchors: int
    seconds: float
    loss: float


class Outlook:
    """What is believed of one survey.

    Args:
        survey: what is asked.
        levels: to choose from; the last is exact.
        anchors: whose probes levels are tried at.
        calibration: what other images have taught.
        drawn: the latest sketches by level, which others keep up to date.
        begin: draws the first sketch by a level, if there is none yet.
    """

    def __init__(
        self,
        survey: Survey,
        levels: Sequence[Level],
        anchors: Anchors,
        calibration: Calibration,
        drawn: Mapping[str, Sketch],
        begin: Callable[[Level], Sketch],
    ) -> None:
        self._survey, self._anchors, self._calibration = survey, anchors, calibration
        self._levels, self._drawn, self._begin = tuple(levels), drawn, begin
        self._found: dict[str, _Found] = {}
        self._smoothness = 1.0
        self._tried_first: Level | None = None
        self._query_seconds = {level.name: survey.query_seconds(level) for level in levels}
        self._coarsest = float((lattice_of(survey).stages == 0).mean())

    def learn(self, level: Level, check: Check | None) -> None:
        """Take in what has been seen of the latest sketch by a level."""
        if check is None:
            return
        share, unit = self._share(level), self._calibration.expected(check.loss) / check.loss if check.loss else 0.0
        if share < 1:
            self._smoothness = self._calibration.smoothness(share, check.between)
        if not level.exact:
            self._see(level, len(self._anchors), unit * check.level)

    def soonest(self, target: float) -> Way:
        """The way that takes the least time to where an SSIM can be promised."""
        allowed, least = self._calibration.expected_for(target), self._calibration.least_share(target)

        def share(level: Level, anchors: int, _: float) -> float:
            known = self._share(level)
            between = allowed - self._feared(level, anchors, CAUTION)
            needed = max(least, self._calibration.share_between(between, self._smoothness))
            return known if needed <= known and anchors > len(self._anchors) else max(needed, known + LEAST_STEP)

        def quickest() -> Way:
            good = (way for way in self._ways(self._levels, share, CAUTION) if way.loss <= allowed * _ROUNDING)
            return min(good, key=lambda way: way.seconds)

        way = self._tried(quickest)
        assert way is not None  # there is always the exact map
        return way

    def best(self, seconds: Callable[[], float], levels: Sequence[Level]) -> Way | None:
        """The way that loses least in the seconds that are left at the time; None if there is none."""

        def least_loss() -> Way | None:
            left, size = seconds(), len(self._survey.places)

            def share(level: Level, _: int, more: float) -> float:
                known, step = self._share(level), (left - more) / (self._seconds(level) * size)
                return known + step if step >= min(LEAST_STEP, 1 - known) else known

            within = (way for way in self._ways(levels, share, 1.0) if way.seconds <= left * _ROUNDING)
            return min(within, key=lambda way: way.loss, default=None)

        return self._tried(least_loss)

    def loss(self, level: Level, anchors: int) -> float:
        """What is believed to be lost at a level where all positions have been asked, with so many anchors.

        A level that has not been tried is believed to be as much worse than it typically is as others of its variant
        are, if any of these has been.
        """
        if level.exact:
            return 0.0
        if level.name in self._found:
            return self._found[level.name].loss_with(anchors)
        found = {other.name: other for other in self._levels if other.name in self._found}
        akin = [name for name, other in found.items() if other.driver is level.driver]
        factors = [math.log(self._found[name].first.loss / self._calibration.level_loss(name)) for name in akin]
        worse = math.exp(sum(factors) / len(factors)) if factors else 1.0
        return min(1.0, self._calibration.level_loss(level.name) * worse * _denser(anchors / PROBES, DENSER))

    def _tried(self, choose: Callable[[], "Way | None"]) -> "Way | None":
        """What is chosen once everything that is believed of it has been seen."""
        while True:
            way = choose()
            if way is None or self._is_tried(way.level) or not len(self._anchors.probes):
                return way
            self._try(way.level)

    def _is_tried(self, level: Level) -> bool:
        """Whether all is known that trying tells: what a level loses and, of any level, how smooth the map is."""
        return self._tried_first is not None if level.exact else level.name in self._found

    def _try(self, level: Level) -> None:
        """Ask the probes; the first level that is tried is sketched as well, which tells how rough the map is."""
        if self._tried_first is None:
            self._tried_first = level
            self.learn(level, self._anchors.judged(level, self._begin(level)).check)
        else:
            seen = self._anchors.loss_at_probes(level, self._tried_first, self._begin(self._tried_first))
            self._see(level, len(self._anchors.probes), self._calibration.expected(seen))
        self._survey.charge_look()

    def _see(self, level: Level, anchors: int, loss: float) -> None:
        now, known = _Seen(anchors, max(loss, _LEAST_LOSS)), self._found.get(level.name)
        self._found[level.name] = _Found(known.first if known else now, now)

    def _ways(
        self, levels: Sequence[Level], share_of: Callable[[Level, int, float], float], caution: float
    ) -> Iterator[Way]:
        """Ways to go on.

        Args:
            levels: that are thought of.
            share_of: the share of the positions to have asked, of a level, a number of anchors, and the seconds that it
                takes to try the level and to ask these anchors.
            caution: the factor by which more is feared to be lost at a level that has not been begun.
        """
        have, size, exact = len(self._anchors), len(self._survey.places), self._levels[-1]
        for level in levels:
            known, query = self._share(level), self._seconds(level)
            tried = level.exact or level.name in self._found
            begun = self._survey.image_seconds(level) + PLANNING
            begun += 0.0 if tried else len(self._anchors.probes) * query + PLANNING
            for anchors in {have} if level.exact else {round(factor * have) for factor in FACTORS}:
                more = begun + (anchors - have) * self._seconds(exact) + (PLANNING if anchors > have else 0.0)
                share = min(1.0, share_of(level, anchors, more))
                room = anchors <= max(have, min(share / 2 * size, MOST_ANCHORED * size, MOST_ANCHORS))
                if room and share >= self._coarsest and (share > known or anchors > have):
                    loss = self._calibration.between(share, self._smoothness) + self._feared(level, anchors, caution)
                    yield Way(level, share, anchors, more + (share - known) * query * size, loss)

    def _feared(self, level: Level, anchors: int, caution: float) -> float:
        return self.loss(level, anchors) * (1.0 if self._share(level) > self._coarsest else caution)

    def _share(self, level: Level) -> float:
        """Of the positions, those that have been asked for a map by a level."""
        return self._drawn[level.name].share if level.name in self._drawn else 0.0

    def _seconds(self, level: Level) -> float:
        """Of a query, as predicted, or as this survey's took, whose batches were not all full, if that is more."""
        spent, predicted = self._survey.spent.get(level.name), self._query_seconds[level.name]
        in_use = self._share(level) > self._coarsest
        return max(predicted, spent.seconds / spent.queries) if in_use and spent is not None else predicted


@dataclass(frozen=True, slots=True)
class _Seen:
    """A loss, and with how many anchors it was seen."""

    anchors: int
    loss: float


@dataclass(frozen=True, slots=True)
class _Found:
    """What a level has been seen to lose."""

    first: _Seen
    last: _Seen

    def loss_with(self, anchors: int) -> float:
        """What it is believed to lose with so many anchors."""
        more, power = self.last.anchors / max(self.first.anchors, 1), DENSER
        if more >= TELLING:
            power = min(0.0, math.log(self.last.loss / self.first.loss) / math.log(more))
        return self.last.loss * _denser(anchors / max(self.last.anchors, 1), power)


def _denser(more: float, power: float) -> float:
    """By what a level's loss falls with so many times as many anchors."""
    return more**power if more > 1 else 1.0
