"""Real exports: the structure of models as exporters wrote them, with weights filled in from a seed.

Each file in `tests/exports/` is an export whose learnt weights were removed: the initializer keeps its name, extents
and element type and holds no data. The scripts beside the files made them. Nine old exports, opset 9 with weights made
by ConstantOfShape nodes, come from the `onnx` wheel itself.

Weights are drawn while the model runs node by node on a few random images: each convolution or matrix product is scaled
so that what it gives has variance one, each BatchNormalization gets the statistics of what it sees. So activations stay
of order one through the deepest net, as in a trained one, and an occlusion moves the outputs.
"""

from collections.abc import Container
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

Array = npt.NDArray[np.generic]

FOLDER = Path(__file__).parent / "exports"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = (*sorted(f.stem for f in FOLDER.glob("*.onnx")), *sorted(f.stem for f in LIGHT.glob("light_*.onnx")))

WEIGHT_INPUTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
}
"""Inputs that are learnt weights however small they are; elsewhere a constant is one if it is large."""

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_BYTES = {TensorProto.INT8, TensorProto.UINT8}
_SAME_NUMBERS = {"Identity", "Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Flatten"}
_TRANSPARENT = {*_SAME_NUMBERS, "DequantizeLinear"}
_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ZERO_POINT = {
    "QLinearConv": 5,
    "QLinearMatMul": 5,
    "QGemm": 5,
    "ConvInteger": 3,
    "MatMulInteger": 3,
    "DequantizeLinear": 2,
}
_SMALL = 256
_MANY = 16
"""A channel needs this many values for its mean to mean anything."""
_IMAGES = 2
_OF_MEANS = 0.3
_OF_VECTORS = 0.3
"""A random net tends to chaos: with all of each channel's mean taken away, or with gates and logits of variance one,
noise grows from layer to layer until float rounding alone passes what exact allows."""

Role = tuple[str, int]
"""An operator and the number of one of its inputs."""


def load_export(name: str, seed: int = 0) -> onnx.ModelProto:
    """A model of `NAMES` with weights.

    Args:
        name: the file's name without its suffix.
        seed: of the weights.
    """
    light = name.startswith("light_")
    model = onnx.load((LIGHT if light else FOLDER) / f"{name}.onnx")
    if light:
        _strip_light(model)
        strip(model)  # some biases are there
    _Filler(model, seed).fill()
    return model


def strip(model: onnx.ModelProto, learnt: Container[str] | None = None) -> None:
    """Remove the learnt weights, and notes that a model runs without, in place.

    Args:
        model: a complete export.
        learnt: names of weights, so that other large constants, such as anchors, stay; None if those are weights too.
    """
    roles = _roles(model.graph)
    for tensor in model.graph.initializer:
        if _is_weight(tensor, roles.get(tensor.name, ("", 0)), learnt):
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(bare)
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


def save_stripped(model: onnx.ModelProto, name: str, exporter: str, learnt: Container[str] | None = None) -> None:
    """Write a complete export into `tests/exports/` without its weights.

    Args:
        model: stripped in place.
        name: of the fixture.
        exporter: noted in the file.
        learnt: see `strip`.
    """
    strip(model, learnt)
    model.doc_string = exporter
    onnx.save(model, FOLDER / f"{name}.onnx")


def is_stripped(tensor: TensorProto) -> bool:
    """Whether an initializer lacks its data."""
    return bool(np.prod(tensor.dims)) and not any(values for field, values in tensor.ListFields() if _holds(field.name))


def _holds(field: str) -> bool:
    return field == "raw_data" or field == "external_data" or field.endswith("_data")


def _is_weight(tensor: TensorProto, role: Role, learnt: Container[str] | None) -> bool:
    op, number = role
    if tensor.data_type in _BYTES:
        return len(tensor.dims) > 1  # a zero point is a scalar or a vector
    if tensor.data_type not in _FLOATS or op in ("QuantizeLinear", "DequantizeLinear") or op.startswith("QLinear"):
        return False
    size = int(np.prod(tensor.dims))
    if number in WEIGHT_INPUTS.get(op, ()):
        return size > 1
    return size * 4 > _SMALL and (learnt is None or tensor.name in learnt)


def _roles(graph: onnx.GraphProto) -> dict[str, Role]:
    """Whom each tensor serves: its first consumer, seen through nodes that only give it another shape or type."""
    roles: dict[str, Role] = {}
    for node in reversed(graph.node):
        for number, name in reversed(list(enumerate(node.input))):
            through = node.op_type in _TRANSPARENT and number == 0 and node.output[0] in roles
            roles[name] = roles[node.output[0]] if through else (node.op_type, number)
    return roles


def _strip_light(model: onnx.ModelProto) -> None:
    """Turn the ConstantOfShape nodes, which stand for weights, into stripped initializers, in place."""
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = [n for n in model.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    for node in made:
        dims = [int(extent) for extent in shapes[node.input[0]]]
        model.graph.initializer.append(TensorProto(name=node.output[0], data_type=TensorProto.FLOAT, dims=dims))
        model.graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, dims))
        model.graph.node.remove(node)


class _Filler:
    """Runs a model node by node on a few images and settles its weights on the way.

    Each image has a run of its own: many exports fix a batch of one.

    Args:
        model: filled in place.
        seed: of the weights and of the images.
    """

    def __init__(self, model: onnx.ModelProto, seed: int) -> None:
        self._model, self._rng = model, np.random.default_rng(seed)
        self._roles = _roles(model.graph)
        self._stripped = {t.name: t for t in model.graph.initializer if is_stripped(t)}
        self._root = {name: name for name in self._stripped}
        self._settled: set[str] = set()
        whole = [tensor for tensor in model.graph.initializer if tensor.name not in self._stripped]
        self._shared = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole}
        self._shared |= {name: self._draw(tensor) for name, tensor in self._stripped.items()}
        given = [value for value in model.graph.input if value.name not in self._shared]
        self._images = [{value.name: self._input(value) for value in given} for _ in range(_IMAGES)]

    def fill(self) -> None:
        """Run, and write the weights into the model."""
        last = {name: node for node in self._model.graph.node for name in node.input}
        for node in self._model.graph.node:
            self._step(node)
            for name in (name for name in node.input if last[name] is node):
                for values in self._images:
                    values.pop(name, None)
        for name, tensor in self._stripped.items():
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(self._shared[name]), name))

    def _input(self, value: onnx.ValueInfoProto) -> Array:
        shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        return self._rng.standard_normal(shape).astype(dtype)

    def _draw(self, tensor: TensorProto) -> Array:
        op, number = self._roles.get(tensor.name, ("", 0))
        dtype, shape = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
        normal = self._rng.standard_normal(shape, np.float32)
        if tensor.data_type in _BYTES:
            limits = np.iinfo(dtype)
            return np.clip(self._zero_point(tensor.name) + np.rint(32 * normal), limits.min, limits.max).astype(dtype)
        if op in _LINEAR and number < 2:
            return (normal * np.float32(max(1, np.prod(shape[1:])) ** -0.5)).astype(dtype)
        if op in ("Mul", "Div") or (op.endswith("Normalization") and number in (1, 4)):
            return np.exp(0.1 * normal).astype(dtype)
        return (np.float32(1.0 if op in ("Concat", "Gather", "Expand") else 0.1) * normal).astype(dtype)

    def _zero_point(self, weight: str) -> float:
        node = next(n for n in self._model.graph.node if weight in n.input)
        number = _ZERO_POINT[node.op_type]
        point = node.input[number] if len(node.input) > number else ""
        return float(self._shared[point].mean()) if point else 0.0

    def _step(self, node: onnx.NodeProto) -> None:
        if node.op_type == "BatchNormalization":
            self._settle_statistics(node)
        moving = any(name in self._images[0] for name in node.input)
        runs = _run(self._model, node, [self._shared | i for i in self._images] if moving else [self._shared])
        if moving and node.op_type in _LINEAR:
            self._settle_weight(node, [run[0] for run in runs])
        if node.op_type in _SAME_NUMBERS and node.input[0] in self._root:
            self._root[node.output[0]] = self._root[node.input[0]]
        for values, run in zip(self._images if moving else [self._shared], runs, strict=True):
            values.update((name, value) for name, value in zip(node.output, run, strict=True) if name)

    def _settle_statistics(self, node: onnx.NodeProto) -> None:
        """Let mean and variance of a BatchNormalization be about those of its input."""
        mean, variance = node.input[3:5]
        if mean not in self._stripped or mean in self._settled or node.input[0] not in self._images[0]:
            return
        self._settled.add(mean)
        rows = _rows([values[node.input[0]] for values in self._images], 1)
        dtype = self._shared[mean].dtype
        means = _OF_MEANS * rows.mean(0)
        spread = ((rows - means) ** 2).mean(0) + 1e-3
        self._shared[mean] = means.astype(dtype)
        self._shared[variance] = spread.astype(dtype)

    def _settle_weight(self, node: onnx.NodeProto, results: list[Array]) -> None:
        """Scale the weight so that the results have variance one, and let a bias take their means; in place."""
        weight = next((name for name in node.input[:2] if name in self._root), None)
        if weight is None or self._root[weight] in self._settled:
            return
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in self._stripped else None
        channel = 1 if node.op_type.startswith("Conv") else results[0].ndim - 1
        rows = _rows(results, channel)
        given = self._shared[bias].astype(np.float64) if bias else np.zeros(rows.shape[1])
        many = len(rows) >= _MANY
        means = _OF_MEANS * (rows.mean(0) - given) if bias and many else np.zeros(rows.shape[1])
        scale = float((rows - given - means).std()) / (1.0 if many else _OF_VECTORS) or 1.0
        change = given - (given + means) / scale
        for result in results:
            shape = [-1 if axis == channel else 1 for axis in range(result.ndim)]
            result[...] = result / scale + change.reshape(shape)
        root = self._root[weight]
        self._settled.add(root)
        for name in {root, weight}:
            self._shared[name] = (self._shared[name] / np.float32(scale)).astype(self._shared[name].dtype)
        if bias:
            self._shared[bias] = (given - means / scale).astype(self._shared[bias].dtype)


def _rows(arrays: list[Array], channel: int) -> npt.NDArray[np.float64]:
    """Values by channel, [values, channels]."""
    return np.concatenate([np.moveaxis(a, channel, -1).reshape(-1, a.shape[channel]) for a in arrays]).astype(float)


def _run(model: onnx.ModelProto, node: onnx.NodeProto, runs: list[dict[str, Array]]) -> list[list[Array]]:
    """The outputs of one node, for each set of values."""
    names = list(dict.fromkeys(name for name in node.input if name))
    fixed = [name for name in names if runs[0][name].dtype.kind == "V"]  # bfloat16, which cannot be fed
    weights = [numpy_helper.from_array(runs[0][name], name) for name in fixed]
    names = [name for name in names if name not in fixed]
    inputs = [_described(name, [values[name] for values in runs]) for name in names]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "step", inputs, outputs, weights)
    step = onnx.helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(step.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = []
    for values in runs:
        found = iter(session.run(None, {name: values[name] for name in names}))
        results.append([next(found) if name else np.zeros(0) for name in node.output])
    return results


def _described(name: str, values: list[Array]) -> onnx.ValueInfoProto:
    """A graph input that takes all of the values."""
    first = values[0]
    shape = first.shape if all(value.shape == first.shape for value in values) else [None] * first.ndim
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(first.dtype), shape)
