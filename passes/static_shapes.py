"""Transform: settle every shape for one image, fold what then is constant, and make padding explicit.

The three belong together: what folds depends on shapes (`Shape` nodes), shapes depend on the extents of pooling
layers, and onnx's inference computes some ceil_mode extents differently from ONNX Runtime. So extents come from
`geometry`, upstream first, and only then are shapes folded.
"""

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.errors import KryptonError
from krypton_onnx.geometry import Sliding
from krypton_onnx.passes import network
from krypton_onnx.passes.branches import inline_known_branches
from krypton_onnx.passes.folding import MAX_GROWTH, POOLS, fold
from krypton_onnx.passes.network import Array, Network, describe, static_shape

_WEIGHT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
_SLIDING = ("Conv", "ConvInteger", "QLinearConv", *POOLS)
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
_MAX_ATTRIBUTE = 1 << 24


def static_shapes(net: Network) -> Network:
    """Infer shapes, then make one more thing explicit or fold, until nothing changes.

    Before: ``MaxPool(ceil_mode=1)``, ``Conv(auto_pad=SAME_UPPER)``, ``Reshape(x, Concat(Shape(x)[0], -1))``.
    After: ``MaxPool(pads=[0, 0, 1, 1])``, ``Conv(pads=[0, 0, 1, 1])``, ``Reshape(x, [1, 2048])``.

    Raises:
        KryptonError: shapes contradict each other, or an operator draws random numbers.
    """
    _refuse_random(net.graph)
    growth = MAX_GROWTH
    while True:
        network.infer_shapes(net, after="shape inference")
        if _explicit_padding(net.graph) or inline_known_branches(net.graph):
            continue
        folded, growth = fold(net.graph, growth)
        if not folded:
            return net


def _sized(node: gs.Node, taken: network.Names) -> list[gs.Node]:
    """A Resize whose extents inference has right, and before it one that resizes by sizes what it gets wrong.

    0.7 in float32 is a little less than 0.7: of 70 rows inference makes 48, and ONNX Runtime, which multiplies in
    float32, 49. Sizes state the same factor only where their quotient is the scale, so that an axis for which it is not
    stays with the node.
    """
    scales = network.values(node.inputs[2]) if len(node.inputs) > 2 else None
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if scales is None or not scales.size or before is None or after is None:
        return [node]
    axes = np.array(node.attrs.get("axes", range(len(before)))) % len(before)
    extents, factors = np.array(before, np.float32)[axes], np.asarray(scales, np.float32)
    sizes = geometry.resized_extents(extents, factors)
    wrong = sizes != np.array(after)[axes]
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops or not wrong.any() or not np.array_equal((sizes.astype(np.float32) / extents)[wrong], factors[wrong]):
        return [node]
    name, result = node.outputs[0].name, node.outputs[0]
    extents_then = np.array(after)
    extents_then[axes] = sizes
    result.shape = [int(extent) for extent in extents_then]
    stated = network.constant(taken.fresh(f"{name}/sizes"), np.where(wrong, sizes, extents).astype(np.int64))
    middle = gs.Variable(taken.fresh(f"{name}/sized"), node.outputs[0].dtype)
    first = gs.Node("Resize", middle.name, dict(node.attrs), [node.inputs[0], *node.inputs[1:2]], [middle])
    first.inputs += [gs.Variable.empty(), stated]
    rest = np.where(wrong, np.float32(1), factors)
    if (rest == 1).all():
        node.outputs.clear()
        node.inputs.clear()
        first.outputs = [result]
        return [first]
    node.inputs = [middle, *node.inputs[1:2], network.constant(taken.fresh(f"{name}/scales"), rest)]
    return [first, node]


def _refuse_random(graph: gs.Graph) -> None:
    for scope in (graph, *graph.subgraphs(recursive=True)):
        for node in scope.nodes:
            if node.op in _RANDOM:
                raise KryptonError(f"The {describe(node)} draws random numbers, so that no exact heatmap exists.")


# -------------------------------------------------------------------------------------------------- padding


def sliding_axes(node: gs.Node, kernel: tuple[int, ...]) -> tuple[Sliding, ...]:
    """The node's sliding window per spatial axis, from explicit attributes."""
    rank = len(kernel)
    pads = node.attrs.get("pads", [0] * 2 * rank)
    strides, dilations = node.attrs.get("strides", [1] * rank), node.attrs.get("dilations", [1] * rank)
    return tuple(
        Sliding((k - 1) * d + 1, s, begin, end)
        for k, s, d, begin, end in zip(kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    )


def kernel_shape(node: gs.Node) -> tuple[int, ...] | None:
    """The kernel's extents; a convolution may leave them to its weight."""
    if "kernel_shape" in node.attrs:
        return tuple(node.attrs["kernel_shape"])
    weight = static_shape(node.inputs[_WEIGHT[node.op]]) if node.op in _WEIGHT else None
    return weight[2:] if weight else None


def _explicit_padding(graph: gs.Graph) -> bool:
    """Spell out auto_pad, ceil_mode and the divisor of averages. True if shapes have to be inferred again.

    What lies downstream of an extent that inference got wrong waits until that has happened.
    """
    taken = network.Names(graph)
    wrong: set[int] = set()
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        waits = any(id(t) in wrong for t in node.inputs) or (bool(wrong) and network.has_subgraph(node))
        inferred = [(t, static_shape(t)) for t in node.outputs]
        replacement = [node] if waits else _spelled_out(node, taken)
        nodes += replacement
        # An output that waits is as wrong as one of which a new node has another shape in mind.
        wrong.update(id(t) for t, shape in inferred if waits or static_shape(t) != shape)
    graph.nodes = nodes
    return bool(wrong)


def _spelled_out(node: gs.Node, taken: network.Names) -> list[gs.Node]:
    """What replaces a convolution, pooling or Resize; the shape that its result really has is written on that."""
    if node.op == "ConvTranspose":
        _spell_out_transposed(node)
    if node.op == "Resize":
        return _sized(node, taken)
    kernel = kernel_shape(node) if node.op in _SLIDING else None
    shape = static_shape(node.inputs[0]) if kernel else None
    if kernel is None or shape is None:
        return [node]
    _check_attributes(node)
    result = node.outputs[0]
    node.attrs["kernel_shape"] = list(kernel)
    rewritten = _spell_out_auto_pad(node, kernel, shape[2:])
    stated = sliding_axes(node, kernel)
    rewritten |= _spell_out_ceil_mode(node, stated, shape[2:])
    extents = tuple(w.extent(n) for n, w in zip(shape[2:], sliding_axes(node, kernel), strict=True))
    if min(extents) < 1:
        raise KryptonError(f"The {describe(node)} has a kernel larger than its padded input {list(shape)}.")
    if rewritten:
        weight = static_shape(node.inputs[_WEIGHT[node.op]]) if node.op in _WEIGHT else None
        channels = weight[0] if weight else shape[1]
        result.shape = [shape[0], channels, *extents]
    correction = _uniform_divisor(node, taken, stated, shape[2:]) if node.op == "AveragePool" else []
    padding = _legal_padding(node, taken) if node.op in POOLS else []
    return [*padding, node, *correction]


def _check_attributes(node: gs.Node) -> None:
    numbers = [n for name in ("kernel_shape", "pads", "strides", "dilations") for n in node.attrs.get(name, [])]
    if any(abs(n) > _MAX_ATTRIBUTE for n in numbers):
        raise KryptonError(f"The {describe(node)} has a kernel, stride, dilation or padding beyond {_MAX_ATTRIBUTE}.")
    if node.attrs.get("group", 1) < 1:
        raise KryptonError(f"The {describe(node)} has {node.attrs['group']} groups: there must be at least one.")
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        raise KryptonError(f"The {describe(node)} has the unknown auto_pad '{node.attrs['auto_pad']}'.")


def _spell_out_auto_pad(node: gs.Node, kernel: tuple[int, ...], extents: tuple[int, ...]) -> bool:
    mode = node.attrs.pop("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        return False
    pads = [(0, 0)] * len(kernel)
    if mode != "VALID":
        windows = sliding_axes(node, kernel)
        pads = [
            geometry.same_padding(n, w.span, w.stride, upper=mode == "SAME_UPPER")
            for n, w in zip(extents, windows, strict=True)
        ]
    node.attrs["pads"] = [begin for begin, _ in pads] + [end for _, end in pads]
    return True


def _spell_out_transposed(node: gs.Node) -> None:
    """Turn auto_pad and output_shape of a ConvTranspose into pads and output_padding."""
    kernel, shape = kernel_shape(node), static_shape(node.inputs[0])
    mode, wanted = node.attrs.get("auto_pad", "NOTSET"), node.attrs.get("output_shape")
    if kernel is None or shape is None or (mode in ("NOTSET", "VALID") and not wanted):
        return
    windows, extra = sliding_axes(node, kernel), node.attrs.get("output_padding", [0] * len(kernel))
    natural = [(n - 1) * w.stride + w.span + e for n, w, e in zip(shape[2:], windows, extra, strict=True)]
    same = [min(n * w.stride, most) for n, w, most in zip(shape[2:], windows, natural, strict=True)]
    extents = wanted[-len(kernel) :] if wanted else same
    if any(extent > most for extent, most in zip(extents, natural, strict=True)):
        return  # it would have to be padded, which no attribute says
    pads = [
        geometry.halves(most - extent, upper=mode == "SAME_UPPER")
        for extent, most in zip(extents, natural, strict=True)
    ]
    node.attrs.pop("auto_pad", None)
    node.attrs.pop("output_shape", None)
    node.attrs["pads"] = [begin for begin, _ in pads] + [end for _, end in pads]
    result = node.outputs[0]
    result.shape = [*(result.shape or shape)[:2], *(int(extent) for extent in extents)]


def _spell_out_ceil_mode(node: gs.Node, stated: tuple[Sliding, ...], extents: tuple[int, ...]) -> bool:
    if not node.attrs.pop("ceil_mode", 0):
        return False
    ends = [geometry.ceil_mode_padding(n, w) for n, w in zip(extents, stated, strict=True)]
    node.attrs["pads"] = [w.pad for w in stated] + ends
    return True


def _uniform_divisor(
    node: gs.Node, taken: network.Names, stated: tuple[Sliding, ...], extents: tuple[int, ...]
) -> list[gs.Node]:
    """Let an AveragePool divide by its whole kernel everywhere; the node that corrects the borders by a constant map.

    A window that hangs over the border is divided by fewer cells: those of the input, or, with
    count_include_pad, those of the input and of the padding that the model states, but not of what ceil_mode
    adds. One map ``kernel cells / divisor`` covers all of it, and a window of it is read like any constant.
    """
    include = bool(node.attrs.get("count_include_pad", 0))
    explicit = sliding_axes(node, tuple(node.attrs["kernel_shape"]))
    if include and explicit == stated:
        return []
    # ONNX Runtime would fuse a Pad into a pooling that counts its padding, and then refuse the sum of both.
    if not include and any(producer.op == "Pad" for producer in node.inputs[0].inputs):
        return []
    divisor = np.ones((1, 1, *(1 for _ in extents)))
    dilations = node.attrs.get("dilations", [1] * len(extents))
    for axis, (size, now, then, dilation) in enumerate(zip(extents, explicit, stated, dilations, strict=True)):
        counted = geometry.cells_inside(size, now, dilation, then if include else Sliding())
        divisor = divisor * np.expand_dims(counted, [a for a in range(len(extents) + 2) if a != axis + 2])
    node.attrs["count_include_pad"] = 1
    factor = math.prod(node.attrs["kernel_shape"]) / divisor
    if np.all(factor == 1):
        return []
    averaged = node.outputs[0]
    raw = gs.Variable(taken.fresh(f"{averaged.name}/whole_kernel"), averaged.dtype, averaged.shape)
    node.outputs = [raw]
    scale = network.constant(taken.fresh(f"{averaged.name}/divisor"), factor.astype(averaged.dtype))
    return [gs.Node("Mul", f"{node.name}/divisor", inputs=[raw, scale], outputs=[averaged])]


def _legal_padding(node: gs.Node, taken: network.Names) -> list[gs.Node]:
    """Give padding that is as large as a pooling kernel, which runtimes refuse, to a Pad in front: that Pad.

    It comes from ceil_mode with dilations: the last window starts inside the input and looks far beyond.
    """
    kernel, pads = node.attrs["kernel_shape"], node.attrs.get("pads", [])
    if all(pad < k for pad, k in zip(pads, [*kernel, *kernel], strict=False)):
        return []
    source, half = node.inputs[0], len(kernel)
    dtype = np.dtype(source.dtype)
    fill = np.zeros((), dtype) if node.op != "MaxPool" else lowest(dtype)
    name = taken.fresh(f"{node.outputs[0].name}/padded")
    amounts = [0, 0, *pads[:half], 0, 0, *pads[half:]]
    shape = [n + a + b for n, a, b in zip(source.shape, amounts[: half + 2], amounts[half + 2 :], strict=True)]
    padded = gs.Variable(name, dtype, shape)
    inputs = [
        source,
        network.constant(taken.fresh(f"{name}/amounts"), np.array(amounts, np.int64)),
        network.constant(taken.fresh(f"{name}/fill"), fill),
    ]
    node.inputs[0] = padded
    node.attrs["pads"] = [0] * len(pads)
    return [gs.Node("Pad", name, inputs=inputs, outputs=[padded])]


def lowest(dtype: np.dtype[Any]) -> Array:
    """The lowest finite number of a type, which a maximum over other numbers never is."""
    return np.array(np.iinfo(dtype).min if dtype.kind in "iu" else np.finfo(dtype).min, dtype)
