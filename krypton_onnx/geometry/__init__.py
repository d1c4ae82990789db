"""The region algebra: every floor, ceiling and clamp of the project.

A *region* is, per axis, the interval of rows (or columns) of one tensor that can differ from the base run when
a patch is laid at origin ``a``. One table of transfers carries an interval from an operator's input to its output; a
`Step` applies a transfer per axis to the hull of some earlier steps, and a tuple of steps is a *region program*.
Step 0 is always the patch itself.

`axes` says what one axis of an operator reads, `programs` carries regions and sizes windows, `overlay` finds the cells
that a read wants, `extents` knows the rules of ONNX for padding and resampling, `grid` lays out origins.

What depends on one integer alone is tabulated by the compiler. What is left for the graph, in `overlay` and in
`window_start`, has two interpreters, chosen by the argument ``xp``: ``numpy``, for the driver and the tests, and the
emitter of `krypton_onnx.passes.emit`, which records the arithmetic as ONNX integer nodes. They need no more of ``xp``
than ``minimum, maximum, where, take, arange, expand_dims, transpose, nonzero, max`` and the operators
``+ - * // < > >= &``, the quotient of what is not negative.
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
    taps_inside,
)
from krypton_onnx.geometry.grid import grid_axis, strided_count
from krypton_onnx.geometry.overlay import (
    Lines,
    WantedTables,
    bands,
    box_index,
    line_terms,
    overlay_index,
    patch_pixels,
    wanted_tables,
)
from krypton_onnx.geometry.programs import (
    Interval,
    Program,
    Step,
    begins,
    capped_windows,
    ends,
    patch_step,
    region_sizes,
    regions,
    share_cap,
    window_sizes,
    window_start,
)

__all__ = [
    "NOWHERE",
    "AxisMap",
    "AxisTransfer",
    "Blend",
    "Expanding",
    "Interval",
    "Ints",
    "Lines",
    "Lookup",
    "Program",
    "Sliding",
    "Step",
    "TableTransfer",
    "Transfer",
    "WantedTables",
    "bands",
    "begins",
    "box_index",
    "capped_windows",
    "ceil_mode_padding",
    "cells_inside",
    "ends",
    "grid_axis",
    "halves",
    "line_terms",
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
    "share_cap",
    "strided_count",
    "taps_inside",
    "unchanged",
    "wanted_tables",
    "window_sizes",
    "window_start",
]
