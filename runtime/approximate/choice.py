"""Choosing the level to refine: by what other images have taught, and then by what probes say of this one.

What other images have taught is meant to be hopeful: a level that would be best if all went well is tried at the
probes, and what is found there takes the place of the hope. The level that is best by what has been found is chosen.
"""

from collections.abc import Callable, Sequence

from krypton_onnx.calibration import Calibration
from krypton_onnx.runtime.approximate.anchors import Anchors
from krypton_onnx.runtime.approximate.quality import Floats
from krypton_onnx.runtime.survey import Level

ROUGH = 0.4
"""The loss by a whole map, over that by an outline, which is smoother, so that the same errors seem to matter more."""


class Choice:
    """What is believed of the levels of one survey.

    Args:
        anchors: whose probes levels are tried at.
        calibration: what other images have taught.
        outline: a rough map [rows, cols, T] by a level.
    """

    def __init__(self, anchors: Anchors, calibration: Calibration, outline: Callable[[Level], Floats]) -> None:
        self._anchors, self._calibration, self._outline = anchors, calibration, outline
        self._rough: Floats | None = None
        self._found: dict[str, float] = {}

    def loss(self, level: Level) -> float:
        """What is believed to be lost where all positions are asked at a level."""
        return self._found.get(level.name, self._calibration.level_loss(level.name))

    def best(self, levels: Sequence[Level], cost: Callable[[Level], float]) -> Level:
        """The level of the least cost.

        Args:
            levels: to choose from.
            cost: of a level, by what is believed of it at the time.
        """
        while True:
            level = min(levels, key=cost)
            if level.exact or level.name in self._found or not len(self._anchors.probes):
                return level
            self._try(level)

    def _try(self, level: Level) -> None:
        if self._rough is None:
            self._rough = self._outline(level)
        loss = ROUGH * self._anchors.loss_at_best(level, self._rough)
        self._found[level.name] = self._calibration.expected(loss, 1.0)
