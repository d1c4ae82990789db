"""Building the single file: one graph from pictures to heatmaps, that of the base run and that of queries inside it."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.passes import network
from krypton_onnx.passes.emit import Emitter, IntArray, IntGraph
from krypton_onnx.passes.network import Array, DetachedValues, memory_of
from krypton_onnx.passes.per_query import query_shape
from krypton_onnx.passes.pixels import emit_as_dtype, emit_tensor
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Preprocess

IMAGE, TARGET, FILL, PART = "image", "target", "fill", "part"
HEATMAP, BASE_SCORE, TARGET_INDEX = "heatmap", "base_score", "target_index"
INTERFACE = (IMAGE, TARGET, FILL, PART, HEATMAP, BASE_SCORE, TARGET_INDEX)
"""Names that are the single file's own."""

Integers = NDArray[np.int64]

_INT64, _FLOAT32, _BOOL = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The queries of a heatmap, in batches of one window class each.

    Attributes:
        extents: (rows, columns) of the heatmap.
        origins: int64 [Q, 2], in the order in which they run.
        places: int64 [Q], of their scores in the flattened heatmap.
        ends: int64 [K + 1]: batch k has the queries from ends[k] up to ends[k + 1].
        window_sizes: int64 [K, T, 2], the incremental graph's input for each batch.
        bands: int64 [K, V, 2], the (first, stop) rows of each view that a batch reads.
    """

    extents: tuple[int, int]
    origins: Integers
    places: Integers
    ends: Integers
    window_sizes: Integers
    bands: Integers


@dataclass(frozen=True, slots=True)
class Single:
    """A single file before it is written.

    Attributes:
        graph: without its large constants and the defaults of its inputs.
        constants: weights [n] and tables, by the names under which the graph reads them.
        defaults: of inputs that a caller may leave out.
    """

    graph: gs.Graph
    constants: dict[str, Array]
    defaults: dict[str, Array]


def build_single(base: gs.Graph, incremental: gs.Graph, plan: Plan, schedule: Schedule, output: str) -> Single:
    """Put both graphs into one, which answers all queries of a heatmap for each of its pictures.

    ::

        image [N, …] ─ Scan ─ the model's outputs [N, …], heatmap [N, rows, cols], base_score [N], target_index [N]
                        └ picture ─ base graph ─ outputs, views ─ Loop over batches ─ scores [Q]
                                                                   └ incremental graph ─ ScatterElements

    Weights lie in the outermost graph once, flat; each graph gives them its shape. A runtime folds that when it loads
    the file and holds constants of the graph's own, for which alone ONNX Runtime has its fastest convolutions. Matrices
    are read from where they lie.

    Args:
        base: image → views and the model's outputs; its tensors are renamed.
        incremental: of the same plan, which has no tail; likewise.
        plan: of both.
        schedule: what to ask.
        output: name of the output that is scored.
    """
    builder = _Builder(base, incremental, plan, schedule, output)
    return builder.single()


class _Builder:
    def __init__(self, base: gs.Graph, incremental: gs.Graph, plan: Plan, schedule: Schedule, output: str) -> None:
        self.base, self.incremental, self.plan, self.schedule, self.output = base, incremental, plan, schedule, output
        self.preprocess = None if plan.preprocess is None else Preprocess.from_dict(plan.preprocess)
        self.shapes = _held_shapes((base, incremental))
        self.weights: dict[tuple[int, int], gs.Variable] = {}
        self.constants: dict[str, Array] = {}
        others = {info.name for info in plan.other_inputs}
        outer = {*INTERFACE, *others, *(info.name for info in plan.outputs)}
        self.main = Emitter(reserved=outer)
        self.of_image, self.of_queries = (_free_prefix(wanted, outer) for wanted in ("image/", "queries/"))
        self.image_nodes = self._taken(base, self.of_image, others)
        self.query_nodes = self._taken(incremental, self.of_queries, others)
        channels, height, width = plan.image.shape
        self.image = gs.Variable(
            IMAGE,
            np.dtype(np.uint8 if self.preprocess else plan.image.dtype),
            ["N", height, width, channels] if self.preprocess or plan.channels_last else ["N", channels, height, width],
        )
        self.target = gs.Variable(TARGET, _INT64, [1])
        self.fill = gs.Variable(FILL, _FLOAT32, [channels])
        self.part = gs.Variable(PART, _INT64, [2])

    # ----------------------------------------------------------------------------------------------- graphs

    def single(self) -> Single:
        """The whole graph."""
        content = self._patch_content()
        outputs = [gs.Variable(info.name, np.dtype(info.dtype), ["N", *info.shape]) for info in self.plan.outputs]
        outputs += [
            gs.Variable(HEATMAP, _FLOAT32, ["N", *self.schedule.extents]),
            gs.Variable(BASE_SCORE, _FLOAT32, ["N"]),
            gs.Variable(TARGET_INDEX, _INT64, ["N"]),
        ]
        body = self._one_picture(content)
        self.main.nodes.append(gs.Node("Scan", "pictures", {"body": body, "num_scan_inputs": 1}, [self.image], outputs))
        others = [t for t in self.base.inputs if t.name != f"{self.of_image}{self.plan.image.name}"]
        graph = gs.Graph(
            self.main.nodes,
            [self.image, *others, self.target, self.fill, self.part],
            outputs,
            name="heatmap",
            opset=self.base.opset,
            import_domains=self.base.import_domains,
        )
        defaults = {
            TARGET: np.full(1, -1, np.int64),
            FILL: np.zeros(self.fill.shape, np.float32),
            PART: np.array([0, 1], np.int64),
        }
        return Single(graph, self.constants, defaults)

    def _one_picture(self, content: gs.Tensor) -> gs.Graph:
        """The body of the Scan: the base run, and all batches of queries."""
        emitter = self.main.inner()
        picture = gs.Variable(emitter.unique("picture"), self.image.dtype, self.image.shape[1:])
        tensor = self.base.tensors()[f"{self.of_image}{self.plan.image.name}"]
        with emitter.scope("picture"):
            self._bind(emitter, tensor, self._model_input(emitter, picture))
        emitter.nodes += self.image_nodes
        results = self.base.outputs[len(self.plan.views) :]
        with emitter.scope("outputs"):
            given = {
                info.name: self._without_batch(emitter, result, info.name, info.shape)
                for info, result in zip(self.plan.outputs, results, strict=True)
            }
        target, own = self._own_score(emitter, given[self.output])
        scores = self._all_batches(emitter, content, target)
        extents = emitter.constant(np.array(self.schedule.extents, np.int64))
        heatmap = emitter.op("Reshape", scores, extents, name="scores/heatmap")
        for variable, dtype, shape in (
            (heatmap, _FLOAT32, list(self.schedule.extents)),
            (own, _FLOAT32, []),
            (index := self._scalar(emitter, target, "target/scalar"), _INT64, []),
        ):
            variable.dtype, variable.shape = dtype, shape
        return gs.Graph(emitter.nodes, [picture], [*given.values(), heatmap, own, index], name="one_picture")

    def _all_batches(self, emitter: Emitter, content: gs.Tensor, target: gs.Tensor) -> gs.Variable:
        """Scores of all queries, in the heatmap's order: a Loop over the batches of the wanted part."""
        first, parts, count = self._part(emitter)
        views = self._views_as_rows(emitter)
        nothing = self._table("scores/none", np.full(len(self.schedule.places), np.nan, np.float32))
        body = self._one_batch(first, parts, content, target, views)
        scores = gs.Variable(emitter.unique("scores/all"), _FLOAT32, [len(self.schedule.places)])
        emitter.nodes.append(
            gs.Node("Loop", "batches", {"body": body}, [count.tensor, gs.Variable.empty(), nothing], [scores])
        )
        return scores

    def _one_batch(
        self, first: IntArray, parts: IntArray, content: gs.Tensor, target: gs.Tensor, views: list[gs.Variable]
    ) -> gs.Graph:
        """The body of the Loop: one run of the incremental graph, and where its scores belong."""
        emitter, schedule = self.main.inner(), self.schedule
        number = gs.Variable(emitter.unique("batch/number"), _INT64, [])
        going = gs.Variable(emitter.unique("batch/going"), _BOOL, [])
        known = gs.Variable(emitter.unique("batch/known"), _FLOAT32, [len(schedule.places)])
        with emitter.scope("batch"):
            batch = (IntGraph(emitter, np.int64).wrap(number) * parts + first).tensor
            one = emitter.op("Unsqueeze", batch, emitter.constant(np.zeros(1, np.int64)))
            begin = emitter.op("Gather", self._table("batches/begins", schedule.ends[:-1]), one, name="batch/begin")
            end = emitter.op("Gather", self._table("batches/ends", schedule.ends[1:]), one, name="batch/end")
            places = self._table("batches/places", schedule.places)
            given = {
                "origins": self._sliced(emitter, self._table("batches/origins", schedule.origins), begin, end),
                "patch_content": content,
                "window_sizes": self._of_batch(emitter, "batches/window_sizes", schedule.window_sizes, batch),
                "view_rows": self._of_batch(emitter, "batches/view_rows", schedule.bands[..., 0], batch),
                **self._held(emitter, batch, views),
            }
        inputs = {t.name: t for t in self.incremental.inputs}
        for name, tensor in given.items():
            self._bind(emitter, inputs[f"{self.of_queries}{name}"], tensor)
        emitter.nodes += self.query_nodes
        (scored,) = (t for t in self.incremental.outputs if t.name == f"{self.of_queries}{self.output}")
        with emitter.scope("batch"):
            scores = self._picked(emitter, scored, target)
            there = self._sliced(emitter, places, begin, end)
            kept = emitter.op("ScatterElements", known, there, scores, name="batch/scores", axis=0)
            on = emitter.op("Identity", going, name="batch/going_on")
        kept.dtype, kept.shape, on.dtype, on.shape = _FLOAT32, [len(schedule.places)], _BOOL, []
        return gs.Graph(emitter.nodes, [number, going, known], [on, kept], name="one_batch")

    # ------------------------------------------------------------------------------------------------ nodes

    def _patch_content(self) -> gs.Variable:
        """What every patch shows, [1, C, h, w], of the model's type."""
        with self.main.scope("patch"):
            colour = self._in_model_units(self.main, self.fill)
            across = self.main.constant(np.array([1, -1, 1, 1], np.int64))
            whole = self.main.constant(np.array([1, self.fill.shape[0], *self.plan.patch], np.int64))
            return self.main.op("Expand", self.main.op("Reshape", colour, across), whole)

    def _model_input(self, emitter: Emitter, picture: gs.Variable) -> gs.Variable:
        """The image tensor [1, C, H, W] of a picture."""
        tensor = self._in_model_units(emitter, picture) if self.preprocess else picture
        if self.preprocess or self.plan.channels_last:
            tensor = emitter.op("Transpose", tensor, perm=[2, 0, 1])
        return emitter.op("Unsqueeze", tensor, emitter.constant(np.zeros(1, np.int64)))

    def _in_model_units(self, emitter: Emitter, colours: gs.Tensor) -> gs.Variable:
        """Colours […, C] as the model takes them, in its order of channels: from pixels, if there is preprocessing."""
        if self.preprocess is None:
            return emit_as_dtype(emitter, colours, self.plan.image.dtype)
        return emit_tensor(emitter, colours, self.preprocess, self.plan.image.dtype)

    def _without_batch(
        self, emitter: Emitter, result: gs.Tensor, name: str, shape: tuple[int | None, ...]
    ) -> gs.Variable:
        """An output of one picture, as a Scan stacks it."""
        if query_shape(result) == tuple(result.shape):
            one = emitter.op("Identity", result, name=f"outputs/{name}")
        else:
            one = emitter.op("Squeeze", result, emitter.constant(np.zeros(1, np.int64)), name=f"outputs/{name}")
        one.dtype, one.shape = result.dtype, list(shape)
        return one

    def _own_score(self, emitter: Emitter, values: gs.Variable) -> tuple[gs.Variable, gs.Variable]:
        """The index of what is scored, int64 [1], and the picture's own score, float32 []."""
        with emitter.scope("target"):
            flat = emitter.op("Reshape", values, emitter.constant(np.array([-1], np.int64)))
            wide = emitter.op("Cast", flat, to=np.float64)  # which ArgMax takes everywhere
            top = emitter.op("ArgMax", wide, name="target/top", axis=0, keepdims=1)
            none = emitter.op("Less", self.target, emitter.constant(np.zeros(1, np.int64)))
            target = emitter.op("Where", none, top, self.target, name="target/index")
            own = emitter.op("Cast", emitter.op("Gather", flat, target, axis=0), to=np.float32)
            return target, self._scalar(emitter, own, "target/base_score")

    def _part(self, emitter: Emitter) -> tuple[IntArray, IntArray, IntArray]:
        """Of the wanted part: its first batch, how far the next one is, and how many it has.

        The longest batches come first, so that parts are about equally long if each takes every n-th batch.
        """
        integers = IntGraph(emitter, np.int64)
        with emitter.scope("part"):
            first, parts = (integers.take(integers.wrap(self.part), number) for number in (0, 1))
            return first, parts, geometry.strided_count(len(self.schedule.ends) - 1, first, parts)

    def _views_as_rows(self, emitter: Emitter) -> list[gs.Variable]:
        """Every view [1, rows, columns, C] as [rows · columns, C]."""
        # No Reshape: through that ONNX Runtime moves a DequantizeLinear on to the Loop, and crashes.
        results = zip(self.plan.views, self.base.outputs, strict=False)
        return [emitter.op("Flatten", result, name=f"views/{view.name}", axis=3) for view, result in results]

    def _held(self, emitter: Emitter, batch: gs.Tensor, views: list[gs.Variable]) -> dict[str, gs.Variable]:
        """The band of each view that a batch reads."""
        cells = self.schedule.bands * np.array([view.cols for view in self.plan.views], np.int64)[:, None]
        each = emitter.constant(np.ones(len(views), np.int64))
        ends = [
            emitter.split(
                self._of_batch(emitter, f"batches/view_{edge}s", cells[..., number], batch),
                each,
                [f"batch/{view.name}/{edge}" for view in self.plan.views],
                axis=0,
            )
            for number, edge in enumerate(("begin", "end"))
        ]
        return {
            view.name: self._sliced(emitter, rows, begin, end)
            for view, rows, begin, end in zip(self.plan.views, views, *ends, strict=True)
        }

    def _of_batch(self, emitter: Emitter, name: str, table: Integers, batch: gs.Tensor) -> gs.Variable:
        """The row of a table [K, …] that belongs to a batch."""
        return emitter.op("Gather", self._table(name, table), batch, name=name.replace("batches/", "batch/"), axis=0)

    def _picked(self, emitter: Emitter, values: gs.Tensor, target: gs.Tensor) -> gs.Variable:
        """The scores [q] of an output [q, …]."""
        rows = emitter.op("Flatten", values, axis=1)
        picked = emitter.op("Cast", emitter.op("Gather", rows, target, axis=1), to=np.float32)
        return emitter.op("Reshape", picked, emitter.constant(np.array([-1], np.int64)))

    def _sliced(self, emitter: Emitter, rows: gs.Tensor, begin: gs.Tensor, end: gs.Tensor) -> gs.Variable:
        return emitter.op("Slice", rows, begin, end, emitter.constant(np.zeros(1, np.int64)))

    def _scalar(self, emitter: Emitter, one: gs.Tensor, name: str) -> gs.Variable:
        return emitter.op("Squeeze", one, emitter.constant(np.zeros(1, np.int64)), name=name)

    def _bind(self, emitter: Emitter, name: gs.Variable, tensor: gs.Tensor) -> None:
        """Let what a graph takes as an input be a tensor of the graph around it."""
        emitter.nodes.append(gs.Node("Identity", f"{name.name}/bound", {}, [tensor], [name]))

    # -------------------------------------------------------------------------------------------- constants

    def _table(self, name: str, array: Array) -> gs.Variable:
        """A constant of the outermost graph, which all graphs can read."""
        variable = gs.Variable(self.main.unique(name), array.dtype, list(array.shape))
        self.constants[variable.name] = array
        return variable

    def _taken(self, graph: gs.Graph, prefix: str, shared: set[str]) -> list[gs.Node]:
        """The graph's nodes, to stand in a body: under names of their own, with weights from the outermost graph."""
        for node in (node for scope in (graph, *graph.subgraphs(recursive=True)) for node in scope.nodes):
            node.name = f"{prefix}{node.name}" if node.name else ""
        weights: dict[str, gs.Node] = {}
        for tensor in _own_tensors(graph, shared):
            name, tensor.name = tensor.name, f"{prefix}{tensor.name}"
            if isinstance(tensor, gs.Constant) and isinstance(tensor._values, DetachedValues):
                array = tensor._values.array
                tensor.to_variable(array.dtype, list(array.shape))
                tensor.type = "tensor_type"  # which graphsurgeon forgets
                weights.setdefault(tensor.name, self._weight(tensor, name, array))
        return [*weights.values(), *graph.nodes]

    def _weight(self, weight: gs.Variable, name: str, array: Array) -> gs.Node:
        """The node that makes a weight of what the outermost graph holds."""
        memory = memory_of(array)
        if memory not in self.weights:
            self.weights[memory] = self._table(f"weights/{name}", array.reshape(self.shapes[memory]))
        source = self.weights[memory]
        if len(source.shape) > 1:
            return gs.Node("Identity", weight.name, {}, [source], [weight])
        shape = self.main.constant(np.array(array.shape, np.int64))
        return gs.Node("Reshape", weight.name, {}, [source, shape], [weight])


def _free_prefix(wanted: str, taken: set[str]) -> str:
    """`wanted`, or more of it, with which no taken name begins."""
    prefix = wanted
    while any(name.startswith(prefix) for name in taken):
        prefix = f"{wanted}{prefix}"
    return prefix


def _own_tensors(graph: gs.Graph, shared: set[str]) -> list[gs.Tensor]:
    """Every tensor of a graph and of those inside it, once, but for inputs that it shares with others."""
    found: dict[int, gs.Tensor] = {}
    for scope in (graph, *graph.subgraphs(recursive=True)):
        for tensor in (*scope.inputs, *scope.tensors().values()):
            if not network.is_absent(tensor) and tensor.name not in shared:
                found.setdefault(id(tensor), tensor)
    return list(found.values())


def _held_shapes(graphs: tuple[gs.Graph, ...]) -> dict[tuple[int, int], tuple[int, ...]]:
    """The shape in which each weight is kept: flat, unless it is a matrix to all."""
    shapes: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for graph in graphs:
        for _, array in network.detached_weights(graph):
            shapes.setdefault(memory_of(array), set()).add(array.shape)
    return {
        memory: next(iter(found)) if len(found) == 1 and len(next(iter(found))) == 2 else (-1,)
        for memory, found in shapes.items()
    }
