"""Anchors: positions that are asked exactly, by which an approximate map is corrected and judged.

The errors of a level are smooth: cutting windows, for one, loses about as much here as a few pixels further on. So the
errors at the anchors say something about those between them: the map is corrected by their Gaussian-process mean, and
judged at every probe by what the other anchors leave of the level's error there (the leave-one-out residual), and by
how far what was expected there is from the level's own answer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.runtime.approximate.quality import Check, Floats, Integers, check, structural_loss
from krypton_onnx.runtime.approximate.sketch import Sketch, around_lowest, listed
from krypton_onnx.runtime.survey import Level, Survey

REACH = 0.75
"""Distance over which errors are alike, in patches."""

SURPRISE = 0.5
"""Variance of what is not alike between neighbours, over that of what is."""

EVERYWHERE = 1.0
"""Variance of the error that all positions share, over that of what only neighbours do."""

MOVES = 2
"""So often the largest drop is looked for."""

PEAK = 1
"""Rows and columns around the largest drop that are asked exactly: what people look at first."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A map, corrected.

    Attributes:
        maps: [rows, cols, T].
        check: what the probes say of it; None if there are none.
    """

    maps: Floats
    check: Check | None


class Anchors:
    """Exact answers at some positions of a survey's grid.

    Args:
        survey: to ask.
        exact: the level that answers exactly.
        count: of probes, positions drawn at random.
        seed: of these.
    """

    def __init__(self, survey: Survey, exact: Level, count: int, seed: int) -> None:
        self._survey, self._exact = survey, exact
        self.probes = np.random.default_rng(seed).permutation(len(survey.places))[:count]
        self._places = self.probes

    def __len__(self) -> int:
        return len(self._places)

    def truth(self, positions: Integers) -> Floats:
        """Exact scores, [n, T]."""
        return self._survey.at(self._exact, positions).astype(np.float64)

    def extend(self, count: int, among: NDArray[np.bool_]) -> None:
        """Become so many, by positions that are far from one another.

        Args:
            count: of all anchors.
            among: bool [rows, cols], the positions to choose from.
        """
        places, found = self._survey.places.astype(np.float64), self._places.tolist()
        apart = np.where(among.reshape(-1), np.inf, 0.0)
        for place in found:
            apart = np.minimum(apart, ((places - places[place]) ** 2).sum(axis=1))
        while len(found) < count and apart.max() > 0:
            found.append(int(apart.argmax()))
            apart = np.minimum(apart, ((places - places[found[-1]]) ** 2).sum(axis=1))
        self._places = np.array(found, np.int64)

    def judged(self, level: Level, sketch: Sketch) -> Judged:
        """A sketch by a level, corrected by the anchors."""
        if not len(self._places):
            return Judged(sketch.maps, None)
        if not len(self.probes):
            return Judged(self._exact_at_places(sketch.maps), None)
        weights, left = self._fit(self._errors(level, self._places))
        maps = self._exact_at_places(sketch.maps + self._spread(weights))
        expected, variance = self._between(level, sketch)
        return Judged(maps, check(maps, left[: len(self.probes)], expected, variance, self.probes))

    def loss_at_probes(self, level: Level, drawn_by: Level, sketch: Sketch) -> float:
        """The loss that is left if every position is asked at a level, and the probes alone are the anchors.

        Args:
            level: to judge.
            drawn_by: another level, or the same.
            sketch: by that one, about what the map will be.
        """
        _, left = self._fit(self._errors(level, self.probes))
        _, variance = self._between(drawn_by, sketch)
        losses = (
            structural_loss(sketch.maps[..., t], variance[..., t], left[:, t], self.probes)
            for t in range(left.shape[1])
        )
        return max(losses)

    def settle(self, level: Level, sketch: Sketch) -> Judged:
        """A sketch, corrected, and asked exactly around the largest drop of each target, and where that moves it.

        It may move on and on where drops are alike. In the end what is only expected is no larger drop than any exact.
        """
        judged = self.judged(level, sketch)
        maps = judged.maps.copy()
        for _ in range(MOVES):
            new = np.setdiff1d(around_lowest(maps, PEAK), self._places)
            self._places = np.concatenate([self._places, new])
            maps = self._exact_at_places(maps)
        exact = listed(maps)[self._places]
        bound = np.nextafter(np.fmin.reduce(exact, axis=0), np.inf, dtype=np.float32)
        below = listed(maps) < bound  # never what is no number
        below[self._places] = False
        listed(maps)[below] = np.broadcast_to(bound, below.shape)[below]
        return Judged(maps, judged.check)

    def _errors(self, level: Level, places: Integers) -> Floats:
        return _difference(self.truth(places), self._survey.at(level, places))

    def _between(self, level: Level, sketch: Sketch) -> tuple[Floats, Floats]:
        """How far a sketch is from its level's answers at the probes, [M, T], and everywhere else.

        The latter is a variance, [rows, cols, T], from what surprised at the probes and at the positions asked lately.
        """
        wrong = _difference(self._survey.at(level, self.probes), listed(sketch.maps)[self.probes])
        there = listed(sketch.doubt)[self.probes]
        at_probes = np.stack([np.where(np.isfinite(there), wrong, 0.0) ** 2, np.where(wrong != 0, _finite(there), 0.0)])
        squares, doubts = sketch.surprises + at_probes.sum(axis=1)
        factor = np.divide(squares, doubts, out=np.zeros_like(squares), where=doubts > 0)
        variance: Floats = _finite(sketch.doubt) * factor
        listed(variance)[self._places] = 0.0
        return wrong, variance

    def _exact_at_places(self, maps: Floats) -> Floats:
        maps = maps.copy()
        listed(maps)[self._places] = self.truth(self._places)
        return maps

    def _fit(self, errors: Floats) -> tuple[Floats, Floats]:
        """Weights of the anchors' kernels, and the leave-one-out residuals: [n, T] each.

        Source: Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, equations 2.25 and 5.12.
        """
        places = self._places[: len(errors)]
        inverse = np.linalg.inv(self._alike(places, places) + SURPRISE * np.eye(len(places)))
        weights = inverse @ errors
        return weights, weights / np.diag(inverse)[:, None]

    def _alike(self, a: Integers, b: Integers) -> Floats:
        """How alike errors at two lists of positions are: [len(a), len(b)]."""
        places = self._survey.places
        down, across = (self._near(places[a, axis], places[b, axis], axis) for axis in (0, 1))
        return down * across + EVERYWHERE

    def _spread(self, weights: Floats) -> Floats:
        """The anchors' kernels, by their weights [n, T], over the grid: [rows, cols, T].

        A grid is all pairs of its rows and columns, and so is what is near an anchor along either.
        """
        rows, cols = self._survey.origins[:, 0, 0], self._survey.origins[0, :, 1]
        places = self._survey.places[self._places]
        down, across = self._near(rows, places[:, 0], 0), self._near(cols, places[:, 1], 1)
        near = np.einsum("rn,cn,nt->rct", down, across, weights, optimize=True)
        spread: Floats = near + EVERYWHERE * weights.sum(axis=0)
        return spread

    def _near(self, a: Integers, b: Integers, axis: int) -> Floats:
        """How near pixels along an axis are: [len(a), len(b)]."""
        near: Floats = np.exp(-0.5 * ((a[:, None] - b) / (REACH * self._survey.question.patch[axis])) ** 2)
        return near


def _difference(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    with np.errstate(invalid="ignore"):
        return _finite(a - b)


def _finite(errors: Floats) -> Floats:
    """Scores that are no numbers say nothing about those between them."""
    return np.nan_to_num(errors, nan=0.0, posinf=0.0, neginf=0.0)
