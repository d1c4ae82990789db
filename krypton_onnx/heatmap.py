"""The result of an explanation: scores on the grid, as a drop, per pixel, as a picture and as a file.

What the numbers mean is defined in docs/heatmap.md.
"""

import io
import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.plot import DPI, INK, MAX_PANELS, Sheet, as_rgb, fitting, outline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFINITION = "1"
"""Version of docs/heatmap.md, which says what the numbers mean."""

Floats = NDArray[np.float32]
Title = str | Sequence[str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """The score of one image at every grid position of a patch.

    Attributes:
        scores: float32 [rows, cols], the score with the patch at each grid position; for a list of T targets
            [T, rows, cols].
        base_score: the score of the image itself; for a list of targets float32 [T].
        origins: int64 [rows, cols, 2], (y, x) of each patch's top-left pixel.
        patch: (height, width) in pixels.
        image_size: (height, width) of the model's input.
        target: the explained class or classes; None where the score belongs to none: a cosine, the user's own function.
        record: settings, hashes, versions, timings; plain JSON values.
        done: whether it is finished; False for what `Session.explain_progressively` gives before the last.
    """

    scores: Floats
    base_score: float | Floats
    origins: NDArray[np.int64]
    patch: tuple[int, int]
    image_size: tuple[int, int]
    target: int | list[int] | None
    record: dict[str, Any] = field(default_factory=dict)
    done: bool = True

    @property
    def drop(self) -> Floats:
        """Base score − scores, float32 in the shape of `scores`; positive = the region supports the prediction."""
        # float32 on both sides: a score that equals the base's drops by exactly 0
        base = np.asarray(self.base_score, dtype=np.float32)[..., None, None]
        return np.asarray(base - self.scores, dtype=np.float32)

    def most_important(self, index: int = 0) -> tuple[int, int, float]:
        """(y, x, drop) of the patch with the largest drop, the first in row-major order where several tie.

        Args:
            index: which of a list of targets.
        """
        drop = np.atleast_1d(np.asarray(self.base_score, np.float32))[index] - _stacked(self.scores)[index]
        row, col = np.unravel_index(np.argmax(np.where(np.isnan(drop), -np.inf, drop)), drop.shape)
        y, x = self.origins[row, col]
        return int(y), int(x), float(drop[row, col])

    def to_pixels(self) -> Floats:
        """The mean drop of all patches that cover a pixel: float32 [H, W], or [T, H, W] for a list of targets.

        NaN where no patch covers the pixel, and where the drop of one that does is not finite.
        """
        maps = _stacked(self.drop)
        pixels = np.empty((len(maps), *self.image_size), np.float32)
        count = self._sum_over_patches(np.ones(maps.shape[1:]))
        for index, drop in enumerate(maps):
            finite = np.isfinite(drop)
            total = self._sum_over_patches(np.where(finite, drop, 0.0))
            defined = (count > 0) & (self._sum_over_patches(1.0 - finite) == 0)
            pixels[index] = np.where(defined, total / np.maximum(count, 1.0), np.nan)
        return pixels if self.scores.ndim == 3 else pixels[0]

    def plot(self, image: NDArray[np.uint8] | None = None, *, title: Title = None) -> "Figure":
        """Draw the picture and, over its grey copy, the drop per pixel: red supports, blue opposes the prediction.

        The colours are symmetric around 0 and reach to the largest drop of their panel; the patch with the
        largest drop is outlined. A list of targets gives a panel each. Needs no display, leaves pyplot alone.

        Args:
            image: what the model sees, uint8 [H, W, 3], [H, W, 1] or [H, W]; without it the drop is drawn alone.
            title: the class's name; for a list of targets a heading, or a list with a name for each.

        Returns:
            A matplotlib figure, 1600 pixels wide or wider when saved at its own resolution.

        Raises:
            KryptonError: the image does not fit the heatmap, the names do not fit the targets, or there are too
                many targets to draw.
        """
        heading, names = self._titles(title)
        colour = None if image is None else as_rgb(image, self.image_size)
        sheet = Sheet.arrange(self.image_size, len(names), picture=colour is not None, heading=bool(heading))
        figure = sheet.figure(heading)
        if colour is not None:
            axes = sheet.picture(figure, colour)
            if len(names) == 1:
                outline(axes, self.most_important(), self.patch)
        for index, pixels in enumerate(_stacked(self.to_pixels())):
            axes = sheet.overlay(figure, index, pixels, colour)
            name = fitting(names[index], sheet.panel[1] / 0.1)
            axes.set_title(name, loc="left", fontsize=11, fontweight="bold", parse_math=False)
            axes.set_xlabel(self._caption(index), loc="left", fontsize=10, color=INK, labelpad=7)
            outline(axes, self.most_important(index), self.patch)
        return figure

    def save(
        self, path: str | os.PathLike[str], image: NDArray[np.uint8] | None = None, *, title: Title = None
    ) -> None:
        """Write the heatmap; the file appears whole or not at all.

        ``.png`` is `plot`, ``.npy`` the scores, ``.npz`` the arrays scores, drop, origins, base_score and pixels,
        and record as a JSON string.

        Args:
            path: the file; its suffix chooses the format.
            image: for .png, see `plot`.
            title: for .png, see `plot`.

        Raises:
            KryptonError: the suffix is another, or the file cannot be written.
        """
        path = Path(path)
        buffer = io.BytesIO()
        match path.suffix.lower():
            case ".png":
                self.plot(image, title=title).savefig(buffer, format="png", dpi=DPI)
            case ".npy":
                np.save(buffer, self.scores)
            case ".npz":
                np.savez(
                    buffer,
                    scores=self.scores,
                    drop=self.drop,
                    origins=self.origins,
                    base_score=self.base_score,
                    pixels=self.to_pixels(),
                    record=json.dumps(self.record),
                )
            case suffix:
                raise KryptonError(f"cannot save a heatmap as '{suffix}' ({path}): use .png, .npy or .npz")
        _write_whole(path, buffer.getvalue())

    def _sum_over_patches(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each pixel the sum of `values` [rows, cols] over the patches that cover it: [H, W].

        Each patch adds its value at its first row and column and takes it back behind its last; running sums then
        spread it over its rectangle, in O(patches + pixels) instead of O(patches · patch area).
        """
        height, width = self.image_size
        steps = np.zeros((height + 1, width + 1))
        top, left = self.origins[..., 0], self.origins[..., 1]
        bottom, right = top + self.patch[0], left + self.patch[1]
        for rows, cols, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
            np.add.at(steps, (rows, cols), sign * values)
        return steps.cumsum(axis=0).cumsum(axis=1)[:height, :width]

    def _titles(self, title: Title) -> tuple[str, list[str]]:
        """(heading, a name for each panel)."""
        count = len(_stacked(self.scores))
        if count > MAX_PANELS:
            raise KryptonError(f"a plot shows up to {MAX_PANELS} targets, not {count}: save as .npz instead")
        numbers = self.target if isinstance(self.target, list) else range(count)
        default = [f"class {n}" for n in numbers]
        if self.scores.ndim == 2:
            default = ["score" if self.target is None else f"class {self.target}"]
        heading, names = (title, default) if isinstance(title, str) else ("", default if title is None else list(title))
        if len(names) != count:
            raise KryptonError(f"the title has {len(names)} names for {count} targets: give one for each")
        return (heading, names) if self.scores.ndim == 3 else (heading or names[0], [""])

    def _caption(self, index: int) -> str:
        base, drop = float(np.atleast_1d(self.base_score)[index]), self.most_important(index)[2]
        return f"score {base:.3g}\nlargest drop {drop:.3g} (outlined)".replace("-", "−")


def _stacked(maps: Floats) -> Floats:
    """[T, rows, cols], with T = 1 for a single target."""
    return maps if maps.ndim == 3 else maps[None]


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that no reader ever meets half a file."""
    aside = path.with_name(f".krypton-{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(content)
        aside.replace(path)
    except OSError as error:
        raise KryptonError(
            f"cannot write {path} ({error.strerror or error}): choose a folder that exists and has room"
        ) from error
    finally:
        with suppress(OSError):  # after the rename it is gone
            aside.unlink()
