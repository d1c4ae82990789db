"""How alike two heatmaps of one picture are: an approximate one and the exact one."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

Grid = NDArray[np.float64]

WINDOW = 7
"""Cells, and pixels, along a side of the window of a structural similarity."""
TOP = 0.1
"""Share of the grid that `Measures.overlap` looks at."""


@dataclass(frozen=True, slots=True)
class Measures:
    """How an approximate map compares with the exact one.

    Range means the exact map's largest score minus its smallest. A map is constant if that is 0. If the exact one is,
    no error can be compared with the range and no place is more important than another: where the approximate map is
    the same, all is perfect (1, or an error of 0), and where it differs at all, the similarities are 0, the errors
    infinite and the places wrong. If only the approximate one is, `pearson` and `rank` are 0, and the rest is defined.

    Attributes:
        ssim: structural similarity of the two grids of scores: the mean over uniform windows of 7 cells a side (the
            largest odd number that fits, where the grid is smaller), data range = range; 1 for the same map.
        ssim_rendered: structural similarity as Krypton measured it, of two pictures in 8 bits: each map is stretched
            to its own smallest and largest value, coloured by jet, resized bilinearly to the image; the mean over
            windows of 7 pixels and three channels, data range 255. Blind to scale and offset, so that two maps of
            which one is faint can be the same picture. A constant map is drawn in the lowest colour.
        rmse: root of the mean squared error ÷ range.
        pearson: correlation of the drops.
        rank: correlation of their ranks (Spearman), ties sharing their mean rank.
        overlap: of the exact map's largest tenth of cells (rounded up), the share that is in the approximate map's
            largest tenth; ties go in row-major order.
        max_error: the largest |approximate − exact| ÷ range.
        same_place: whether the largest drops (the first in row-major order) lie within one patch of each other: on
            both axes their origins differ by less than its length, so that the two patches overlap.
    """

    ssim: float
    ssim_rendered: float
    rmse: float
    pearson: float
    rank: float
    overlap: float
    max_error: float
    same_place: bool


PERFECT = Measures(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, same_place=True)
HOPELESS = Measures(0.0, 0.0, math.inf, 0.0, 0.0, 0.0, math.inf, same_place=False)


def compare(
    approximate: NDArray[np.floating],
    exact: NDArray[np.floating],
    origins: NDArray[np.int64],
    patch: tuple[int, int],
    image_size: tuple[int, int],
) -> Measures:
    """Compare two maps of scores over one grid.

    Args:
        approximate, exact: [rows, cols], scores as `Heatmap.scores`, all finite.
        origins: int64 [rows, cols, 2], (y, x) of each cell's patch in pixels, as `Heatmap.origins`.
        patch: its height and width in pixels.
        image_size: height and width in pixels.

    Raises:
        ValueError: the shapes disagree, a score is not finite, or the grid has fewer than 3 rows or columns.
    """
    ours, theirs = _grid(approximate), _grid(exact)
    if not ours.shape == theirs.shape == origins.shape[:2]:
        raise ValueError(f"maps {ours.shape} and {theirs.shape} over a grid {origins.shape[:2]}: they must agree")
    extent = float(np.ptp(theirs))
    if extent == 0:
        return PERFECT if np.array_equal(ours, theirs) else HOPELESS
    error = np.abs(ours - theirs)
    ssim = _similarity(ours, theirs, extent)
    ours, theirs = -ours, -theirs  # drops, but for the image's own score, which matters to nothing below
    return Measures(
        ssim=ssim,
        ssim_rendered=_similarity(rendered(ours, image_size), rendered(theirs, image_size), 255.0),
        rmse=float(np.sqrt(np.mean(error**2))) / extent,
        pearson=_correlation(ours.ravel(), theirs.ravel()),
        rank=_correlation(rankdata(ours.ravel()), rankdata(theirs.ravel())),
        overlap=_overlap(ours, theirs),
        max_error=float(error.max()) / extent,
        same_place=_same_place(ours, theirs, origins, patch),
    )


def rendered(drop: NDArray[np.floating], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """A map as Krypton drew it: stretched to its own range, jet, resized bilinearly; uint8 [H, W, 3].

    Args:
        drop: [rows, cols].
        image_size: H and W in pixels.
    """
    values = drop.astype(np.float64)
    extent = np.ptp(values)
    colours = colormaps["jet"]((values - values.min()) / (extent or 1.0), bytes=True)[..., :3]
    height, width = image_size
    picture = Image.fromarray(np.ascontiguousarray(colours)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _grid(drop: NDArray[np.floating]) -> Grid:
    values = np.asarray(drop, np.float64)
    if values.ndim != 2 or min(values.shape) < 3:
        raise ValueError(f"a map {values.shape}: it needs two axes, three rows and three columns")
    if not np.isfinite(values).all():
        raise ValueError("a map has scores that are not finite")
    return values


def _similarity(ours: NDArray[np.generic], theirs: NDArray[np.generic], extent: float) -> float:
    side = min(WINDOW, *theirs.shape[:2])
    window = side if side % 2 else side - 1
    axis = 2 if theirs.ndim == 3 else None
    settings = {"win_size": window, "data_range": extent, "channel_axis": axis}
    return float(structural_similarity(ours, theirs, **settings))  # type: ignore[no-untyped-call]


def _correlation(ours: Grid, theirs: Grid) -> float:
    return float(np.corrcoef(ours, theirs)[0, 1]) if np.ptp(ours) else 0.0


def _overlap(ours: Grid, theirs: Grid) -> float:
    count = math.ceil(TOP * theirs.size)
    both = set(_largest(ours, count)) & set(_largest(theirs, count))
    return len(both) / count


def _largest(drop: Grid, count: int) -> list[int]:
    return [int(cell) for cell in np.argsort(-drop, axis=None, kind="stable")[:count]]


def _same_place(ours: Grid, theirs: Grid, origins: NDArray[np.int64], patch: tuple[int, int]) -> bool:
    flat = origins.reshape(-1, 2)
    apart = np.abs(flat[ours.argmax()] - flat[theirs.argmax()])
    return bool((apart < patch).all())
