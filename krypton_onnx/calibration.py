"""What other images have taught about approximate maps: the numbers by which a promise is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT = "exact"
"""Name of the level whose answers are those of full inference."""

LEAST_SHARE = 0.2
"""Of the positions that must have been asked before anything is promised: fewer, and the probes, can miss a peak.
Nor is anything promised before so many have been asked as a map needs of which little is lost between positions."""

LITTLE = 0.5
"""Of what is typically lost there, for that."""

LEAST_GAIN = 0.1
"""So much at least does the logarithm of what is lost between positions fall below that of the share that is left."""

_SHARE_STEP = 1e-4

_LEAST_LOSS = 1e-9
"""Whose logarithm is still a number."""

FLOOR = 1e-3
"""Added to the loss at the probes, for they are few."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the loss of structural similarity, 1 − SSIM, depends on what can be seen of it.

    Attributes:
        scale, power: the fit of the loss, ``exp(scale) · (loss_as_seen + FLOOR)^power``.
        promises: (expected, allowed) losses, ascending: of other images for which so much was expected when refinement
            stopped, 98 % had lost no more than was allowed.
        lattice: (a, b), both negative: the loss between positions of which a share has been asked is
            ``(1 − share) · exp(smoothness · (a + b·share))``, with a smoothness of the map, typically 1.
        levels: by a level's name, what is typically lost where all positions have been asked at it.
        images: how many it rests on.
    """

    scale: float
    power: float
    promises: tuple[tuple[float, float], ...]
    lattice: tuple[float, float]
    levels: dict[str, float]
    images: int

    def expected(self, loss: float) -> float:
        """The loss that fits what is seen, see `krypton_onnx.runtime.approximate.quality.Check`."""
        return math.exp(self.scale) * float((loss + FLOOR) ** self.power)

    def ssim_bound(self, loss: float) -> float:
        """The SSIM that is promised where so much loss is seen."""
        return 1 - min(1.0, _between(self.expected(loss), self.promises))

    def expected_for(self, target: float) -> float:
        """The loss that may be expected where this SSIM is promised."""
        return _between(1 - target, [(allowed, expected) for expected, allowed in self.promises])

    def between(self, share: float, smoothness: float = 1.0) -> float:
        """What is lost between positions of which a share has been asked, of a map of this smoothness."""
        return (1 - share) * math.exp(smoothness * self._gained(share))

    def smoothness(self, share: float, loss: float) -> float:
        """Of a map of which so much is lost between positions, of which a share below 1 has been asked."""
        return max(0.0, math.log(max(loss, _LEAST_LOSS) / (1 - share)) / self._gained(share))

    def _gained(self, share: float) -> float:
        constant, slope = self.lattice
        return min(constant + slope * share, -LEAST_GAIN)

    def share_between(self, loss: float, smoothness: float = 1.0) -> float:
        """Of the positions that have been asked where no more than this is lost between them; 1 for all."""
        low, high = 0.0, 1.0
        while high - low > _SHARE_STEP:
            middle = (low + high) / 2
            low, high = (low, middle) if self.between(middle, smoothness) <= loss else (middle, high)
        return high

    def least_share(self, target: float) -> float:
        """Of the positions that must have been asked before this SSIM is promised, whatever probes say."""
        return max(LEAST_SHARE, self.share_between(self.expected_for(target) / LITTLE))

    def level_loss(self, level: str) -> float:
        """What is typically lost at a level; 0 for exact answers, and 1 for what has not been seen."""
        return 0.0 if level == EXACT else self.levels.get(level, 1.0)


def _between(value: float, pairs: Sequence[tuple[float, float]]) -> float:
    """What belongs to a value: between known pairs linear in logarithms, beyond them in proportion."""
    known, found = ([math.log(one) for one in column] for column in zip(*pairs, strict=True))
    wanted = math.log(max(value, 1e-12))
    beyond = wanted - min(max(wanted, known[0]), known[-1])
    return math.exp(float(np.interp(wanted, known, found)) + beyond)


UNTUNED = Calibration(
    scale=-0.391,
    power=0.87,
    promises=((0.00945, 0.02), (0.0329, 0.05), (0.0672, 0.1), (0.1017, 0.15), (0.1356, 0.2)),
    lattice=(-1.0, -2.4),
    levels={
        "tau 0.4": 0.1,
        "tau 0.45": 0.0343,
        "tau 0.5": 0.0222,
        "tau 0.6": 0.00406,
        "tau 0.75": 0.001,
        "int8 tau 0.4": 0.104,
        "int8 tau 0.45": 0.0441,
        "int8 tau 0.5": 0.036,
        "int8 tau 0.6": 0.0204,
        "int8 tau 0.75": 0.0189,
        "int8": 0.0199,
    },
    images=38,
)
"""For models that have not been tuned; made by `python bench/quality/calibrate.py`."""
