"""`plan.json`: what the compiler decided, and all that a driver in any language needs beside the graphs."""

from dataclasses import dataclass
from typing import Any, Literal

from krypton_onnx.calibration import Calibration
from krypton_onnx.geometry import AxisMap, Program

Device = Literal["cpu", "cuda"]
"""Kinds of machines that plans are made for."""

Precision = Literal["float32", "float16"]
"""What a model in float32 is computed in."""

FORMAT = 7
"""Version of plan.json. A reader refuses any other."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of the source model.

    Attributes:
        name: as in the model.
        dtype: numpy's name for the element type.
        shape: of one query, without the batch axis; None for an extent that is known only at run time.
        read: whether any node reads it; what none reads may be left out.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    read: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """One row of the incremental graph's input `window_sizes`: tensors that share their window.

    Attributes:
        step: the region that the window covers, an index into the plan's region program.
        tensors: names of those tensors.
        flops: floating-point operations that one cell of the window costs.
        seconds: that it is predicted to take, on one core of the reference machine.
    """

    step: int
    tensors: tuple[str, ...]
    flops: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """One way in which a view is read.

    Attributes:
        window: the window that the reader computes; None if it reads the whole map.
        rows, cols: what one row (column) of the window reads.
    """

    window: int | None
    rows: AxisMap
    cols: AxisMap


@dataclass(frozen=True, slots=True)
class View:
    """What is kept of an activation of the base run: its cells, as rows [rows·cols, channels], or sums of them.

    Attributes:
        name: the graph input of the incremental graph, the graph output of the base graph.
        tensor: the tensor's name in the model.
        window: the tensor's own window; None for the image, whose window is the patch.
        rows, cols, channels: its extents.
        dtype: numpy's name for the element type.
        reads: who reads it, to find the band that a batch needs.
        sums: whether it is the table of prefix sums: one row and one column more than the tensor has, each cell the sum
            of all above it and left of it; and a last row of the tensor's mean times its cells.
    """

    name: str
    tensor: str
    window: int | None
    rows: int
    cols: int
    channels: int
    dtype: str
    reads: tuple[Read, ...]
    sums: bool = False


@dataclass(frozen=True, slots=True)
class DenseNode:
    """Where windows end.

    Attributes:
        node: the operator and its name.
        reason: why it runs dense.
    """

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Segment:
    """The nodes whose results have the same height and width and are computed alike, in windows or in full.

    Attributes:
        extents: (H, W) of the maps; None for what is no map, or one of a single cell.
        windowed: whether they are computed in windows. What is, and has no extents, is the arithmetic that finds out
            where the windows lie.
        tensors: names of the results, in the order of the graph.
        seconds: that the mean query of the planned patch is predicted to take, on one core of the reference machine.
    """

    extents: tuple[int, int] | None
    windowed: bool
    tensors: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class WindowClasses:
    """Which origins can share a batch along one axis, for the patch that the plan was made for.

    Attributes:
        of_origin: class of every origin 0 … extent − patch.
        sizes: per class, the window's rows (columns) for every window of the plan: one column of `window_sizes`.
    """

    of_origin: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the activations need beyond weights, in bytes.

    Attributes:
        base: the most at once in the base run, its views included.
        fixed: the most at once in a run of the incremental graph that does not grow with the batch.
        window: per query of the planned patch; grows with the area of its windows.
        dense: per query, whatever the patch.
    """

    base: int
    fixed: int
    window: int
    dense: int


@dataclass(frozen=True, slots=True)
class Tail:
    """Layers at the end of the model that run apart from windows, as the graph tail.onnx.

    Attributes:
        inputs: names of the tensors [Q, …] that it takes: outputs of the incremental graph, behind all others if they
            are not the model's.
        outputs: names of the model's outputs that it computes; the incremental graph then does not have them.
        batch: queries per run.
        memory: bytes per query.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int
    memory: int


@dataclass(frozen=True, slots=True)
class Source:
    """The model that was compiled.

    Attributes:
        file: its file name.
        sha256: of that file's bytes (external data not included).
    """

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything in plan.json except the files' checksums.

    Attributes:
        format: version of this structure.
        compiler: version of krypton-onnx that wrote it.
        source: the model.
        image: the image input; shape [C, H, W].
        channels_last: whether the model takes, and callers give, [H, W, C] instead. The graphs never do.
        other_inputs: the model's other inputs, with their full shapes.
        outputs: the model's outputs.
        output_windows: per output, the window that it is computed in; None where it is computed in full. The
            incremental graph's outputs are the model's and behind them, in the same order, the windows
            ``"<name>/window"`` [Q, C, h, w] of those that have one.
        patch: (height, width) that the plan was tuned for. Any other patch works too.
        tau: the share of a map's rows, and columns, that windows were planned to have at the most. Below 1 the
            incremental graph has an input `window_begins` int64 [Q, T, 2] behind `window_sizes`: where windows begin.
        batch: queries per run of the incremental graph.
        program: the region program.
        windows: the rows of `window_sizes`, in order.
        views: the view inputs, in the order of `view_rows`.
        dense: where windows end and why.
        row_classes, col_classes: the window classes for `patch`.
        run_seconds: that a run is predicted to take however many queries it has, on one core of the reference machine.
        query_seconds: that a query takes whatever its windows are, likewise.
        reduced_precision: whether the model computes anywhere in fewer bits than float32.
        epsilon: unit of rounding of the shortest floating-point type that it computes in, float32 at the longest.
        per_query: why the rest of the graph runs one query at a time; None if it does not.
        one_query: whether the graph takes exactly one query a run, for the same reason.
        tail: what runs apart, for several batches at once; None if nothing does.
        index_apart: whether a graph of its own, for the host of a device, finds out where windows and their rows lie.
            The incremental graph then takes its outputs in place of `origins`, `window_sizes`, `window_begins` and
            `view_rows`.
        segments: the parts of the graph and what each is predicted to cost.
        full_seconds: what full inference is predicted to cost an image, likewise.
        full_flops: floating-point operations of full inference.
        dense_flops: those of the nodes that are not computed in windows.
        predicted_speedup: of windows over full inference, for the mean query of `patch`.
        full_inference: whether that is too little, so that each query runs the model in full.
        memory: what a memory budget is spent on.
        preprocess: how a picture becomes the image tensor (`Preprocess.to_dict`), if that was given.
        labels: class names, if given.
        device: that the graphs and the seconds are planned for. They run on any other, too.
        precision: what is computed in, of what the model computes in float32.
        precision_error: with float16, the largest difference from the model that verifying found, as a share of what
            its queries changed; None if nothing was verified. On a CPU a lower bound: it keeps more bits than devices.
            Those queries are random, and a heatmap that moves less is off by a larger share.
        calibration: by which promises about approximate heatmaps are made, if the model was tuned.
        capped: the plan of the graphs whose windows may be cut (projective field thresholding), which do not go
            without saying: None if that would gain nothing.
        int8: the plan of the graphs that compute in bytes and whose windows may be cut, likewise. They take more than
            the model: scales and biases, which int8_ranges.onnx makes of the image.
    """

    format: int
    compiler: str
    source: Source
    image: TensorInfo
    channels_last: bool
    other_inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    output_windows: tuple[int | None, ...]
    patch: tuple[int, int]
    tau: float
    batch: int
    program: Program
    windows: tuple[Window, ...]
    views: tuple[View, ...]
    dense: tuple[DenseNode, ...]
    row_classes: WindowClasses
    col_classes: WindowClasses
    run_seconds: float
    query_seconds: float
    reduced_precision: bool
    epsilon: float
    per_query: str | None
    one_query: bool
    tail: Tail | None
    index_apart: bool
    segments: tuple[Segment, ...]
    full_seconds: float
    full_flops: int
    dense_flops: int
    predicted_speedup: float
    full_inference: bool
    memory: Memory
    preprocess: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    device: Device = "cpu"
    precision: Precision = "float32"
    precision_error: float | None = None
    calibration: Calibration | None = None
    capped: "Plan | None" = None
    int8: "Plan | None" = None

    @property
    def model_shape(self) -> tuple[int, int, int]:
        """One image as the model takes it: [C, H, W], or [H, W, C] if channels come last."""
        channels, height, width = (d or 0 for d in self.image.shape)
        return (height, width, channels) if self.channels_last else (channels, height, width)
