"""From a picture to the model's input tensor: resize, centre crop, normalise, order the channels.

``tensor = (pixel − mean) · scale`` with pixels from 0 to 255. Hugging Face's ``preprocessor_config.json`` is read
into the same seven fields, so that everything downstream knows one kind of preprocessing only.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.fields import MAX_SIDE, is_int, numbers, one_of, pair, side_or_pair
from krypton_onnx.huggingface import is_hugging_face, own_fields
from krypton_onnx.pictures import centre_crop, eight_bit, resized

if TYPE_CHECKING:
    from PIL import Image

ChannelOrder = Literal["RGB", "BGR", "L"]
"""The order of the model's channels; L is one grey channel."""
Layout = Literal["NCHW", "NHWC"]
Resample = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Fill = str | float | Sequence[float] | NDArray[Any]
"""A patch's colour in pixel units: a name, one value for all channels, or red, green, blue."""

FILL_NAMES: Mapping[str, float] = {"black": 0.0, "gray": 128.0, "grey": 128.0, "white": 255.0}
"""The named colours and their pixel value; besides them "mean" is the mean colour of the picture."""

_LUMA = (0.299, 0.587, 0.114)  # the weights of ITU-R 601, by which Pillow turns a colour into grey


def as_dtype(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in the element type of a model's input; rounded and kept in range where that is whole numbers.

    Args:
        values: a tensor, or a colour, of floats.
        dtype: numpy's name of the type.
    """
    wanted = np.dtype(dtype)
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(wanted)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What was done to the pictures that a model was trained on.

    Lists are accepted where tuples are named, and one number for a mean or scale of one value.

    Attributes:
        resize: the shorter side in pixels (the aspect stays), or exactly (height, width); None leaves the size.
        crop: (height, width) of the centre crop that follows; where the margin is odd, the smaller half is
            above and to the left.
        mean: subtracted from the pixels (0 to 255), one value or one per channel **in the model's channel
            order**: for BGR the first is blue's.
        scale: what the difference is multiplied with, one value or one per channel, in the same order.
        channel_order: the order of the model's channels.
        layout: whether the tensor is [C, H, W] (NCHW) or [H, W, C] (NHWC).
        resample: the filter of the resize.

    Raises:
        KryptonError: a field has a wrong type or is out of range.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1 / 255,)
    channel_order: ChannelOrder = "RGB"
    layout: Layout = "NCHW"
    resample: Resample = "bilinear"

    def __post_init__(self) -> None:
        one_of("channel_order", self.channel_order, get_args(ChannelOrder))
        one_of("layout", self.layout, get_args(Layout))
        one_of("resample", self.resample, get_args(Resample))
        checked = {
            "resize": None if self.resize is None else side_or_pair("resize", self.resize),
            "crop": None if self.crop is None else pair("crop", self.crop),
            "mean": numbers("mean", self.mean, self.channels),
            "scale": numbers("scale", self.scale, self.channels),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if 0.0 in self.scale:
            raise KryptonError("'scale' must not be 0: every pixel would become the same value")
        _check_crop_fits(self)

    @property
    def channels(self) -> int:
        """How many channels the tensor has: 1 or 3."""
        return 1 if self.channel_order == "L" else 3

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the tensor, or None where it follows the picture."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read this class's own JSON (its fields as keys) or Hugging Face's ``preprocessor_config.json``.

        Raises:
            KryptonError: the file is missing or no JSON, or a key is unknown, missing, mistyped or out of range.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise KryptonError(f"cannot read {path} ({error.strerror or error}): give a preprocessing file") from error
        except (ValueError, RecursionError) as error:
            raise KryptonError(f"{path} is not a JSON file ({error}): give a preprocessing file") from error
        try:
            if not isinstance(data, dict):
                raise KryptonError('a preprocessing file holds one JSON object, {"resize": …, "mean": …}')
            return cls.from_dict(own_fields(data) if is_hugging_face(data) else data)
        except KryptonError as error:
            raise KryptonError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; fields that are absent take their defaults.

        Raises:
            KryptonError: a key is unknown, or its value has a wrong type or is out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in data:
            if key not in known:
                raise KryptonError(f"unknown key '{key}': the keys of a preprocessing are {', '.join(known)}")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; `from_dict` gives back an equal object, also by way of JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def for_input(cls, shape: Sequence[int], layout: Layout = "NCHW") -> Self:
        """The default for a model about which nothing else is known: fit the size, bring pixels to 0…1.

        A square input sees the centre crop of the picture; any other sees the whole picture, resized to exactly
        H × W. Three channels are taken for RGB, one for grey.

        Args:
            shape: the model's input without its batch axis, [C, H, W] or for NHWC [H, W, C].
            layout: the model's layout.

        Raises:
            KryptonError: there are neither 1 nor 3 channels, or the shape is not three positive integers.
        """
        one_of("layout", layout, get_args(Layout))
        if len(shape) != 3 or not all(is_int(n) and 1 <= n <= MAX_SIDE for n in shape):
            raise KryptonError(f"a picture needs a model input of three fixed extents, not {list(shape)}")
        channels, height, width = shape if layout == "NCHW" else (shape[2], *shape[:2])
        order: ChannelOrder = "L" if channels == 1 else "RGB"
        square = height == width
        made = cls(height if square else (height, width), (height, width), channel_order=order, layout=layout)
        made.check_input(shape)
        return made

    def check_input(self, shape: Sequence[int | str | None]) -> None:
        """Check that the tensor suits a model's input.

        Args:
            shape: the input without its batch axis, in the model's layout; names and None stand for free extents.

        Raises:
            KryptonError: the number of axes, the channels or the size disagree.
        """
        if len(shape) != 3:
            raise KryptonError(f"a picture needs a model input of three axes beside the batch, not {list(shape)}")
        channels, *size = shape if self.layout == "NCHW" else (shape[2], *shape[:2])
        found = f"the model's input {list(shape)} has {channels} channels in layout {self.layout}"
        if is_int(channels) and channels not in (1, 3):
            raise KryptonError(
                f"{found}, and a picture gives 1 or 3: correct the layout, or build the tensor in Python and pass "
                "it to Session.explain, or to the command line as a .npy file"
            )
        if is_int(channels) and channels != self.channels:
            wanted = "L" if channels == 1 else "RGB or BGR"
            raise KryptonError(
                f"{found}, and channel_order '{self.channel_order}' is for {self.channels}: use {wanted}"
            )
        if self.size and any(is_int(n) and n != mine for n, mine in zip(size, self.size, strict=True)):
            raise KryptonError(
                f"the preprocessing gives {list(self.size)} (height, width), and the model's input is {size}: "
                "change crop or resize"
            )

    def picture(self, image: "Image.Image") -> NDArray[np.uint8]:
        """What the model sees: the picture after resize and crop, uint8 [H, W, 3] in RGB order or [H, W, 1].

        Raises:
            KryptonError: the picture is smaller than the crop, far too long for its width, or not 8- or 16-bit.
        """
        image = self._placed(eight_bit(image).convert("L" if self.channel_order == "L" else "RGB"), self.resample)
        return np.array(image).reshape(image.height, image.width, self.channels)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What `picture` makes of a mask as large as the picture, by nearest pixels: bool [H, W].

        Raises:
            KryptonError: as for `picture`.
        """
        from PIL import Image

        return np.asarray(self._placed(Image.fromarray(mask.astype(np.uint8)), "nearest"), np.bool_)

    def _placed(self, image: "Image.Image", resample: Resample) -> "Image.Image":
        """A picture after resize and crop."""
        from PIL import Image

        if self.resize is not None:
            height, width = resized(image.height, image.width, self.resize)
            image = image.resize((width, height), Image.Resampling[resample.upper()])
        return image if self.crop is None else centre_crop(image, *self.crop)

    def tensor(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's input: float32 [C, H, W], or [H, W, C] for NHWC, from what `picture` returned.

        Raises:
            KryptonError: the array is not uint8 [H, W, C] with this preprocessing's C.
        """
        values = self._normalised(_checked(picture, self.channels))
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.layout == "NCHW" else values)

    def fill(self, fill: Fill, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A patch's colour in units of the tensor: float32 [C] in the model's channel order.

        Args:
            fill: black, gray, grey, white, mean (the picture's mean colour), a number from 0 to 255, or red, green
                and blue, in this order whatever the model's; a grey model gets the colour's luma.
            picture: what `picture` returned; read only for "mean".

        Raises:
            KryptonError: the fill is none of these, or out of range.
        """
        if isinstance(fill, str):
            fill = parse_fill(fill)
        if isinstance(fill, str):
            return self._normalised(_checked(picture, self.channels).mean(axis=(0, 1)))
        values = _fill_values(fill)
        if self.channels == 1 and values.size == 3:
            values = values @ np.asarray([_LUMA]).T
        return self._normalised(np.broadcast_to(values, (self.channels,)))

    def _normalised(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """(pixel − mean) · scale over the last axis, from RGB or grey to the model's order, rounded once."""
        ordered = pixels[..., ::-1] if self.channel_order == "BGR" else pixels
        values: NDArray[np.float64] = (ordered - np.asarray(self.mean)) * np.asarray(self.scale)
        return values.astype(np.float32)


def parse_fill(text: str) -> Literal["mean"] | float | tuple[float, float, float]:
    """Read a fill from the command line: a name, ``128`` or ``R,G,B``, in pixel units from 0 to 255.

    Returns:
        "mean", or the value of all channels, or red, green and blue.

    Raises:
        KryptonError: the text is none of these.
    """
    name = text.strip().lower()
    if name == "mean":
        return "mean"
    if name in FILL_NAMES:
        return FILL_NAMES[name]
    try:
        numbers = [float(part) for part in name.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise KryptonError(f"fill '{text}' is not one of {', '.join(FILL_NAMES)}, mean, a number such as 128, or R,G,B")
    values = _fill_values(numbers)
    return (float(values[0]), float(values[1]), float(values[2])) if len(numbers) == 3 else float(values[0])


def _checked(picture: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != channels:
        raise KryptonError(
            f"a picture must be uint8 [H, W, {channels}] as Preprocess.picture returns it, not {picture.dtype} "
            f"{list(picture.shape)}"
        )
    return picture


def _fill_values(fill: ArrayLike) -> NDArray[np.float64]:
    """The fill as float64 [1] or [3] in pixel units."""
    try:
        values = np.atleast_1d(np.asarray(fill, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape not in ((1,), (3,)) or not np.all((values >= 0) & (values <= 255)):
        raise KryptonError(f"fill {fill!r} must be one number or three (red, green, blue), each from 0 to 255")
    return values


def _check_crop_fits(made: Preprocess) -> None:
    if made.crop is None or made.resize is None:
        return
    if isinstance(made.resize, int):
        fits = min(made.crop) <= made.resize
    else:
        fits = made.crop[0] <= made.resize[0] and made.crop[1] <= made.resize[1]
    if not fits:
        raise KryptonError(f"'crop' {made.crop} is larger than 'resize' {made.resize}: enlarge resize")
