"""The architectures against their published figures, and the numerical behaviour that other tests build on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from krypton_onnx.errors import KryptonError
from krypton_onnx.models import NAMES, build

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Published:
    """Figures of torchvision's model cards; `nodes` counts layers, `last_map` is the side of the final map."""

    parameters: int
    gmacs: float
    last_map: int
    nodes: dict[str, int]


PUBLISHED = {
    "vgg16": Published(138_357_544, 15.47, 7, {"Conv": 13, "Relu": 15, "MaxPool": 5, "Flatten": 1, "Gemm": 3}),
    "resnet18": Published(
        11_689_512,
        1.81,
        7,
        {"Conv": 20, "BatchNormalization": 20, "Relu": 17, "Add": 8, "MaxPool": 1}
        | {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "resnet50": Published(
        25_557_032,
        4.09,
        7,
        {"Conv": 53, "BatchNormalization": 53, "Relu": 49, "Add": 16, "MaxPool": 1}
        | {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    # Published with the auxiliary classifier: convolutions 768 -> 128 (1 x 1) and 128 -> 768 (5 x 5), each with a
    # BatchNormalization, and a fully connected layer 768 -> 1000.
    "inception_v3": Published(
        27_161_264 - (768 * 128 + 2 * 128) - (128 * 768 * 5 * 5 + 2 * 768) - (768 * 1000 + 1000),
        5.71,
        8,
        {"Conv": 94, "BatchNormalization": 94, "Relu": 94, "Concat": 11, "MaxPool": 4, "AveragePool": 9}
        | {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "densenet121": Published(
        7_978_856,
        2.83,
        7,
        {"Conv": 120, "BatchNormalization": 121, "Relu": 121, "Concat": 62, "MaxPool": 1, "AveragePool": 3}
        | {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "mobilenet_v2": Published(
        3_504_872,
        0.30,
        7,
        {"Conv": 52, "BatchNormalization": 52, "Clip": 35, "Constant": 70, "Add": 10}
        | {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "squeezenet1_1": Published(
        1_235_496,
        0.35,
        13,
        {"Conv": 26, "Relu": 26, "Concat": 8, "MaxPool": 3, "GlobalAveragePool": 1, "Flatten": 1},
    ),
}


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """One model at a time: pytest groups the tests by model, so that VGG16's 553 MB live once and not long."""
    name: str = request.param
    return build(name)


def test_every_name_is_tested() -> None:
    assert set(PUBLISHED) == set(NAMES)


def test_parameter_count_is_the_published_one(model: onnx.ModelProto) -> None:
    shapes = weight_shapes(model)
    learnable = {"Conv": slice(1, 3), "Gemm": slice(1, 3), "BatchNormalization": slice(1, 3)}
    names = [name for node in model.graph.node for name in node.input[learnable.get(node.op_type, slice(0))]]
    assert len(names) == len(set(names))
    assert sum(prod(shapes[name]) for name in names) == PUBLISHED[model.graph.name].parameters


def test_flops_are_the_published_ones(model: onnx.ModelProto) -> None:
    weights, activations = weight_shapes(model), activation_shapes(model)
    multiply_adds = sum(
        prod(activations[node.output[0]]) * fan_in(node, weights[node.input[1]])
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    )
    assert 2 * multiply_adds / 1e9 == pytest.approx(2 * PUBLISHED[model.graph.name].gmacs, rel=0.02)


def test_layers_are_the_published_ones(model: onnx.ModelProto) -> None:
    published = PUBLISHED[model.graph.name]
    assert dict(Counter(node.op_type for node in model.graph.node)) == published.nodes
    last_map = [shape for shape in activation_shapes(model).values() if len(shape) == 3 and shape[1] > 1][-1]
    assert last_map[1:] == (published.last_map, published.last_map)


def test_graph_is_valid_and_looks_exported(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    side = 299 if model.graph.name == "inception_v3" else 224
    assert [signature(value) for value in model.graph.input] == [("image", "N", 3, side, side)]
    assert [signature(value) for value in model.graph.output] == [("logits", "N", 1000)]

    consumers = {name: node for node in model.graph.node for name in node.input}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        normalised = consumers[conv.output[0]].op_type == "BatchNormalization"
        assert len(conv.input) == 2 or not normalised, f"{conv.name} has a bias that its BatchNormalization undoes"


def test_occlusion_moves_the_logits_and_rounding_does_not(model: onnx.ModelProto) -> None:
    serialized = model.SerializeToString()
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    image = np.random.default_rng(1).standard_normal((1, 3, side, side), dtype=np.float32)
    patch = slice(side // 2 - 8, side // 2 + 8)
    occluded = image.copy()
    occluded[:, :, patch, patch] = 0

    fused, moved = logits(serialized, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, image, occluded)
    (plain,) = logits(serialized, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, image)
    largest = np.abs(plain).max()
    assert 0.5 < largest < 50
    assert np.abs(moved - fused).max() >= 5e-3 * largest
    assert np.abs(fused - plain).max() <= 5e-6 * largest


def test_inception_has_the_details_that_no_count_shows() -> None:
    nodes = build("inception_v3").graph.node
    assert attribute_values(nodes, "AveragePool", "count_include_pad") == {1}
    assert attribute_values(nodes, "BatchNormalization", "epsilon") == {np.float32(1e-3)}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vgg16"])
def test_seed_decides_every_byte(name: str) -> None:
    first, again, other = (build(name, seed=seed).SerializeToString(deterministic=True) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_weights_do_not_depend_on_the_input_size() -> None:
    small, large = (build("resnet18", input_size=size).graph for size in (64, 512))
    assert list(small.initializer) == list(large.initializer)


@pytest.mark.parametrize(
    ("name", "size", "last_map"),
    [
        ("vgg16", 448, 7),
        ("resnet18", 32, 1),
        ("resnet50", 512, 16),
        ("inception_v3", 75, 1),
        ("densenet121", 1024, 32),
        ("mobilenet_v2", 193, 7),
        ("squeezenet1_1", 32, 1),
        ("squeezenet1_1", 226, 14),  # 13 if the pools rounded down
    ],
)
def test_other_input_sizes(name: str, size: int, last_map: int) -> None:
    model = build(name, input_size=size, classes=10)
    shapes = activation_shapes(model)
    assert shapes["logits"] == (10,)
    pooled = next(node.input[0] for node in model.graph.node if node.op_type in ("GlobalAveragePool", "Flatten"))
    assert shapes[pooled][1:] == (last_map, last_map)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("vgg16", 256, "multiple of 224"),
        ("vgg16", 200, "multiple of 224"),
        ("vgg16", 0, "at least 32"),
        ("resnet50", 31, "at least 32"),
        ("inception_v3", 74, "at least 75"),
    ],
)
def test_impossible_input_size_is_refused(name: str, size: int, reason: str) -> None:
    with pytest.raises(KryptonError, match=f"{name} cannot have input size {size}: .*{reason}"):
        build(name, input_size=size)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KryptonError, match=r"'alexnet'.*" + ", ".join(NAMES)):
        build("alexnet")


def weight_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def activation_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch axis, inferred on a copy whose weights are mere inputs."""
    weights = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in weight_shapes(model).items()
    ]
    bare = onnx.helper.make_graph(model.graph.node, "bare", [*model.graph.input, *weights], model.graph.output)
    inferred = onnx.shape_inference.infer_shapes(
        onnx.helper.make_model(bare, opset_imports=model.opset_import), check_type=True, strict_mode=True
    )
    values = [*inferred.graph.value_info, *inferred.graph.output]
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]) for value in values}


def fan_in(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    """Multiply-adds for one output element, given a weight [out, in, ...]."""
    if node.op_type == "Gemm":
        assert attribute_values([node], "Gemm", "transB") == {1}
    return prod(weight[1:])


def attribute_values(nodes: Iterable[onnx.NodeProto], op: str, name: str) -> set[object]:
    attributes = (attribute for node in nodes if node.op_type == op for attribute in node.attribute)
    return {onnx.helper.get_attribute_value(attribute) for attribute in attributes if attribute.name == name}


def signature(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    dims = value.type.tensor_type.shape.dim
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    return (value.name, *(dim.dim_param or dim.dim_value for dim in dims))


def logits(serialized: bytes, level: ort.GraphOptimizationLevel, *images: Array) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"image": image})[0] for image in images]
