"""Building the incremental graph: views, origins and patch content → the model's outputs for every query."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from krypton_onnx.geometry import Lookup
from krypton_onnx.passes import network, on_rows
from krypton_onnx.passes.batch_axes import BatchAxes
from krypton_onnx.passes.cut_index import cut_index
from krypton_onnx.passes.emit import Emitter
from krypton_onnx.passes.footprint import Bytes, peak, static_bytes
from krypton_onnx.passes.map_means import emit_map_mean, emit_window_sum
from krypton_onnx.passes.network import Network, static_shape, values
from krypton_onnx.passes.occluded_image import occluded_image
from krypton_onnx.passes.overlay import Overlay
from krypton_onnx.passes.per_query import Carried, query_shape, run_one_by_one
from krypton_onnx.passes.planner import Layout
from krypton_onnx.passes.regions import used_names
from krypton_onnx.passes.rules.rule import NHWC, Axes, Form, WindowRule
from krypton_onnx.passes.windows import POINT, Box, Inputs, Maps, Source
from krypton_onnx.plan import Tail


@dataclass(frozen=True, slots=True)
class Built:
    """The result.

    Attributes:
        graph: the incremental graph.
        index: what finds out where windows and their rows lie; None if the incremental graph does so itself.
        peak: the most memory that activations take at once.
    """

    graph: gs.Graph
    index: gs.Graph | None
    peak: Bytes


def build_incremental(
    net: Network,
    layout: Layout,
    patch: tuple[int, int],
    moving: frozenset[str],
    batch: BatchAxes | None,
    tail: Tail | None,
    index_apart: bool,
) -> Built:
    """Rewrite the model for a batch of queries.

    Before: ``relu1 → Conv(pads=[1, 1, 1, 1]) → conv2``.
    After, if both are windowed::

        pad row ────┐
        relu1/window┼─ Concat ─ Gather(index) ─ Transpose ─ Conv(pads=0) ─ conv2/window [Q, C, h, w]
        relu1/view ─┘                  ▲
        origins, window_sizes ─ integer nodes

    Args:
        net: the normalized model; its nodes are copied, not changed.
        layout: the planner's decisions.
        patch: (height, width) of the patch to count memory for.
        moving: names of the tensors that depend on the image.
        batch: where tensors have the batch, those that have it nowhere being computed query by query; None for a graph
            that takes exactly one query.
        tail: what to leave to a graph of its own.
        index_apart: whether to leave the index arithmetic to a graph of its own, too.
    """
    builder = _Builder(net, layout, patch, moving, batch)
    one_by_one = []
    for node in net.graph.nodes:
        if batch is not None and network.outputs(node)[0].name in batch.lost:
            one_by_one.append(node)
        else:
            builder.add(node)
    if one_by_one:
        builder.add_one_by_one(one_by_one)
    graph = builder.finish(tail)
    memory = peak(graph.nodes, builder.emitter.sizes, [t.name for t in graph.outputs])
    index = None
    if index_apart:
        index, graph = cut_index(graph, builder.inputs, builder.overlay.lines)
    return Built(graph, index, memory)


class _Builder:
    def __init__(
        self, net: Network, layout: Layout, patch: tuple[int, int], moving: frozenset[str], batch: BatchAxes | None
    ) -> None:
        self.net, self.layout, self.moving, self.batch = net, layout, moving, batch
        image = net.image_tensor
        self.tensors = net.graph.tensors()
        self.emitter = Emitter(reserved=self.tensors)
        integers, count = np.dtype(np.int64), len(layout.windows)
        self.inputs = Inputs(
            origins=gs.Variable("origins", integers, ["Q", 2]),
            patch_content=gs.Variable("patch_content", image.dtype, ["P", image.shape[1], "patch_rows", "patch_cols"]),
            window_sizes=gs.Variable("window_sizes", integers, [count, 2]),
            view_rows=gs.Variable("view_rows", integers, [len(layout.views)]),
            window_begins=gs.Variable("window_begins", integers, ["Q", count, 2]) if layout.tau < 1 else None,
        )
        self.sources = [
            gs.Variable(view.name, np.dtype(view.dtype), [f"{view.name}/held", view.channels]) for view in layout.views
        ]
        self.others = {t.name: gs.Variable(t.name, t.dtype, t.shape) for t in net.other_inputs}
        self.views = {view.tensor: number for number, view in enumerate(layout.views) if not view.sums}
        self.sums = {view.tensor: number for number, view in enumerate(layout.views) if view.sums}
        self.overlay = Overlay(self.emitter, self.inputs, layout, patch)
        self.windows: dict[str, gs.Variable] = {}
        self.full: dict[str, gs.Tensor] = dict(self.others)

    def add(self, node: gs.Node) -> None:
        """Append a node in the form that the plan gives it."""
        result = node.outputs[0].name
        if result in self.layout.window_of:
            self._add_windowed(node)
        elif result in self.layout.means:
            self._add_map_mean(node)
        else:
            self._add_full(node)

    def _add_windowed(self, node: gs.Node) -> None:
        result = node.outputs[0]
        rule = self.layout.rules[result.name]
        box = self.overlay.box(self.layout.window_of[result.name])
        if result.name in self.layout.on_rows:
            self.windows[result.name] = self._run_on_rows(node, rule, box)
        else:
            self.windows[result.name] = self._map_window(node, rule, box)

    def _map_window(self, node: gs.Node, rule: WindowRule, box: Box) -> gs.Variable:
        """The window as maps [Q, C, h, w], or as the model orders the axes."""
        result = node.outputs[0]
        match rule.form:
            case Form.READ:
                return self._windowed_input(node, 0, rule, box)
            case Form.BLEND:
                source, maps = self._source(node.inputs[0].name), (rule.rows, rule.cols)
                return self.overlay.blend(source, box, maps, f"{result.name}/window")  # type: ignore[arg-type]
            case Form.PICK:
                raw, maps = self._run(node, rule, box, f"{result.name}/raw"), (rule.rows, rule.cols)
                name, channels = f"{result.name}/window", self._channels(result.name)
                return self.overlay.pick(raw, rule.axes, box, maps, channels, name)  # type: ignore[arg-type]
            case Form.RUN:
                window = self._run(node, rule, box, f"{result.name}/window")
                self.emitter.sizes[window.name] = box.memory(self._cell_bytes(result.name))
                return window

    def _run(self, node: gs.Node, rule: WindowRule, box: Box, name: str) -> gs.Variable:
        """The node itself on what it reads, which holds all of its padding, and only the cells that it wants."""
        inputs = [self._windowed_input(node, i, rule, box) for i in range(len(node.inputs))]
        attrs = {key: value for key, value in node.attrs.items() if key != "output_padding"}
        if "pads" in attrs:
            attrs["pads"] = [0] * len(attrs["pads"])
        if "strides" in attrs and isinstance(rule.rows, Lookup):
            attrs["strides"] = [1] * len(attrs["strides"])
        output = gs.Variable(self.emitter.unique(name), node.outputs[0].dtype)
        self.emitter.nodes.append(gs.Node(node.op, node.name, attrs, inputs, [output], domain=node.domain))
        return output

    def _run_on_rows(self, node: gs.Node, rule: WindowRule, box: Box) -> gs.Variable:
        """The window as rows [cells, C], of which a 1×1 convolution is a matrix product."""
        result = node.outputs[0]
        inputs = [self._row_input(node, i, rule, box) for i in range(len(node.inputs))]
        op, attrs = on_rows.row_operator(node)
        output = gs.Variable(self.emitter.unique(f"{result.name}/window_rows"), result.dtype)
        self.emitter.nodes.append(gs.Node(op, node.name, attrs, inputs, [output]))
        self.emitter.sizes[output.name] = box.memory(self._cell_bytes(result.name))
        return output

    def _row_input(self, node: gs.Node, index: int, rule: WindowRule, box: Box) -> gs.Tensor:
        tensor, result = node.inputs[index], node.outputs[0].name
        if tensor.name not in self.moving:
            return on_rows.row_constant(self.emitter, node, index)
        if rule.is_pointwise and self.layout.window_of.get(tensor.name) == self.layout.window_of[result]:
            return self._window_rows(tensor.name)
        name = f"{tensor.name}/for_{result}"
        cells = self.overlay.read(self._source(tensor.name), box, (rule.rows, rule.cols), rule.pad_value, name)
        return self.overlay.as_rows(cells, self._channels(tensor.name), name)

    def _windowed_input(self, node: gs.Node, index: int, rule: WindowRule, box: Box) -> gs.Tensor:
        tensor, result = node.inputs[index], node.outputs[0].name
        if index in rule.spatial_constants:
            return self._constant_window(node, index, rule, box)
        if tensor.name not in self.moving:
            return self._still(tensor)
        if rule.is_pointwise and self.layout.window_of.get(tensor.name) == self.layout.window_of[result]:
            return self._window_maps(tensor.name)
        return self._read(tensor.name, box, (rule.rows, rule.cols), rule.pad_value, f"{tensor.name}/for_{result}")

    def _window_maps(self, tensor: str) -> gs.Variable:
        if tensor not in self.layout.on_rows:
            return self.windows[tensor]
        return self._rows_as_maps(tensor, self.layout.axes[tensor])

    def _rows_as_maps(self, tensor: str, axes: Axes) -> gs.Variable:
        number, channels = self.layout.window_of[tensor], self._channels(tensor)
        return self.overlay.rows_as_maps(self.windows[tensor], number, axes, channels, tensor)

    def _window_rows(self, tensor: str) -> gs.Variable:
        window = self.windows[tensor]
        if tensor in self.layout.on_rows:
            return window
        return self.overlay.maps_as_rows(window, self.layout.axes[tensor], self._channels(tensor), tensor)

    def _constant_window(self, node: gs.Node, index: int, rule: WindowRule, box: Box) -> gs.Tensor:
        """The part of a constant map that lies in the window; its channels are those of the constant."""
        tensor, result = node.inputs[index], node.outputs[0]
        shape = (1,) * (4 - len(tensor.shape)) + tuple(tensor.shape)
        extents = static_shape(result) or shape
        full = list(shape)
        for axis in rule.axes.spatial:
            full[axis] = extents[axis]
        constant = np.broadcast_to(np.asarray(values(tensor)).reshape(shape), full)
        return self.overlay.read_constant(constant, rule.axes, box, f"{tensor.name}/at_{result.name}")

    def _source(self, tensor: str) -> Source:
        number, dtype = self.views[tensor], np.dtype(self.tensors[tensor].dtype)
        own = self._window_rows(tensor) if tensor in self.windows else None
        return Source(self.sources[number], number, self.layout.views[number], self.layout.axes[tensor], own, dtype)

    def _read(self, tensor: str, box: Box, maps: Maps, pad_value: float | None, name: str) -> gs.Variable:
        """What `box` reads of a tensor, as maps in the model's order of axes."""
        source, beyond = self.layout.through.source(tensor, pad_value)
        read_name = name if source == tensor else f"{name}/quantized"
        cells = self.overlay.read(self._source(source), box, maps, beyond, read_name)
        memory = box.memory(self._cell_bytes(source), maps)
        found = self.overlay.as_maps(cells, self.layout.axes[source], read_name, memory)
        return (
            found
            if source == tensor
            else self._dequantized(tensor, found, name, box.memory(self._cell_bytes(tensor), maps))
        )

    def _add_map_mean(self, node: gs.Node) -> None:
        tensor, result = node.inputs[0].name, node.outputs[0]
        view, table = self.layout.views[self.sums[tensor]], self.sources[self.sums[tensor]]
        box = self.overlay.box(self.layout.window_of[tensor])
        if tensor in self.layout.on_rows:
            axes, maps = NHWC, self._rows_as_maps(tensor, NHWC)
        else:
            axes, maps = self.layout.axes[tensor], self.windows[tensor]
        own = emit_window_sum(self.emitter, maps, axes, box, f"{tensor}/window_sum")
        extents = (view.rows - 2, view.cols - 1)
        mean = emit_map_mean(self.emitter, table, extents, box, own, f"{result.name}/by_channel")
        shape = self.emitter.constant(np.array([-1, *(static_shape(result) or ())[1:]], np.int64))
        self.full[result.name] = self.emitter.op("Reshape", mean, shape, name=result.name)

    def _add_full(self, node: gs.Node) -> None:
        # Subgraphs name outer tensors without listing them as inputs.
        captured = {name: self._available(name) for name in used_names(node) if name in self.tensors}
        inputs = [t.copy() if network.is_absent(t) else captured[t.name] for t in node.inputs]
        if node.op == "Resize" and node.attrs.get("mode") == "cubic":
            inputs[0] = self._behind_a_barrier(inputs[0], node.inputs[0])
        outputs = [gs.Variable(t.name, t.dtype) for t in node.outputs]
        self.emitter.nodes.append(node.copy(inputs=inputs, outputs=outputs, tensor_map=captured))
        self.emitter.sizes.update({t.name: Bytes(dense=static_bytes(t)) for t in node.outputs})
        self.full.update({t.name: t for t in outputs})

    def _behind_a_barrier(self, tensor: gs.Tensor, source: gs.Tensor) -> gs.Tensor:
        """The same, but ONNX Runtime cannot move a Transpose before it behind what follows.

        Behind a cubic Resize it does so, and then has no kernel for the order of axes that it has made.
        """
        shape = static_shape(source)
        if shape is None:
            kept: gs.Tensor = self.emitter.op("Shape", tensor)
        else:
            kept = self.emitter.constant(np.array([-1, *shape[1:]], np.int64))
        return self.emitter.op("Reshape", tensor, kept, name=f"{source.name}/kept_in_order")

    def _available(self, name: str) -> gs.Tensor:
        return self._whole(name) if name in self.moving else self._still(self.tensors[name])

    def _still(self, tensor: gs.Tensor) -> gs.Tensor:
        """A tensor that does not depend on the image."""
        if isinstance(tensor, gs.Constant) or network.is_absent(tensor):
            return self.full.setdefault(tensor.name, tensor.copy())
        return self.full[tensor.name]

    def _whole(self, tensor: str) -> gs.Tensor:
        """The full map of a tensor for every query, assembled once."""
        if tensor not in self.full:
            self.full[tensor] = self._occluded_image() if self.layout.full_inference else self._assembled(tensor)
        return self.full[tensor]

    def _assembled(self, tensor: str) -> gs.Variable:
        axes, shape = self.layout.axes[tensor], static_shape(self.tensors[tensor]) or (0, 0, 0, 0)
        box = self.overlay.whole(shape[axes.rows], shape[axes.cols])
        return self._read(tensor, box, POINT, None, f"{tensor}/whole")

    def _occluded_image(self) -> gs.Variable:
        """The one whole map of full inference, which has no window to lay over it."""
        number, every = self.views[self.net.image], self.overlay.leading_queries(4)
        view = self.layout.views[number]
        image = occluded_image(
            self.emitter, self.sources[number], view, self.inputs.origins, self.inputs.patch_content, every
        )
        self.emitter.sizes[image.name] = Bytes(dense=static_bytes(self.net.image_tensor))
        return image

    def _dequantized(self, tensor: str, quantized: gs.Variable, name: str, memory: Bytes) -> gs.Variable:
        """A read of a quantized tensor as its DequantizeLinear would give it."""
        node = self.layout.through.node(tensor)
        inputs = [quantized, *(self._still(t) for t in node.inputs[1:])]
        output = gs.Variable(self.emitter.unique(name), node.outputs[0].dtype)
        self.emitter.nodes.append(gs.Node(node.op, output.name, dict(node.attrs), inputs, [output]))
        self.emitter.sizes[output.name] = memory
        return output

    def _channels(self, tensor: str) -> int:
        return (static_shape(self.tensors[tensor]) or (0, 0, 0, 0))[self.layout.axes[tensor].channel]

    def _cell_bytes(self, tensor: str) -> int:
        return self._channels(tensor) * int(np.dtype(self.tensors[tensor].dtype).itemsize)

    def add_one_by_one(self, nodes: list[gs.Node]) -> None:
        """Append the nodes that lose the batch axis, to run once a query."""
        assert self.batch is not None
        made = {t.name for n in nodes for t in n.outputs}
        used = dict.fromkeys(name for n in nodes for name in used_names(n))
        carried = {
            name: Carried(self._whole(name), static_shape(self.tensors[name]) or (), self.batch.axes[name])
            for name in used
            if name in self.moving and name not in made
        }
        for name in used:
            if name in self.tensors and name not in self.moving:
                self._still(self.tensors[name])
        wanted = [t for t in self.net.graph.outputs if t.name in made]
        outputs = run_one_by_one(self.emitter, nodes, carried, wanted, self.full)
        self.full.update({t.name: t for t in outputs})
        for tensor in outputs:
            self.emitter.sizes[tensor.name] = Bytes(dense=sum(static_bytes(t) for t in wanted))
        # One query at a time, of which nothing is known to be freed early.
        self.emitter.sizes[outputs[0].name] += Bytes(fixed=sum(static_bytes(t) for n in nodes for t in n.outputs))

    def finish(self, tail: Tail | None) -> gs.Graph:
        """The graph, without nodes that nothing reads."""
        outputs = []
        for wanted in self.net.graph.outputs:
            if tail is not None and wanted.name in tail.outputs:
                continue
            tensor = self._per_query(wanted) if wanted.name in self.moving else self._repeated(wanted)
            tensor.name, tensor.dtype, tensor.shape = wanted.name, wanted.dtype, ["Q", *query_shape(wanted)]
            outputs.append(tensor)
        outputs += self._window_outputs()
        if tail is not None:
            outputs += self._handed_over(tail)
        graph = gs.Graph(
            self.emitter.nodes,
            [*self.inputs.all(), *self.sources, *self.others.values()],
            outputs,
            name="incremental",
            opset=self.net.graph.opset,
            import_domains=self.net.graph.import_domains,
        )
        return graph.cleanup(remove_unused_graph_inputs=False)

    def _window_outputs(self) -> list[gs.Variable]:
        """The windows of the model's outputs, for callers who want no whole maps."""
        windows = []
        for wanted in self.net.graph.outputs:
            if wanted.name in self.layout.window_of:
                window, axes = self._window_maps(wanted.name), self.layout.axes[wanted.name]
                extents: list[str | int] = ["Q", "Q", "Q", "Q"]
                extents[axes.channel] = self._channels(wanted.name)
                extents[axes.rows], extents[axes.cols] = f"{wanted.name}/rows", f"{wanted.name}/cols"
                window.name, window.dtype, window.shape = f"{wanted.name}/window", wanted.dtype, extents
                windows.append(window)
        return windows

    def _handed_over(self, tail: Tail) -> list[gs.Variable]:
        """What the tail takes, for every query, and the model's outputs do not hold already."""
        tensors = []
        outputs = {tensor.name for tensor in self.net.graph.outputs}
        for name in (name for name in tail.inputs if name not in outputs):
            tensor = self._whole(name)
            tensor.name, tensor.dtype = name, self.tensors[name].dtype
            tensor.shape = ["Q", *(static_shape(self.tensors[name]) or ())[1:]]
            tensors.append(tensor)
        return tensors

    def _per_query(self, wanted: gs.Variable) -> gs.Variable:
        """An output with an axis of queries in front."""
        tensor = self._whole(wanted.name)
        if query_shape(wanted) != tuple(wanted.shape) or (self.batch is not None and wanted.name in self.batch.lost):
            return tensor
        tensor.name = self.emitter.unique(f"{wanted.name}/rows")
        if self.batch is None:
            return self.emitter.op("Unsqueeze", tensor, self.emitter.constant(np.zeros(1, np.int64)))
        # the rows of a query follow one another
        return self.emitter.op("Reshape", tensor, self.emitter.constant(np.array([-1, *wanted.shape], np.int64)))

    def _repeated(self, wanted: gs.Variable) -> gs.Variable:
        """An output that does not depend on the image, once a query."""
        one = self._still(wanted)
        # The output's name belongs to the repeated tensor.
        one.name = self.emitter.unique(f"{wanted.name}/once")
        if query_shape(wanted) == tuple(wanted.shape):
            one = self.emitter.op("Unsqueeze", one, self.emitter.constant(np.zeros(1, np.int64)))
        return self.emitter.op("Expand", one, self.overlay.leading_queries(1 + len(query_shape(wanted))))
