"""Analysis: how much memory a graph's activations need at most, beyond weights and inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes.network import static_shape


@dataclass(frozen=True, slots=True)
class Bytes:
    """The size of a tensor, or of what is alive at one moment, by what it grows with.

    Attributes:
        fixed: whatever the number of queries is.
        window: per query, growing with the windows' areas; for the patch that the plan is made for.
        dense: per query, whatever the windows are.
    """

    fixed: int = 0
    window: int = 0
    dense: int = 0

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.fixed + other.fixed, self.window + other.window, self.dense + other.dense)

    def __sub__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.fixed - other.fixed, self.window - other.window, self.dense - other.dense)

    def maximum(self, other: "Bytes") -> "Bytes":
        """The larger of each."""
        return Bytes(max(self.fixed, other.fixed), max(self.window, other.window), max(self.dense, other.dense))


def peak(nodes: Sequence[gs.Node], sizes: Mapping[str, Bytes], kept: Sequence[str]) -> Bytes:
    """The most that is alive at once when nodes run in order and tensors are freed after their last reader.

    Args:
        nodes: in the order in which they run.
        sizes: of the tensors that nodes make, by name; one without an entry is too small to count.
        kept: tensors that are never freed: the graph's outputs.

    Returns:
        The peak of each component; they need not come together, so that their sum is an upper bound.
    """
    last = {t.name: position for position, node in enumerate(nodes) for t in (*node.outputs, *node.inputs)}
    freed: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in kept:
            freed.setdefault(position, []).append(name)
    alive, most = Bytes(), Bytes()
    for position, node in enumerate(nodes):
        for tensor in node.outputs:
            alive += sizes.get(tensor.name, Bytes())
        most = most.maximum(alive)
        for name in freed.get(position, ()):
            alive -= sizes.get(name, Bytes())
    return most


def static_bytes(tensor: gs.Tensor) -> int:
    """Bytes of a tensor of static shape, for one query; 0 if that is not known."""
    shape = static_shape(tensor)
    if shape is None or tensor.dtype is None:
        return 0
    return math.prod(shape) * int(np.dtype(tensor.dtype).itemsize)
