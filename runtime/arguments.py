"""What callers give: images, other inputs; checked, and in the types that the graphs take."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

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
