"""What other images have taught about approximate maps: the numbers by which a promise is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT = "exact"
"""Name of the level whose answers are those of full inference."""

LEAST_SHARE = 0.2
"""Of the positions that must have been asked before anything is promised: fewer, and the probes, can miss a peak.
Nor is anything promised before so many have been asked as are usually needed (`Calibration.share_needed`)."""

FLOOR = 1e-3
"""Added to the loss at the probes, for they are few."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the loss of structural similarity, 1 − SSIM, depends on what can be seen of it.

    Attributes:
        scale, power, asked: the fit of the loss, ``exp(scale + asked·share) · (loss_at_probes + FLOOR)^power``, where
            `share` of the positions has been asked.
        promises: (expected, allowed) losses, ascending: of other images for which so much was expected when refinement
            stopped, 98 % had lost no more than was allowed.
        lattice: (a, b), the typical loss of a map of which a share has been asked, ``exp(a + b·share)``.
        levels: by a level's name, what is lost on easy images where all positions have been asked at it: a hope, by
            which levels are tried.
        images: how many it rests on.
    """

    scale: float
    power: float
    asked: float
    promises: tuple[tuple[float, float], ...]
    lattice: tuple[float, float]
    levels: dict[str, float]
    images: int

    def expected(self, loss: float, share: float) -> float:
        """The loss that fits what is seen.

        Args:
            loss: at the probes.
            share: of the positions that have been asked.
        """
        return math.exp(self.scale + self.asked * share) * float((loss + FLOOR) ** self.power)

    def ssim_bound(self, loss: float, share: float) -> float:
        """The SSIM that is promised; arguments as for `expected`."""
        return 1 - min(1.0, _between(self.expected(loss, share), self.promises))

    def share_needed(self, target: float, level_loss: float) -> float:
        """Of the positions that must be asked until this SSIM can be promised; infinite if all are not enough.

        Args:
            target: the SSIM.
            level_loss: what is lost where all positions have been asked.
        """
        left = _between(1 - target, [(allowed, expected) for expected, allowed in self.promises]) - level_loss
        constant, slope = self.lattice
        return max(0.0, (math.log(left) - constant) / slope) if left > 0 else math.inf

    def share_missing(self, bound: float, target: float) -> float:
        """How much more of the positions to ask when so much is promised as yet."""
        return math.log((1 - bound) / (1 - target)) / -self.lattice[1] if bound < 1 else 0.0

    def typical_loss(self, share: float, level_loss: float) -> float:
        """Of a map of which a share of the positions has been asked; `level_loss` as for `share_needed`."""
        constant, slope = self.lattice
        return level_loss + (math.exp(constant + slope * share) if share < 1 else 0.0)

    def level_loss(self, level: str) -> float:
        """The hope for a level; 0 for exact answers, and 1 for what has not been seen."""
        return 0.0 if level == EXACT else self.levels.get(level, 1.0)


def _between(value: float, pairs: Sequence[tuple[float, float]]) -> float:
    """What belongs to a value: between known pairs linear in logarithms, beyond them in proportion."""
    known, found = ([math.log(one) for one in column] for column in zip(*pairs, strict=True))
    wanted = math.log(max(value, 1e-12))
    beyond = wanted - min(max(wanted, known[0]), known[-1])
    return math.exp(float(np.interp(wanted, known, found)) + beyond)


UNTUNED = Calibration(
    scale=0.0251,
    power=0.894,
    asked=-0.4,
    promises=((0.0119, 0.02), (0.0297, 0.05), (0.0595, 0.1), (0.0892, 0.15), (0.138, 0.2)),
    lattice=(-1.42, -4.55),
    levels={
        "tau 0.4": 0.0731,
        "tau 0.5": 0.0118,
        "tau 0.6": 0.00223,
        "tau 0.75": 0.000102,
        "int8 tau 0.4": 0.087,
        "int8 tau 0.5": 0.0312,
        "int8 tau 0.6": 0.00973,
        "int8 tau 0.75": 0.00346,
        "int8": 0.00141,
    },
    images=38,
)
"""For models that have not been tuned; made by `python bench/quality/calibrate.py`."""
