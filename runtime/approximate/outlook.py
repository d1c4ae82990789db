"""The outlook: what it would take to go on with a map, at which level, and how good it would then be.

What is lost has two sources. Between the positions that have been asked, less is lost the more of them there are; by
answers that are not exact, less the more anchors correct them. What other images have taught of either is believed
until this image has been seen: a level that would be best is tried at the probes, and what is found there says
something about the other levels, too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from krypton_onnx.calibration import Calibration
from krypton_onnx.runtime.approximate.anchors import Anchors
from krypton_onnx.runtime.approximate.quality import PROBES, Check
from krypton_onnx.runtime.approximate.sketch import Sketch, lattice_of
from krypton_onnx.runtime.survey import Level, Survey

DENSER = -0.25
"""Of the number of anchors, the power with which what a level loses falls."""

ALIKE = 0.7
"""Power of the factor by which other levels lose more than they typically do, with which a level does."""

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Of the anchors' number, that are thought of."""

LEAST_STEP = 0.02
"""Of the positions that are asked at a time, at the least."""

_ROUNDING = 1 + 1e-9


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
        sketch: the latest by a level, if need be the first.
    """

    def __init__(
        self,
        survey: Survey,
        levels: Sequence[Level],
        anchors: Anchors,
        calibration: Calibration,
        sketch: Callable[[Level], Sketch],
    ) -> None:
        self._survey, self._anchors, self._calibration, self._sketch = survey, anchors, calibration, sketch
        self._levels = tuple(levels)
        self._shares = {level.name: 0.0 for level in levels}
        self._found: dict[str, float] = {}
        self._rougher = 1.0
        self._tried_first: Level | None = None
        self._query_seconds = {level.name: query_seconds(survey, level) for level in levels}
        self._coarsest = float((lattice_of(survey).stages == 0).mean())

    def learn(self, level: Level, share: float, check: Check | None) -> None:
        """Take in what has been seen of a map by a level."""
        self._shares[level.name] = share
        if check is None or check.loss == 0:
            return
        unit = self._calibration.expected(check.loss) / check.loss
        if share < 1:
            self._rougher = unit * check.between / self._calibration.between(share)
        if not level.exact:
            self._found[level.name] = unit * check.level / self._denser(len(self._anchors))

    def soonest(self, target: float) -> Way:
        """The way that takes the least time to where an SSIM can be promised."""
        allowed, least = self._calibration.expected_for(target), self._calibration.least_share(target)

        def share(level: Level, anchors: int, _: float) -> float:
            step = LEAST_STEP if anchors == len(self._anchors) else 0.0
            between = (allowed - self._loss_with(level, anchors)) / self._rougher if self._rougher else math.inf
            return max(least, self._shares[level.name] + step, self._calibration.share_between(between))

        def quickest() -> Way:
            good = (way for way in self._ways(self._levels, share) if way.loss <= allowed * _ROUNDING)
            return min(good, key=lambda way: way.seconds)

        way = self._tried(quickest)
        assert way is not None  # there is always the exact map
        return way

    def best(self, seconds: Callable[[], float], levels: Sequence[Level]) -> Way | None:
        """The way that loses least in the seconds that are left at the time; None if there is none."""

        def least_loss() -> Way | None:
            left, size = seconds(), len(self._survey.places)

            def share(level: Level, _: int, more: float) -> float:
                known, step = self._shares[level.name], (left - more) / (self._seconds(level) * size)
                return known + step if step >= min(LEAST_STEP, 1 - known) else known

            within = (way for way in self._ways(levels, share) if way.seconds <= left)
            return min(within, key=lambda way: way.loss, default=None)

        return self._tried(least_loss)

    def loss(self, level: Level) -> float:
        """What is believed to be lost at a level where all positions have been asked, with the probes for anchors."""
        if level.exact or level.name in self._found:
            return self._found.get(level.name, 0.0)
        known = [math.log(found / self._calibration.level_loss(name)) for name, found in self._found.items()]
        alike = math.exp(ALIKE * sum(known) / len(known)) if known else 1.0
        return min(1.0, self._calibration.level_loss(level.name) * alike)

    def _tried(self, choose: Callable[[], "Way | None"]) -> "Way | None":
        """What is chosen once everything that is believed of it has been seen."""
        while True:
            way = choose()
            if way is None or way.level.exact or way.level.name in self._found or not len(self._anchors.probes):
                return way
            self._try(way.level)

    def _try(self, level: Level) -> None:
        self._tried_first = self._tried_first or level
        seen = self._anchors.level_loss(level, self._tried_first, self._sketch(self._tried_first))
        self._found[level.name] = self._calibration.expected(seen)

    def _ways(self, levels: Sequence[Level], share_of: Callable[[Level, int, float], float]) -> Iterator[Way]:
        """Ways to go on.

        Args:
            levels: that are thought of.
            share_of: the share of the positions to have asked, of a level, a number of anchors, and the seconds that it
                takes to try the level and to ask these anchors.
        """
        have, size, exact = len(self._anchors), len(self._survey.places), self._levels[-1]
        for level in levels:
            known, query = self._shares[level.name], self._seconds(level)
            trial = 0.0 if level.exact or level.name in self._found else len(self._anchors.probes) * query
            for anchors in {have} if level.exact else {round(factor * have) for factor in FACTORS}:
                more = trial + (anchors - have) * self._seconds(exact)
                share = min(1.0, share_of(level, anchors, more))
                room = anchors <= max(share * size / 2, have)
                if room and share >= self._coarsest and (share > known or anchors > have):
                    loss = self._rougher * self._calibration.between(share) + self._loss_with(level, anchors)
                    yield Way(level, share, anchors, more + (share - known) * query * size, loss)

    def _seconds(self, level: Level) -> float:
        """Of a query, as predicted, or as many of this survey took, whose batches were not all full, if that is more."""
        spent, predicted = self._survey.spent.get(level.name), self._query_seconds[level.name]
        in_use = self._shares[level.name] > 0
        return max(predicted, spent.seconds / spent.queries) if in_use and spent is not None else predicted

    def _loss_with(self, level: Level, anchors: int) -> float:
        return self.loss(level) * self._denser(anchors)

    @staticmethod
    def _denser(anchors: int) -> float:
        """What a level loses with so many anchors, over what it loses with the probes alone."""
        return float((max(anchors, PROBES) / PROBES) ** DENSER)


def query_seconds(survey: Survey, level: Level) -> float:
    """What a query of a survey is predicted to take at a level, on one core of the reference machine."""
    return level.driver.query_seconds(survey.question.patch, level.tau)
