"""The graph that computes, from an image, the scales and biases by which it is explained in bytes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network

MARGIN = 1.1
"""Over the largest number of the image's own run, for what occlusions make larger."""

SIGNED = 128
"""Zero point of tensors that can be negative."""

TINY = 1e-12
"""The least scale. A tensor of zeros has a scale too: as if its largest number were 1."""

MOST_UNITS = 2.0**31 - 256
"""The largest float32 that fits into int32."""


@dataclass(slots=True, eq=False)
class Scale:
    """The scale that several tensors share.

    Attributes:
        name: of the graph's input.
        tensors: names, in the model, of those whose range it covers.
        zero: their zero point.
        most: the largest number that they can have, if that is known.
    """

    name: str
    tensors: list[str]
    zero: int
    most: float | None = None


class Ranges:
    """The graph that computes scales and biases from the image."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph, self._taken = graph, network.Names(graph)
        self._tensors = graph.tensors()
        self._made: dict[str, gs.Variable] = {}
        self._means: dict[str, gs.Variable] = {}

    def add_scale(self, scale: Scale) -> gs.Variable:
        """The largest number of its tensors, over the largest byte."""
        if scale.name not in self._made:
            reach = [self._reach(name, signed=scale.zero > 0) for name in dict.fromkeys(scale.tensors)]
            most = reach[0] if len(reach) == 1 else self._emit("Max", reach)
            some = self._emit("Greater", [most, self._number(0.0)], dtype=np.bool_)
            wide = self._emit("Where", [some, self._emit("Mul", [most, self._number(MARGIN)]), self._number(1.0)])
            if scale.most is not None and math.isfinite(scale.most):
                wide = self._emit("Min", [wide, self._number(scale.most)])
            steps = 255 if scale.zero == 0 else SIGNED - 1
            self._emit("Max", [self._emit("Mul", [wide, self._number(1 / steps)]), self._number(TINY)], scale.name, [])
        return self._made[scale.name]

    def add_bias(self, name: str, given: np.ndarray, lost: np.ndarray, groups: int, source: str, scale: Scale) -> None:
        """The bias of a convolution in bytes, in units of the products of its weights and inputs.

        Rounded weights shift a channel's results by about what was lost of them times the mean input. So much is added.

        Args:
            name: of what is made, int32 [M].
            given: float32 [M], the bias in units of the weights.
            lost: [M, C / groups], what rounding took from the weights, in the same units, summed over the kernel.
            groups: of the convolution.
            source: the tensor that the convolution reads.
            scale: of that tensor.

        Source: Nagel, van Baalen, Blankevoort, Welling, ICCV 2019, section 4.2, here of the image's own run.
        """
        halves = network.constant(self._taken.fresh(f"{name}/lost"), lost[:, :, None, None].astype(np.float16))
        weights = self._emit("Cast", [halves], to=network.element_type(np.float32))
        bias = network.constant(self._taken.fresh(f"{name}/given"), given.astype(np.float32))
        shifted = self._emit("Conv", [self._mean(source, groups * lost.shape[1]), weights, bias], group=groups)
        units = self._emit("Div", [self._reshaped(shifted, [-1]), self.add_scale(scale)])
        inside = self._emit("Min", [self._emit("Max", [units, self._number(-MOST_UNITS)]), self._number(MOST_UNITS)])
        whole = network.element_type(np.int32)
        self._emit("Cast", [self._emit("Round", [inside])], name, [len(given)], dtype=np.int32, to=whole)

    def finished(self) -> gs.Graph:
        """The graph."""
        self._graph.outputs = list(self._made.values())
        self._graph.name = "ranges"
        self._graph.cleanup(remove_unused_graph_inputs=False).toposort()
        return self._graph

    def _mean(self, name: str, channels: int) -> gs.Variable:
        """Of each channel, over all that an export may have folded into the batch: [1, C, 1, 1]."""
        if name not in self._means:
            maps = self._emit("GlobalAveragePool", [self._tensors[name]])
            columns = self._reshaped(self._emit("Transpose", [maps], perm=[1, 0, 2, 3]), [1, channels, -1, 1])
            self._means[name] = self._emit("GlobalAveragePool", [columns])
        return self._means[name]

    def _reshaped(self, tensor: gs.Variable, shape: list[int]) -> gs.Variable:
        return self._emit("Reshape", [tensor, network.constant(self._taken.fresh("shape"), np.array(shape, np.int64))])

    def _reach(self, name: str, *, signed: bool) -> gs.Variable:
        tensor = self._tensors[name]
        return self._emit("ReduceMax", [self._emit("Abs", [tensor]) if signed else tensor], keepdims=0)

    def _number(self, value: float) -> gs.Constant:
        return network.constant(self._taken.fresh("number"), np.array(value, np.float32))

    def _emit(
        self,
        op: str,
        inputs: Iterable[gs.Tensor],
        name: str | None = None,
        shape: object = None,
        dtype: type = np.float32,
        **attrs: object,
    ) -> gs.Variable:
        made = gs.Variable(self._taken.fresh(name or f"ranges/{op.lower()}"), np.dtype(dtype), shape)
        self._graph.nodes.append(gs.Node(op, made.name, attrs, list(inputs), [made]))
        if name is not None:
            self._made[name] = made
        return made
