"""Picture files and their geometry: opening as 8-bit RGB or grey, resizing, cropping."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.fields import MAX_SIDE

if TYPE_CHECKING:
    from PIL import Image


FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
"""That strangers may send: for some others Pillow starts programs."""


def open_picture(path: str | os.PathLike[str]) -> "Image.Image":
    """Open a picture as RGB or grey (mode L) with 8 bits a channel, upright, transparency laid on white.

    Raises:
        KryptonError: there is no such file, it is no picture, it is damaged or cut short, or its pixels are
            floating-point or beyond 16 bits.
    """
    image = _opened(path, str(path))
    try:
        return eight_bit(image)
    except KryptonError as error:
        raise KryptonError(f"{path}: {error}") from error


def decode_picture(content: bytes) -> "Image.Image":
    """Decode the bytes of a picture's file from somewhere else, as `open_picture` does.

    Raises:
        KryptonError: as for `open_picture`; or it is none of `FORMATS`.
    """
    return eight_bit(_opened(io.BytesIO(content), "what was sent", FORMATS))


def pixels_of(content: bytes) -> int:
    """How many pixels a picture has, by its file's header; 0 if that cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            return file.height * file.width
    except Exception:  # decoding it will say what is wrong
        return 0


def open_mask(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Open a picture as a mask, upright: bool [rows, columns], whatever is not black.

    Raises:
        KryptonError: as for `open_picture`; or it is a JPEG or has transparency, which leave open what is black.
    """
    image = _opened(path, str(path))
    if image.has_transparency_data:
        raise KryptonError(f"the mask {path} has transparency: save it in black and white")
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise KryptonError(f"the mask {path} is a JPEG, in which black is not quite black: save it as PNG")
    pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return np.asarray((pixels != 0).any(axis=2) if pixels.ndim == 3 else pixels != 0)


def grey_of(tensor: NDArray[Any]) -> NDArray[np.uint8]:
    """Something to look at of a tensor: the mean of its channels, stretched from black to white.

    Args:
        tensor: [C, H, W].

    Returns:
        uint8 [H, W, 1].
    """
    mean = tensor.mean(axis=0, dtype=np.float64)
    span = max(float(mean.max() - mean.min()), np.finfo(np.float32).tiny)
    return np.asarray(np.rint((mean - mean.min()) / span * 255), np.uint8)[..., None]


def _opened(
    source: str | os.PathLike[str] | BinaryIO, name: str, formats: tuple[str, ...] | None = None
) -> "Image.Image":
    """The decoded picture, upright, in its own mode.

    Args:
        source: of its file.
        name: for errors.
        formats: Pillow's names of those to try; None for all.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(source, formats=formats) as file:
            return ImageOps.exif_transpose(file)  # a copy, so that all of the file is decoded here
    except UnidentifiedImageError as error:
        raise KryptonError(f"{name} is not a picture that Pillow can read: give a PNG or JPEG file") from error
    except Exception as error:  # decoders of damaged files raise almost anything: SyntaxError, struct.error, …
        if isinstance(error, OSError) and error.errno is not None:
            raise KryptonError(f"cannot read {name} ({error.strerror}): give a PNG or JPEG file") from error
        raise KryptonError(f"the picture {name} is damaged, cut short or too large ({error}): save it anew") from error


def eight_bit(image: "Image.Image") -> "Image.Image":
    """The picture in mode RGB or L, transparency laid on white.

    Raises:
        KryptonError: its pixels are floating-point or beyond 16 bits.
    """
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


def resized(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after a resize; the longer side is rounded down, as torchvision and transformers do.

    Args:
        height: of the picture.
        width: of the picture.
        resize: the shorter side, or (height, width).

    Raises:
        KryptonError: the longer side would pass `MAX_SIDE`.
    """
    if isinstance(resize, tuple):
        return resize
    longer = resize * max(height, width) // min(height, width)
    if longer > MAX_SIDE:
        raise KryptonError(f"a picture of {height}×{width} is too narrow to be resized to {resize}: crop it first")
    return (resize, longer) if height <= width else (longer, resize)


def centre_crop(image: "Image.Image", height: int, width: int) -> "Image.Image":
    """The middle of a picture; an odd margin is smaller above and to the left.

    Raises:
        KryptonError: the picture is too small.
    """
    top, left = (image.height - height) // 2, (image.width - width) // 2
    if top < 0 or left < 0:
        raise KryptonError(
            f"the picture is {image.height}×{image.width}, too small for the crop to {height}×{width}: set resize "
            "or use a larger picture"
        )
    return image.crop((left, top, left + width, top + height))
