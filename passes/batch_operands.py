"""What a batch rule sees of a node: its operands, each with its shape for one image and its batch axis."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, outputs, static_shape, values

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a node may mix queries."""

    reason: str


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of a node.

    Attributes:
        tensor: in the graph.
        shape: for one image; None if it is not known, which for a moving operand no rule sees.
        axis: along which it is a batch; None if it does not depend on the image.
    """

    tensor: gs.Tensor
    shape: Shape | None
    axis: int | None

    @property
    def moves(self) -> bool:
        """Whether it depends on the image."""
        return self.axis is not None

    @property
    def place(self) -> int:
        """Its batch axis, counted from the end (negative)."""
        assert self.axis is not None
        assert self.shape is not None
        return self.axis - len(self.shape)

    @property
    def share(self) -> int:
        """One query's extent along its batch axis."""
        assert self.axis is not None
        assert self.shape is not None
        return self.shape[self.axis]


Rule = Callable[[gs.Node, list[Operand]], int | Doubt]
"""From a node and its operands to the batch axis of its outputs."""

MIXED = Doubt("its inputs are batches along different axes")
PARAMETERS = Doubt("its parameters depend on the image")
ALONG = Doubt("it works along the batch axis")
COMPUTED = Doubt("how it works on the batch axis is computed")
SUMMED = Doubt("it sums over the batch")
SEVERAL = Doubt("its rows are quantized in several ways")


def result_rank(node: gs.Node) -> int:
    """Axes of the node's first output."""
    return len(static_shape(outputs(node)[0]) or ())


def known_input(node: gs.Node, index: int) -> Array | None:
    """Input number `index`, if it is given and constant."""
    tensor = network.input_or_none(node, index)
    return None if tensor is None else values(tensor)


def known_integers(node: gs.Node, index: int) -> list[int] | None:
    """The same as a list of integers."""
    known = known_input(node, index)
    return None if known is None else [int(n) for n in np.atleast_1d(known).reshape(-1)]


def only_first(operands: list[Operand]) -> tuple[Shape, int] | None:
    """Shape and batch axis of the first operand, if it is the only one that moves."""
    first, *others = operands
    if first.axis is None or first.shape is None or any(o.moves for o in others):
        return None
    return first.shape, first.axis


def parallel(moving: list[Operand]) -> bool:
    """Whether operands are batches at the same place, with the same share."""
    return len({o.place for o in moving}) == 1 and len({o.share for o in moving}) == 1


def spread(operand: Operand, place: int) -> bool:
    """Whether an operand that does not move is the same for all rows of a batch at this place."""
    if network.is_absent(operand.tensor):
        return True
    return operand.shape is not None and (len(operand.shape) < -place or operand.shape[place] == 1)
