"""Emitting the preprocessing of pictures: `krypton_onnx.preprocess` on tensors of a graph, rounded alike."""

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.emit import Emitter
from krypton_onnx.preprocess import Preprocess


def emit_tensor(emitter: Emitter, colours: gs.Tensor, preprocess: Preprocess, dtype: str) -> gs.Variable:
    """``uint8 […, C] → (pixel − mean) · scale``, in the model's order of channels and type.

    Args:
        emitter: receives the nodes.
        colours: numbers from 0 to 255, of any type; red, green and blue, or grey, along the last axis.
        preprocess: what happens to them.
        dtype: numpy's name of the model's type.
    """
    ordered = colours
    if preprocess.channel_order == "BGR":
        ordered = emitter.op("Gather", colours, emitter.constant(np.array([2, 1, 0], np.int64)), axis=-1)
    wide = emitter.op("Cast", ordered, to=np.float64)
    centred = emitter.op("Sub", wide, emitter.constant(np.array(preprocess.mean, np.float64)))
    scaled = emitter.op("Mul", centred, emitter.constant(np.array(preprocess.scale, np.float64)))
    return emit_as_dtype(emitter, emitter.op("Cast", scaled, to=np.float32), dtype)


def emit_as_dtype(emitter: Emitter, values: gs.Tensor, dtype: str) -> gs.Variable:
    """Floats in the element type of a model's input, as `krypton_onnx.preprocess.as_dtype` rounds them."""
    wanted = np.dtype(dtype)
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        low, high = (emitter.constant(np.array(bound, np.float32)) for bound in (limits.min, limits.max))
        values = emitter.op("Clip", emitter.op("Round", values), low, high)
    return emitter.op("Cast", values, to=wanted.type)
