"""The pictures that heatmaps are compared on: crops of photographs that installed packages carry, and drawn scenes.

Nothing is downloaded. The photographs lie in scikit-image, scikit-learn and matplotlib; three more are taken from
shared/images beside the checkout where that is there. Whatever a model or a choice is fitted to comes from the half
"calibration", what is reported from the half "test", and no photograph is in both. The photographs of shared/images
are test only, so that what is fitted does not depend on whether they are there.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from krypton_onnx.models.digits import digit_scene

Half = Literal["calibration", "test"]
Picture = NDArray[np.uint8]
Box = tuple[int, int, int]
"""A square of a photograph in its pixels: top, left, side."""

SHARED = Path(__file__).resolve().parents[3] / "shared" / "images"
SEED = 24680
SHIFT, ZOOM = 0.12, 0.75
"""How far a view's square strays from its crop's: by this share of the side, and down to this share of it."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph and the squares that are cut out of it.

    Attributes:
        package: that carries it; None for shared/images.
        path: in the package's folder.
        half: that all its crops belong to.
        boxes: the squares, by what they show.
    """

    package: str | None
    path: str
    half: Half
    boxes: dict[str, Box]

    @property
    def file(self) -> Path:
        """Where it is."""
        if self.package is None:
            return SHARED / self.path
        origin = importlib.import_module(self.package).__file__
        assert origin is not None, f"{self.package} is no ordinary package"
        return Path(origin).parent / self.path

    def cut(self, box: Box, size: int) -> Picture:
        """The square, resized to uint8 [size, size, 3], RGB."""
        top, left, side = box
        with Image.open(self.file) as opened:
            square = opened.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


PHOTOGRAPHS = {
    "astronaut": Photograph(
        "skimage",
        "data/astronaut.png",
        "calibration",
        {"whole": (0, 0, 512), "face": (0, 90, 250), "helmet": (252, 252, 260)},
    ),
    "cat": Photograph("skimage", "data/chelsea.png", "calibration", {"face": (0, 130, 300), "cheek": (0, 0, 220)}),
    "coffee": Photograph(
        "skimage",
        "data/coffee.png",
        "calibration",
        {"cup": (0, 110, 400), "table": (140, 0, 260), "spoon": (150, 290, 250)},
    ),
    "motorcycle": Photograph(
        "skimage",
        "data/motorcycle_left.png",
        "calibration",
        {"whole": (0, 160, 500), "wheel": (190, 441, 300), "saddle": (130, 70, 300), "shelves": (0, 440, 240)},
    ),
    "pagoda": Photograph(
        "sklearn",
        "datasets/images/china.jpg",
        "calibration",
        {"tower": (0, 50, 427), "lake": (127, 340, 300), "roofs": (20, 140, 240)},
    ),
    "rocket": Photograph(
        "skimage", "data/rocket.jpg", "test", {"pad": (0, 150, 427), "tower": (60, 0, 300), "lights": (187, 260, 240)}
    ),
    "flower": Photograph(
        "sklearn",
        "datasets/images/flower.jpg",
        "test",
        {"bloom": (0, 60, 427), "petals": (80, 140, 260), "two": (167, 250, 260)},
    ),
    "admiral": Photograph(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "test",
        {"whole": (40, 0, 512), "face": (10, 130, 280), "ribbons": (330, 230, 270)},
    ),
    "dog": Photograph(
        None, "dog.jpg", "test", {"whole": (0, 0, 1080), "face": (100, 140, 500), "paws": (540, 160, 540)}
    ),
    "fish": Photograph(None, "fish.png", "test", {"whole": (0, 0, 224)}),
    "kitten": Photograph(None, "kitten_224.png", "test", {"whole": (0, 0, 224)}),
}

CALIBRATION = tuple(name for name, photograph in PHOTOGRAPHS.items() if photograph.half == "calibration")
"""The photographs that a classifier is fitted to, in the order of its classes."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One picture of the corpus.

    Attributes:
        name: unique in the corpus: the photograph and the part of it.
        picture: uint8 [size, size, 3], RGB.
        half: "calibration" for what is fitted, "test" for what is reported.
    """

    name: str
    picture: Picture
    half: Half


def crops(size: int) -> list[Crop]:
    """The photographs' crops, resized: 24, or 29 where shared/images is there; always the same.

    Args:
        size: height and width in pixels.
    """
    return [
        Crop(f"{name}-{part}", photograph.cut(box, size), photograph.half)
        for name, photograph in PHOTOGRAPHS.items()
        if photograph.file.is_file()
        for part, box in photograph.boxes.items()
    ]


def views(size: int, each: int) -> Iterator[tuple[int, Picture]]:
    """Pictures to fit a classifier to: each calibration crop, shifted, enlarged and mirrored at random.

    Args:
        size: height and width in pixels.
        each: views of a crop.

    Yields:
        The number of the photograph in `CALIBRATION`, and uint8 [size, size, 3].
    """
    rng = np.random.default_rng(SEED)
    for label, name in enumerate(CALIBRATION):
        photograph = PHOTOGRAPHS[name]
        with Image.open(photograph.file) as opened:
            width, height = opened.size
        for box in photograph.boxes.values():
            for _ in range(each):
                picture = photograph.cut(_strayed(rng, box, height, width), size)
                yield label, picture[:, ::-1] if rng.random() < 0.5 else picture


def _strayed(rng: np.random.Generator, box: Box, height: int, width: int) -> Box:
    top, left, side = box
    smaller = round(side * rng.uniform(ZOOM, 1))
    # about the same middle, then away from it, but inside the photograph
    middle = np.array([top, left]) + (side - smaller) / 2
    strayed = middle + rng.uniform(-SHIFT, SHIFT, 2) * side
    y, x = np.clip(np.rint(strayed).astype(int), 0, (height - smaller, width - smaller))
    return int(y), int(x), smaller


def scenes(count: int) -> list[Crop]:
    """Fresh scenes of the demo model's kind, uint8 [128, 128, 3], from handwriting that its training never saw.

    Args:
        count: of scenes; the even ones are in the calibration half, the odd ones in the test half.

    Raises:
        KryptonError: scikit-learn is not installed.
    """
    rng = np.random.default_rng(SEED)
    halves: tuple[Half, Half] = ("calibration", "test")
    drawn = [digit_scene(rng, "test") for _ in range(count)]
    return [
        Crop(f"scene{index:03d}-{scene.label}", scene.picture, halves[index % 2]) for index, scene in enumerate(drawn)
    ]
