"""The planner: policy. Where windows end, which tensors share a window, what is kept as a view.

Its decisions depend on the model, on the patch it is told to expect, and on the kind of machine it is told to plan for,
never on the one at hand, so that an artifact is the same wherever it is made.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.geometry import Program, Sliding, Step, unchanged
from krypton_onnx.passes import network
from krypton_onnx.passes.cost import Costs, Reading, Work, rounded
from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.machines import CPU, Machine
from krypton_onnx.passes.map_means import TABLE, are_tame, is_map_mean
from krypton_onnx.passes.network import Network, describe, outputs, static_shape
from krypton_onnx.passes.plan_rows import plan_rows
from krypton_onnx.passes.regions import Dense, Regions, Windowed, used_names
from krypton_onnx.passes.rules.rule import Axes, Form, WindowRule
from krypton_onnx.passes.through import Through, read_through
from krypton_onnx.plan import DenseNode, Read, View, Window

COVERAGES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Where windows may end: a tensor of which the mean region covers this share, or more, is computed in full."""

JOINS = (0.5, 0.65, 0.8, 0.9, 1.0)
"""At a merge, a branch whose region has this share of the merge's, or more, may be computed at the merge's size; a
smaller one is re-read through the overlay, which costs bytes in place of arithmetic."""

LEAST_SPEEDUP = 1.1
"""Windows that are predicted to give less than this are not worth their trouble: the model runs as it is."""

CAPPED_TAU = 0.5
"""The share that windows are planned for that are cut; other shares work too."""

_SHORT_FLOATS = frozenset({"bfloat16"})


@dataclass(frozen=True, slots=True)
class Sized:
    """What makes windows as large as they are.

    Attributes:
        patch: (height, width) of the patch to tune for.
        tau: the share of a map's rows, and columns, that a window may have at the most.
    """

    patch: tuple[int, int]
    tau: float = 1.0

    def over_origins(
        self, program: Program, sizes: Callable[[Program, int, NDArray[np.int64], int], NDArray[np.int64]]
    ) -> Iterator[NDArray[np.int64]]:
        """Rows, then columns, of every step for every origin of the image: int64 [steps, origins]."""
        for axis, (extent, size) in enumerate(zip(program[0].extents, self.patch, strict=True)):
            extents = np.array([step.extents[axis] for step in program])
            caps = geometry.share_cap(extents, self.tau)[:, None]
            yield np.minimum(sizes(program, axis, np.arange(extent - size + 1), size), caps)


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
        costs: what the parts of this layout cost.
        tau: the share of a map's rows, and columns, that the windows are planned to have at the most. Below 1 the
            graph is told where windows begin.
        predicted_speedup: over full inference, of the best layout with windows.
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
    costs: Costs
    tau: float
    predicted_speedup: float
    full_inference: bool


def plan_layout(net: Network, regions: Regions, patch: tuple[int, int], machine: Machine = CPU) -> Layout:
    """Decide the layout for queries with about this patch: of all candidates the one that is predicted to be fastest.

    Args:
        net: the normalized model.
        regions: its analysis.
        patch: (height, width) of the patch to tune for.
        machine: to be fast on.
    """
    best = _fastest(net, regions, Sized(patch), machine)
    if best.predicted_speedup < LEAST_SPEEDUP:
        return _full_inference(net, regions, best.predicted_speedup, machine)
    return best


def plan_capped_layout(net: Network, regions: Regions, patch: tuple[int, int], rival: Layout) -> Layout | None:
    """The layout for windows that are cut to a share of their maps; None if that gains nothing over another layout."""
    best = _fastest(net, regions, Sized(patch, CAPPED_TAU), rival.costs.machine)
    return best if LEAST_SPEEDUP * best.costs.usual.incremental <= rival.costs.usual.incremental else None


def _fastest(net: Network, regions: Regions, sized: Sized, machine: Machine) -> Layout:
    return min(_candidates(net, regions, sized, machine), key=lambda layout: layout.costs.usual.incremental)


def _candidates(net: Network, regions: Regions, sized: Sized, machine: Machine) -> Iterator[Layout]:
    """Layouts with every frontier and every way to share windows, those that come out alike only once."""
    areas, works = mean_areas(regions.program, sized), dict[str, Work]()
    known: set[tuple[frozenset[str], frozenset[tuple[str, str]]]] = set()
    for coverage in COVERAGES:
        windowed, dense = _frontier(net, regions, areas, coverage)
        for join in JOINS:
            groups = _share_windows(net, regions, windowed, areas, join)
            key = frozenset(windowed), frozenset(groups.items())
            if key not in known:
                known.add(key)
                yield _layout(net, regions, areas, sized, machine, dense, groups, works)


def _layout(
    net: Network,
    regions: Regions,
    areas: list[float],
    sized: Sized,
    machine: Machine,
    dense: tuple[DenseNode, ...],
    groups: dict[str, str],
    works: dict[str, Work],
) -> Layout:
    program, windows, window_of = _windows(net, regions, groups)
    windowed = {net.image, *window_of}
    rules = {name: rule for name, rule in regions.rules.items() if name in window_of}
    through = read_through(net, windowed)
    means = _means(net, regions, window_of)
    readings = list(_readings(net, rules, window_of, through, means))
    views = _views(net, regions, readings, window_of) + _sums(net, regions, means, window_of)
    sizes = mean_windows(program, windows, sized)
    viewed = frozenset(reading.tensor for reading in readings)
    cells = [rows * cols for rows, cols in sizes]
    on_rows = plan_rows(net, rules, window_of, viewed, cells, frozenset(regions.states), through)
    mean = {name: sizes[window] for name, window in window_of.items()}
    shares, apart = _shares(regions, areas), machine.index_apart
    costs = Costs(net, regions, shares, mean, on_rows, readings, machine, index_apart=apart, works=works)
    return Layout(
        program=program,
        windows=tuple(replace(w, seconds=rounded(costs.cell_seconds(w.tensors))) for w in windows),
        window_of=window_of,
        rules=rules,
        views=views,
        axes={name: regions.axes(name) for name in windowed},
        through=through,
        on_rows=on_rows,
        means=means,
        dense=dense,
        costs=costs,
        tau=sized.tau,
        predicted_speedup=costs.usual.speedup,
        full_inference=False,
    )


def _full_inference(net: Network, regions: Regions, predicted: float, machine: Machine) -> Layout:
    """No windows but the image's, which are the patches."""
    reason = f"full inference, because windows are predicted to give only {predicted:.2f}x"
    readers = [node for node in net.graph.nodes if net.image in used_names(node)]
    readings = list(_readings(net, {}, {}, Through(), {}))
    return Layout(
        program=regions.program,
        windows=(),
        window_of={},
        rules={},
        views=_views(net, regions, readings, {}),
        axes={net.image: regions.axes(net.image)},
        through=Through(),
        on_rows=frozenset(),
        means={},
        dense=tuple(DenseNode(describe(node), reason) for node in readers),
        costs=Costs(net, regions, {}, {}, frozenset(), (), machine),
        tau=1.0,
        predicted_speedup=predicted,
        full_inference=True,
    )


def _shares(regions: Regions, areas: list[float]) -> dict[str, float]:
    """The mean region's share of the map, of every tensor that has a region."""
    steps = {name: state.step for name, state in regions.states.items() if isinstance(state, Windowed)}
    return {name: areas[step] / math.prod(regions.program[step].extents) for name, step in steps.items()}


def mean_windows(program: Program, windows: tuple[Window, ...], sized: Sized) -> list[tuple[float, float]]:
    """(rows, columns) of the mean query's windows, over all origins of the image."""
    rows, cols = (sizes.mean(axis=1) for sizes in sized.over_origins(program, geometry.window_sizes))
    return [(float(rows[w.step]), float(cols[w.step])) for w in windows]


def largest_windows(layout: Layout, patch: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) that each window has at most, over all origins."""
    found = Sized(patch, layout.tau).over_origins(layout.program, geometry.window_sizes)
    rows, cols = (sizes.max(axis=1) for sizes in found)
    return [(int(rows[w.step]), int(cols[w.step])) for w in layout.windows]


def mean_areas(program: Program, sized: Sized) -> list[float]:
    """Cells of the mean query's region, over all origins of the image, per step of the program."""
    rows, cols = (sizes.mean(axis=1) for sizes in sized.over_origins(program, geometry.region_sizes))
    return list(rows * cols)


def _frontier(
    net: Network, regions: Regions, areas: list[float], most: float
) -> tuple[set[str], tuple[DenseNode, ...]]:
    """The tensors to compute in windows, and the nodes where that ends, at the latest where regions cover `most`."""
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
            if coverage < most:
                windowed.add(node.outputs[0].name)
            else:
                dense.append(DenseNode(describe(node), f"its regions cover {coverage:.0%} of the map"))
    return windowed, tuple(dense)


def _share_windows(
    net: Network, regions: Regions, windowed: set[str], areas: list[float], join: float
) -> dict[str, str]:
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
        needed = join * _area(regions, areas, result)
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
        windows.append(Window(step, names, sum(flops(n) for n in nodes) // (rows * cols), 0.0))
    return tuple(program), tuple(windows), window_of


def _hull(program: list[Step], steps: tuple[int, ...]) -> int:
    if len(steps) == 1:
        return steps[0]
    rows, cols = program[steps[0]].extents
    hull = Step(steps, unchanged(rows), unchanged(cols))
    if hull not in program:
        program.append(hull)
    return program.index(hull)


def _views(net: Network, regions: Regions, readings: Iterable[Reading], window_of: dict[str, int]) -> tuple[View, ...]:
    """The tensors that some reader cannot take as they are computed, with all such readers."""
    reads: dict[str, list[Read]] = {}
    for reading in readings:
        known = reads.setdefault(reading.tensor, [])
        if reading.read not in known:
            known.append(reading.read)
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
    means = {
        node.outputs[0].name: node.inputs[0].name
        for node in net.graph.nodes
        if node.inputs
        and node.inputs[0].name in window_of
        and node.outputs[0].name not in window_of
        and is_map_mean(node, regions.axes(node.inputs[0].name))
    }
    return means if are_tame(net, regions.states, means) else {}


def _sums(net: Network, regions: Regions, means: dict[str, str], window_of: dict[str, int]) -> tuple[View, ...]:
    """A table of prefix sums for each tensor of which means are taken."""
    tensors, taken = net.graph.tensors(), network.Names(net.graph)
    views = []
    for name in dict.fromkeys(means.values()):
        shape, axes = static_shape(tensors[name]) or (0, 0, 0, 0), regions.axes(name)
        rows, cols, channels = shape[axes.rows] + 2, shape[axes.cols] + 1, shape[axes.channel]
        read = Read(None, Sliding(), Sliding())
        view = View(
            taken.fresh(f"{name}/sums"), name, window_of[name], rows, cols, channels, TABLE.name, (read,), sums=True
        )
        views.append(view)
    return tuple(views)


def held_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which a view is kept: float32, which holds all of its numbers, for a type that numpy lacks."""
    return np.dtype(np.float32) if dtype.name in _SHORT_FLOATS else dtype


def _readings(
    net: Network,
    rules: dict[str, WindowRule],
    window_of: dict[str, int],
    through: Through,
    means: Collection[str],
) -> Iterator[Reading]:
    """Every read through the overlay. Means over windows read nothing."""
    whole = Read(None, Sliding(), Sliding())
    windowed = {net.image, *window_of}
    for node in net.graph.nodes:
        result = node.outputs[0].name
        for name in dict.fromkeys(n for n in used_names(node) if n in windowed and result not in means):
            if result not in window_of:
                yield Reading(through.source(name, None)[0], whole, node)
            elif not rules[result].is_pointwise or window_of.get(name) != window_of[result]:
                rule = rules[result]
                # Sums of integers are no integers: a blend reads what is dequantized already.
                source = name if rule.form is Form.BLEND else through.source(name, rule.pad_value)[0]
                yield Reading(source, Read(window_of[result], rule.rows, rule.cols), node)
    for tensor in net.graph.outputs:
        if tensor.name in windowed:
            yield Reading(through.source(tensor.name, None)[0], whole, None)
