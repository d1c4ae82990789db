"""Where windows lie, and what is read of a view: the operands of a read through the overlay."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.geometry import AxisMap, Sliding
from krypton_onnx.passes.emit import IntArray
from krypton_onnx.passes.footprint import Bytes
from krypton_onnx.passes.rules.rule import Axes
from krypton_onnx.plan import View

Maps = tuple[AxisMap, AxisMap]
"""What one row, and one column, of a reader reads."""
POINT: Maps = (Sliding(), Sliding())


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the incremental graph is told of the queries.

    Attributes:
        origins: int64 [Q, 2].
        patch_content: [Q or 1, C, h, w].
        window_sizes: int64 [T, 2].
        view_rows: int64 [V].
        window_begins: int64 [Q, T, 2], where windows begin, if that is not for the graph to find out.
    """

    origins: gs.Variable
    patch_content: gs.Variable
    window_sizes: gs.Variable
    view_rows: gs.Variable
    window_begins: gs.Variable | None

    @property
    def places(self) -> list[gs.Variable]:
        """Those that say where queries lie."""
        return [t for t in self.all() if t is not self.patch_content]

    def all(self) -> list[gs.Variable]:
        """In the order of the graph."""
        begins = [] if self.window_begins is None else [self.window_begins]
        return [self.origins, self.patch_content, self.window_sizes, *begins, self.view_rows]


@dataclass(frozen=True, slots=True)
class Box:
    """A window of each query, or the whole map.

    Attributes:
        window: its number in the plan; None if it is the whole map, whatever the patch.
        starts: [Q, 1, 1], per axis; 0 where every query starts there.
        sizes: scalars, per axis.
        extents: of the tensor in which it lies, per axis.
        expected: its largest size for the patch that the plan is made for, to count memory with.
    """

    window: int | None
    starts: tuple[IntArray | int, IntArray | int]
    sizes: tuple[IntArray | int, IntArray | int]
    extents: tuple[int, int]
    expected: tuple[int, int]

    def memory(self, cell_bytes: int, maps: Maps = POINT) -> Bytes:
        """What a tensor over the cells that one query's box reads takes, at so many bytes a cell."""
        rows, cols = (axis.count(n) for n, axis in zip(self.expected, maps, strict=True))
        total = int(rows * cols) * cell_bytes
        return Bytes(dense=total) if self.window is None else Bytes(window=total)


@dataclass(frozen=True, slots=True)
class Source:
    """A view, ready to be read.

    Attributes:
        tensor: the graph input [rows, C].
        number: its position in view_rows.
        view: its description.
        axes: of the tensor in the model, and of its windows.
        own: the queries' own windows as rows [cells, C]; None for the image, whose windows are the patches.
        dtype: of the tensor in the model; the view can be of a longer type (`planner.held_type`).
    """

    tensor: gs.Variable
    number: int
    view: View
    axes: Axes
    own: gs.Variable | None
    dtype: np.dtype[Any]

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cell, all channels."""
        return self.view.channels * int(np.dtype(self.view.dtype).itemsize)
