"""What other images have taught about approximate maps: the numbers by which a promise is made."""

import math
from dataclasses import dataclass

FLOOR = 1e-3
"""Added to the loss at the probes, for they are few."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the loss of structural similarity, 1 − SSIM, depends on what can be seen of it.

    Attributes:
        scale, power, asked: the fit of the loss, ``exp(scale + asked·share) · (loss_at_probes + FLOOR)^power``, where
            `share` of the positions has been asked.
        margin: the factor on it with which promises are kept on 97 % of other images.
        lattice: (a, b), the typical loss of a map of which a share has been asked, ``exp(a + b·share)``.
        levels: the typical loss of every position asked at a level, by its name.
        images: how many it rests on.
    """

    scale: float
    power: float
    asked: float
    margin: float
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
        return 1 - min(1.0, self.margin * self.expected(loss, share))

    def share_needed(self, target: float, level: str) -> float:
        """Of the positions that must be asked until this SSIM can be promised; infinite if all are not enough."""
        left = (1 - target) / self.margin - self.level_loss(level)
        constant, slope = self.lattice
        return max(0.0, (math.log(left) - constant) / slope) if left > 0 else math.inf

    def share_missing(self, bound: float, target: float) -> float:
        """How much more of the positions to ask when so much is promised as yet."""
        return math.log((1 - bound) / (1 - target)) / -self.lattice[1] if bound < 1 else 0.0

    def typical_loss(self, share: float, level: str) -> float:
        """Of a map of which so many positions have been asked."""
        constant, slope = self.lattice
        return self.level_loss(level) + (math.exp(constant + slope * share) if share < 1 else 0.0)

    def level_loss(self, level: str) -> float:
        """Of a map of which all positions have been asked; 0 for exact answers, and 1 for what has not been seen."""
        return 0.0 if level == "exact" else self.levels.get(level, 1.0)


UNTUNED = Calibration(
    scale=0.16,
    power=0.83,
    asked=-0.956,
    margin=1.29,
    lattice=(-0.918, -4.225),
    levels={
        "tau 0.4": 0.18,
        "tau 0.5": 0.073,
        "tau 0.6": 0.05,
        "tau 0.75": 0.017,
        "int8 tau 0.4": 0.2,
        "int8 tau 0.5": 0.1,
        "int8 tau 0.6": 0.08,
        "int8 tau 0.75": 0.05,
        "int8": 0.04,
    },
    images=26,
)
"""For models that have not been tuned; made by `python bench/quality/calibrate.py`."""
