"""The lattice: which positions of a grid to ask about first, and what to expect at the others meanwhile.

A grid is refined in *stages*. Stage 0 is every `STEP`-th row and column, and the last ones. Then, alternately, come the
centres of the squares that are known and the centres of their sides, until nothing is left::

    0 . . . 0     0 . . . 0     0 . 2 . 0     0 4 2 4 0
    . . . . .     . . . . .     . . . . .     4 3 4 3 4
    . . . . .  →  . . 1 . .  →  2 . 1 . 2  →  2 4 1 4 2
    . . . . .     . . . . .     . . . . .     4 3 4 3 4
    0 . . . 0     0 . . . 0     0 . 2 . 0     0 4 2 4 0

A position that has not been asked about is expected to be the mean of its neighbours of earlier stages, and is the more
doubtful the more these differ.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

STEP = 4
"""Rows and columns between positions of stage 0: a power of 2."""

STAGES = 2 * (STEP.bit_length() - 1)
"""The last stage."""

EAGERNESS = 5.0
"""How much more doubtful the same differences are at the centre of a square than at that of a side: it is farther from
its neighbours, and others are expected from it."""

_CORNERS = ((-1, -1), (1, 1), (-1, 1), (1, -1))
_SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Opposite ones stand side by side."""


class Lattice:
    """The stages of a grid of rows × columns."""

    def __init__(self, rows: int, cols: int) -> None:
        self.shape = rows, cols
        self._depths = np.meshgrid(_depths(rows), _depths(cols), indexing="ij")

    @cached_property
    def stages(self) -> Places:
        """Int64 [rows, cols], the stage of every position."""
        down, across = self._depths
        depth = np.maximum(down, across)
        return np.where((down == across) & (depth > 0), 2 * depth - 1, 2 * depth)

    def expected(self, values: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """What the whole map is expected to be, and how doubtful that is.

        Args:
            values: float64 [rows, cols, T]; only those that are known count.
            known: bool [rows, cols], where positions have been asked about: all of stage 0 at least.

        Returns:
            The map [rows, cols, T], and [rows, cols, T] how much the neighbours of a position differ from which it is
            expected: 0 where it is known.
        """
        found = np.where(known[..., None], values, 0.0)
        spread = np.zeros_like(found)
        for stage in range(1, STAGES + 1):
            place = np.nonzero((self.stages == stage) & ~known)
            if len(place[0]):
                found[place], spread[place] = self._from_neighbours(found, stage, place)
        return found, spread

    def _from_neighbours(self, found: Floats, stage: int, place: tuple[Places, ...]) -> tuple[Floats, Floats]:
        """Mean, and largest difference, of the neighbours of earlier stages: [n, T] each."""
        distance = STEP >> ((stage + 1) // 2)
        sides = _CORNERS if stage % 2 else _SIDES
        values, there = zip(*(self._neighbour(found, stage, place, side, distance) for side in sides), strict=True)
        value, alone = np.stack(values), np.stack(there)
        # At a border a neighbour has none opposite to it, and would draw the mean to its side.
        paired = alone & alone[[1, 0, 3, 2]]
        counts = np.where(paired.any(axis=0), paired, alone)[..., None]
        low = np.where(counts, value, np.inf).min(axis=0)
        high = np.where(counts, value, -np.inf).max(axis=0)
        with np.errstate(invalid="ignore"):
            return np.where(counts, value, 0.0).sum(axis=0) / counts.sum(axis=0), high - low

    def _neighbour(
        self, found: Floats, stage: int, place: tuple[Places, ...], side: tuple[int, int], distance: int
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """The values on one side [n, T], and which of them there are."""
        row, col = place[0] + side[0] * distance, place[1] + side[1] * distance
        inside = (row >= 0) & (row < self.shape[0]) & (col >= 0) & (col < self.shape[1])
        row, col = np.where(inside, row, 0), np.where(inside, col, 0)
        return found[row, col], inside & (self.stages[row, col] < stage)

    @cached_property
    def eagerness(self) -> Floats:
        """What differences count for at every position: [rows, cols]."""
        scale: Floats = np.where(self.stages % 2 == 1, EAGERNESS, 1.0) * EAGERNESS ** ((STAGES - self.stages) // 2)
        return scale


def _depths(extent: int) -> Places:
    """How often the step must be halved before each row is reached; int64 [extent]."""
    rows = np.arange(extent)
    depths = np.full(extent, STEP.bit_length() - 1)
    for depth in range(STEP.bit_length() - 1, -1, -1):
        depths[rows % (STEP >> depth) == 0] = depth
    depths[-1] = 0
    return depths
