"""Sketching a map at one level: some positions are asked, the others are expected, always the most doubtful next."""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.runtime.approximate.lattice import Lattice
from krypton_onnx.runtime.approximate.quality import Floats, Integers
from krypton_onnx.runtime.survey import Level, Survey

GROWTH = 1.0
"""Positions that are asked before the map is looked at again, at the most, over those that are known. Smaller steps
choose hardly better ones, and fill fewer batches."""

NEAR_PEAK = 2
"""Rows and columns around the largest drop that are asked whatever the doubt."""

DOUBT_POWER = 1.5
"""What lies between positions is wrong by a variance that grows with how much these differ, and with this power of it:
less than with its square, for there is something to find between equals, too."""

FADING = 0.3
"""What surprises of one step count for in the next: they come from more doubtful positions."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A map of which some positions have been asked at one level.

    Attributes:
        maps: [rows, cols, T].
        known: bool [rows, cols], which have been asked.
        doubt: [rows, cols, T], to which the variance of what is expected is in proportion; 0 where it is known.
        surprises: [2, T], of positions asked lately: the squared errors of what was expected there, summed, and the
            doubts, likewise.
    """

    maps: Floats
    known: NDArray[np.bool_]
    doubt: Floats
    surprises: Floats

    @property
    def share(self) -> float:
        """Of the positions, those that have been asked."""
        return float(self.known.mean())

    @property
    def knows_its_peak(self) -> bool:
        """Whether all has been asked around the largest drops."""
        return bool(self.known.reshape(-1)[around_lowest(self.maps, NEAR_PEAK)].all())


def sketches(survey: Survey, level: Level) -> Generator[Sketch, int | None, None]:
    """Sketches, each better than the one before, until every position has been asked.

    Args:
        survey: what to ask.
        level: how to answer.

    Yields:
        Sketches; how many positions to ask for the next one may be sent, and is kept to if it is not more than `GROWTH`
        allows.
    """
    lattice = lattice_of(survey)
    known = lattice.stages == 0
    values = np.zeros((*lattice.shape, max(1, survey.own.size)))
    values[known] = survey.at(level, np.flatnonzero(known))
    surprises = np.zeros((2, values.shape[2]))
    while True:
        maps, spread = lattice.expected(values, known)
        doubt = spread**DOUBT_POWER
        wanted = yield Sketch(maps, known, doubt, surprises)
        count = min(int(GROWTH * known.sum()) + 1, int((~known).sum()))
        count = count if wanted is None else min(count, wanted)
        if count <= 0:
            return
        new = _most_doubtful(lattice, values, known, maps, spread, count)
        place = np.unravel_index(new, known.shape)
        values[place] = survey.at(level, new)
        known = known.copy()
        known[place] = True
        lately = np.stack([(values[place] - maps[place]) ** 2, doubt[place]])
        surprises = FADING * surprises + np.where(np.isfinite(lately).all(axis=0), lately, 0.0).sum(axis=1)


def listed(maps: Floats) -> Floats:
    """[N, T] of [rows, cols, T], the same memory."""
    return maps.reshape(-1, maps.shape[2])


def lattice_of(survey: Survey) -> Lattice:
    """Of a survey's grid."""
    return Lattice(*survey.origins.shape[:2])


def _most_doubtful(
    lattice: Lattice, values: Floats, known: NDArray[np.bool_], maps: Floats, spread: Floats, count: int
) -> Integers:
    """The positions to ask next, ascending."""
    seen = values[known]
    high, low = (np.where(np.isfinite(seen), seen, none) for none in (-np.inf, np.inf))
    ranges = np.fmax(high.max(axis=0) - low.min(axis=0), np.finfo(np.float32).tiny)
    doubt = (np.nan_to_num(spread, nan=np.inf) / ranges).max(axis=2) * lattice.eagerness
    doubt.reshape(-1)[around_lowest(maps, NEAR_PEAK)] = np.inf
    doubt[known] = -1.0
    return np.sort(np.argpartition(-doubt.reshape(-1), count - 1)[:count])


def around_lowest(maps: Floats, reach: int) -> Integers:
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
