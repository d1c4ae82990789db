"""How good an approximate map is: what exact probes say, and what is promised of it.

With errors that do not depend on the map, the SSIM of a window is (2·variance + C2) / (2·variance + C2 + error²), the
variance being that of the map in the window. So where a map is wrong by e, it loses about e² / (2·variance + C2 + e²),
and where its mean m is wrong by that, about e² / (2·m² + C1 + e²) more, which tells where scores are near zero.
Of the answers of a level, exact probes at random positions tell e; of what lies between the positions that have been
asked, every answer tells how wrong the map was there before. The two together are a rough estimate of 1 − SSIM. A
`Calibration` makes it a bound: a fit, and the factor by which the true loss exceeds it on few of other images (a
split-conformal quantile).
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PROBES = 48
"""Positions that are asked exactly to check a map."""

WINDOW = 7
"""Positions along a side of the windows of SSIM."""

_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2
"""SSIM's constants C1 and C2, for a data range of 1."""

_TOGETHER = 8.0
"""Positions beside one another whose errors are about the same, so that they do not cancel in a window's mean."""

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """What exact probes say of a map; of a list of targets, the most that is said of any.

    Attributes:
        probes: how many.
        rmse: root of the mean square error, in units of the score.
        rmse_interval: a confidence interval of it, 95 %, by resampling the probes.
        between: loss of structural similarity by positions that have not been asked.
        level: by answers that are not exact.
    """

    probes: int
    rmse: float
    rmse_interval: tuple[float, float]
    between: float
    level: float

    @property
    def loss(self) -> float:
        """By both."""
        return self.between + self.level


def check(maps: Floats, left: Floats, expected: Floats, variance: Floats, probes: Integers) -> Check:
    """What probes say of maps.

    Args:
        maps: [rows, cols, T].
        left: [M, T], the error of the level's answers at the probes, as far as the other anchors do not correct it.
        expected: [M, T], how far the maps are from these answers.
        variance: [rows, cols, T], of what has not been asked about.
        probes: int64 [M], indices of the positions.
    """
    squares = (left + expected) ** 2
    worst = int(np.argmax(squares.mean(axis=0)))
    means = squares[:, worst][_picks(len(probes))].mean(axis=1)
    low, high = (float(math.sqrt(q)) for q in np.quantile(means, (0.025, 0.975)))
    losses = [
        (loss_between(scores, doubtful), structural_loss(scores, doubtful, errors, probes))
        for scores, doubtful, errors in zip(np.moveaxis(maps, 2, 0), np.moveaxis(variance, 2, 0), left.T, strict=True)
    ]
    return Check(len(probes), float(math.sqrt(squares[:, worst].mean())), (low, high), *max(losses, key=sum))


@cache
def _picks(count: int) -> Integers:
    """Probes, drawn again: [resamples, count]."""
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))


def structural_loss(scores: Floats, variance: Floats, errors: Floats, probes: Integers) -> float:
    """Mean loss of structural similarity where a map is wrong.

    Args:
        scores: the map, [rows, cols].
        variance: [rows, cols], of what has not been asked about, by which the exact map varies more than this one.
        errors: [M], at the probes.
        probes: int64 [M], indices of the positions.
    """
    structure = _allowed(scores) + 2 * _local_mean(variance)
    places = (bounds.reshape(-1)[probes] for bounds in (structure, _brightness(scores)))
    return float(_lost_in_both(errors**2, *places).mean())


def loss_between(scores: Floats, variance: Floats) -> float:
    """Mean loss of structural similarity of a map that is expected to be wrong by so much: [rows, cols] each."""
    half = WINDOW // 2
    lost = _lost_in_both(_local_mean(variance), _allowed(scores), _brightness(scores))
    return float(lost[half:-half, half:-half].mean())


def _lost_in_both(squares: Floats, structure: Floats, brightness: Floats) -> Floats:
    """Of errors with these squares, by windows' structure and by their means, in which errors cancel."""
    lost = _lost(squares, structure) + _lost(squares * _TOGETHER / WINDOW**2, brightness)
    return np.minimum(lost, 1.0)


def _lost(squares: Floats, allowed: Floats) -> Floats:
    return np.divide(squares, allowed + squares, out=np.zeros_like(squares), where=squares > 0)


def _allowed(scores: Floats) -> Floats:
    """2 · variance + C2 around every position."""
    scores = _filled(scores)
    return 2 * _local_variance(scores) + _CONTRAST * np.ptp(scores) ** 2


def _brightness(scores: Floats) -> Floats:
    """2 · mean² + C1 around every position: an error of the mean costs more, the nearer that is to nothing."""
    scores = _filled(scores)
    brightness: Floats = 2 * _local_mean(scores) ** 2 + _LUMINANCE * np.ptp(scores) ** 2
    return brightness


def _filled(scores: Floats) -> Floats:
    finite = np.isfinite(scores)
    return np.where(finite, scores, scores[finite].mean() if finite.any() else 0.0)


def _local_variance(scores: Floats) -> Floats:
    mean = _local_mean(scores)
    variance: Floats = np.maximum(_local_mean((scores - scores.mean()) ** 2) - (mean - scores.mean()) ** 2, 0.0)
    return variance


def _local_mean(values: Floats) -> Floats:
    """Over the window around each position; beyond the border lie mirrored positions."""
    padded = np.pad(values, WINDOW // 2, mode="symmetric")
    rows, cols = values.shape
    down = np.add.reduce([padded[shift : shift + rows] for shift in range(WINDOW)])
    means: Floats = np.add.reduce([down[:, shift : shift + cols] for shift in range(WINDOW)]) / WINDOW**2
    return means


def ssim(approximate: Floats, exact: Floats) -> float:
    """Structural similarity of two maps [rows, cols]: windows of 7 positions, data range of the exact map.

    The mean over all windows that lie inside, as scikit-image defines it. 1 for equal maps, whatever their range.

    Source: Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    if np.array_equal(approximate, exact):
        return 1.0
    span = float(np.ptp(exact))
    luminance, contrast = _LUMINANCE * span**2, _CONTRAST * span**2
    mine, theirs = (_windows(values) for values in (approximate, exact))
    means = mine.mean(axis=(2, 3)), theirs.mean(axis=(2, 3))
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variances = unbiased * mine.var(axis=(2, 3)), unbiased * theirs.var(axis=(2, 3))
    together = unbiased * ((mine * theirs).mean(axis=(2, 3)) - means[0] * means[1])
    likeness = (2 * means[0] * means[1] + luminance) * (2 * together + contrast)
    bound = (means[0] ** 2 + means[1] ** 2 + luminance) * (variances[0] + variances[1] + contrast)
    return float((likeness / bound).mean())


def _windows(values: Floats) -> Floats:
    """[.., .., 7, 7], all that lie inside; of the whole map, if that is smaller."""
    size = tuple(min(WINDOW, extent) for extent in values.shape)
    return np.lib.stride_tricks.sliding_window_view(values, size)
