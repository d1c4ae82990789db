"""The ways to a heatmap that `evaluate.py` compares: Krypton's settings, and ours with and without bytes.

Krypton's own choice of tau, for a similarity that is asked for, is `krypton_onnx.tuning.parabola_tau`: SSIM is seen on
a few pictures at some settings, and every other picture gets the smallest tau at which a parabola reaches the target.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal
from unittest.mock import patch

import krypton_onnx as kx
from krypton_onnx.runtime import explain as explaining
from krypton_onnx.runtime.explain import levels_of
from krypton_onnx.runtime.survey import Level

Family = Literal["exact", "Krypton's tau", "Krypton's drill-down", "Krypton, tuned", "ours, fp32", "ours, int8"]

TAUS = (0.31, 0.4, 0.46, 0.5, 0.6, 0.7)
FRACTIONS = (0.1, 0.2, 0.3)
STRIDES = (8, 12)
DRILLED_TAUS = (0.7, 0.5, 0.4)
SSIMS = (0.8, 0.85, 0.9, 0.95, 0.98)
SPEEDUPS = (4, 5, 6, 8, 10, 12, 15, 20)

TUNED_FOR = 0.9
"""The SSIM that Krypton's tau is chosen for."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to a heatmap.

    Attributes:
        name: its setting; unique in the family.
        family: whose it is.
        mode: as `Session.explain` takes it.
        target: the SSIM that it is to reach on every picture; None if it promises none.
    """

    name: str
    family: Family
    mode: kx.Exact | kx.Approximate
    target: float | None = None

    @property
    def may_be_refused(self) -> bool:
        """Whether it asks for a speed, which not every model can have."""
        return isinstance(self.mode, kx.Approximate) and self.mode.speedup is not None

    def restricted(self) -> AbstractContextManager[None]:
        """What has to hold while it runs."""
        return fp32_alone() if self.family == "ours, fp32" else nullcontext()


def all_methods(tuned: float, *, in_bytes: bool) -> list[Method]:
    """Every way.

    Args:
        tuned: from `parabola_tau`, for `TUNED_FOR`.
        in_bytes: whether the model has a variant in bytes; without it both of our families are the same.
    """
    chosen = Method(f"tau {tuned:.3f} for {TUNED_FOR:g}", "Krypton, tuned", kx.Approximate(tau=tuned), TUNED_FOR)
    ours = [*_ours("ours, fp32"), *(_ours("ours, int8") if in_bytes else ())]
    return [Method("exact", "exact", kx.Exact()), *_thresholds(), *_drill_downs(), chosen, *ours]


def _thresholds() -> Iterator[Method]:
    for tau in TAUS:
        yield Method(f"tau {tau:g}", "Krypton's tau", kx.Approximate(tau=tau))


def _drill_downs() -> Iterator[Method]:
    for fraction in FRACTIONS:
        for stride in STRIDES:
            for tau in DRILLED_TAUS:
                name = f"r {fraction:g}, S1 {stride}, tau {tau:g}"
                mode = kx.Approximate(tau=tau, drill_down=kx.DrillDown(fraction, stride))
                yield Method(name, "Krypton's drill-down", mode)


def _ours(family: Family) -> Iterator[Method]:
    for ssim in SSIMS:
        yield Method(f"ssim {ssim:g}", family, kx.Approximate(ssim=ssim), ssim)
    for speedup in SPEEDUPS:
        yield Method(f"speedup {speedup:g}", family, kx.Approximate(speedup=speedup))


@contextmanager
def fp32_alone() -> Iterator[None]:
    """No level in bytes while it lasts."""

    def without_bytes(session: kx.Session, base: kx.Base) -> list[Level]:
        return [level for level in levels_of(session, base) if not level.name.startswith("int8")]

    with patch.object(explaining, "levels_of", without_bytes):
        yield
