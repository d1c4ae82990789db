"""How a heatmap is computed: exactly, or approximately with a quality or a speed that is promised."""

import math
from dataclasses import dataclass

import numpy as np

from krypton_onnx.errors import KryptonError

DEFAULT_SSIM = 0.9
"""What `Approximate` promises where nothing else is asked: Krypton's own target."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Every position of the grid, and of every tensor all that can change: the same numbers as full inference."""


def _make_numbers(mode: object, what: str, *names: str) -> None:
    """Python's numbers of those of numpy, which records could not hold.

    Raises:
        KryptonError: one of the fields is no number.
    """
    for name in names:
        value = getattr(mode, name)
        if value is None:
            continue
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise KryptonError(f"The {name} of {what} is {value!r}; it must be a number.")
        if isinstance(value, np.generic):
            object.__setattr__(mode, name, value.item())


@dataclass(frozen=True, slots=True)
class DrillDown:
    """Krypton's adaptive drill-down: a coarse grid first, then the most important part of the fine one.

    Attributes:
        fraction: r, the share of the fine grid's positions that is asked: those with the lowest scores.
        stride: S1, pixels between the coarse grid's positions; None to find it by `speedup`.
        speedup: t, over asking the whole fine grid; with S2, the fine grid's stride, S1 = S2·√(t / (1 − r·t)).

    Raises:
        KryptonError: the numbers contradict one another.

    Source: Nakandala, Kumar, Papakonstantinou, SIGMOD 2019, section 4.2.
    """

    fraction: float = 0.25
    stride: int | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        _make_numbers(self, "a drill-down", "fraction", "stride", "speedup")
        if not 0 <= self.fraction < 1:
            raise KryptonError(f"The fraction of a drill-down is {self.fraction}; it must be from 0 to below 1.")
        if (self.stride is None) == (self.speedup is None):
            raise KryptonError("A drill-down takes either the stride of its coarse grid or a speedup.")
        if self.stride is not None and not (isinstance(self.stride, int) and self.stride >= 1):
            raise KryptonError(f"The stride of a drill-down is {self.stride!r}; it must be whole pixels from 1 on.")
        if self.speedup is not None and not (self.speedup >= 1 and self.fraction * self.speedup < 1):
            raise KryptonError(
                f"A drill-down that asks {self.fraction:g} of the positions again cannot be {self.speedup:g} times as "
                "fast: give a smaller fraction or speedup."
            )

    def coarse_stride(self, stride: tuple[int, int]) -> tuple[int, int]:
        """S1, (y, x), for the fine grid's stride."""
        if self.speedup is None:
            assert self.stride is not None
            return self.stride, self.stride
        factor = math.sqrt(self.speedup / (1 - self.fraction * self.speedup))
        return max(1, round(stride[0] * factor)), max(1, round(stride[1] * factor))


@dataclass(frozen=True, slots=True)
class Approximate:
    """A heatmap that is sooner there than the exact one. Ask for one of three things.

    Attributes:
        ssim: a structural similarity to the exact map that is promised (window of 7 positions, data range of the exact
            map). It is checked on the image itself, and more is computed, up to the exact map, until it holds.
        speedup: over full inference, by predicted times, so that the result never depends on the clock.
        tau: projective field thresholding by Krypton's name: the share of a map's rows, and columns, that a window may
            have; 1 for all that can change.
        drill_down: Krypton's adaptive drill-down, alone or with `tau`.
        seed: of the positions that are checked exactly.

    Raises:
        KryptonError: two of them at once, or a number out of range.
    """

    ssim: float | None = None
    speedup: float | None = None
    tau: float | None = None
    drill_down: DrillDown | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _make_numbers(self, "Approximate", "ssim", "speedup", "tau", "seed")
        knobs = self.tau is not None or self.drill_down is not None
        if sum((self.ssim is not None, self.speedup is not None, knobs)) > 1:
            raise KryptonError("Approximate takes one of ssim, speedup, and tau with or without drill_down.")
        if self.ssim is not None and not 0 < self.ssim < 1:
            raise KryptonError(f"The promised SSIM is {self.ssim}; it must lie between 0 and 1, such as 0.9.")
        if self.speedup is not None and not (self.speedup >= 1 and math.isfinite(self.speedup)):
            raise KryptonError(f"The speedup is {self.speedup}; it must be 1 or more, such as 10.")
        if self.tau is not None and not 0 < self.tau <= 1:
            raise KryptonError(f"tau is {self.tau}; it must be over 0 and up to 1, such as 0.5.")
        if self.drill_down is not None and not isinstance(self.drill_down, DrillDown):
            raise KryptonError(f"drill_down must be a krypton_onnx.DrillDown, not {self.drill_down!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise KryptonError(f"The seed is {self.seed!r}; it must be a whole number from 0 on.")

    @property
    def promised_ssim(self) -> float | None:
        """The SSIM that is promised; None where something else was asked for."""
        asked_otherwise = self.speedup is not None or self.tau is not None or self.drill_down is not None
        return self.ssim if self.ssim is not None or asked_otherwise else DEFAULT_SSIM


Mode = Exact | Approximate
