"""The planner: policy. Where windows end, which tensors share a window, what is kept as a view.

Its decisions depend on the model and on the patch it is told to expect, never on the machine, so that an artifact
is the same wherever it is made.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.geometry import Program, Sliding, Step, unchanged
from krypton_onnx.passes import network
from krypton_onnx.passes.cost import Prediction, predict, read_seconds
from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.map_means import TABLE, is_map_mean
from krypton_onnx.passes.network import Network, describe, outputs, static_shape
from krypton_onnx.passes.plan_rows import plan_rows
from krypton_onnx.passes.regions import Dense, Regions, Windowed, used_names
from krypton_onnx.passes.rules.rule import Axes, Form, WindowRule
from krypton_onnx.passes.through import Through, read_through
from krypton_onnx.plan import DenseNode, Read, View, Window

DENSE_COVERAGE = 0.75
"""A tensor of which the mean region covers this share is computed in full: native speed beats windows there."""

JOIN_COVERAGE = 0.75
"""A branch whose region has at least this share of its merge's is computed at the merge's size; a smaller one is
re-read through the overlay, which costs bytes in place of arithmetic."""

LEAST_SPEEDUP = 1.1
"""Windows that are predicted to give less than this are not worth their trouble: the model runs as it is."""

SURE_BOUND = 1.5
"""Above this bound on the speedup, windows are used whatever is predicted."""

_SHORT_FLOATS = frozenset({"bfloat16"})


@dataclass(frozen=True, slots=True)
class Layout:
    """What the planner decided.

    Attributes:
        program: the regions' program, extended by the hulls of shared windows.
        windows: the rows of `window_sizes`.
        window_of: index into windows, by name, for every tensor that is computed in windows.
        rules: the window rules of the nodes that compute them, by first output.
        views: the tensors that are read through the overlay.
        axes: of every tensor that is computed in windows, and of the image.
        through: the dequantized tensors, which are read as their quantized sources.
        on_rows: the tensors whose windows are computed as rows [cells, C], not as maps.
        means: the means over whole maps that are taken from sums, and the tensors of which.
        dense: the nodes at which windows end, and why.
        predicted_speedup: over full inference, of the layout with windows.
        full_inference: whether it was dropped for being too little, so that nothing is computed in windows.
    """

    program: Program
    windows: tuple[Window, ...]
    window_of: dict[str, int]
    rules: dict[str, WindowRule]
    views: tuple[View, ...]
    axes: dict[str, Axes]
    through: Through
    on_rows: frozenset[str]
    means: dict[str, str]
    dense: tuple[DenseNode, ...]
    predicted_speedup: float
    full_inference: bool


def plan_layout(net: Network, regions: Regions, patch: tuple[int, int]) -> Layout:
    """Decide the layout for queries with about this patch.

    Args:
        net: the normalized model.
        regions: its analysis.
        patch: (height, width) of the patch to tune for.
    """
    areas = mean_areas(regions.program, patch)
    windowed, dense = _frontier(net, regions, areas)
    groups = _share_windows(net, regions, windowed, areas)
    program, windows, window_of = _windows(net, regions, groups)
    rules = {name: rule for name, rule in regions.rules.items() if name in windowed}
    through = read_through(net, windowed)
    means = _means(net, regions, window_of)
    views = _views(net, regions, _reads(net, rules, window_of, through, means), window_of)
    views += _sums(net, regions, means, window_of)
    predicted = _predicted(net, regions, areas, program, windows, window_of, views, patch)
    if predicted.speedup < LEAST_SPEEDUP and predicted.bound <= SURE_BOUND:
        return _full_inference(net, regions, predicted.speedup)
    axes = {name: regions.axes(name) for name in windowed}
    cells = [rows * cols for rows, cols in mean_windows(program, windows, patch)]
    viewed = frozenset(view.tensor for view in views if not view.sums)
    on_rows = plan_rows(net, rules, window_of, viewed, cells, frozenset(regions.states))
    return Layout(
        program,
        windows,
        window_of,
        rules,
        views,
        axes,
        through,
        on_rows,
        means,
        dense,
        predicted.speedup,
        full_inference=False,
    )


def _full_inference(net: Network, regions: Regions, predicted: float) -> Layout:
    """No windows but the image's, which are the patches."""
    reason = f"full inference, because windows are predicted to give only {predicted:.2f}x"
    readers = [node for node in net.graph.nodes if net.image in used_names(node)]
    dense = tuple(DenseNode(describe(node), reason) for node in readers)
    through, axes = Through(), {net.image: regions.axes(net.image)}
    views = _views(net, regions, _reads(net, {}, {}, through), {})
    return Layout(
        regions.program, (), {}, {}, views, axes, through, frozenset(), {}, dense, predicted, full_inference=True
    )


def _predicted(
    net: Network,
    regions: Regions,
    areas: list[float],
    program: Program,
    windows: tuple[Window, ...],
    window_of: dict[str, int],
    views: tuple[View, ...],
    patch: tuple[int, int],
) -> Prediction:
    mean = mean_windows(program, windows, patch)
    steps = {name: state.step for name, state in regions.states.items() if isinstance(state, Windowed)}
    shares = {name: areas[step] / math.prod(program[step].extents) for name, step in steps.items()}
    of_tensor = {name: mean[window] for name, window in window_of.items()}
    return predict(net, regions, shares, of_tensor, read_seconds(views, mean))


def mean_windows(program: Program, windows: tuple[Window, ...], patch: tuple[int, int]) -> list[tuple[float, float]]:
    """(rows, columns) of the mean query's windows, over all origins of the image."""
    rows, cols = (sizes.mean(axis=1) for sizes in _window_sizes(program, patch))
    return [(float(rows[w.step]), float(cols[w.step])) for w in windows]


def largest_windows(layout: Layout, patch: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) that each window has at most, over all origins."""
    rows, cols = (sizes.max(axis=1) for sizes in _window_sizes(layout.program, patch))
    return [(int(rows[w.step]), int(cols[w.step])) for w in layout.windows]


def _window_sizes(program: Program, patch: tuple[int, int]) -> Iterator[NDArray[np.int64]]:
    """Rows, then columns, that windows need: int64 [steps, origins of the image]."""
    for axis, (extent, size) in enumerate(zip(program[0].extents, patch, strict=True)):
        yield geometry.window_sizes(program, axis, np.arange(extent - size + 1), size)


def mean_areas(program: Program, patch: tuple[int, int]) -> list[float]:
    """Cells of the mean query's region, over all origins of the image, per step of the program."""
    height, width = program[0].extents
    rows = geometry.region_sizes(program, 0, np.arange(height - patch[0] + 1), patch[0])
    cols = geometry.region_sizes(program, 1, np.arange(width - patch[1] + 1), patch[1])
    return list(rows.mean(axis=1) * cols.mean(axis=1))


def _frontier(net: Network, regions: Regions, areas: list[float]) -> tuple[set[str], tuple[DenseNode, ...]]:
    """The tensors to compute in windows, and the nodes where that ends."""
    windowed = {net.image}
    dense: list[DenseNode] = []
    for node in net.graph.nodes:
        moving = [name for name in used_names(node) if name in regions.states]
        if not moving or not any(name in windowed for name in moving):
            continue  # independent of the image, or dense already
        result = regions.states[outputs(node)[0].name]
        if isinstance(result, Dense):
            dense.append(DenseNode(describe(node), result.reason))
        elif not all(name in windowed for name in moving):
            dense.append(DenseNode(describe(node), "merges with a dense tensor"))
        else:
            rows, cols = regions.program[result.step].extents
            coverage = areas[result.step] / (rows * cols)
            if coverage < DENSE_COVERAGE:
                windowed.add(node.outputs[0].name)
            else:
                dense.append(DenseNode(describe(node), f"its regions cover {coverage:.0%} of the map"))
    return windowed, tuple(dense)


def _share_windows(net: Network, regions: Regions, windowed: set[str], areas: list[float]) -> dict[str, str]:
    """Partition the windowed tensors: each is mapped to the representative of those that share its window."""
    parent = {name: name for name in windowed}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]  # so that long chains stay short
            name = parent[name]
        return name

    # The image's window is the patch itself, which no plan can enlarge.
    shareable = windowed - {net.image}
    for node in net.graph.nodes:
        result = node.outputs[0].name
        if result not in windowed or not regions.rules[result].is_pointwise:
            continue
        needed = JOIN_COVERAGE * _area(regions, areas, result)
        for name in {t.name for t in node.inputs} & shareable:
            if _area(regions, areas, name) >= needed:
                parent[find(name)] = find(result)
    return {name: find(name) for name in windowed if name != net.image}


def _area(regions: Regions, areas: list[float], tensor: str) -> float:
    state = regions.states[tensor]
    assert isinstance(state, Windowed)
    return areas[state.step]


def _windows(
    net: Network, regions: Regions, groups: dict[str, str]
) -> tuple[Program, tuple[Window, ...], dict[str, int]]:
    """One window a group, over the hull of its members' regions."""
    program = list(regions.program)
    members: dict[str, list[gs.Node]] = {}
    for node in net.graph.nodes:
        if node.outputs[0].name in groups:
            members.setdefault(groups[node.outputs[0].name], []).append(node)
    windows: list[Window] = []
    window_of: dict[str, int] = {}
    for nodes in members.values():
        names = tuple(n.outputs[0].name for n in nodes)
        steps = tuple(sorted({s.step for s in (regions.states[n] for n in names) if isinstance(s, Windowed)}))
        step = _hull(program, steps)
        rows, cols = program[step].extents
        window_of.update(dict.fromkeys(names, len(windows)))
        windows.append(Window(step, names, sum(flops(n) for n in nodes) // (rows * cols)))
    return tuple(program), tuple(windows), window_of


def _hull(program: list[Step], steps: tuple[int, ...]) -> int:
    if len(steps) == 1:
        return steps[0]
    rows, cols = program[steps[0]].extents
    hull = Step(steps, unchanged(rows), unchanged(cols))
    if hull not in program:
        program.append(hull)
    return program.index(hull)


def _views(
    net: Network, regions: Regions, wanted: Iterable[tuple[str, Read]], window_of: dict[str, int]
) -> tuple[View, ...]:
    """The tensors that some reader cannot take as they are computed, with all such readers."""
    reads: dict[str, list[Read]] = {}
    for tensor, read in wanted:
        known = reads.setdefault(tensor, [])
        if read not in known:
            known.append(read)
    tensors, taken = net.graph.tensors(), network.Names(net.graph)
    views = []
    for name, readers in reads.items():
        shape, axes = static_shape(tensors[name]) or (0, 0, 0, 0), regions.axes(name)
        dtype = held_type(np.dtype(tensors[name].dtype)).name
        view = View(
            taken.fresh(f"{name}/view"),
            name,
            window_of.get(name),
            shape[axes.rows],
            shape[axes.cols],
            shape[axes.channel],
            dtype,
            tuple(readers),
        )
        views.append(view)
    return tuple(views)


def _means(net: Network, regions: Regions, window_of: dict[str, int]) -> dict[str, str]:
    """Which means over a whole map are taken of a tensor that is computed in windows: that tensor, by the result."""
    return {
        node.outputs[0].name: node.inputs[0].name
        for node in net.graph.nodes
        if node.inputs
        and node.inputs[0].name in window_of
        and node.outputs[0].name not in window_of
        and is_map_mean(node, regions.axes(node.inputs[0].name))
    }


def _sums(net: Network, regions: Regions, means: dict[str, str], window_of: dict[str, int]) -> tuple[View, ...]:
    """A table of prefix sums for each tensor of which means are taken."""
    tensors, taken = net.graph.tensors(), network.Names(net.graph)
    views = []
    for name in dict.fromkeys(means.values()):
        shape, axes = static_shape(tensors[name]) or (0, 0, 0, 0), regions.axes(name)
        rows, cols, channels = shape[axes.rows] + 1, shape[axes.cols] + 1, shape[axes.channel]
        read = Read(None, Sliding(), Sliding())
        view = View(
            taken.fresh(f"{name}/sums"), name, window_of[name], rows, cols, channels, TABLE.name, (read,), sums=True
        )
        views.append(view)
    return tuple(views)


def held_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which a view is kept: float32, which holds all of its numbers, for a type that numpy lacks."""
    return np.dtype(np.float32) if dtype.name in _SHORT_FLOATS else dtype


def _reads(
    net: Network,
    rules: dict[str, WindowRule],
    window_of: dict[str, int],
    through: Through,
    means: Collection[str] = (),
) -> Iterator[tuple[str, Read]]:
    """Every read through the overlay: the tensor, and what is read of it. Means over windows read none."""
    whole = Read(None, Sliding(), Sliding())
    windowed = {net.image, *window_of}
    for node in net.graph.nodes:
        result = node.outputs[0].name
        for name in dict.fromkeys(n for n in used_names(node) if n in windowed):
            if result in means:
                continue
            if result not in window_of:
                yield through.source(name, None)[0], whole
            elif not rules[result].is_pointwise or window_of.get(name) != window_of[result]:
                rule = rules[result]
                # Sums of integers are no integers: a blend reads what is dequantized already.
                source = name if rule.form is Form.BLEND else through.source(name, rule.pad_value)[0]
                yield source, Read(window_of[result], rule.rows, rule.cols)
    for tensor in net.graph.outputs:
        if tensor.name in windowed:
            yield through.source(tensor.name, None)[0], whole
