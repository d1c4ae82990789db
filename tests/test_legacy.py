"""Old opsets: a model that is raised to opset 17 computes what ONNX Runtime computes from the original."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.passes.legacy import raise_opset

FLOAT = TensorProto.FLOAT
node = helper.make_node
info = helper.make_tensor_value_info
SHAPE = [1, 4, 6, 6]

Nodes = list[onnx.NodeProto]
Weights = dict[str, Any]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def graph(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [info(nodes[-1].output[0], FLOAT, None)])


def model(opset: int, nodes: Nodes, weights: Weights, *, shape: list[int] = SHAPE) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "old",
            [info("x", FLOAT, shape)],
            [info("y", FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=4,
    )


def result(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


PARAMETERS = {name: np.abs(normal(4)) + np.float32(0.1) for name in "gbmv"}
PER_CELL = {name: np.abs(normal(4, 6, 6)) + np.float32(0.1) for name in "gbmv"}
HALF = [node("Shape", ["x"], ["shape"]), node("Cast", ["shape"], ["lengths"], to=FLOAT)]

# name: (first opset, last opset, nodes from x to y, weights)
OLD: dict[str, tuple[int, int, Nodes, Weights]] = {
    "Affine": (7, 9, [node("Affine", ["x"], ["y"], alpha=2.0, beta=1.0)], {}),
    "Affine without attributes": (7, 9, [node("Affine", ["x"], ["y"])], {}),
    "Scale": (7, 9, [node("Scale", ["x"], ["y"], scale=-1.5)], {}),
    "ScaledTanh": (7, 9, [node("ScaledTanh", ["x"], ["y"], alpha=2.0, beta=0.5)], {}),
    "ParametricSoftplus": (7, 9, [node("ParametricSoftplus", ["x"], ["y"], alpha=2.0, beta=0.5)], {}),
    "ImageScaler": (7, 9, [node("ImageScaler", ["x"], ["y"], scale=2.0, bias=[1.0, 2.0, 3.0, 4.0])], {}),
    "Crop": (7, 9, [node("Crop", ["x"], ["y"], border=[1, 2, 3, 1])], {}),
    "Crop at two sides": (7, 9, [node("Crop", ["x"], ["y"], border=[0, 2, 0, 0])], {}),
    "Crop to a size": (7, 9, [node("Crop", ["x"], ["y"], border=[1, 2, 0, 0], scale=[3, 2])], {}),
    "ThresholdedRelu": (7, 10, [node("ThresholdedRelu", ["x"], ["y"], alpha=0.3)], {}),
    "ThresholdedRelu without attributes": (7, 10, [node("ThresholdedRelu", ["x"], ["y"])], {}),
    "MeanVarianceNormalization": (7, 8, [node("MeanVarianceNormalization", ["x"], ["y"])], {}),
    "mean only": (7, 8, [node("MeanVarianceNormalization", ["x"], ["y"], normalize_variance=0)], {}),
    "across channels": (7, 8, [node("MeanVarianceNormalization", ["x"], ["y"], across_channels=1)], {}),
    "DynamicSlice": (
        7,
        9,
        [node("DynamicSlice", ["x", "s", "e", "a"], ["y"])],
        {"s": ints(1, 0), "e": ints(4, -3), "a": ints(2, 3)},
    ),
    "LayerNormalization": (
        7,
        17,
        [node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1, epsilon=1e-3)],
        {"g": normal(6), "b": normal(6)},
    ),
    "Softmax after LayerNormalization": (
        7,
        16,
        [node("LayerNormalization", ["x", "g", "b"], ["l"]), node("Softmax", ["l"], ["y"])],
        {"g": normal(6), "b": normal(6)},
    ),
    "BatchNormalization per cell": (
        7,
        8,
        [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], spatial=0, epsilon=0.1)],
        PER_CELL,
    ),
    "BatchNormalization": (7, 16, [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])], PARAMETERS),
    "Dropout with a mask that nobody reads": (7, 11, [node("Dropout", ["x"], ["y", "mask"], ratio=0.3)], {}),
    "Upsample": (7, 8, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 1.5, 2.5])], {}),
    "Upsample, linear": (7, 8, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 2.0], mode="linear")], {}),
    "Upsample to an input": (9, 9, [node("Upsample", ["x", "s"], ["y"])], {"s": floats(1, 1, 1.5, 2)}),
    "Upsample to computed scales": (
        9,
        9,
        [*HALF, node("Div", ["lengths", "d"], ["s"]), node("Upsample", ["x", "s"], ["y"], mode="linear")],
        {"d": floats(1, 4, 3, 2)},
    ),
    "Resize grows": (10, 10, [node("Resize", ["x", "s"], ["y"])], {"s": floats(1, 1, 1.7, 2.5)}),
    "Resize shrinks": (10, 10, [node("Resize", ["x", "s"], ["y"])], {"s": floats(1, 1, 0.6, 0.35)}),
    "Resize does both": (10, 10, [node("Resize", ["x", "s"], ["y"])], {"s": floats(1, 1, 0.6, 2.5)}),
    "Resize to computed scales": (
        10,
        10,
        [*HALF, node("Div", ["lengths", "d"], ["s"]), node("Resize", ["x", "s"], ["y"])],
        {"d": floats(1, 4, 10, 2)},
    ),
    "Resize, linear": (10, 10, [node("Resize", ["x", "s"], ["y"], mode="linear")], {"s": floats(1, 1, 0.6, 2.5)}),
    "Resize to sizes": (
        11,
        13,
        [node("Resize", ["x", "r", "r", "z"], ["y"], mode="cubic")],
        {"r": floats(), "z": ints(1, 4, 9, 9)},
    ),
    "Clip": (7, 10, [node("Clip", ["x"], ["y"], min=-0.5, max=0.25)], {}),
    "Clip from below": (7, 10, [node("Clip", ["x"], ["y"], min=-0.5)], {}),
    "Pad with a value": (7, 10, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 1, 2], value=1.5)], {}),
    "Pad that reflects": (7, 10, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 1, 2], mode="reflect")], {}),
    "in a subgraph": (
        7,
        9,
        [
            node(
                "If",
                ["yes"],
                ["y"],
                then_branch=graph("then", node("Affine", ["x"], ["t"], alpha=2.0, beta=0.5)),
                else_branch=graph("else", node("ThresholdedRelu", ["x"], ["e"])),
            )
        ],
        {"yes": np.array(True)},
    ),
}
for operator in ("Softmax", "LogSoftmax", "Hardmax"):
    for axis in (0, 1, 2, 3):
        OLD[f"{operator} over axis {axis}"] = (7, 12, [node(operator, ["x"], ["y"], axis=axis)], {})


@pytest.mark.parametrize("case", OLD)
def test_raised_models_compute_the_same(case: str) -> None:
    first, last, nodes, weights = OLD[case]
    x = normal(*SHAPE)
    for opset in range(first, last + 1):
        expected = result(model(opset, nodes, weights), x)
        raised = raise_opset(model(opset, nodes, weights), Path("old.onnx"))
        assert {o.domain: o.version for o in raised.opset_import} == {"": 17}
        np.testing.assert_allclose(result(raised, x), expected, rtol=1e-5, atol=1e-6, err_msg=f"opset {opset}")
        assert np.abs(expected).max() > 0


OF_OTHER_TYPES = ("Clip", "Clip from below", "Pad with a value", "Pad that reflects", "BatchNormalization per cell")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("case", OF_OTHER_TYPES)
def test_attributes_become_numbers_of_the_right_type(case: str, dtype: type) -> None:
    first, _, nodes, weights = OLD[case]
    proto = model(first, nodes, {name: value.astype(dtype) for name, value in weights.items()})
    proto.graph.input[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto.graph.output[0].CopyFrom(info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None))
    x = normal(*SHAPE).astype(dtype)
    try:
        expected = result(proto, x)
    except Exception as error:
        pytest.skip(f"ONNX Runtime has no kernel for it: {error}")
    raised = raise_opset(onnx.ModelProto.FromString(proto.SerializeToString()), Path("old.onnx"))
    np.testing.assert_allclose(result(raised, x), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("case", [name for name, (first, *_) in OLD.items() if first < 10])
def test_old_models_compile(case: str, tmp_path: Path) -> None:
    """Compiling compares with the source model as it is."""
    first, _, nodes, weights = OLD[case]
    around = [
        node("Conv", ["image", "w"], ["x"], pads=[1, 1, 1, 1]),
        *nodes,
        node("Conv", ["y", "w1"], ["c"]),
        node("GlobalAveragePool", ["c"], ["score"]),
    ]
    proto = model(first, around, {**weights, "w": normal(4, 4, 3, 3), "w1": normal(4, 4, 1, 1)})
    proto.graph.input[0].name, proto.graph.output[0].name = "image", "score"
    onnx.save(proto, tmp_path / "old.onnx")
    kx.compile(tmp_path / "old.onnx", patch=2)


def test_batch_normalization_in_training_mode_is_refused() -> None:
    nodes = [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y", "m2", "v2", "sm", "sv"])]
    with pytest.raises(kx.KryptonError, match=r"BatchNormalization node 'y' is exported in training mode"):
        raise_opset(model(9, nodes, PARAMETERS), Path("old.onnx"))


def test_dropout_of_which_the_mask_is_used_is_refused() -> None:
    nodes = [node("Dropout", ["x"], ["d", "mask"], name="drop"), node("Mul", ["d", "mask"], ["y"])]
    with pytest.raises(kx.KryptonError, match="mask of the Dropout node 'drop' is used"):
        raise_opset(model(9, nodes, {}), Path("old.onnx"))


def test_scan_with_a_batch_axis_is_refused() -> None:
    body = helper.make_graph(
        [node("Add", ["s", "e"], ["s2"]), node("Identity", ["s2"], ["o"])],
        "body",
        [info("s", FLOAT, [6, 6]), info("e", FLOAT, [6, 6])],
        [info("s2", FLOAT, [6, 6]), info("o", FLOAT, [6, 6])],
    )
    nodes = [node("Scan", ["", "z", "x"], ["final", "y"], body=body, num_scan_inputs=1, name="rows")]
    with pytest.raises(kx.KryptonError, match="Scan node 'rows' of opset 8 has a batch axis"):
        raise_opset(model(8, nodes, {"z": normal(1, 6, 6)}), Path("old.onnx"))
