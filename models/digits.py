"""Pictures with a known answer: one handwritten digit on a textured, cluttered background.

Where the digit lies is known, so an occlusion heatmap of these scenes can be judged.  A scene is painted in
layers::

    two-colour cloud -> texture (stripes, blotches or grain) -> compact clutter -> digit

Ink is always lighter (or always darker) than everything behind it, and the clutter is filled and compact, so
that no part of the background can be read as a digit.  The digits are scikit-learn's 8x8 ones.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from krypton_onnx.errors import KryptonError

Split = Literal["train", "test"]
Floats = npt.NDArray[np.float32]

SIDE = 128
TEST_EVERY = 5
DARK_BAND = (25.0, 140.0)
LIGHT_BAND = (115.0, 230.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, the digit in it and where that digit is.

    Attributes:
        picture: uint8 [128, 128, 3], RGB.
        label: The digit, 0 to 9.
        box: Tight box of the ink in pixels, (y0, x0, y1, x1), ends exclusive.
        ink: Which pixels the digit covers, bool [128, 128].
    """

    picture: npt.NDArray[np.uint8]
    label: int
    box: tuple[int, int, int, int]
    ink: npt.NDArray[np.bool_]

    def holds_centre(self, origin: tuple[int, int], patch: tuple[int, int]) -> bool:
        """Whether the centre of the patch (height, width) at (y, x) lies in the digit's box."""
        y, x = origin[0] + patch[0] / 2, origin[1] + patch[1] / 2
        y0, x0, y1, x1 = self.box
        return y0 <= y < y1 and x0 <= x < x1


def digit_scene(
    rng: np.random.Generator,
    split: Split = "train",
    digit: int | None = None,
    size: tuple[int, int] = (36, 56),
) -> Scene:
    """Paints one random scene; the same generator state gives the same scene.

    Args:
        rng: Source of all randomness.
        split: Which handwritten samples to draw from; the two splits share none.
        digit: The digit to paint; any if None.
        size: Smallest and largest height of the digit in pixels, both included.

    Raises:
        KryptonError: scikit-learn is not installed.
    """
    samples, labels = handwriting(split)
    chosen = rng.choice(len(labels) if digit is None else np.flatnonzero(labels == digit))
    light_ink = bool(rng.random() < 0.5)
    ground = _ground(rng, DARK_BAND if light_ink else LIGHT_BAND)
    alpha = _ink(rng, samples[chosen], int(rng.integers(size[0], size[1] + 1)))

    height, width = alpha.shape
    y, x = int(rng.integers(2, SIDE - height - 1)), int(rng.integers(2, SIDE - width - 1))
    colour = _colour(rng, (210.0, 250.0) if light_ink else (5.0, 45.0))
    under = ground[y : y + height, x : x + width]
    under += alpha[:, :, None] * (colour - under)
    ground += rng.normal(0.0, 3.0, ground.shape).astype(np.float32)
    picture = np.clip(np.rint(ground), 0, 255).astype(np.uint8)
    ink = np.zeros((SIDE, SIDE), bool)
    ink[y : y + height, x : x + width] = alpha > 0.5
    return Scene(picture, int(labels[chosen]), (y, x, y + height, x + width), ink)


@functools.cache
def handwriting(split: Split) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns the samples of one split, float32 [n, 8, 8] in 0..1, and their labels, int64 [n].

    Every fifth sample of scikit-learn's set is a test sample.

    Raises:
        KryptonError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise KryptonError(
            "digit scenes need scikit-learn's handwritten digits: run `pip install scikit-learn`"
        ) from error
    data = load_digits()
    held_out = np.arange(len(data.target)) % TEST_EVERY == 0
    mine = held_out if split == "test" else ~held_out
    return (data.images[mine] / 16.0).astype(np.float32), data.target[mine].astype(np.int64)


def _ink(rng: np.random.Generator, sample: Floats, size: int) -> Floats:
    """Enlarges an 8x8 sample to ink coverage in 0..1, cut to the ink: at most [size, size]."""
    big = Image.fromarray(np.pad(sample, 2)).resize((size * 12 // 8,) * 2, Image.Resampling.BICUBIC)
    big = big.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
    # The threshold sets the thickness of the stroke, the divisor how soft its edge is.
    alpha = ((_floats(big) - np.float32(rng.uniform(0.28, 0.42))) / np.float32(0.2)).clip(0, 1)
    rows, columns = np.flatnonzero((alpha > 0.5).any(1)), np.flatnonzero((alpha > 0.5).any(0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _ground(rng: np.random.Generator, band: tuple[float, float]) -> Floats:
    """Paints everything behind the digit, float32 [128, 128, 3], brightness about within the band."""
    cloud = _noise(rng, int(rng.integers(2, 6)))[:, :, None]
    texture = _texture(rng)[:, :, None] * rng.uniform(0.1, 0.5)
    mix = np.clip(cloud * (1 - texture) + (1 - cloud) * texture, 0, 1)
    first, second = _colour(rng, band), _colour(rng, band)
    canvas = Image.fromarray(np.rint(first + mix * (second - first)).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(3, 9))):
        _clutter(rng, pen, tuple(int(part) for part in _colour(rng, band)))
    return _floats(canvas.filter(ImageFilter.GaussianBlur(0.7)))


def _texture(rng: np.random.Generator) -> Floats:
    """Returns stripes, blotches or grain, float32 [128, 128] in 0..1."""
    match rng.integers(3):
        case 0:
            angle, period = rng.uniform(0, np.pi), rng.uniform(6, 14)
            y, x = np.ogrid[:SIDE, :SIDE]
            phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
            return np.asarray(0.5 + 0.5 * np.sin(phase), np.float32)
        case 1:
            return ((_noise(rng, int(rng.integers(8, 20))) - 0.4) * 5).clip(0, 1)
        case _:
            return _noise(rng, int(rng.integers(40, SIDE + 1)))


def _noise(rng: np.random.Generator, cells: int) -> Floats:
    """Returns smooth noise with the given number of cells a side, float32 [128, 128] in 0..1."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return _floats(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 1)


def _clutter(rng: np.random.Generator, pen: ImageDraw.ImageDraw, colour: tuple[int, ...]) -> None:
    """Draws one filled compact shape: a disc or a convex polygon of 3 to 6 corners."""
    y, x = rng.uniform(0, SIDE, 2)
    radius = rng.uniform(4, 13)
    corners = int(rng.integers(3, 8))
    if corners > 6:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return
    turn = rng.uniform(0, 2 * np.pi) + np.arange(corners) * (2 * np.pi / corners)
    pen.polygon([(x + radius * np.cos(t), y + radius * np.sin(t)) for t in turn], fill=colour)


def _colour(rng: np.random.Generator, band: tuple[float, float]) -> Floats:
    """Returns an RGB colour, float32 [3], whose mean is about uniform in the band."""
    tint = rng.uniform(-60, 60, 3)
    return np.asarray(rng.uniform(*band) + tint - tint.mean(), np.float32).clip(0, 255)


def _floats(image: Image.Image) -> Floats:
    """Returns a writable float32 copy of the image's pixels."""
    return np.array(image, np.float32)
