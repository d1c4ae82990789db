"""The answer of a window rule, and what rules ask of a node."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.geometry import AxisMap, Sliding
from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, values


@dataclass(frozen=True, slots=True)
class Axes:
    """Which axes of a 4-D tensor are the channels, the image's rows and its columns; axis 0 is the batch."""

    channel: int
    rows: int
    cols: int

    @property
    def spatial(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.cols

    @property
    def from_rows(self) -> list[int]:
        """The permutation that brings [Q, rows, columns, channels] to this order."""
        order = {0: 0, self.rows: 1, self.cols: 2, self.channel: 3}
        return [order[axis] for axis in range(4)]

    @property
    def to_rows(self) -> list[int]:
        """The permutation that brings this order to [Q, rows, columns, channels]."""
        return [0, self.rows, self.cols, self.channel]

    def permuted(self, perm: Sequence[int]) -> "Axes":
        """After a Transpose that leaves axis 0 where it is."""
        return Axes(perm.index(self.channel), perm.index(self.rows), perm.index(self.cols))


NCHW = Axes(1, 2, 3)
NHWC = Axes(3, 1, 2)


class Form(Enum):
    """How a window is computed."""

    RUN = "run"
    """The node itself runs on what it reads."""
    READ = "read"
    """What it reads is the result."""
    PICK = "pick"
    """The node runs on what it reads and makes too much, of which the window is picked (`geometry.Expanding`)."""
    BLEND = "blend"
    """Weighted sums of what it reads (`geometry.Blend`)."""


@dataclass(frozen=True, slots=True)
class WindowRule:
    """A node that can run on windows.

    Attributes:
        rows, cols: the input cells that one output cell reads, per axis.
        pad_value: what the node sees outside its input; None where it never looks there.
        spatial_constants: indices of inputs that are constant maps, of which a window has to be read too.
        axes: of the result.
        form: how its window is computed.
    """

    rows: AxisMap = field(default=Sliding())
    cols: AxisMap = field(default=Sliding())
    pad_value: float | None = None
    spatial_constants: tuple[int, ...] = ()
    axes: Axes = NCHW
    form: Form = Form.RUN

    @property
    def is_pointwise(self) -> bool:
        """Whether output cell (y, x) reads input cell (y, x) and nothing else."""
        return self.rows.is_pointwise and self.cols.is_pointwise


@dataclass(frozen=True, slots=True)
class NoRule:
    """Why a node has to run dense."""

    reason: str


Rule = WindowRule | NoRule


def moving_beyond(node: gs.Node, moving: frozenset[str], data: Sequence[int] = (0,)) -> bool:
    """Whether an input other than the data inputs depends on the image."""
    return any(t.name in moving for i, t in enumerate(node.inputs) if i not in data)


def numbers(node: gs.Node, index: int, attribute: str | None = None) -> Array | None:
    """A constant operand as a flat array: an attribute, or input `index`; None where it is absent or computed."""
    if attribute is not None and attribute in node.attrs:
        return np.atleast_1d(np.asarray(node.attrs[attribute]))
    tensor = network.input_or_none(node, index)
    known = None if tensor is None else values(tensor)
    return None if known is None else np.atleast_1d(known)


def by_axis(axes: Axes, maps: dict[int, AxisMap]) -> tuple[AxisMap, AxisMap]:
    """(rows, columns) of what a node reads along the axes of its tensors; other axes must be left alone."""
    return maps.get(axes.rows, Sliding()), maps.get(axes.cols, Sliding())
