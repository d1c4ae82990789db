"""Transforms that bring a model into the form that the analyses know: fewer operators, each stated plainly."""

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, Network, bypass, cleaned, describe, static_shape, values

_BLOCK = 16
"""Channels that a runtime computes side by side, at the most."""


def remove_inference_noops(net: Network) -> Network:
    """Remove Identity and inference-mode Dropout.

    Before: ``x → Dropout → y → Conv``. After: ``x → Conv``.

    Raises:
        KryptonError: a Dropout or BatchNormalization is exported in training mode.
    """
    outputs = {id(t) for t in net.graph.outputs}
    for node in net.graph.nodes:
        _refuse_training(node)
        mask_used = len(node.outputs) > 1 and (node.outputs[1].outputs or id(node.outputs[1]) in outputs)
        # A graph output keeps its name, and so the node that makes it.
        if node.op in ("Identity", "Dropout") and not mask_used and id(node.outputs[0]) not in outputs:
            bypass(node)
    return cleaned(net)


def _refuse_training(node: gs.Node) -> None:
    training = node.attrs.get("training_mode", 0)
    if node.op == "Dropout" and len(node.inputs) > 2 and not network.is_absent(node.inputs[2]):
        known = values(node.inputs[2])
        training = known is None or bool(known)
    if training:
        raise KryptonError(f"The {describe(node)} is exported in training mode: export the model for inference.")


def state_every_axis(net: Network) -> Network:
    """Let Pad and Resize say what they do along all axes: ONNX Runtime's optimizer misreads those that name some.

    Before: ``Pad(x, [1, 2, 3, 4], axes=[2, 3])``, ``Resize(x, scales=[2, 2], axes=[2, 3])``.
    After: ``Pad(x, [0, 0, 1, 2, 0, 0, 3, 4])``, ``Resize(x, scales=[1, 1, 2, 2])``.
    """
    taken = network.Names(net.graph)
    for node in net.graph.nodes:
        shape = static_shape(node.inputs[0]) if node.op in ("Pad", "Resize") else None
        if shape is None:
            continue
        if node.op == "Pad":
            _pad_every_axis(node, shape, taken)
        elif "axes" in node.attrs and node.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch":
            _resize_every_axis(node, shape, taken)
    return net


def _pad_every_axis(node: gs.Node, shape: tuple[int, ...], taken: network.Names) -> None:
    axes, amounts = (values(t) if (t := network.input_or_none(node, i)) else None for i in (3, 1))
    if axes is not None and amounts is not None:
        pads = np.zeros((2, len(shape)), np.int64)
        pads[:, np.asarray(axes, np.int64) % len(shape)] = np.reshape(amounts, (2, -1))
        name = taken.fresh(f"{node.outputs[0].name}/pads")
        node.inputs = [node.inputs[0], network.constant(name, pads.reshape(-1)), *node.inputs[2:3]]


def _resize_every_axis(node: gs.Node, shape: tuple[int, ...], taken: network.Names) -> None:
    """Except where it crops: its region of interest names axes too."""
    axes = [axis % len(shape) for axis in node.attrs["axes"]]
    given = [(i, t) for i in (2, 3) if (t := network.input_or_none(node, i)) is not None]
    stated = values(given[0][1]) if len(given) == 1 else None
    if stated is None or node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return
    index = given[0][0]
    every = np.ones(len(shape), stated.dtype) if index == 2 else np.array(shape, stated.dtype)
    every[axes] = stated
    node.inputs[index] = network.constant(taken.fresh(f"{node.outputs[0].name}/every_axis"), every)
    del node.attrs["axes"]


def fold_zero_pads(net: Network) -> Network:
    """Merge a zero Pad of rows and columns into the convolutions that read it.

    Before: ``Pad(0, [.., 1, 1, .., 1, 1]) → Conv(pads=[0, 0, 0, 0])``. After: ``Conv(pads=[1, 1, 1, 1])``.
    """
    for node in net.graph.nodes:
        pads = zero_padding(node)
        if pads is None:
            continue
        for conv in [c for c in node.outputs[0].outputs if c.op == "Conv" and c.inputs[0] is node.outputs[0]]:
            own = conv.attrs.get("pads", [0] * len(pads))
            conv.attrs["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            conv.inputs[0] = node.inputs[0]
    return cleaned(net)


def zero_padding(node: gs.Node) -> list[int] | None:
    """The [top, left, bottom, right] of a Pad that adds zeros to the spatial axes of an image, else None."""
    known = constant_padding(node)
    if known is None or known[1] != 0 or min(known[0]) < 0:
        return None
    return known[0]


def constant_padding(node: gs.Node) -> tuple[list[int], float] | None:
    """([top, left, bottom, right], value) of a constant Pad of a 4-D tensor's spatial axes, else None."""
    shape = static_shape(node.inputs[0]) if node.op == "Pad" else None
    if shape is None or len(shape) != 4 or node.attrs.get("mode", "constant") != "constant":
        return None
    pads = values(node.inputs[1])
    fill = network.input_or_none(node, 2)
    known_fill = np.zeros(()) if fill is None else values(fill)
    if pads is None or known_fill is None or network.input_or_none(node, 3) is not None or pads[[0, 1, 4, 5]].any():
        return None
    return [int(p) for p in pads[[2, 3, 6, 7]]], float(np.asarray(known_fill).reshape(()))


def fold_batch_norm(net: Network) -> Network:
    """Fold an inference-mode BatchNormalization into the Conv that feeds it alone.

    Before: ``Conv(W) → BatchNormalization(γ, β, μ, σ²)``. After: ``Conv(W·γ/σ, (b − μ)·γ/σ + β)``.
    """
    outputs = {id(t) for t in net.graph.outputs}
    taken = network.Names(net.graph)
    for node in net.graph.nodes:
        if node.op != "BatchNormalization" or not node.inputs[0].inputs:
            continue
        conv = node.inputs[0].inputs[0]
        alone = len(conv.outputs[0].outputs) == 1 and id(conv.outputs[0]) not in outputs
        parameters = _folded_weights(conv, node) if conv.op == "Conv" and alone else None
        if parameters is None:
            continue
        weight, bias = parameters
        # Named after the result: a weight that two convolutions share may be folded in two ways.
        names = (taken.fresh(f"{node.outputs[0].name}/{what}") for what in ("weight", "bias"))
        folded = (network.constant(name, array) for name, array in zip(names, (weight, bias), strict=True))
        conv.inputs = [conv.inputs[0], *folded]
        conv.outputs = [node.outputs[0]]
        node.outputs.clear()
    return cleaned(net)


def state_norms_as_convolutions(net: Network) -> Network:
    """Turn a BatchNormalization that no convolution can take in into one itself, of one cell and one channel.

    Behind a Concat, or before an activation. Runtimes compute it in the blocks of channels of its neighbours, and the
    activation with it; only for whole blocks, and float32.

    Before: ``BatchNormalization(γ, β, μ, σ²)``. After: ``Conv([C, 1, 1, 1] = γ/σ, β − μ·γ/σ, group=C)``.
    """
    taken = network.Names(net.graph)
    for node in net.graph.nodes:
        shape = static_shape(node.inputs[0]) if node.op == "BatchNormalization" else None
        if shape is None or len(shape) != 4 or shape[1] % _BLOCK or node.inputs[0].dtype != np.float32:
            continue
        affine = _affine(node)
        if affine is None:
            continue
        names = (taken.fresh(f"{node.outputs[0].name}/{what}") for what in ("weight", "bias"))
        weight, bias = (array.astype(np.float32) for array in affine)
        arrays = weight.reshape(-1, 1, 1, 1), bias
        constants = [network.constant(name, array) for name, array in zip(names, arrays, strict=True)]
        node.op, node.attrs = "Conv", {"group": shape[1], "kernel_shape": [1, 1]}
        node.inputs = [node.inputs[0], *constants]
    return cleaned(net)


def _folded_weights(conv: gs.Node, norm: gs.Node) -> tuple[Array, Array] | None:
    affine, weight = _affine(norm), values(conv.inputs[1])
    bias_tensor = network.input_or_none(conv, 2)
    bias = np.zeros(()) if bias_tensor is None else values(bias_tensor)
    if affine is None or weight is None or bias is None:
        return None
    factor, shift = affine
    dtype = conv.inputs[1].dtype
    folded = np.asarray(weight, np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return folded.astype(dtype), (np.asarray(bias, np.float64) * factor + shift).astype(dtype)


def _affine(norm: gs.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A BatchNormalization as ``x·factor + shift``, [C] each; None where that is not known."""
    known = [values(t) for t in norm.inputs[1:5]]
    if any(k is None for k in known) or len(norm.outputs) > 1:
        return None
    gamma, beta, mean, variance = (np.asarray(k, np.float64) for k in known)
    factor = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    return factor, beta - mean * factor
