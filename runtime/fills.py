"""What a patch shows: colours, the blurred image, noise, another image. docs/heatmap.md defines each of them."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Fill, Preprocess, as_dtype
from krypton_onnx.runtime.base import Content
from krypton_onnx.runtime.batches import Integers
from krypton_onnx.runtime.engine import Array

Floats = NDArray[np.float64]

_REACH = 4
"""Standard deviations at which the Gaussian ends; beyond lie 6e-5 of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What patches show.

    Attributes:
        values: in units of the input tensor and its type: a colour [C], or an image [C, H, W] to cut patches from.
        record: the fill in plain JSON values.
    """

    values: Array
    record: Any

    def content(self, places: Integers, patch: tuple[int, int]) -> Content:
        """The patches' content.

        Args:
            places: int64 [Q, 2], the origins.
            patch: (height, width).
        """
        if self.values.ndim == 1:
            constant = np.broadcast_to(self.values[None, :, None, None], (1, len(self.values), *patch)).copy()
            return lambda queries: constant
        cut = np.lib.stride_tricks.sliding_window_view(self.values, patch, axis=(1, 2))
        return lambda queries: np.stack([cut[:, y, x] for y, x in places[queries]])


def shown_by(fill: Fill | ArrayLike, plan: Plan, image: Array, patch: tuple[int, int]) -> Shown:
    """What a fill shows.

    Args:
        fill: see `Session.explain`.
        plan: its preprocessing, if any, turns pixel units into the tensor's.
        image: the image tensor [C, H, W].
        patch: (height, width), for the default blur.

    Raises:
        KryptonError: an unknown name, numbers that are not finite, or a wrong shape.
    """
    if not isinstance(fill, str):
        return _numbers(fill, plan, image)
    if fill == "mean":
        return Shown(as_dtype(image.mean(axis=(1, 2)), plan.image.dtype), fill)
    made = parse_made(fill)
    if made is None:
        return Shown(_colour(fill, plan, image), fill)
    kind, number = made
    if kind == "blur":
        sigma = max(patch) / 2 if number is None else number
        return Shown(as_dtype(blurred(image, sigma), plan.image.dtype), f"blur:{sigma:g}")
    seed = int(number or 0)
    return Shown(as_dtype(noise_like(image, seed), plan.image.dtype), f"noise:{seed}")


def parse_made(text: str) -> tuple[str, float | None] | None:
    """``blur``, ``blur:SIGMA``, ``noise`` or ``noise:SEED``; None for what is neither blur nor noise.

    Returns:
        The word, and its number if there is one.

    Raises:
        KryptonError: the number is none, or out of range.
    """
    word, colon, number = text.strip().lower().partition(":")
    if word not in ("blur", "noise"):
        return None
    if not colon:
        return word, None
    if word == "noise" and re.fullmatch(r"\d{1,15}", number):
        return word, float(number)
    try:
        sigma = float(number) if word == "blur" else 0.0
    except ValueError:
        sigma = 0.0
    if not 0 < sigma <= 1e4:
        form = "pixels from above 0 to 10000, blur:8" if word == "blur" else "a whole number, noise:7"
        raise KryptonError(f"The fill '{text}' is malformed: after '{word}:' give {form}.")
    return word, sigma


def blurred(image: Array, sigma: float) -> Floats:
    """The image under a Gaussian, mirrored at its borders: float64 [C, H, W].

    Args:
        image: [C, H, W].
        sigma: standard deviation in pixels.
    """
    rows, cols = (_gaussian(extent, sigma) for extent in image.shape[1:])
    return np.asarray(rows @ image.astype(np.float64) @ cols.T)


def _gaussian(extent: int, sigma: float) -> Floats:
    """What each cell of an axis takes of each: float64 [extent, extent], rows summing to 1."""
    reach = max(1, round(_REACH * sigma))
    taps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    # Mirrored as often as the Gaussian is longer than the axis: what lies a period apart falls on the same cells.
    period, steps = 2 * extent, np.arange(extent)
    folded = np.bincount(taps % period, weights, period)
    mixing = folded[(steps - steps[:, None]) % period] + folded[(-1 - steps - steps[:, None]) % period]
    return np.asarray(mixing / weights.sum())


def noise_like(image: Array, seed: int) -> Floats:
    """Normal noise, each pixel drawn by itself, with the image's mean and deviation in each channel: [C, H, W]."""
    mean, deviation = image.mean(axis=(1, 2), dtype=np.float64), image.std(axis=(1, 2), dtype=np.float64)
    drawn = np.random.default_rng(seed).standard_normal(image.shape)
    return np.asarray(mean[:, None, None] + deviation[:, None, None] * drawn)


def _numbers(fill: ArrayLike, plan: Plan, image: Array) -> Shown:
    values = _finite(fill)
    if values.shape == plan.model_shape:
        shown = as_dtype(values, plan.image.dtype)
        record = {"sha256": hashlib.sha256(np.asarray(fill).tobytes()).hexdigest()}
        return Shown(shown.transpose(2, 0, 1) if plan.channels_last else shown, record)
    return Shown(_colour(values, plan, image), values.tolist())


def _colour(fill: str | Floats, plan: Plan, image: Array) -> Array:
    """A named or numbered colour [C]."""
    if plan.preprocess is not None:
        # The picture is read for "mean" alone.
        colour = Preprocess.from_dict(plan.preprocess).fill(fill, np.zeros((1, 1, image.shape[0]), np.uint8))
        return as_dtype(colour, plan.image.dtype)
    if isinstance(fill, str):
        raise KryptonError(
            f"The fill '{fill}' is a colour, and the model was compiled without preprocessing that says what a colour "
            "is; compile it with preprocess=..., or give numbers in units of the input tensor."
        )
    if fill.size not in (1, image.shape[0]) or fill.ndim > 1:
        raise KryptonError(
            f"The fill has the shape {list(fill.shape)}; it can be a number, one number for each of the "
            f"{image.shape[0]} channels, or an image tensor {list(plan.model_shape)}."
        )
    return as_dtype(np.broadcast_to(fill, image.shape[:1]), plan.image.dtype)


def _finite(fill: ArrayLike) -> Floats:
    try:
        values = np.asarray(fill, np.float64)
    except (TypeError, ValueError):
        values = np.full((), np.nan)
    # Beyond that a float32 tensor would hold infinity.
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise KryptonError("The fill must be a name or finite numbers: one, one for each channel, or an image tensor.")
    return values
