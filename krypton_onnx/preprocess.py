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

_MAX_SIDE = 32768
_LUMA = (0.299, 0.587, 0.114)  # the weights of ITU-R 601, by which Pillow turns a colour into grey


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
        _one_of("channel_order", self.channel_order, get_args(ChannelOrder))
        _one_of("layout", self.layout, get_args(Layout))
        _one_of("resample", self.resample, get_args(Resample))
        checked = {
            "resize": None if self.resize is None else _side_or_pair("resize", self.resize),
            "crop": None if self.crop is None else _pair("crop", self.crop),
            "mean": _numbers("mean", self.mean, self.channels),
            "scale": _numbers("scale", self.scale, self.channels),
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
            return cls.from_dict(_own_fields(data) if _is_hugging_face(data) else data)
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
        _one_of("layout", layout, get_args(Layout))
        if len(shape) != 3 or not all(_is_int(n) and 1 <= n <= _MAX_SIDE for n in shape):
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
        if _is_int(channels) and channels not in (1, 3):
            raise KryptonError(
                f"{found}, and a picture gives 1 or 3: correct the layout, or build the tensor in Python and pass "
                "it to Session.explain"
            )
        if _is_int(channels) and channels != self.channels:
            wanted = "L" if channels == 1 else "RGB or BGR"
            raise KryptonError(
                f"{found}, and channel_order '{self.channel_order}' is for {self.channels}: use {wanted}"
            )
        if self.size and any(_is_int(n) and n != mine for n, mine in zip(size, self.size, strict=True)):
            raise KryptonError(
                f"the preprocessing gives {list(self.size)} (height, width), and the model's input is {size}: "
                "change crop or resize"
            )

    def picture(self, image: "Image.Image") -> NDArray[np.uint8]:
        """What the model sees: the picture after resize and crop, uint8 [H, W, 3] in RGB order or [H, W, 1].

        Raises:
            KryptonError: the picture is smaller than the crop, far too long for its width, or not 8- or 16-bit.
        """
        from PIL import Image

        image = _eight_bit(image).convert("L" if self.channel_order == "L" else "RGB")
        if self.resize is not None:
            height, width = _resized(image.height, image.width, self.resize)
            image = image.resize((width, height), Image.Resampling[self.resample.upper()])
        if self.crop is not None:
            image = _centre_crop(image, *self.crop)
        return np.array(image).reshape(image.height, image.width, self.channels)

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


def open_picture(path: str | os.PathLike[str]) -> "Image.Image":
    """Open a picture as RGB or grey (mode L) with 8 bits a channel, upright, transparency laid on white.

    Raises:
        KryptonError: there is no such file, it is no picture, it is damaged or cut short, or its pixels are
            floating-point or beyond 16 bits.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)  # a copy, so that all of the file is decoded here
    except UnidentifiedImageError as error:
        raise KryptonError(f"{path} is not a picture that Pillow can read: give a PNG or JPEG file") from error
    except Exception as error:  # decoders of damaged files raise almost anything: SyntaxError, struct.error, …
        if isinstance(error, OSError) and error.errno is not None:
            raise KryptonError(f"cannot read {path} ({error.strerror}): give a PNG or JPEG file") from error
        raise KryptonError(f"the picture {path} is damaged, cut short or too large ({error}): save it anew") from error
    try:
        return _eight_bit(image)
    except KryptonError as error:
        raise KryptonError(f"{path}: {error}") from error


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


# ------------------------------------------------------------------------------------------------- pictures


def _eight_bit(image: "Image.Image") -> "Image.Image":
    """The picture in mode RGB or L."""
    from PIL import Image

    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise KryptonError("the picture has more than 16 bits a channel: save it with 8 or 16")
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise KryptonError("the picture has floating-point pixels of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")


def _resized(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after the resize; the longer side is rounded down, as torchvision and transformers do."""
    if isinstance(resize, tuple):
        return resize
    longer = resize * max(height, width) // min(height, width)
    if longer > _MAX_SIDE:
        raise KryptonError(f"a picture of {height}×{width} is too narrow to be resized to {resize}: crop it first")
    return (resize, longer) if height <= width else (longer, resize)


def _centre_crop(image: "Image.Image", height: int, width: int) -> "Image.Image":
    top, left = (image.height - height) // 2, (image.width - width) // 2
    if top < 0 or left < 0:
        raise KryptonError(
            f"the picture is {image.height}×{image.width}, too small for the crop to {height}×{width}: set resize "
            "or use a larger picture"
        )
    return image.crop((left, top, left + width, top + height))


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


# -------------------------------------------------------------------------------------- checking of fields


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise KryptonError(f"'{key}' must be one of {', '.join(allowed)}, not {value!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _side_or_pair(key: str, value: Any) -> int | tuple[int, int]:
    return _pair(key, (value, value))[0] if _is_int(value) else _pair(key, value)


def _pair(key: str, value: Any) -> tuple[int, int]:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(_is_int(n) and 1 <= n <= _MAX_SIDE for n in value):
        form = "the shorter side or (height, width)" if key in ("resize", "size") else "(height, width)"
        raise KryptonError(f"'{key}' must be {form} in whole pixels from 1 to {_MAX_SIDE}, not {value!r}")
    return int(value[0]), int(value[1])


def _numbers(key: str, value: Any, channels: int) -> tuple[float, ...]:
    """A tuple of 1 or `channels` finite floats."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    numeric = all(isinstance(n, int | float) and not isinstance(n, bool) for n in values)
    # NaN fails the comparison too; far beyond 1e30 a float32 tensor overflows
    if not numeric or not all(abs(n) < 1e30 for n in values):
        raise KryptonError(f"'{key}' must be finite numbers, one or one per channel, not {value!r}")
    if len(values) not in (1, channels):
        raise KryptonError(f"'{key}' has {len(values)} values: give one, or {channels}, one per channel")
    return tuple(float(n) for n in values)


def _check_crop_fits(made: Preprocess) -> None:
    if made.crop is None or made.resize is None:
        return
    if isinstance(made.resize, int):
        fits = min(made.crop) <= made.resize
    else:
        fits = made.crop[0] <= made.resize[0] and made.crop[1] <= made.resize[1]
    if not fits:
        raise KryptonError(f"'crop' {made.crop} is larger than 'resize' {made.resize}: enlarge resize")


# -------------------------------------------------------------------------- Hugging Face's preprocessor_config

_HF_UNDERSTOOD = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order"}
_HF_HARMLESS = {"do_convert_rgb", "do_reduce_labels", "do_convert_annotations"}
_HF_KEYS = {"image_processor_type", "feature_extractor_type", "size", "crop_size", "image_mean", "image_std"}
_HF_RESAMPLE: Mapping[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# Processors that take a bare integer size for the shorter side; all others take it for a square.
_HF_SHORTER = ("ConvNext", "CLIP", "Bit", "MobileNet", "MobileViT", "PoolFormer")


def _is_hugging_face(data: Mapping[str, Any]) -> bool:
    own_only = {"resize", "crop", "mean", "scale", "channel_order", "layout"}
    return not (_HF_KEYS | _HF_UNDERSTOOD).isdisjoint(data) and own_only.isdisjoint(data)


def _own_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocess` that do what a Hugging Face image processor with this config does."""
    data = {key: value for key, value in config.items() if value is not None}
    _refuse_unknown_steps(data)
    resize, crop = _hf_geometry(data)
    resample = data.get("resample", 2)
    if not _is_int(resample) or resample not in _HF_RESAMPLE:
        raise KryptonError(f"'resample' {resample!r} is not supported: use one of {dict(_HF_RESAMPLE)}")
    mean, scale = _hf_values(data)
    return {
        "resize": resize,
        "crop": crop,
        "mean": mean,
        "scale": scale,
        "channel_order": _hf_order(data),
        "layout": "NHWC" if data.get("data_format") == "channels_last" else "NCHW",
        "resample": _HF_RESAMPLE[resample],
    }


def _refuse_unknown_steps(data: Mapping[str, Any]) -> None:
    """A step that we would leave out silently would explain another picture than the model's."""
    kind = _hf_kind(data)
    if kind.startswith("Levit"):
        raise KryptonError(f"'{kind}' has a resize rule of its own: write the preprocessing's own keys instead")
    for key, value in data.items():
        step = key.startswith("do_") and key not in _HF_UNDERSTOOD | _HF_HARMLESS
        if (step or key in ("rescale_offset", "pad_size", "size_divisor")) and value:
            raise KryptonError(f"'{key}' is not supported: write the preprocessing's own keys instead")


def _hf_kind(data: Mapping[str, Any]) -> str:
    return str(data.get("image_processor_type", data.get("feature_extractor_type", "")))


def _hf_flag(data: Mapping[str, Any], key: str, default: bool) -> bool:
    value = data.get(key, default)
    if not isinstance(value, bool):
        raise KryptonError(f"'{key}' must be true or false, not {value!r}")
    return value


def _hf_wanted(data: Mapping[str, Any], key: str) -> Any:
    if key not in data:
        raise KryptonError(f"'{key}' is missing: add it, or turn off the step that needs it")
    return data[key]


def _hf_geometry(data: Mapping[str, Any]) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """(resize, crop)."""
    crop = None
    if _hf_flag(data, "do_center_crop", "crop_size" in data):
        size = _hf_size(data, "crop_size", square=True)
        crop = size if isinstance(size, tuple) else (size, size)
    if not _hf_flag(data, "do_resize", "size" in data):
        return None, crop
    kind = _hf_kind(data)
    crop_pct = data.get("crop_pct", 224 / 256 if "ConvNext" in kind else None)
    shorter = crop_pct is not None or any(name in kind for name in _HF_SHORTER)
    resize = _hf_size(data, "size", square=_hf_flag(data, "default_to_square", not shorter))
    if crop_pct is None:
        return resize, crop
    if not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 1:
        raise KryptonError(f"'crop_pct' must be a number above 0, up to 1, not {crop_pct!r}")
    if not isinstance(resize, int):
        raise KryptonError("'size' must be an integer or {\"shortest_edge\": n} where crop_pct is used")
    if "PoolFormer" in kind:
        return int(resize / crop_pct), crop
    if resize >= 384:
        return (resize, resize), None  # ConvNeXt squeezes the whole picture from 384 on
    return int(resize / crop_pct), (resize, resize)


def _hf_size(data: Mapping[str, Any], key: str, *, square: bool) -> int | tuple[int, int]:
    value = _hf_wanted(data, key)
    if isinstance(value, dict):
        value = {name: extent for name, extent in value.items() if extent is not None}
    match value:
        case {"height": height, "width": width}:
            return _pair(key, (height, width))
        case {"shortest_edge": edge, **others} if not others:
            return _pair(key, (edge, edge))[0]
        case int() | [_, _] if not isinstance(value, bool):
            size = _side_or_pair(key, value)
            return (size, size) if square and isinstance(size, int) else size
    raise KryptonError(
        f'\'{key}\' must be an integer, {{"shortest_edge": n}} or {{"height": h, "width": w}}, not {value!r}'
    )


def _hf_values(data: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, scale): (pixel · factor − image_mean) / image_std in pixel units."""
    factor = 1.0
    if _hf_flag(data, "do_rescale", True):
        (factor,) = _numbers("rescale_factor", data.get("rescale_factor", 1 / 255), 1)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if _hf_flag(data, "do_normalize", "image_mean" in data):
        mean = _numbers("image_mean", _hf_wanted(data, "image_mean"), 3)
        std = _numbers("image_std", _hf_wanted(data, "image_std"), 3)
    if _hf_flag(data, "include_top", False):
        std = tuple(value * value for value in std)  # EfficientNet divides a second time
    if 0.0 in (factor, *std):
        raise KryptonError("'rescale_factor' and 'image_std' must not be 0")
    return tuple(value / factor for value in mean), tuple(factor / value for value in std)


def _hf_order(data: Mapping[str, Any]) -> ChannelOrder:
    if _hf_flag(data, "do_flip_channel_order", False):
        return "BGR"
    mean = data.get("image_mean")
    return "L" if isinstance(mean, list) and len(mean) == 1 else "RGB"
