"""How good an approximate map is: what exact probes say, and what is promised of it.

With errors that do not depend on the map, the SSIM of a window is (2·variance + C2) / (2·variance + C2 + error²), the
variance being that of the map in the window. So where a map is wrong by e, it loses about e² / (2·variance + C2 + e²),
and the mean of that over exact probes at random positions is a rough estimate of 1 − SSIM. A `Calibration` makes it
a bound: a fit, and the factor by which the true loss exceeds it on few of other images (a split-conformal quantile).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PROBES = 48
"""Positions that are asked exactly to check a map."""

WINDOW = 7
"""Positions along a side of the windows of SSIM."""

_CONTRAST = 0.03**2
"""SSIM's constant C2, for a data range of 1."""

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """What exact probes say of a map.

    Attributes:
        probes: how many.
        rmse: root of the mean square error, in units of the score; of a list of targets the largest.
        rmse_interval: a confidence interval of it, 95 %, by resampling the probes.
        loss: `structural_loss`; of a list of targets the largest.
    """

    probes: int
    rmse: float
    rmse_interval: tuple[float, float]
    loss: float


def check(maps: Floats, errors: Floats, probes: Integers) -> Check:
    """What errors at probes say of maps.

    Args:
        maps: [rows, cols, T].
        errors: [M, T].
        probes: int64 [M], indices of the positions.
    """
    squares = errors**2
    worst = int(np.argmax(squares.mean(axis=0)))
    picks = np.random.default_rng(0).integers(0, len(probes), (_RESAMPLES, len(probes)))
    means = squares[:, worst][picks].mean(axis=1)
    low, high = (float(math.sqrt(q)) for q in np.quantile(means, (0.025, 0.975)))
    losses = [structural_loss(maps[..., t], errors[:, t], probes) for t in range(maps.shape[2])]
    return Check(len(probes), float(math.sqrt(squares[:, worst].mean())), (low, high), max(losses))


def structural_loss(scores: Floats, errors: Floats, probes: Integers) -> float:
    """Mean loss of structural similarity where a map is wrong.

    Args:
        scores: the map, [rows, cols].
        errors: [M], at the probes.
        probes: int64 [M], indices of the positions.
    """
    finite = np.isfinite(scores)
    scores = np.where(finite, scores, scores[finite].mean() if finite.any() else 0.0)
    squares = errors**2
    allowed = 2 * _local_variance(scores).reshape(-1)[probes] + _CONTRAST * np.ptp(scores) ** 2 + squares
    return float(np.divide(squares, allowed, out=np.zeros_like(squares), where=squares > 0).mean())


def _local_variance(scores: Floats) -> Floats:
    mean = _local_mean(scores)
    variance: Floats = np.maximum(_local_mean((scores - scores.mean()) ** 2) - (mean - scores.mean()) ** 2, 0.0)
    return variance


def _local_mean(values: Floats) -> Floats:
    """Over the window around each position; beyond the border lie mirrored positions."""
    padded = np.pad(values, WINDOW // 2, mode="symmetric")
    means: Floats = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW)).mean(axis=(2, 3))
    return means


def ssim(approximate: Floats, exact: Floats) -> float:
    """Structural similarity of two maps [rows, cols]: windows of 7 positions, data range of the exact map.

    The mean over all windows that lie inside, as scikit-image defines it. 1 for equal maps, whatever their range.

    Source: Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    if np.array_equal(approximate, exact):
        return 1.0
    span = float(np.ptp(exact))
    luminance, contrast = (0.01 * span) ** 2, _CONTRAST * span**2
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
