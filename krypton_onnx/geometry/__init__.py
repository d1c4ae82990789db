"""The region algebra: every floor, ceiling and clamp of the project.

A *region* is, per axis, the interval of rows (or columns) of one tensor that can differ from the base run when
a patch is laid at origin ``a``. One table of transfers carries an interval from an operator's input to its output; a
`Step` applies a transfer per axis to the hull of some earlier steps, and a tuple of steps is a *region program*.
Step 0 is always the patch itself.

`axes` says what one axis of an operator reads, `programs` carries regions and sizes windows, `overlay` finds the cells
that a read wants, `extents` knows the rules of ONNX for padding and resampling, `grid` lays out origins.

The same functions have two interpreters, chosen by the argument ``xp``: ``numpy``, for the planner and the
driver, and the emitter of `krypton_onnx.passes.emit`, which records the arithmetic as ONNX integer nodes. They
need no more of ``xp`` than ``minimum, maximum, clip, where, equal, take, arange, expand_dims`` and the operators
``+ - * //`` (floor division).
"""

from krypton_onnx.geometry.axes import (
    NOWHERE,
    AxisMap,
    AxisTransfer,
    Blend,
    Expanding,
    Ints,
    Lookup,
    Sliding,
    TableTransfer,
    Transfer,
    unchanged,
)
from krypton_onnx.geometry.extents import (
    ceil_mode_padding,
    cells_inside,
    halves,
    nearest_rows,
    padded_rows,
    resize_positions,
    resized_extents,
    same_padding,
)
from krypton_onnx.geometry.grid import grid_axis
from krypton_onnx.geometry.overlay import AxisRead, band, map_index, overlay_index, patch_pixels, window_index
from krypton_onnx.geometry.programs import (
    Interval,
    Program,
    Step,
    begins,
    patch_step,
    region_sizes,
    regions,
    window_sizes,
    window_start,
)

__all__ = [
    "NOWHERE",
    "AxisMap",
    "AxisRead",
    "AxisTransfer",
    "Blend",
    "Expanding",
    "Interval",
    "Ints",
    "Lookup",
    "Program",
    "Sliding",
    "Step",
    "TableTransfer",
    "Transfer",
    "band",
    "begins",
    "ceil_mode_padding",
    "cells_inside",
    "grid_axis",
    "halves",
    "map_index",
    "nearest_rows",
    "overlay_index",
    "padded_rows",
    "patch_pixels",
    "patch_step",
    "region_sizes",
    "regions",
    "resize_positions",
    "resized_extents",
    "same_padding",
    "unchanged",
    "window_index",
    "window_sizes",
    "window_start",
]
