"""`tune`: learn from pictures what a promise about a model's approximate heatmaps takes. Above compiler and driver.

For each picture the exact map is computed, and at each level maps that come nearer to it, by tenths of the positions
and then by more anchors. A fit tells what loss goes with what is seen of them. The margin is a split-conformal
quantile: for every picture and level the factor on that fit with which looking at these maps would have stopped in
time, and of these the one that 98 % keep to, for each of several targets.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from krypton_onnx.artifact import Artifact, rewrite_plan
from krypton_onnx.calibration import EXACT, FLOOR, LEAST_SHARE, Calibration
from krypton_onnx.errors import KryptonError
from krypton_onnx.modes import Approximate, Exact, Mode
from krypton_onnx.runtime.approximate.anchors import Anchors
from krypton_onnx.runtime.approximate.quality import PROBES, ssim
from krypton_onnx.runtime.approximate.refinement import everything, is_worth_it
from krypton_onnx.runtime.approximate.sketch import Sketch, sketches
from krypton_onnx.runtime.explain import explain, levels_of
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.questions import Question
from krypton_onnx.runtime.session import Session
from krypton_onnx.runtime.survey import Level, Survey

TAUS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
"""That Krypton's tuning tries."""

TARGETS = (0.8, 0.85, 0.9, 0.95, 0.98)
"""Promises that the margin is made for."""

MISSED = 0.02
"""Share of other images on which a promise may be missed."""

FEWEST = 20
"""Pictures; the largest of so many is exceeded by one in 21."""

STEP = 0.1
"""Of the positions that are asked between two looks at a map."""

MORE_ANCHORS = (2 * PROBES, 4 * PROBES)
"""That correct a map when every position has been asked."""

_MORE = 1.001
"""What is just enough would still promise."""

_NOTHING = 1e-4
"""A loss that says nothing about how losses fall."""

_FIT = (0.005, 0.3)
"""Losses that the fit is made for."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A map on its way, as probes see it and as it is.

    Attributes:
        level: its name.
        loss: as seen, see `Check`.
        share: of the positions that have been asked.
        anchors: how many.
        true: 1 − SSIM to the exact map.
    """

    level: str
    loss: float
    share: float
    anchors: int
    true: float


def sights(survey: Survey, session: Session, seed: int = 0) -> list[Sight]:
    """What refinement goes through on one image, at every level.

    Args:
        survey: what to ask; of one target.
        session: of the model.
        seed: of the probes.
    """
    *_, exact = levels = levels_of(session, survey.base)
    truth = everything(survey, exact).scores.reshape(survey.origins.shape[:2])
    found = []
    for level in levels:
        anchors = Anchors(survey, exact, PROBES, seed)

        def seen(sketch: Sketch, level: Level = level, anchors: Anchors = anchors) -> Sight:
            judged = anchors.judged(level, sketch)
            assert judged.check is not None
            return Sight(
                level.name, judged.check.loss, sketch.share, len(anchors), 1 - ssim(judged.maps[..., 0], truth)
            )

        drawing = sketches(survey, level)
        sketch = next(drawing)
        found.append(seen(sketch))
        while not sketch.known.all():
            sketch = drawing.send(max(1, round(STEP * sketch.known.size)))
            found.append(seen(sketch))
        for count in () if level.exact else MORE_ANCHORS:
            anchors.extend(count, sketch.known)
            found.append(seen(sketch))
    return found


def calibrated(images: Sequence[Sequence[Sight]]) -> Calibration:
    """The calibration that rests on these images.

    Args:
        images: the sights of each.
    """
    all_ = [sight for image in images for sight in image]
    fitted = [s for s in all_ if _FIT[0] < s.true < _FIT[1] and s.share >= LEAST_SHARE]
    lattices = list(_lattices(images))
    if len(fitted) < 10 or not lattices:
        raise KryptonError(
            "The approximate maps of these pictures differ too little from the exact ones to learn from: give others."
        )
    power, scale = np.polyfit([math.log(s.loss + FLOOR) for s in fitted], [math.log(s.true) for s in fitted], 1)
    if power <= 0:
        raise KryptonError("What probes see of these pictures says nothing of their similarity: give others.")
    fit = Calibration(float(scale), float(power), (), _typical(lattices), _levels(all_), len(images))
    return replace(fit, promises=tuple(_promises(fit, images)))


def _promises(fit: Calibration, images: Sequence[Sequence[Sight]]) -> list[tuple[float, float]]:
    """What may be expected so that no more is lost than is allowed; ascending."""
    found, factor = [], 1.0
    for allowed in sorted((1 - target for target in TARGETS), reverse=True):
        # The less is lost, the rarer are the errors that probes must meet: the factor never falls.
        factor = max(factor, _margin(fit, images, allowed))
        found.append((allowed / factor, allowed))
    return found[::-1]


def _margin(fit: Calibration, images: Sequence[Sequence[Sight]], allowed: float) -> float:
    """The factor that is enough for most images where so much may be lost."""
    margins = sorted(margin for image in images for margin in _margins(fit, image, allowed))
    return margins[min(len(margins), math.ceil((len(margins) + 1) * (1 - MISSED))) - 1]


def _margins(fit: Calibration, image: Sequence[Sight], allowed: float) -> Iterator[float]:
    """The factors with which refinement would have stopped in time on this image, at every level."""
    for level in {sight.level for sight in image}:
        early = [s for s in image if s.level == level and s.true > allowed and s.share >= LEAST_SHARE]
        yield _MORE * max((allowed / fit.expected(s.loss) for s in early), default=1.0)


def _lattices(images: Sequence[Sequence[Sight]]) -> Iterator[tuple[float, float]]:
    """How the loss falls with the share of the positions, image by image; see `Calibration.lattice`."""
    for image in images:
        seen = {s.share: s.true for s in image if s.level == EXACT and s.share < 1 and s.true > _NOTHING}
        if len(seen) > 1:
            slope, constant = np.polyfit(list(seen), [math.log(loss / (1 - share)) for share, loss in seen.items()], 1)
            yield float(constant), float(slope)


def _typical(lattices: Sequence[tuple[float, float]]) -> tuple[float, float]:
    constant, slope = np.median(lattices, axis=0)
    return float(constant), min(float(slope), 0.0)


def _levels(all_: Sequence[Sight]) -> dict[str, float]:
    """The typical loss of levels, once every position has been asked, with the probes for anchors."""
    whole: dict[str, list[float]] = {}
    for sight in all_:
        if sight.level != EXACT and sight.share == 1 and sight.anchors == PROBES:
            whole.setdefault(sight.level, []).append(max(sight.true, FLOOR))
    return {level: float(np.median(losses)) for level, losses in whole.items()}


def tune(
    artifact: Artifact | str | os.PathLike[str], images: Iterable[ArrayLike], question: Question | None = None
) -> Calibration:
    """Learn from images what a promise takes, and store it in the artifact.

    Args:
        artifact: a compiled model, or its path.
        images: at least 20 input tensors, each as for `Session.materialize`.
        question: what will be asked; by default the top class, patch 16, stride 4, fill 0.

    Raises:
        KryptonError: too few images, or grids too small to approximate.
    """
    session = Session(artifact, [CPU])  # whose levels are all there are
    asked = question or Question("top", (16, 16), (4, 4), 0.0, "cover", None, None)
    found = list(_all_sights(session, images, asked))
    if len(found) < FEWEST:
        raise KryptonError(f"{len(found)} pictures are too few to promise anything from: give {FEWEST} or more.")
    calibration = calibrated(found)
    rewrite_plan(session.artifact, replace(session.plan, calibration=calibration))
    return calibration


def krypton_tau(
    session: Session, images: Iterable[ArrayLike], target: float, question: Question, taus: Sequence[float] = TAUS
) -> float:
    """Krypton's own tuning of projective field thresholding: one tau for a model, from a few of its images.

    The mean SSIM of the images at some values of tau is fitted by a parabola. Nothing is promised of other images.

    Args:
        session: of the model.
        images: a few input tensors.
        target: the SSIM.
        question: what is asked; of one target.
        taus: the values that are tried.

    Returns:
        The smallest tau, in hundredths, at which the parabola reaches the target; 1 if it never does.

    Source: Nakandala, Kumar, Papakonstantinou, SIGMOD 2019, section 4.1.
    """
    modes: list[Mode] = [Exact(), *(Approximate(tau=tau) for tau in taus)]
    found: list[list[float]] = []
    for image in images:
        base = session.materialize(image)
        maps = (explain(session, base, question, mode, False).scores.astype(np.float64) for mode in modes)
        exact = next(maps)
        found.append([ssim(cut, exact) for cut in maps])
    return parabola_tau(taus, [float(mean) for mean in np.mean(found, axis=0)], target)


def parabola_tau(taus: Sequence[float], ssims: Sequence[float], target: float) -> float:
    """The smallest tau, in hundredths, at which a parabola through SSIMs reaches a target; 1 if it never does."""
    parabola = np.polynomial.Polynomial.fit(taus, ssims, deg=2)
    tried = np.arange(math.ceil(min(taus) * 100), 101) / 100
    enough = tried[parabola(tried) >= target]
    return float(enough[0]) if len(enough) else 1.0


def _all_sights(session: Session, images: Iterable[ArrayLike], question: Question) -> Iterator[list[Sight]]:
    known: set[bytes] = set()
    for image in images:
        base = session.materialize(image)
        if (content := hashlib.sha256(base.image.tobytes()).digest()) in known:
            raise KryptonError("Two of the pictures are the same: a promise takes as many different ones.")
        known.add(content)
        with Survey(base, question, progress=False) as survey:
            if not is_worth_it(survey):
                rows, cols = survey.origins.shape[:2]
                raise KryptonError(
                    f"A grid of {rows}x{cols} positions is too small to approximate; take a smaller stride."
                )
            yield sights(survey, session)
