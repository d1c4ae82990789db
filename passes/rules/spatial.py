"""Operators that move, drop, repeat or resample rows and columns."""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx import geometry
from krypton_onnx.geometry import AxisMap, Blend, Expanding, Lookup, Sliding
from krypton_onnx.passes import network
from krypton_onnx.passes.network import Array, static_shape
from krypton_onnx.passes.rules.rule import (
    Axes,
    Form,
    NoRule,
    Rule,
    WindowRule,
    by_axis,
    moving_beyond,
    numbers,
)

_RANK = 4


def _pad(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    amounts = numbers(node, 1)
    if amounts is None or network.input_or_none(node, 3) is not None or moving_beyond(node, moving):
        return NoRule("its padding is computed")
    mode = node.attrs.get("mode", "constant")
    size = static_shape(node.inputs[0]) or ()
    maps: dict[int, AxisMap] = {}
    for axis, (begin, end) in enumerate(zip(amounts[:_RANK].tolist(), amounts[_RANK:].tolist(), strict=True)):
        if not begin and not end:
            continue
        if axis not in axes.spatial:
            return NoRule("it pads the channels")
        if mode == "constant":
            maps[axis] = Sliding(pad=begin, pad_end=end)
        elif min(begin, end) < 0 or max(begin, end) >= size[axis]:
            return NoRule(f"its {mode} padding crops, or is larger than the map")
        else:
            maps[axis] = Lookup(geometry.padded_rows(size[axis], begin, end, mode), size[axis])
    fill = numbers(node, 2)
    if fill is None and network.input_or_none(node, 2) is not None:
        return NoRule("its fill is computed")
    rows, cols = by_axis(axes, maps)
    pad_value = 0.0 if fill is None else float(fill[0])
    return WindowRule(rows, cols, pad_value if mode == "constant" else None, axes=axes, form=Form.READ)


def _slice(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    starts, ends, places = numbers(node, 1), numbers(node, 2), _axes_of(node, 3)
    steps = numbers(node, 4) if network.input_or_none(node, 4) is not None else np.ones_like(starts)
    if starts is None or ends is None or places is None or steps is None:
        return NoRule("its bounds are computed")
    if 0 in places[: len(starts)]:
        return NoRule("it selects along the batch")
    size = static_shape(node.inputs[0]) or ()
    kept = {
        axis: range(size[axis])[slice(*_bounds(size[axis], int(start), int(end), int(step)))]
        for axis, start, end, step in zip(places[: len(starts)], starts, ends, steps, strict=True)
    }
    changed = {axis: rows for axis, rows in kept.items() if rows != range(size[axis])}
    return _selection(axes, size, {axis: tuple(rows) for axis, rows in changed.items()})


def _bounds(size: int, start: int, end: int, step: int) -> tuple[int, int | None, int]:
    """ONNX's bounds as Python's: an end far below zero runs backwards through row 0."""
    if step > 0:
        return start, end, step
    return start, (None if end < -size else end), step


def _gather(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    indices = network.values(node.inputs[1])
    if indices is None or np.ndim(indices) != 1:
        return NoRule("its indices are computed, or not a list")
    size = static_shape(node.inputs[0]) or ()
    axis = node.attrs.get("axis", 0) % _RANK
    return _selection(axes, size, {axis: tuple(int(i) % size[axis] for i in np.asarray(indices))})


def _selection(axes: Axes, size: tuple[int, ...], chosen: dict[int, tuple[int, ...]]) -> Rule:
    """Some entries of some axes: of the channels, which the node does itself, or of rows and columns, by reading."""
    if 0 in chosen:
        return NoRule("it selects along the batch")
    if not any(axis in axes.spatial for axis in chosen):
        return WindowRule(axes=axes)
    if axes.channel in chosen:
        return NoRule("it selects channels and places at once")
    rows, cols = by_axis(axes, {axis: _rows_of(source, size[axis]) for axis, source in chosen.items()})
    return WindowRule(rows, cols, axes=axes, form=Form.READ)


def _rows_of(source: tuple[int, ...], size: int) -> AxisMap:
    """The plainest form of an axis of selected rows: neighbours are cropped to, others are looked up."""
    if source == tuple(range(source[0], source[-1] + 1)):
        return Sliding(pad=-source[0], pad_end=source[-1] + 1 - size)
    return Lookup(source, size)


def _resize(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    mode = node.attrs.get("mode", "nearest")
    if mode not in ("nearest", "linear") or node.attrs.get("antialias", 0):
        return NoRule(f"Resize of mode {mode}{' with antialiasing' if node.attrs.get('antialias', 0) else ''}")
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch" or moving_beyond(node, moving):
        return NoRule("its output size follows a policy, or is computed")
    if mode == "linear" and np.dtype(node.inputs[0].dtype).name not in ("float32", "float64"):
        return NoRule(f"linear Resize of {np.dtype(node.inputs[0].dtype).name}")
    size, extent = static_shape(node.inputs[0]) or (), static_shape(node.outputs[0]) or ()
    scales = _scales(node, size, extent)
    if scales is None:
        return NoRule("its scales are computed")
    maps: dict[int, AxisMap] = {}
    for axis in range(_RANK):
        if scales[axis] == 1.0 and size[axis] == extent[axis]:
            continue
        if axis not in axes.spatial:
            return NoRule("it resizes the channels")
        positions = geometry.resize_positions(
            size[axis], extent[axis], scales[axis], node.attrs.get("coordinate_transformation_mode", "half_pixel")
        )
        if positions is None:
            return NoRule(f"Resize with {node.attrs['coordinate_transformation_mode']} coordinates")
        maps[axis] = _resized(positions, size[axis], mode, node.attrs.get("nearest_mode", "round_prefer_floor"))
    rows, cols = by_axis(axes, maps)
    if mode == "nearest":
        return WindowRule(rows, cols, axes=axes, form=Form.READ)
    # An axis that keeps its extent is blended with weights of one.
    rows, cols = (
        m if isinstance(m, Blend) else _blend(np.arange(n), n) for m, n in _with_sizes(axes, size, rows, cols)
    )
    return WindowRule(rows, cols, 0.0, axes=axes, form=Form.BLEND)


def _with_sizes(axes: Axes, size: tuple[int, ...], rows: AxisMap, cols: AxisMap) -> list[tuple[AxisMap, int]]:
    return [(rows, size[axes.rows]), (cols, size[axes.cols])]


def _resized(positions: Array, size: int, mode: str, rounding: str) -> AxisMap:
    if mode == "linear":
        return _blend(positions, size)
    return Lookup(geometry.nearest_rows(positions, size, rounding), size)  # type: ignore[arg-type]


def _blend(positions: Array, size: int) -> Blend:
    return Blend(tuple(np.clip(positions, 0, size - 1).astype(float).tolist()), size)


def _scales(node: gs.Node, size: tuple[int, ...], extent: tuple[int, ...]) -> list[float] | None:
    """Output rows per input row, along every axis."""
    stated = numbers(node, 2)
    if stated is None or not stated.size:
        if numbers(node, 3) is None:
            return None
        return [float(np.float32(b) / np.float32(a)) for a, b in zip(size, extent, strict=True)]
    scales = [1.0] * _RANK
    for axis, scale in zip(node.attrs.get("axes", range(_RANK)), stated.tolist(), strict=True):
        scales[axis % _RANK] = float(scale)
    return scales


def _blocks(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    """DepthToSpace, which spreads a cell over a block, and SpaceToDepth, which reads one."""
    if axes.channel != 1:
        return NoRule("its channels do not stand where it expects them")
    block = node.attrs["blocksize"]
    if node.op == "SpaceToDepth":
        return WindowRule(Sliding(block, block), Sliding(block, block), axes=axes)
    return WindowRule(Expanding(block, block), Expanding(block, block), 0.0, axes=axes, form=Form.PICK)


def _transpose(node: gs.Node, axes: Axes, moving: frozenset[str]) -> Rule:
    perm = list(node.attrs.get("perm", range(_RANK - 1, -1, -1)))
    return WindowRule(axes=axes.permuted(perm)) if perm[0] == 0 else NoRule("it moves the batch")


def _axes_of(node: gs.Node, index: int) -> list[int] | None:
    if network.input_or_none(node, index) is None:
        return list(range(_RANK))
    known = numbers(node, index)
    return None if known is None else [int(axis) % _RANK for axis in known]


RULES: dict[str, Callable[[gs.Node, Axes, frozenset[str]], Rule]] = {
    "DepthToSpace": _blocks,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _blocks,
    "Transpose": _transpose,
}
