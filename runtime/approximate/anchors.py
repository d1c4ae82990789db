"""Anchors: positions that are asked exactly, by which an approximate map is corrected and judged.

The errors of a map are smooth: cutting windows, for one, loses about as much here as a few pixels further on. So the
errors at the anchors say something about those between them: the map is corrected by their Gaussian-process mean, and
judged at every probe by what the other anchors leave of its error (the leave-one-out residual).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.runtime.approximate.quality import Check, Floats, Integers, check, structural_loss
from krypton_onnx.runtime.survey import Level, Survey

REACH = 0.75
"""Distance over which errors are alike, in patches."""

SURPRISE = 0.5
"""Variance of what is not alike between neighbours, over that of what is."""

EVERYWHERE = 1.0
"""Variance of the error that all positions share, over that of what only neighbours do."""

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
        self._kernels = np.zeros((len(survey.places), 0))

    def truth(self, positions: Integers) -> Floats:
        """Exact scores, [n, T]."""
        return self._survey.at(self._exact, positions).astype(np.float64)

    def judged(self, maps: Floats) -> Judged:
        """A map [rows, cols, T], corrected by the anchors."""
        if not len(self._places):
            return Judged(maps, None)
        truth, flat = self.truth(self._places), maps.reshape(-1, maps.shape[2])
        errors = _finite(truth - flat[self._places])
        weights, left = self._fit(errors)
        new = self._places[self._kernels.shape[1] :]
        self._kernels = np.concatenate([self._kernels, self._alike(np.arange(len(flat)), new)], axis=1)
        corrected = flat + self._kernels @ weights
        corrected[self._places] = truth
        probed = left[: len(self.probes)]
        found = check(corrected.reshape(maps.shape), probed, self.probes) if len(probed) else None
        return Judged(corrected.reshape(maps.shape), found)

    def loss_at_best(self, level: Level, maps: Floats) -> float:
        """The loss that is left if every position is asked at a level.

        Args:
            level: to judge.
            maps: [rows, cols, T], about what its map will be.
        """
        _, left = self._fit(_finite(self.truth(self.probes) - self._survey.at(level, self.probes)))
        return max(structural_loss(maps[..., t], left[:, t], self.probes) for t in range(maps.shape[2]))

    def settle(self, maps: Floats) -> Judged:
        """Ask exactly around the largest drop of each target, wherever correcting moves it, and judge the map again."""
        while True:
            judged = self.judged(maps)
            new = np.setdiff1d(around_lowest(judged.maps, PEAK), self._places)
            if not len(new):
                return judged
            self._places = np.concatenate([self._places, new])

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
        reach = REACH * np.array(self._survey.question.patch)
        between = (self._survey.places[a][:, None] - self._survey.places[b][None]) / reach
        alike: Floats = np.exp(-0.5 * (between**2).sum(axis=2)) + EVERYWHERE
        return alike


def _finite(errors: Floats) -> Floats:
    """Scores that are no numbers say nothing about those between them."""
    return np.nan_to_num(errors, nan=0.0, posinf=0.0, neginf=0.0)


def around_lowest(maps: Floats, reach: int) -> NDArray[np.int64]:
    """The positions around the lowest score of each target, where the drop is largest.

    Args:
        maps: [rows, cols, T].
        reach: rows and columns on each side.
    """
    rows, cols, targets = maps.shape
    found = []
    for target in range(targets):
        lowest = np.argmin(np.nan_to_num(maps[..., target], nan=np.inf))
        row, col = divmod(int(lowest), cols)
        down = np.arange(max(0, row - reach), min(rows, row + reach + 1))
        across = np.arange(max(0, col - reach), min(cols, col + reach + 1))
        found.append((down[:, None] * cols + across).reshape(-1))
    return np.unique(np.concatenate(found))
