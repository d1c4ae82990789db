"""Krypton's own approximations, by its settings: projective field thresholding and adaptive drill-down.

Source: Nakandala, Kumar, Papakonstantinou, SIGMOD 2019, section 4. What the first thresholds is the window of every
tensor: that is a level's `tau`, and done by the driver.
"""

from collections.abc import Iterator

import numpy as np

from krypton_onnx import geometry
from krypton_onnx.modes import DrillDown
from krypton_onnx.runtime.approximate.quality import Floats, Integers
from krypton_onnx.runtime.approximate.refinement import Draft
from krypton_onnx.runtime.survey import Level, Survey


def drilled_down(survey: Survey, level: Level, how: DrillDown) -> Iterator[Draft]:
    """A coarse grid, bilinear between its positions; then the lowest scores of the fine grid again.

    Args:
        survey: what to ask; its grid is the fine one.
        level: how to answer, in both stages.
        how: the coarse grid, and how much of the fine one is asked. Of a list of targets the mean score counts.
    """
    rows, cols = survey.origins[:, 0, 0], survey.origins[0, :, 1]
    stride = how.coarse_stride(survey.question.stride)
    coarse = [_coarse(axis, step) for axis, step in zip((rows, cols), stride, strict=True)]
    places = np.stack(np.meshgrid(*coarse, indexing="ij"), axis=-1).reshape(-1, 2)
    known = survey.ask(level, places).astype(np.float64).reshape(len(coarse[0]), len(coarse[1]), -1)
    down, across = _between(coarse[0], rows), _between(coarse[1], cols)
    scores = np.einsum("ri,cj,ijt->rct", down, across, known).reshape(len(survey.places), -1)
    lowest = np.argsort(scores.mean(axis=1), kind="stable")[: round(how.fraction * len(scores))]
    yield Draft(scores, level.name, 0.0, None, None, done=len(lowest) == 0)
    if len(lowest):
        scores = scores.copy()
        scores[lowest] = survey.at(level, np.sort(lowest))[np.argsort(np.argsort(lowest))]
        yield Draft(scores, level.name, len(lowest) / len(scores), None, None, done=True)


def _coarse(axis: Integers, stride: int) -> Integers:
    """Origins from the fine grid's first to its last."""
    first, last = int(axis[0]), int(axis[-1])
    return geometry.grid_axis(first, last + 1, 1, stride, cover=True)


def _between(known: Integers, wanted: Integers) -> Floats:
    """Weights [wanted, known] of linear interpolation."""
    return np.stack([np.interp(wanted, known, one) for one in np.eye(len(known))], axis=1)
