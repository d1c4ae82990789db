"""The images of a request: tensors, pixels, or picture files, made one by one into what the model takes."""

import base64
import binascii
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from krypton_onnx.errors import KryptonError
from krypton_onnx.pictures import decode_picture, pixels_of
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Preprocess, as_dtype
from krypton_onnx.runtime.engine import Array

Image = Callable[[], Array]
"""Makes an image as the model takes it. A file of some bytes can be one of many megabytes, and a request hold many."""

MOST_PIXELS = 50_000_000
"""Of a picture; a file of some kilobytes can hold any number."""


class TooLargeError(KryptonError):
    """A request that would take more than the service allows."""


def from_array(array: Array, plan: Plan) -> tuple[Image, ...]:
    """Images of one array.

    Args:
        array: [N, …], or one image of it: the model's input tensors; or, if it is uint8 and the model was compiled with
            its preprocessing, pixels as they are after resize and crop, [H, W, 3] in RGB order or [H, W, 1].
        plan: of the model.

    Raises:
        KryptonError: it has another number of axes, or holds no image.
    """
    images = array[None] if array.ndim == 3 else array
    if images.ndim != 4 or not len(images):
        raise KryptonError(f"The image has the shape {list(array.shape)}; it must be [N, …], N images from one on.")
    if images.dtype == np.uint8 and plan.preprocess is not None:
        preprocess = Preprocess.from_dict(plan.preprocess)
        return tuple(partial(_normalised, image, preprocess, plan) for image in images)
    return tuple(partial(_as_is, image) for image in images)


def from_files(files: Sequence[bytes], plan: Plan) -> tuple[Image, ...]:
    """Images of picture files: decoded, resized, cropped and normalised as the model was compiled to have it done.

    Args:
        files: PNG, JPEG, and what else `krypton_onnx.pictures.FORMATS` names.
        plan: of the model.

    Raises:
        KryptonError: there is none, or nothing is known of the preprocessing. What is wrong with a file is raised when
            its image is made.
    """
    if not files:
        raise KryptonError("There is no picture in the request; send one or more.")
    if plan.preprocess is None:
        raise KryptonError(
            "The model was compiled without preprocessing, so that picture files mean nothing to it: compile it with "
            "--preprocess, or send its input tensor."
        )
    preprocess = Preprocess.from_dict(plan.preprocess)
    return tuple(partial(_decoded, file, preprocess, plan) for file in files)


def from_base64(text: str) -> bytes:
    """A picture's file, as JSON can hold it.

    Raises:
        KryptonError: that is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise KryptonError("A picture is no base64 text: encode the bytes of its file.") from error


def _as_is(image: Array) -> Array:
    return image


def _normalised(pixels: Array, preprocess: Preprocess, plan: Plan) -> Array:
    return as_dtype(preprocess.tensor(np.asarray(pixels, np.uint8)), plan.image.dtype)


def _decoded(file: bytes, preprocess: Preprocess, plan: Plan) -> Array:
    pixels = pixels_of(file)
    if pixels > MOST_PIXELS:
        raise TooLargeError(f"A picture has {pixels} pixels; the limit is {MOST_PIXELS}: send a smaller one.")
    return _normalised(preprocess.picture(decode_picture(file)), preprocess, plan)
