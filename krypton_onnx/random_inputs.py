"""Random inputs, to check and to time models with."""

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.plan import Plan, TensorInfo
from krypton_onnx.preprocess import Preprocess, as_dtype
from krypton_onnx.runtime.engine import Array


def random_images(rng: np.random.Generator, plan: Plan, count: int) -> Array:
    """Noise in the range that the model expects, as far as that is known.

    Returns:
        Images as the model takes them: [count, C, H, W], or [count, H, W, C] if its channels come last.
    """
    if plan.preprocess is None:
        shape = TensorInfo(plan.image.name, plan.image.dtype, (count, *plan.model_shape))
        return random_input(rng, shape)
    preprocess = Preprocess.from_dict(plan.preprocess)
    return as_dtype(np.stack([preprocess.tensor(one) for one in random_pictures(rng, plan, count)]), plan.image.dtype)


def random_pictures(rng: np.random.Generator, plan: Plan, count: int) -> NDArray[np.uint8]:
    """Noise as pictures: uint8 [count, H, W, C]."""
    channels, height, width = (extent or 0 for extent in plan.image.shape)
    return rng.integers(0, 256, (count, height, width, channels)).astype(np.uint8)


def random_input(rng: np.random.Generator, info: TensorInfo) -> Array:
    """Noise for an input: standard normal, or whole numbers below 100, or truth values."""
    shape, dtype = tuple(extent or 1 for extent in info.shape), np.dtype(info.dtype)
    if dtype.kind in "iub":
        return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)
