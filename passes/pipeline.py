"""The compiler, end to end: a model file becomes graphs and a plan."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from krypton_onnx.artifact import file_checksum
from krypton_onnx.classes import MAX_CLASSES, axis_classes, window_tables
from krypton_onnx.errors import KryptonError
from krypton_onnx.passes import network
from krypton_onnx.passes.build_base import base_peak, build_base
from krypton_onnx.passes.build_incremental import build_incremental
from krypton_onnx.passes.build_tail import build_tail
from krypton_onnx.passes.cost import rounded
from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.free_batch import free_batch
from krypton_onnx.passes.halve import halved
from krypton_onnx.passes.idioms import gather_repeats, keep_axes_of_products, name_regroupings
from krypton_onnx.passes.load import MAX_CELLS, load
from krypton_onnx.passes.machines import MACHINES
from krypton_onnx.passes.network import Network, Notes, static_shape
from krypton_onnx.passes.normalize import (
    fold_batch_norm,
    fold_zero_pads,
    remove_inference_noops,
    state_every_axis,
    state_norms_as_convolutions,
)
from krypton_onnx.passes.per_query import query_shape
from krypton_onnx.passes.plan_runs import Runs, dense_batch_for, plan_runs
from krypton_onnx.passes.planner import Layout, plan_capped_layout, plan_layout
from krypton_onnx.passes.quantize import quantized
from krypton_onnx.passes.rearrange import merge_transposes, part_slices, split_into_slices
from krypton_onnx.passes.regions import Regions, analyse_regions
from krypton_onnx.passes.signed_bytes import make_bytes_unsigned
from krypton_onnx.passes.static_shapes import static_shapes
from krypton_onnx.plan import FORMAT, Device, Memory, Plan, Precision, Source, TensorInfo, WindowClasses

TRANSFORMS = (
    static_shapes,
    remove_inference_noops,
    split_into_slices,
    part_slices,
    merge_transposes,
    name_regroupings,
    gather_repeats,
    keep_axes_of_products,
    state_every_axis,
    fold_zero_pads,
    fold_batch_norm,
    state_norms_as_convolutions,
    make_bytes_unsigned,
)
"""The normalization, in order. After each the graph is checked and its shapes are inferred anew."""

_FLOAT32 = float(np.finfo(np.float32).eps)
_QUANTIZED = ("QLinear", "Quantize", "Dequantize", "DynamicQuantize")


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs of one variant; see `krypton_onnx.artifact.Files`."""

    base: gs.Graph
    incremental: gs.Graph
    index: gs.Graph | None
    tail: gs.Graph | None
    ranges: gs.Graph | None


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result: graphs that share detached weights, and what a driver must know."""

    exact: Graphs
    capped: Graphs | None
    int8: Graphs | None
    plan: Plan
    notes: Notes


def normalized(
    path: Path,
    *,
    image_input: str | None = None,
    input_size: tuple[int, int] | None = None,
    channels_last: bool | None = None,
) -> tuple[Network, Regions]:
    """Load a model, run all transforms, and find its regions.

    Raises:
        KryptonError: the model cannot be read or is not consistent.
    """
    net = load(path, image_input=image_input, input_size=input_size, channels_last=channels_last)
    try:
        for transform in TRANSFORMS:
            net = transform(net)
            network.infer_shapes(net, after=transform.__name__)
    except KryptonError as error:
        raise KryptonError(f"{path} cannot be compiled. {error}") from error
    _refuse_unknown_outputs(net, path)
    _refuse_impossible_maps(net, path)
    regions = analyse_regions(net)
    if regions.states.keys().isdisjoint(tensor.name for tensor in net.graph.outputs):
        raise KryptonError(f"No output of {path} depends on the image '{net.image}': nothing can be explained.")
    return net, regions


def _refuse_unknown_outputs(net: Network, path: Path) -> None:
    for tensor in net.graph.outputs:
        if tensor.shape is None or tensor.dtype is None:
            raise KryptonError(
                f"The shape of the output '{tensor.name}' of {path} is not known, because an operator before it is not "
                "part of ONNX: declare the output's type and shape in the model."
            )


def _refuse_impossible_maps(net: Network, path: Path) -> None:
    for tensor in (t for node in net.graph.nodes for t in node.outputs):
        shape = static_shape(tensor)
        if shape is None or len(shape) != 4:
            continue
        if 0 in shape:
            raise KryptonError(
                f"The tensor '{tensor.name}' of {path} has the shape {list(shape)}, which holds nothing."
            )
        if shape[2] * shape[3] > MAX_CELLS:
            raise KryptonError(
                f"The tensor '{tensor.name}' of {path} has maps of {shape[2]}x{shape[3]} cells; up to {MAX_CELLS} can "
                "be compiled."
            )


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be compiled, and how.

    Attributes:
        path: the ONNX file.
        patch: (height, width) to tune the plan for.
        version: of krypton-onnx, for the record.
        image_input: see `load`.
        input_size: see `load`.
        channels_last: see `load`.
        preprocess: stored in the plan as it is.
        labels: stored in the plan as they are.
        device: to plan for.
        precision: to compute in, of what the model computes in float32.
    """

    path: Path
    patch: tuple[int, int]
    version: str
    image_input: str | None = None
    input_size: tuple[int, int] | None = None
    channels_last: bool | None = None
    preprocess: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    device: Device = "cpu"
    precision: Precision = "float32"


def compile_graphs(request: Request) -> Compiled:
    """Compile a model into the graphs of an artifact.

    Raises:
        KryptonError: the model cannot be compiled, or the patch is larger than its image.
    """
    net, regions, layout = _planned(request)
    exact, plan = _built(request, net, regions, layout)
    capped_layout = plan_capped_layout(net, regions, request.patch, layout)
    capped, capped_plan = (None, None) if capped_layout is None else _built(request, net, regions, capped_layout)
    int8, int8_plan = _in_bytes(request, net, capped_layout or layout)
    return Compiled(exact, capped, int8, replace(plan, capped=capped_plan, int8=int8_plan), net.notes)


def compile_undivided(request: Request) -> Compiled:
    """Compile a model into the two graphs of a single file: the base graph gives the model's outputs, too.

    Raises:
        KryptonError: see `compile_graphs`.
    """
    net, regions, layout = _planned(request)
    runs = plan_runs(net, regions, layout, request.patch).undivided()
    graphs, plan = _built(request, net, regions, layout, runs)
    whole = build_base(net, layout, results=True)
    return Compiled(replace(graphs, base=whole), None, None, plan, net.notes)


def _planned(request: Request) -> tuple[Network, Regions, Layout]:
    net, regions = normalized(
        request.path,
        image_input=request.image_input,
        input_size=request.input_size,
        channels_last=request.channels_last,
    )
    if request.precision == "float16":
        net = network.infer_shapes(halved(net), after="halved")
        regions = analyse_regions(net)
    (height, width), patch = regions.program[0].extents, request.patch
    if not (1 <= patch[0] <= height and 1 <= patch[1] <= width):
        raise KryptonError(f"A patch of {patch[0]}x{patch[1]} does not fit into the model's {height}x{width} image.")
    return net, regions, plan_layout(net, regions, patch, MACHINES[request.device])


def _in_bytes(request: Request, net: Network, rival: Layout) -> tuple[Graphs, Plan] | tuple[None, None]:
    """The variant that computes in bytes; none if it would not be sooner than another layout."""
    made = quantized(net) if rival.costs.machine.bytes_flop is not None else None
    if made is None:
        return None, None
    net = network.infer_shapes(made.net, after="quantized")
    regions = analyse_regions(net)
    layout = plan_capped_layout(net, regions, request.patch, rival)
    if layout is None:
        return None, None
    graphs, plan = _built(request, net, regions, layout)
    return replace(graphs, ranges=made.ranges), plan


def _built(
    request: Request, net: Network, regions: Regions, layout: Layout, runs: Runs | None = None
) -> tuple[Graphs, Plan]:
    """The graphs of one layout, and its plan."""
    patch = request.patch
    moving = frozenset(regions.states)
    windowed = frozenset(layout.window_of)
    runs = runs or plan_runs(net, regions, layout, patch)
    batch, one_query, tail, costs = runs.batch, runs.one_query, runs.tail, runs.costs
    if one_query is None:
        net = free_batch(replace(net, graph=net.graph.copy()), batch.axes, windowed)  # other variants want it as it is
    base = build_base(net, layout)
    built = build_incremental(net, layout, patch, moving, None if one_query else batch, tail, runs.index_apart)
    together = dense_batch_for(built.peak.window + built.peak.dense) if layout.full_inference else costs.batch
    batch_size = 1 if one_query else together
    predicted = costs.predict(batch_size)
    work = {node.outputs[0].name: flops(node) for node in net.graph.nodes if node.outputs[0].name in moving}
    row_classes, col_classes = _planned_classes(layout, patch)
    plan = Plan(
        format=FORMAT,
        compiler=request.version,
        source=Source(request.path.name, file_checksum(request.path)),
        image=_info(net.image_tensor, leading=1),
        channels_last=net.channels_last,
        other_inputs=tuple(_info(t) for t in net.other_inputs),
        outputs=tuple(TensorInfo(t.name, np.dtype(t.dtype).name, query_shape(t)) for t in net.graph.outputs),
        output_windows=tuple(layout.window_of.get(t.name) for t in net.graph.outputs),
        patch=patch,
        tau=layout.tau,
        batch=batch_size,
        program=layout.program,
        windows=layout.windows,
        views=layout.views,
        dense=layout.dense,
        row_classes=row_classes,
        col_classes=col_classes,
        run_seconds=rounded(costs.run_seconds),
        query_seconds=rounded(costs.query_seconds),
        reduced_precision=_is_quantized(net) or _epsilon(net) > _FLOAT32,
        epsilon=_epsilon(net),
        per_query=one_query or next(iter(batch.lost.values()), None),
        one_query=one_query is not None,
        tail=tail,
        index_apart=runs.index_apart,
        segments=predicted.segments,
        full_seconds=predicted.full,
        full_flops=sum(work.values()),
        dense_flops=sum(operations for name, operations in work.items() if name not in windowed),
        predicted_speedup=round(runs.speedup(layout), 2),
        full_inference=layout.full_inference,
        memory=Memory(base_peak(base), built.peak.fixed, built.peak.window, built.peak.dense),
        preprocess=request.preprocess,
        labels=request.labels,
        device=request.device,
        precision=request.precision,
    )
    last = build_tail(net, tail) if tail else None
    return Graphs(base, built.graph, built.index, last, None), plan


def _is_quantized(net: Network) -> bool:
    """Whether anything is computed in integers that stand for real numbers."""
    return any(node.op.startswith(_QUANTIZED) or node.op.endswith("Integer") for node in net.graph.nodes)


def _epsilon(net: Network) -> float:
    """The unit of rounding of the shortest floating-point type."""
    # graphsurgeon keeps a type that numpy lacks as ONNX's number for it.
    dtypes = {t.dtype for t in net.graph.tensors().values() if t.dtype is not None}
    known = (onnx.helper.tensor_dtype_to_np_dtype(d) if isinstance(d, int) else np.dtype(d) for d in dtypes)
    units = (float(ml_dtypes.finfo(d).eps) for d in known if "float" in d.name)  # type: ignore[no-untyped-call]
    return max(_FLOAT32, *units)


def _info(tensor: gs.Variable, leading: int = 0) -> TensorInfo:
    shape, read = static_shape(tensor), bool(tensor.outputs)
    if shape is None and read:
        raise KryptonError(
            f"The input '{tensor.name}' has the open shape {tensor.shape}: export the model with a fixed shape for it."
        )
    known = shape or tuple(extent if isinstance(extent, int) else 1 for extent in tensor.shape or ())
    return TensorInfo(tensor.name, np.dtype(tensor.dtype).name, known[leading:], read)


def _planned_classes(layout: Layout, patch: tuple[int, int]) -> tuple[WindowClasses, WindowClasses]:
    """Of rows and of columns, for every origin."""
    tables = window_tables(layout.program, layout.windows, patch, layout.tau)
    found = []
    for axis, table in enumerate(tables):
        origins = np.arange(table.sizes.shape[1])
        ((labels, sizes),) = axis_classes(layout.windows, tables, axis, origins, (MAX_CLASSES,))
        found.append(WindowClasses(tuple(labels.tolist()), tuple(tuple(row) for row in sizes.tolist())))
    return found[0], found[1]
