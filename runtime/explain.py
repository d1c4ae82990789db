"""From a question about an image to a heatmap, in one of the modes."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from krypton_onnx.calibration import EXACT, UNTUNED, Calibration
from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.modes import Approximate, Exact, Mode
from krypton_onnx.runtime.approximate.krypton import drilled_down
from krypton_onnx.runtime.approximate.refinement import (
    Draft,
    TooFastError,
    everything,
    stepwise,
    until_good,
    until_spent,
)
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.providers import name_of
from krypton_onnx.runtime.questions import Question
from krypton_onnx.runtime.survey import Level, Progress, Survey

if TYPE_CHECKING:
    from krypton_onnx.runtime.session import Session

TAUS = (0.4, 0.45, 0.5, 0.6, 0.75)
"""Shares of a map that windows are cut to, at the levels that are tried."""


def explain(session: "Session", base: Base, question: Question, mode: Mode, progress: Progress) -> Heatmap:
    """Answer a question about a base; see `Session.explain`."""
    started = time.perf_counter()
    with Survey(base, question, progress) as survey:
        draft = _only(survey, session, mode) or _last(_drafts(survey, session, mode))
        return _heatmap(session, survey, mode, draft, time.perf_counter() - started)


def explain_progressively(
    session: "Session", base: Base, question: Question, mode: Mode, progress: Progress
) -> Iterator[Heatmap]:
    """The same, from coarse to fine; see `Session.explain_progressively`."""
    started = time.perf_counter()
    with Survey(base, question, progress) as survey:
        for draft in _drafts(survey, session, mode):
            yield _heatmap(session, survey, mode, draft, time.perf_counter() - started)


def _only(survey: Survey, session: "Session", mode: Mode) -> Draft | None:
    """The map of a mode that asks every position at one level, at once."""
    match mode:
        case Exact():
            return everything(survey, _level(session, survey.base, 1.0))
        case Approximate(tau=float() | int() as tau, drill_down=None):
            return everything(survey, _level(session, survey.base, tau))
    return None


def _drafts(survey: Survey, session: "Session", mode: Mode) -> Iterator[Draft]:
    base = survey.base
    match mode:
        case Exact():
            return stepwise(survey, _level(session, base, 1.0))
        case Approximate(drill_down=how, tau=tau) if how is not None:
            return drilled_down(survey, _level(session, base, tau or 1.0), how)
        case Approximate(tau=float() | int() as tau):
            return stepwise(survey, _level(session, base, tau))
        case Approximate(speedup=float() | int() as speedup, seed=seed):
            return _sped_up(survey, levels_of(session, base), speedup, seed)
    assert mode.promised_ssim is not None
    return until_good(survey, levels_of(session, base), mode.promised_ssim, _calibration(survey), mode.seed)


def _sped_up(survey: Survey, levels: list[Level], speedup: float, seed: int) -> Iterator[Draft]:
    """By so many times over full inference, the image's own runs included."""
    whole = survey.base.plan.full_seconds * len(survey.places)
    try:
        yield from until_spent(survey, levels, whole / speedup, _calibration(survey), seed)
    except TooFastError as error:
        exactly = survey.query_seconds(levels[-1]) * len(survey.places)
        most = whole / min(error.seconds, exactly)
        raise KryptonError(
            f"This question cannot be answered {speedup:g} times as fast as full inference; ask for a speedup of up to "
            f"{math.floor(most):d}."
        ) from error


def _calibration(survey: Survey) -> Calibration:
    return survey.base.plan.calibration or UNTUNED


def levels_of(session: "Session", base: Base) -> list[Level]:
    """Every level of a model; the last is exact."""
    found = []
    if session.capped is not None:
        found += [_level(session, base, tau) for tau in TAUS]
    if session.int8 is not None:
        found += [Level(f"int8 tau {tau:g}", session.int8, base, tau) for tau in TAUS]
        found.append(Level("int8", session.int8, base, 1.0))
    return [*found, _level(session, base, 1.0)]


def _level(session: "Session", base: Base, tau: float) -> Level:
    """The level of a share of the maps; exact where the model has no windows that would gain by being cut."""
    capped = session.capped if tau < 1 else None
    if capped is None:
        return Level(EXACT, session.exact, base, 1.0)
    return Level(f"tau {tau:g}", capped, base, float(tau))


def _last(drafts: Iterator[Draft]) -> Draft:
    *_, last = drafts
    return last


def _heatmap(session: "Session", survey: Survey, mode: Mode, draft: Draft, seconds: float) -> Heatmap:
    return survey.heatmap(draft.scores, _record(session, survey, mode, draft, seconds), draft.done)


def _record(session: "Session", survey: Survey, mode: Mode, draft: Draft, seconds: float) -> dict[str, Any]:
    """What was asked, of what, with what, and what was done; plain JSON values."""
    plan, question, error = survey.base.plan, survey.question, session.plan.precision_error
    return {
        "mode": "exact" if isinstance(mode, Exact) else "approximate",
        "precision": session.precision,
        "providers": [name_of(provider) for provider in session.providers],
        **({} if error is None else {"precision_error": error}),
        "model": {"file": plan.source.file, "sha256": plan.source.sha256},
        "image_sha256": hashlib.sha256(survey.base.image.tobytes()).hexdigest(),
        "output": question.output or plan.outputs[0].name,
        "target": survey.score.record,
        "patch": list(question.patch),
        "stride": list(question.stride),
        "fill": survey.shown.record,
        "edge": question.edge,
        "region": None if question.region is None else [int(corner) for corner in question.region],
        **({} if isinstance(mode, Exact) else {"approximation": _approximation(survey, mode, draft)}),
        "seconds": round(seconds, 3),
        "versions": {
            "krypton-onnx": version("krypton-onnx"),
            "compiler": plan.compiler,
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    }


def _approximation(survey: Survey, mode: Approximate, draft: Draft) -> dict[str, Any]:
    """What was promised and what was done for it."""
    plan, check = survey.base.plan, draft.check
    spent = sum(one.flops for one in survey.spent.values())
    asked = {name: value for name, value in asdict(mode).items() if value is not None}
    return {
        "asked": asked if mode.promised_ssim is None else {**asked, "ssim": mode.promised_ssim},
        "level": draft.level,
        "share_asked": round(draft.share, 4),
        "queries": [{"level": level, "queries": one.queries} for level, one in survey.spent.items()],
        "probes": 0 if check is None else check.probes,
        "rmse": None if check is None else check.rmse,
        "rmse_interval": None if check is None else list(check.rmse_interval),
        "ssim_bound": draft.ssim_bound,
        "calibrated_on": _calibration(survey).images,
        "flops_saved": 1 - spent / (plan.full_flops * len(survey.places)) if plan.full_flops else None,
    }
