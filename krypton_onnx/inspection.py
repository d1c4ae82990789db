"""`inspect`: how far a patch reaches in a model, tensor by tensor, and what that makes possible. Runs nothing.

The bound compares arithmetic alone: the floating-point operations of one inference with those of the mean query of a
grid, if exactly the values that can change were computed. What a session reaches is less: windows of a batch are
equally large, bytes have to be moved, and the base run counts too.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.geometry import Program
from krypton_onnx.passes.flops import flops
from krypton_onnx.passes.network import describe, static_shape
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.passes.plan_runs import plan_runs
from krypton_onnx.passes.planner import Layout, plan_layout
from krypton_onnx.passes.regions import Dense, Regions, Windowed
from krypton_onnx.plan import Segment, Tail
from krypton_onnx.runtime.questions import Edge, Pair, grid, pair

_AFTER = "follows a dense tensor"


@dataclass(frozen=True, slots=True)
class TensorReport:
    """The first output of one node that depends on the image.

    Attributes:
        tensor: its name.
        node: the node's name.
        operator: its operator.
        shape: for one image, with the leading 1; None where it is not known.
        region: rows and columns of the mean query's exact region; None where the analysis has no rule.
        share: the mean region's share of the map; 1 where there is no region.
        windowed: whether the plan computes it in windows.
        reason: why it does not; None if it does.
        flops: floating-point operations of the node in one inference.
        query_flops: those of the mean query, on its exact region.
    """

    tensor: str
    node: str
    operator: str
    shape: tuple[int, ...] | None
    region: tuple[float, float] | None
    share: float
    windowed: bool
    reason: str | None
    flops: int
    query_flops: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        model: the model's file name.
        image: name of the image input.
        image_shape: [C, H, W].
        patch, stride: (height, width), (y, x).
        queries: positions of the grid.
        tensors: in the order of the graph.
        flops: floating-point operations of one inference: two per multiply-add of convolutions and matrix products.
        query_flops: those of the mean query, on exact regions.
        planned_flops: those of the mean query with the windows that the plan chose.
        segments: the parts of the plan, with what each is predicted to cost a query.
        tail: what runs apart from windows, for several batches at once.
        full_seconds: what full inference is predicted to cost.
        predicted_speedup: of windows over full inference, bytes counted too.
        full_inference: whether that is too little, so that the plan has no windows.
    """

    model: str
    image: str
    image_shape: tuple[int, ...]
    patch: tuple[int, int]
    stride: tuple[int, int]
    queries: int
    tensors: tuple[TensorReport, ...]
    flops: int
    query_flops: float
    planned_flops: float
    segments: tuple[Segment, ...]
    tail: Tail | None
    full_seconds: float
    predicted_speedup: float
    full_inference: bool

    @property
    def bound(self) -> float:
        """Full ÷ mean query: no exact method has a higher speedup at the same arithmetic rate; 1 if none is counted."""
        return self.flops / self.query_flops if self.query_flops else 1.0

    @property
    def planned(self) -> float:
        """The same with the planned windows: the speedup if nothing but arithmetic took time."""
        return self.flops / self.planned_flops if self.planned_flops else 1.0


def inspect_model(
    model: str | os.PathLike[str],
    *,
    patch: Pair = 16,
    stride: Pair = 4,
    edge: Edge = "cover",
    input_size: tuple[int, int] | None = None,
    image_input: str | None = None,
    channels_last: bool | None = None,
) -> Inspection:
    """Find the regions of a model and count their arithmetic.

    Args:
        model: the ONNX file.
        patch: its (height, width).
        stride: pixels between neighbouring positions, (y, x).
        edge: see `krypton_onnx.Session.explain`.
        input_size: (height, width), where the model leaves them open.
        image_input: name of the image input, where several inputs have four dimensions.
        channels_last: see `krypton_onnx.compile`.

    Raises:
        KryptonError: the model cannot be read, or the patch does not fit.
    """
    source = Path(model)
    net, regions = normalized(source, image_input=image_input, input_size=input_size, channels_last=channels_last)
    sizes, steps = pair(patch, "patch"), pair(stride, "stride")
    image_shape = (static_shape(net.image_tensor) or (0, 0, 0, 0))[1:]
    origins = grid((image_shape[1], image_shape[2]), sizes, steps, edge, None)
    layout = plan_layout(net, regions, sizes)
    runs = plan_runs(net, regions, layout, sizes)
    predicted = runs.costs.usual
    means = _mean_sizes(regions.program, origins, sizes)
    dense = {entry.node: entry.reason for entry in layout.dense}
    moving = [node for node in net.graph.nodes if node.outputs[0].name in regions.states]
    tensors = tuple(_report(node, regions, layout, means, dense) for node in moving)
    return Inspection(
        model=source.name,
        image=net.image,
        image_shape=image_shape,
        patch=sizes,
        stride=steps,
        queries=origins.shape[0] * origins.shape[1],
        tensors=tensors,
        flops=sum(flops(node) for node in net.graph.nodes),
        query_flops=sum(t.query_flops for t in tensors),
        planned_flops=_planned(layout, tensors, origins, sizes),
        segments=predicted.segments,
        tail=runs.tail,
        full_seconds=predicted.full,
        predicted_speedup=runs.speedup(layout),
        full_inference=layout.full_inference,
    )


def _mean_sizes(program: Program, origins: NDArray[np.int64], patch: tuple[int, int]) -> NDArray[np.float64]:
    """Mean rows and columns of each step's exact region: [steps, 2]."""
    axes = (origins[:, 0, 0], origins[0, :, 1])
    sizes = [geometry.region_sizes(program, axis, axes[axis], patch[axis]).mean(axis=1) for axis in (0, 1)]
    return np.stack(sizes, axis=1)


def _report(
    node: gs.Node, regions: Regions, layout: Layout, means: NDArray[np.float64], dense: dict[str, str]
) -> TensorReport:
    result = node.outputs[0]
    region, share = _region(regions, result.name, means)
    windowed = result.name in layout.window_of
    full = flops(node)
    return TensorReport(
        tensor=result.name,
        node=node.name,
        operator=node.op,
        shape=static_shape(result),
        region=region,
        share=share,
        windowed=windowed,
        reason=None if windowed else dense.get(describe(node), _AFTER),
        flops=full,
        query_flops=full * share,
    )


def _region(regions: Regions, tensor: str, means: NDArray[np.float64]) -> tuple[tuple[float, float] | None, float]:
    """(mean rows and columns, their share of the map)."""
    match regions.states[tensor]:
        case Dense():
            return None, 1.0
        case Windowed(step):
            rows, cols = (float(size) for size in means[step])
            extents = regions.program[step].extents
            return (rows, cols), rows * cols / (extents[0] * extents[1])


def _planned(
    layout: Layout, tensors: tuple[TensorReport, ...], origins: NDArray[np.int64], patch: tuple[int, int]
) -> float:
    axes = (origins[:, 0, 0], origins[0, :, 1])
    rows, cols = (geometry.window_sizes(layout.program, axis, axes[axis], patch[axis]).mean(axis=1) for axis in (0, 1))
    windows = sum(float(w.flops * rows[w.step] * cols[w.step]) for w in layout.windows)
    return windows + sum(t.flops for t in tensors if not t.windowed)
