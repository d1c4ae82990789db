"""Drawing a heatmap with matplotlib, which is imported when something is drawn. All lengths are inches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]

DPI = 160
"""Dots an inch of a saved plot."""
MAX_PANELS = 12
"""Targets that fit on a sheet and can still be read."""
INK = "0.25"
"""Grey of all small print."""
_MARGIN, _GAP = 0.35, 0.3
_BAR_GAP, _BAR = 0.12, 0.14
_STRIP = _BAR_GAP + _BAR + 0.75  # right of an overlay: the colour bar, its numbers and its label
_HEADING, _NAME, _CAPTION = 0.75, 0.3, 0.6
_MAX_PANEL_HEIGHT = 8.0
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True, slots=True)
class Sheet:
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
        """A sheet for `count` overlays of an image of (height, width)."""
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
        """The empty figure with its heading."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(
            self.left / self.width,
            1 - 0.42 / self.height,
            fitting(heading, (self.width - 2 * _MARGIN) / 0.15),
            fontsize=16,
            fontweight="bold",
            va="center",
            parse_math=False,
        )
        return figure

    def picture(self, figure: "Figure", colour: NDArray[np.uint8]) -> "Axes":
        """The picture itself, uint8 [H, W, 3], on the left."""
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
        axes.yaxis.get_offset_text().set(fontsize=9, color=INK, ha="left")
        axes.tick_params(axis="y", labelsize=9, length=3, color=INK, labelcolor=INK)
        axes.set_ylabel("drop in score", fontsize=10, color=INK, labelpad=4)
        axes.spines[:].set_visible(False)

    def _box(self, corner: tuple[float, float], size: tuple[float, float]) -> tuple[float, float, float, float]:
        """Matplotlib's (left, bottom, width, height) in fractions of the figure."""
        (left, top), (height, width) = corner, size
        return left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height

    def _dots(self) -> tuple[int, int]:
        """(width, height) of a panel in dots, as Pillow wants them."""
        return max(1, round(self.panel[1] * DPI)), max(1, round(self.panel[0] * DPI))

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


def fitting(text: str, characters: float) -> str:
    """The text on one line, cut to about so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: int(characters) - 1] + "…"


def outline(axes: "Axes", place: tuple[int, int, float], patch: tuple[int, int]) -> None:
    """A frame around the patch at (y, x, …)."""
    from matplotlib.patches import Rectangle

    y, x, _ = place
    for width, colour in ((3.0, "black"), (1.4, "white")):  # seen on dark and light ground alike
        axes.add_patch(
            Rectangle((x, y), patch[1], patch[0], fill=False, linewidth=width, edgecolor=colour, clip_on=False)
        )


def as_rgb(image: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
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
