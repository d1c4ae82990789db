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
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        target: the explained index or indices; None where the score was the user's own function.
        record: settings, hashes, versions, timings; plain JSON values.
    """

    scores: Floats
    base_score: float | Floats
    origins: NDArray[np.int64]
    patch: tuple[int, int]
    image_size: tuple[int, int]
    target: int | list[int] | None
    record: dict[str, Any] = field(default_factory=dict)

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
        drop = _stacked(self.drop)[index]
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
        colour = None if image is None else _as_rgb(image, self.image_size)
        sheet = _Sheet.arrange(self.image_size, len(names), picture=colour is not None, heading=bool(heading))
        figure = sheet.figure(heading)
        if colour is not None:
            axes = sheet.picture(figure, colour)
            if len(names) == 1:
                _outline(axes, self.most_important(), self.patch)
        for index, pixels in enumerate(_stacked(self.to_pixels())):
            axes = sheet.overlay(figure, index, pixels, colour)
            name = _fitting(names[index], sheet.panel[1] / 0.1)
            axes.set_title(name, loc="left", fontsize=11, fontweight="bold", parse_math=False)
            axes.set_xlabel(self._caption(index), loc="left", fontsize=10, color=_INK, labelpad=7)
            _outline(axes, self.most_important(index), self.patch)
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
                self.plot(image, title=title).savefig(buffer, format="png", dpi=_DPI)
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
        if count > _MAX_PANELS:
            raise KryptonError(f"a plot shows up to {_MAX_PANELS} targets, not {count}: save as .npz instead")
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


# -------------------------------------------------------------------------------------------------- drawing
# All lengths are inches.

_DPI = 160
_MAX_PANELS = 12
_INK = "0.25"
_MARGIN, _GAP = 0.35, 0.3
_BAR_GAP, _BAR = 0.12, 0.14
_STRIP = _BAR_GAP + _BAR + 0.75  # right of an overlay: the colour bar, its numbers and its label
_HEADING, _NAME, _CAPTION = 0.75, 0.3, 0.6
_MAX_PANEL_HEIGHT = 8.0
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where the panels lie: the picture on the left, the overlays in a grid to its right.

    Attributes:
        width, height: of the figure.
        panel: (height, width) of every panel.
        left: where the first panel begins.
        top: where the first row begins.
        name: height of the line above each overlay, 0 where the heading names the only one.
        first: how far right of `left` the grid of overlays begins.
        columns: how many overlays stand side by side.
    """

    width: float
    height: float
    panel: tuple[float, float]
    left: float
    top: float
    name: float
    first: float
    columns: int

    @classmethod
    def arrange(cls, image_size: tuple[int, int], count: int, *, picture: bool, heading: bool) -> Self:
        columns = count if count <= 3 else 2 if count == 4 else 3
        width = (10.0, 12.0, 14.0)[columns - 1]
        strips = columns * _STRIP + (_GAP if picture else 0)
        across = columns + picture
        panel_width = (width - 2 * _MARGIN - strips) / across
        panel_height = panel_width * image_size[0] / image_size[1]
        if panel_height > _MAX_PANEL_HEIGHT:
            panel_width, panel_height = panel_width * _MAX_PANEL_HEIGHT / panel_height, _MAX_PANEL_HEIGHT
        left = (width - strips - across * panel_width) / 2
        name = _NAME if count > 1 else 0.0
        rows = -(-count // columns)
        top = _HEADING if heading else 0.1
        height = top + rows * (name + panel_height + _CAPTION)
        first = panel_width + _GAP if picture else 0.0
        return cls(width, height, (panel_height, panel_width), left, top, name, first, columns)

    def figure(self, heading: str) -> "Figure":
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width, self.height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(
            self.left / self.width,
            1 - 0.42 / self.height,
            _fitting(heading, (self.width - 2 * _MARGIN) / 0.15),
            fontsize=16,
            fontweight="bold",
            va="center",
            parse_math=False,
        )
        return figure

    def picture(self, figure: "Figure", colour: NDArray[np.uint8]) -> "Axes":
        return self._show(figure, (self.left, self.top + self.name), self._enlarged(colour), colour.shape)

    def overlay(self, figure: "Figure", index: int, pixels: Floats, colour: NDArray[np.uint8] | None) -> "Axes":
        """One target's drop per pixel [H, W] over the grey picture, with its colour bar."""
        row, col = divmod(index, self.columns)
        left = self.left + self.first + col * (self.panel[1] + _STRIP)
        top = self.top + self.name + row * (self.name + self.panel[0] + _CAPTION)
        reach = float(np.abs(pixels[np.isfinite(pixels)]).max(initial=0.0)) or 1.0
        values = self._enlarged_drop(pixels / np.float32(reach))
        grey = None if colour is None else self._enlarged(colour) @ np.asarray(_LUMA) / 255
        axes = self._show(figure, (left, top), _blend(values, grey), pixels.shape)
        self._colour_bar(figure, (left + self.panel[1] + _BAR_GAP, top), reach)
        return axes

    def _show(
        self, figure: "Figure", corner: tuple[float, float], picture: NDArray[np.uint8], image_size: Sequence[int]
    ) -> "Axes":
        """A picture, uint8 [h, w, 3], on axes that count the image's own pixels."""
        axes = figure.add_axes(self._box(corner, self.panel))
        axes.imshow(picture, extent=(0, image_size[1], image_size[0], 0), aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def _colour_bar(self, figure: "Figure", corner: tuple[float, float], reach: float) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_axes(self._box(corner, (self.panel[0], _BAR)))
        ramp = np.linspace(1, -1, 512)[:, None]
        axes.imshow(_blend(ramp, None), extent=(0, 1, -reach, reach), aspect="auto")
        axes.set(xticks=[])
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.yaxis.set_offset_position("right")
        axes.yaxis.set_major_locator(MaxNLocator(6, symmetric=True, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
        axes.yaxis.get_offset_text().set(fontsize=9, color=_INK, ha="left")
        axes.tick_params(axis="y", labelsize=9, length=3, color=_INK, labelcolor=_INK)
        axes.set_ylabel("drop in score", fontsize=10, color=_INK, labelpad=4)
        axes.spines[:].set_visible(False)

    def _box(self, corner: tuple[float, float], size: tuple[float, float]) -> tuple[float, float, float, float]:
        """Matplotlib's (left, bottom, width, height) in fractions of the figure."""
        (left, top), (height, width) = corner, size
        return left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height

    def _dots(self) -> tuple[int, int]:
        """(width, height) of a panel in dots, as Pillow wants them."""
        return max(1, round(self.panel[1] * _DPI)), max(1, round(self.panel[0] * _DPI))

    def _enlarged(self, colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        return np.asarray(Image.fromarray(colour).resize(self._dots(), Image.Resampling.LANCZOS))

    def _enlarged_drop(self, pixels: Floats) -> NDArray[np.float64]:
        """Bilinear; a dot is NaN where most of the pixels it is mixed from are."""
        from PIL import Image

        known = np.isfinite(pixels).astype(np.float32)
        value, weight = (
            np.asarray(Image.fromarray(plane).resize(self._dots(), Image.Resampling.BILINEAR), dtype=np.float64)
            for plane in (np.where(known > 0, pixels, np.float32(0)), known)
        )
        return np.where(weight > 0.5, value / np.maximum(weight, 0.5), np.nan)


def _blend(values: NDArray[np.float64], grey: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """Red and blue by sign over `grey`, the more opaque the larger the magnitude: uint8 [h, w, 3].

    Args:
        values: −1 to 1; NaN, where nothing is known, is left pale.
        grey: 0 to 1; white where there is no picture.
    """
    from matplotlib import colormaps

    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    colour = colormaps["RdBu_r"](0.5 + 0.5 * filled)[..., :3]
    mixed: NDArray[np.float64]
    if grey is None:
        mixed = np.where(known[..., None], colour, 0.93)
    else:
        strength = (0.8 * np.abs(filled) ** 0.7)[..., None]
        backdrop = np.where(known, grey, 0.5 + 0.5 * grey)[..., None]
        mixed = strength * colour + (1 - strength) * backdrop
    levels: NDArray[np.float64] = np.rint(255 * np.clip(mixed, 0, 1))
    return levels.astype(np.uint8)


def _fitting(text: str, characters: float) -> str:
    """The text on one line, cut to about so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: int(characters) - 1] + "…"


def _outline(axes: "Axes", place: tuple[int, int, float], patch: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    y, x, _ = place
    for width, colour in ((3.0, "black"), (1.4, "white")):  # seen on dark and light ground alike
        axes.add_patch(
            Rectangle((x, y), patch[1], patch[0], fill=False, linewidth=width, edgecolor=colour, clip_on=False)
        )


def _as_rgb(image: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as uint8 [H, W, 3]."""
    array = np.asarray(image)
    planes = array[..., None] if array.ndim == 2 else array
    shapes = ((*image_size, 1), (*image_size, 3))
    if array.dtype != np.uint8 or planes.shape not in shapes:
        height, width = image_size
        raise KryptonError(
            f"the image under a heatmap is what the model sees, uint8 [{height}, {width}, 3] or [{height}, {width}], "
            f"not {array.dtype} {list(array.shape)}"
        )
    return np.ascontiguousarray(np.broadcast_to(planes, (*image_size, 3)))
