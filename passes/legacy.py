"""Raising a model to an opset that the compiler works in.

onnx's version converter does most of it. What it cannot convert, or converts into something else than ONNX Runtime
computes, is rewritten here: before the conversion into ordinary operators of the old opset, or set aside during the
conversion, where a newer opset has the same operator under the same or another name.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter

from krypton_onnx.errors import KryptonError
from krypton_onnx.passes import network
from krypton_onnx.passes.contrib import STANDARD
from krypton_onnx.passes.rewriter import Facts, Rewriter

OLDEST_OPSET = 7
"""ONNX Runtime itself has no kernels for older convolutional networks: no Relu before opset 6, no Add before 7."""

TARGET_OPSET = 17

_ASIDE = "krypton_onnx.aside"
"""A domain that no model has; the converter lets its nodes pass."""

_ASIDE_UNTIL = {
    "DynamicSlice": ("Slice", 9),
    "LayerNormalization": ("LayerNormalization", 16),
    "ThresholdedRelu": ("ThresholdedRelu", 9),
}
"""Operators that ONNX Runtime has in older opsets than ONNX: their modern name, and the newest opset that lacks it."""


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of the standard domain."""
    return next((int(o.version) for o in model.opset_import if o.domain in STANDARD), TARGET_OPSET)


def raise_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in opset 17, or as it is if its opset is newer. May change the model that it is given.

    Raises:
        KryptonError: an operator cannot be carried over.
    """
    opset = opset_of(model)
    del model.graph.value_info[:]
    model.ir_version = max(model.ir_version, 8)
    if opset >= TARGET_OPSET:
        return model
    try:
        _rewrite(model, opset)
    except KryptonError as error:
        raise KryptonError(f"{path} cannot be compiled. {error}") from error
    try:
        converted = onnx.version_converter.convert_version(model, TARGET_OPSET)
    except Exception as error:  # the converter throws whatever its C++ assertions give
        reason = " ".join(str(error).split())[:300]
        raise KryptonError(
            f"{path} of opset {opset} cannot be raised to opset {TARGET_OPSET}: {reason} "
            "Export it again with a newer opset."
        ) from error
    _restore(converted)
    _mend(converted, opset)
    return converted


# --------------------------------------------------------------------------------------- before the conversion


def _rewrite(model: onnx.ModelProto, opset: int) -> None:
    """Replace what the converter cannot carry over, in place, in subgraphs too."""
    for graph in network.graphs_of(model.graph):
        del graph.value_info[:]
    facts = Facts(model)
    for graph in network.graphs_of(model.graph):
        nodes = [new for node in graph.node for new in _replacement(node, opset, facts)]
        del graph.node[:]
        graph.node.extend(nodes)
    model.opset_import.append(onnx.helper.make_opsetid(_ASIDE, 1))


def _replacement(node: onnx.NodeProto, opset: int, facts: Facts) -> list[onnx.NodeProto]:
    if node.domain not in STANDARD:
        return [node]
    if node.op_type == "Dropout" and opset < 12:
        _drop_mask(node, facts)
    rule, newest = _RULES.get(node.op_type, (None, 0))
    if rule is not None and opset <= newest:
        rewriter = Rewriter(node, facts)
        rule(rewriter, *node.input)
        return rewriter.nodes or [node]
    if opset <= _ASIDE_UNTIL.get(node.op_type, ("", 0))[1]:
        node.domain = _ASIDE
    return [node]


def _drop_mask(node: onnx.NodeProto, facts: Facts) -> None:
    """Without the mask, which has another type and other values in newer opsets."""
    if len(node.output) > 1 and node.output[1] in facts.used:
        raise KryptonError(
            f"The mask of the Dropout node '{node.name or node.output[0]}' is used, which only training does: export "
            "the model for inference."
        )
    del node.output[1:]


def _affine(to: Rewriter, x: str) -> None:
    scaled = to.op("Mul", x, to.constant(to.attributes.get("alpha", 1.0)))
    to.op("Add", scaled, to.constant(to.attributes.get("beta", 0.0)), last=True)


def _scale(to: Rewriter, x: str) -> None:
    to.op("Mul", x, to.constant(to.attributes.get("scale", 1.0)), last=True)


def _scaled_tanh(to: Rewriter, x: str) -> None:
    inner = to.op("Tanh", to.op("Mul", x, to.constant(to.attributes["beta"])))
    to.op("Mul", inner, to.constant(to.attributes["alpha"]), last=True)


def _parametric_softplus(to: Rewriter, x: str) -> None:
    inner = to.op("Softplus", to.op("Mul", x, to.constant(to.attributes["beta"])))
    to.op("Mul", inner, to.constant(to.attributes["alpha"]), last=True)


def _image_scaler(to: Rewriter, x: str) -> None:
    scaled = to.op("Mul", x, to.constant(to.attributes.get("scale", 1.0)))
    bias = np.array(to.attributes["bias"]).reshape(-1, 1, 1)
    to.op("Add", scaled, to.constant(bias), last=True)


def _crop(to: Rewriter, x: str) -> None:
    left, top, right, bottom = to.attributes["border"]
    rows, cols = to.attributes.get("scale", (None, None))
    # A slice that ends at −0 would be empty.
    ends = [top + rows if rows else -bottom or _END, left + cols if cols else -right or _END]
    to.op("Slice", x, axes=[2, 3], starts=[top, left], ends=ends, last=True)


_END = (1 << 31) - 1


def _mean_variance(to: Rewriter, x: str) -> None:
    """ONNX Runtime averages over the batch too; the compiler sees one image, for which that is the same."""
    axes = [1, 2, 3] if to.attributes.get("across_channels", 0) else [2, 3]
    plain = not to.attributes.get("normalize_variance", 1)
    centred = to.op("Sub", x, to.op("ReduceMean", x, axes=axes), last=plain)
    if not plain:
        variance = to.op("ReduceMean", to.op("Mul", centred, centred), axes=axes)
        to.op("Div", centred, to.op("Sqrt", variance), last=True)


def _batch_norm(to: Rewriter, x: str, gamma: str, beta: str, mean: str, variance: str) -> None:
    """With ``spatial=0`` every cell has parameters of its own, [C, H, W]."""
    if len(to.node.output) > 1:  # what training_mode says from opset 14 on
        raise KryptonError(
            f"The BatchNormalization node '{to.node.name or to.node.output[0]}' is exported in training mode: export "
            "the model for inference."
        )
    if to.attributes.get("spatial", 1):
        return
    epsilon = to.constant(to.attributes.get("epsilon", 1e-5))
    factor = to.op("Div", gamma, to.op("Sqrt", to.op("Add", variance, epsilon)))
    to.op("Add", to.op("Mul", to.op("Sub", x, mean), factor), beta, last=True)


def _hardmax(to: Rewriter, x: str) -> None:
    """Up to opset 12 the maximum is over all axes from `axis` on; the converter overlooks that."""
    flat = to.op("Flatten", x, axis=to.attributes.get("axis", 1))
    to.op("Reshape", to.op("Hardmax", flat, axis=1), to.op("Shape", x), last=True)


def _refuse_scan(to: Rewriter, *_: str) -> None:
    raise KryptonError(
        f"The Scan node '{to.node.name or to.node.output[0]}' of opset 8 has a batch axis, which newer opsets do not "
        "have: export the model with opset 9 or later."
    )


_RULES: dict[str, tuple[Callable[..., None], int]] = {
    "Affine": (_affine, 9),
    "BatchNormalization": (_batch_norm, 13),
    "Crop": (_crop, 9),
    "Hardmax": (_hardmax, 12),
    "ImageScaler": (_image_scaler, 9),
    "MeanVarianceNormalization": (_mean_variance, 8),
    "ParametricSoftplus": (_parametric_softplus, 9),
    "Scale": (_scale, 9),
    "ScaledTanh": (_scaled_tanh, 9),
    "Scan": (_refuse_scan, 8),
}
"""The rewrites, and the newest opset in which each is needed."""


# ---------------------------------------------------------------------------------------- after the conversion


def _restore(model: onnx.ModelProto) -> None:
    """Give the nodes that were set aside their modern names."""
    for graph in network.graphs_of(model.graph):
        for node in (n for n in graph.node if n.domain == _ASIDE):
            node.domain, node.op_type = "", _ASIDE_UNTIL[node.op_type][0]
    kept = [o for o in model.opset_import if o.domain != _ASIDE]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _mend(model: onnx.ModelProto, opset: int) -> None:
    """Put right what the converter leaves to defaults that have changed, or gives a wrong type, in place."""
    facts = Facts(model)
    for graph in network.graphs_of(model.graph):
        nodes = [new for node in graph.node for new in _mended(node, opset, facts)]
        del graph.node[:]
        graph.node.extend(nodes)


def _mended(node: onnx.NodeProto, opset: int, facts: Facts) -> list[onnx.NodeProto]:
    if node.op_type in ("Clip", "Pad") and opset <= 10:
        return [*_retyped(node, facts), node]
    if node.op_type != "Resize":
        return [node]
    if len(node.input) > 3 and node.input[3]:
        node.input[2] = ""  # beside sizes, older opsets want empty scales and newer ones none
    return _resized(node, opset, facts) if opset <= 10 else [node]


def _retyped(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto]:
    """Constants for the numbers that were attributes; the converter makes them float32, whatever the data are."""
    to = Rewriter(node, facts)
    for index in range(2 if node.op_type == "Pad" else 1, len(node.input)):
        number = facts.constants.get(node.input[index])
        if number is not None and number.data_type == onnx.TensorProto.FLOAT:
            node.input[index] = to.constant(onnx.numpy_helper.to_array(number))
    return to.nodes


def _resized(node: onnx.NodeProto, opset: int, facts: Facts) -> list[onnx.NodeProto]:
    """Upsample, and Resize up to opset 10, sample asymmetrically."""
    to = Rewriter(node, facts)
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **to.attributes}
    ceil = {**floor, "nearest_mode": "ceil"}
    x, region, scales = node.input[:3]
    known = facts.constants.get(scales)
    factors = None if known is None else onnx.numpy_helper.to_array(known)
    # Nearest neighbours of Resize-10 are the next cell where it shrinks, the one before where it grows.
    if opset < 10 or to.attributes.get("mode", b"nearest") != b"nearest" or (factors is not None and min(factors) >= 1):
        to.op("Resize", x, region, scales, last=True, **floor)
    elif factors is not None and max(factors) <= 1:
        to.op("Resize", x, region, scales, last=True, **ceil)
    else:
        one = to.op("Constant", value=onnx.numpy_helper.from_array(np.ones((), np.float32)))
        shrunk = to.op("Resize", x, region, to.op("Min", scales, one), **ceil)
        to.op("Resize", shrunk, region, to.op("Max", scales, one), last=True, **floor)
    return to.nodes
