"""What callers give: images, patches, other inputs; checked, and in the types that the graphs take."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan, TensorInfo
from krypton_onnx.runtime.engine import Array


def image_tensor(image: ArrayLike, plan: Plan) -> Array:
    """The image as the graphs take it: [C, H, W].

    Args:
        image: as the model takes it, without or with a leading 1.
        plan: describes it.

    Raises:
        KryptonError: wrong shape or type, or values that are not finite.
    """
    tensor = cast(image, plan.image, "the image")
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.shape != plan.model_shape:
        raise KryptonError(
            f"The image must have the shape {list(plan.model_shape)}; this one has {list(tensor.shape)}."
        )
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise KryptonError(
            "The image holds values that are not finite (NaN or infinity); a heatmap would mean nothing."
        )
    return np.ascontiguousarray(tensor.transpose(2, 0, 1) if plan.channels_last else tensor)


def patch_tensor(patch_content: ArrayLike, plan: Plan) -> Array:
    """Patch content as the graph takes it: [1 or Q, C, h, w].

    Args:
        patch_content: as callers give it, [C, h, w] or [Q, C, h, w], channels last for a model that takes them so.
        plan: describes the image.

    Raises:
        KryptonError: wrong shape or type, or larger than the image.
    """
    info = plan.image
    content = cast(patch_content, info, "patch_content")
    content = content[None] if content.ndim == 3 else content
    if plan.channels_last and content.ndim == 4:
        content = content.transpose(0, 3, 1, 2)
    if content.ndim != 4 or content.shape[1] != info.shape[0] or 0 in content.shape[2:]:
        raise KryptonError(
            f"patch_content must be [C, h, w] or [Q, C, h, w], C being {info.shape[0]}; this is {list(content.shape)}."
        )
    height, width = content.shape[2:]
    if height > (info.shape[1] or 0) or width > (info.shape[2] or 0):
        raise KryptonError(f"A patch of {height}x{width} does not fit into the {info.shape[1]}x{info.shape[2]} image.")
    return np.ascontiguousarray(content)


def patch_origins(origins: ArrayLike, plan: Plan, patch: tuple[int, ...]) -> NDArray[np.int64]:
    """Where patches lie: int64 [Q, 2].

    Args:
        origins: (y, x) of each.
        plan: describes the image.
        patch: their (height, width).

    Raises:
        KryptonError: no integers of that shape, or a patch leaves the image.
    """
    places = np.asarray(origins)
    if places.ndim != 2 or places.shape[1] != 2 or places.dtype.kind not in "iu":
        raise KryptonError(
            f"origins must be integers of shape [Q, 2], (y, x) each; these are {places.dtype} {list(places.shape)}."
        )
    places = places.astype(np.int64)
    extents = plan.image.shape[1:]
    outside = np.flatnonzero(((places < 0) | (places > np.array(extents) - patch)).any(axis=1))
    if len(outside):
        y, x = places[outside[0]]
        raise KryptonError(
            f"The {patch[0]}x{patch[1]} patch at row {y}, column {x} leaves the {extents[0]}x{extents[1]} image."
        )
    return places


def cast(values: ArrayLike, info: TensorInfo, what: str) -> Array:
    """Values in the type of an input, if none of them can lose its meaning by that.

    Args:
        values: anything that numpy makes an array of.
        info: the input.
        what: the values' name, for errors.

    Raises:
        KryptonError: no array, or of a type that does not become the input's.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise KryptonError(f"{what[0].upper()}{what[1:]} is no array: its rows differ in length.") from error
    wanted = np.dtype(info.dtype)
    integral = array.dtype.kind in "iub" and wanted.kind == "f"
    if array.dtype.kind not in "iufb" or not (integral or np.can_cast(array.dtype, wanted, "same_kind")):
        raise KryptonError(f"{what[0].upper()}{what[1:]} is of type {array.dtype}; the model takes {info.dtype}.")
    return array.astype(wanted, copy=False)


def other_inputs(given: Mapping[str, ArrayLike], wanted: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """The inputs beside the image; zeros for those that no node reads and nobody gives.

    Args:
        given: by name.
        wanted: what the model takes.

    Raises:
        KryptonError: wrong names, shapes or types.
    """
    names = {info.name for info in wanted}
    blank = {i.name: np.zeros([n or 1 for n in i.shape], i.dtype) for i in wanted if not i.read}
    given = {**blank, **given}
    if set(given) != names:
        missing, extra = sorted(names - set(given)), sorted(set(given) - names)
        raise KryptonError(
            "The model's inputs beside the image must be given by name (inputs={...}, --input NAME=FILE.npy)"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(extra)}" if extra else "")
            + "."
        )
    result = {}
    for info in wanted:
        array = cast(given[info.name], info, f"input '{info.name}'")
        if array.shape != info.shape:
            raise KryptonError(
                f"The input '{info.name}' must have the shape {list(info.shape)}; this one has {list(array.shape)}."
            )
        result[info.name] = array
    return result
