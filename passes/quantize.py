"""Transform: convolutions in bytes, with scales that the image sets. Approximate, and several times as fast.

Before: ``x → Conv(w, b) → Relu → y``. After::

    x/bytes ─ QLinearConv(scale of x, w in bytes a channel, scale of y, bias) ─ y/bytes ─ (DequantizeLinear ─ y)

A tensor in bytes is ``scale · (byte − zero)``, zero being 0 where the tensor is never negative, which makes the Relu,
and 128 elsewhere. The scales, and the biases in units of them, are further inputs of the graph; a second graph, the
*ranges*, computes them from the image. Convolutions that read the image itself stay in floats, as does all that has no
rule here: what that reads of bytes is made floats again.

Weights have a scale for each output channel, and the biases take back what rounding them shifts of its mean. Nothing is
calibrated on pictures beforehand.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.passes import network
from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.network import Network, static_shape, values
from krypton_onnx.passes.ranges import SIGNED, Ranges, Scale
from krypton_onnx.passes.static_shapes import kernel_shape, sliding_axes

LEAST_SHARE = 0.5
"""Of the arithmetic of a model's convolutions that must run in bytes for this to be worth it."""

_WEIGHT_MOST = 127

_LEAST_FILTER = 1e-4
"""Of a convolution's largest weight: filters whose largest is less are rounded as coarsely as if it were that."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """The result.

    Attributes:
        net: the model in bytes; its further inputs are the scales and biases.
        ranges: image, and the model's other inputs → the further inputs of `net`, by the same names.
    """

    net: Network
    ranges: gs.Graph


@dataclass(slots=True)
class _Choice:
    """Which tensors are kept in bytes, by which scale, and which nodes compute in bytes, by their results' names."""

    scales: dict[str, Scale] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)

    def keep(self, tensor: gs.Tensor) -> None:
        """Give a tensor a scale of its own, if it has none."""
        producer = tensor.inputs[0] if tensor.inputs else None
        most = _largest(producer)
        zero = 0 if most is not None else SIGNED
        if tensor.name not in self.scales:
            self.scales[tensor.name] = Scale(f"int8/{tensor.name}/scale", [tensor.name], zero, most)

    def share(self, names: list[str], result: str) -> None:
        """Give these tensors, and what is joined of them, one scale."""
        one = self.scales[names[0]]
        others = {id(self.scales[name]): self.scales[name] for name in names[1:]}
        for other in others.values():
            if other is not one:
                one.tensors += other.tensors
                one.most = None if None in (one.most, other.most) else max(one.most or 0, other.most or 0)
                self.scales |= {tensor: one for tensor, scale in self.scales.items() if scale is other}
        self.scales[result] = one


def quantized(net: Network) -> Quantized | None:
    """The model in bytes; None if too little of it would be.

    Args:
        net: the normalized model, left as it is.
    """
    graph = net.graph.copy()
    choice = _chosen(net, graph)
    convolutions = [node for node in graph.nodes if node.op == "Conv"]
    work = math.fsum(flops(node) for node in convolutions)
    if math.fsum(flops(n) for n in convolutions if n.outputs[0].name in choice.nodes) < max(1, LEAST_SHARE * work):
        return None
    ranges = Ranges(net.graph.copy())
    writer = _Writer(graph, choice, ranges)
    for node in list(graph.nodes):
        if node.outputs and node.outputs[0].name in choice.nodes:
            writer.write(node)
    writer.restore_floats()
    graph.inputs = [*graph.inputs, *writer.inputs()]
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return Quantized(Network(graph, net.image, net.channels_last, net.notes), ranges.finished())


def _chosen(net: Network, graph: gs.Graph) -> _Choice:
    choice = _Choice()
    for node in graph.nodes:
        if not node.outputs or node.domain not in (None, ""):
            continue
        names = [t.name for t in node.inputs]
        match node.op:
            case "Conv" if _is_convertible(node, net.image):
                choice.keep(node.inputs[0])
                choice.keep(_target(node, graph))
            case "Add" if _adds_maps(node) and all(name in choice.scales for name in names):
                choice.keep(_target(node, graph))
            case "MaxPool" if names[0] in choice.scales and len(network.outputs(node)) == 1:
                choice.scales[node.outputs[0].name] = choice.scales[names[0]]
            case "Concat" if node.attrs.get("axis") == 1 and _same_zero(choice, names):
                choice.share(names, node.outputs[0].name)
            case _:
                continue
        choice.nodes.add(node.outputs[0].name)
    return choice


def _is_convertible(node: gs.Node, image: str) -> bool:
    weights = values(node.inputs[1])
    bias = network.input_or_none(node, 2)
    alike = node.inputs[0].dtype == np.float32 and len(static_shape(node.inputs[0]) or ()) == 4
    known = weights is not None and (bias is None or values(bias) is not None)
    return alike and known and node.inputs[0].name != image and not isinstance(node.inputs[0], gs.Constant)


def _adds_maps(node: gs.Node) -> bool:
    shapes = [static_shape(tensor) for tensor in (*node.inputs, *node.outputs)]
    return len(shapes) == 3 and len(set(shapes)) == 1 and not any(isinstance(t, gs.Constant) for t in node.inputs)


def _same_zero(choice: _Choice, names: list[str]) -> bool:
    return all(name in choice.scales for name in names) and len({choice.scales[name].zero for name in names}) == 1


def _target(node: gs.Node, graph: gs.Graph) -> gs.Tensor:
    """The result of a node, or of the activation behind it that a zero point of 0 makes."""
    result = node.outputs[0]
    alone = len(result.outputs) == 1 and all(result is not output for output in graph.outputs)
    return result.outputs[0].outputs[0] if alone and _largest(result.outputs[0]) is not None else result


def _largest(node: gs.Node | None) -> float | None:
    """The largest number that an activation gives; None for what is none, or gives negative ones."""
    if node is None or node.op not in ("Relu", "Clip"):
        return None
    if node.op == "Relu":
        return math.inf
    low, high = (None if t is None else values(t) for t in (network.input_or_none(node, i) for i in (1, 2)))
    if low is None or float(low) != 0.0 or node.inputs[0].dtype != np.float32:
        return None
    return math.inf if high is None else float(high)


def _inside(node: gs.Node) -> np.ndarray:
    """For each weight of a kernel, the share of the results for which it reads the map, not the padding: [kh, kw]."""
    windows, extents = sliding_axes(node, kernel_shape(node) or ()), (static_shape(node.inputs[0]) or ())[2:]
    dilations = node.attrs.get("dilations", [1, 1])
    return np.outer(*(geometry.taps_inside(*axis) for axis in zip(extents, windows, dilations, strict=True)))


class _Writer:
    """Puts nodes that compute in bytes in the place of others."""

    def __init__(self, graph: gs.Graph, choice: _Choice, ranges: Ranges) -> None:
        self._graph, self._choice, self._ranges = graph, choice, ranges
        self._taken = network.Names(graph)
        self._bytes: dict[str, gs.Variable] = {}
        self._replaced: dict[str, gs.Tensor] = {}
        self._inputs: dict[str, gs.Variable] = {}

    def write(self, node: gs.Node) -> None:
        """Replace a node, and the activation behind it if it makes that as well."""
        result = node.outputs[0]
        target = _target(node, self._graph) if node.op in ("Conv", "Add") else result
        match node.op:
            case "Conv":
                self._convolve(node, target)
            case "Add":
                floats = [self._floats(t) for t in node.inputs]
                self._emit(
                    "QuantizeLinear", [self._emit("Add", floats, target.name, np.float32), *self._grid(target)], target
                )
            case op:
                self._emit(op, [self._in_bytes(t) for t in node.inputs], target, attrs=dict(node.attrs))
        for old in (node, *(n for n in result.outputs if target is not result)):
            for tensor in old.outputs:
                self._replaced[tensor.name] = tensor
            old.inputs.clear()
            old.outputs.clear()

    def restore_floats(self) -> None:
        """Make floats of bytes for whoever still reads them."""
        wanted = {id(tensor) for tensor in self._graph.outputs}
        for name, tensor in self._replaced.items():
            if name in self._bytes and (tensor.outputs or id(tensor) in wanted):
                inputs = [self._bytes[name], *self._grid(tensor)]
                self._graph.nodes.append(
                    gs.Node("DequantizeLinear", self._taken.fresh(f"{name}/floats"), {}, inputs, [tensor])
                )

    def inputs(self) -> list[gs.Variable]:
        """The further inputs of the graph."""
        return list(self._inputs.values())

    def _convolve(self, node: gs.Node, target: gs.Tensor) -> None:
        source, weights = node.inputs[0], np.asarray(values(node.inputs[1]), np.float32)
        largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        least = _LEAST_FILTER * (largest.max() or 1.0)  # so that int32 holds the bias of a filter of zeros
        scales = np.maximum(largest, least).astype(np.float32) / _WEIGHT_MOST
        in_units = weights / scales[:, None, None, None]
        rounded = np.rint(in_units).astype(np.int8)
        bias = network.input_or_none(node, 2)
        given = np.zeros(len(weights), np.float32) if bias is None else np.asarray(values(bias), np.float32)
        units = self._input(f"int8/{node.outputs[0].name}/bias", np.int32, [len(weights)])
        lost, groups = ((in_units - rounded) * _inside(node)).sum(axis=(2, 3)), int(node.attrs.get("group", 1))
        self._ranges.add_bias(units.name, given / scales, lost, groups, source.name, self._choice.scales[source.name])
        inputs = [
            self._in_bytes(source),
            *self._grid(source),
            self._constant(f"{node.outputs[0].name}/weights", rounded),
            self._constant(f"{node.outputs[0].name}/weight_scales", scales),
            self._constant(f"{node.outputs[0].name}/weight_zeros", np.zeros(len(weights), np.int8)),
            *self._grid(target),
            units,
        ]
        self._emit("QLinearConv", inputs, target, attrs=dict(node.attrs))

    def _in_bytes(self, tensor: gs.Tensor) -> gs.Variable:
        if tensor.name not in self._bytes:
            self._emit("QuantizeLinear", [tensor, *self._grid(tensor)], tensor)
        return self._bytes[tensor.name]

    def _floats(self, tensor: gs.Tensor) -> gs.Variable:
        """Floats of a tensor's bytes, for one reader, so that a runtime may join the two."""
        return self._emit("DequantizeLinear", [self._in_bytes(tensor), *self._grid(tensor)], tensor.name, np.float32)

    def _grid(self, tensor: gs.Tensor) -> list[gs.Tensor]:
        """Scale and zero point."""
        scale = self._choice.scales[tensor.name]
        self._ranges.add_scale(scale)
        zero = np.array(scale.zero, np.uint8)
        return [self._input(scale.name, np.float32, []), self._constant(f"zero/{scale.zero}", zero)]

    def _input(self, name: str, dtype: type, shape: list[int]) -> gs.Variable:
        return self._inputs.setdefault(name, gs.Variable(name, np.dtype(dtype), shape))

    def _constant(self, name: str, array: np.ndarray) -> gs.Constant:
        return network.constant(self._taken.fresh(name), array)

    def _emit(
        self,
        op: str,
        inputs: list[gs.Tensor],
        result: gs.Tensor | str,
        dtype: type | None = None,
        attrs: dict[str, object] | None = None,
    ) -> gs.Variable:
        """A node that makes a tensor's bytes, or, given a name, an intermediate of this type."""
        name = result if isinstance(result, str) else result.name
        shape = inputs[0].shape if isinstance(result, str) else result.shape
        made = gs.Variable(self._taken.fresh(f"{name}/{op.lower()}"), np.dtype(dtype or np.uint8), shape)
        self._graph.nodes.append(gs.Node(op, made.name, attrs or {}, inputs, [made]))
        if not isinstance(result, str):
            self._bytes[name] = made
        return made
