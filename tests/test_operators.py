"""The compiler's tables, operator by operator: window rules, batch-axis rules, normalization."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import helper
from twin import FLOAT, average, normal, small_net

import krypton_onnx as kx
from krypton_onnx.geometry import Sliding
from krypton_onnx.passes.network import Network
from krypton_onnx.passes.operators import window_rule
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.passes.rules.rule import NCHW, Form, NoRule, WindowRule

node = helper.make_node
Nodes = list[onnx.NodeProto]
LOWEST = float(np.finfo(np.float32).min)
POINT = WindowRule()

# ------------------------------------------------------------------------------------------------ window rules


def gs_node(op: str, attrs: dict[str, Any], inputs: list[Any], result: list[int], **more: Any) -> gs.Node:
    """A node whose inputs are "x…" with a shape, constants (arrays), or absent (None)."""
    tensors: list[gs.Tensor] = []
    for index, given in enumerate(inputs):
        if given is None:
            tensors.append(gs.Variable(""))
        elif isinstance(given, np.ndarray):
            tensors.append(gs.Constant(f"k{index}", given))
        else:
            tensors.append(gs.Variable(f"x{index}", np.dtype(np.float32), given))
    outputs = [gs.Variable("y", np.dtype(np.float32), result)]
    return gs.Node(op, op.lower(), attrs, tensors, outputs, **more)


def rule_of(made: gs.Node, *still: str) -> WindowRule | NoRule:
    moving = {t.name for t in made.inputs if isinstance(t, gs.Variable) and t.name} - set(still)
    return window_rule(made, dict.fromkeys(moving, NCHW))


MAP = [1, 4, 9, 11]
CHANNEL, ONES = normal(4, 1, 1), np.ones(4, np.float32)

RULES = {
    "Conv": (
        gs_node(
            "Conv",
            {"pads": [1, 0, 2, 3], "strides": [2, 1], "dilations": [1, 2], "kernel_shape": [3, 2]},
            [MAP, normal(6, 4, 3, 2)],
            [1, 6, 5, 12],
        ),
        WindowRule(Sliding(3, 2, 1, 2), Sliding(3, 1, 0, 3), 0.0),
    ),
    "Conv without padding": (gs_node("Conv", {}, [MAP, normal(6, 4, 1, 1)], [1, 6, 9, 11]), POINT),
    "MaxPool": (
        gs_node("MaxPool", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, [MAP], MAP),
        WindowRule(Sliding(2, 1, 1, 0), Sliding(2, 1, 1, 0), LOWEST),
    ),
    "AveragePool": (
        gs_node("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, [MAP], MAP),
        WindowRule(Sliding(3, 1, 1, 1), Sliding(3, 1, 1, 1), 0.0),
    ),
    "Pad": (
        gs_node("Pad", {}, [MAP, np.array([0, 0, 2, -1, 0, 0, 0, 1]), np.array(-3, np.float32)], [1, 4, 11, 11]),
        WindowRule(Sliding(pad=2), Sliding(pad=-1, pad_end=1), -3.0, form=Form.READ),
    ),
    "BatchNormalization": (gs_node("BatchNormalization", {}, [MAP, ONES, ONES, ONES, ONES], MAP), POINT),
    "LRN": (gs_node("LRN", {"size": 3}, [MAP], MAP), POINT),
    "Concat": (gs_node("Concat", {"axis": -3}, [MAP, [1, 2, 9, 11]], [1, 6, 9, 11]), POINT),
    "Relu": (gs_node("Relu", {}, [MAP], MAP), POINT),
    "Clip": (gs_node("Clip", {}, [MAP, None, np.array(6, np.float32)], MAP), POINT),
    "PRelu": (gs_node("PRelu", {}, [MAP, CHANNEL], MAP), POINT),
    "Add": (gs_node("Add", {}, [MAP, MAP], MAP), POINT),
    "Mul by one channel": (gs_node("Mul", {}, [MAP, [1, 1, 9, 11]], MAP), POINT),
    "Sub of a map": (gs_node("Sub", {}, [normal(9, 11), MAP], MAP), WindowRule(spatial_constants=(0,))),
    "Div by rows": (gs_node("Div", {}, [MAP, normal(9, 1)], MAP), WindowRule(spatial_constants=(1,))),
    "Where": (
        gs_node("Where", {}, [np.ones((9, 11), bool), MAP, CHANNEL], MAP),
        WindowRule(spatial_constants=(0,)),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_window_rule(name: str) -> None:
    made, expected = RULES[name]
    assert rule_of(made) == expected


NO_RULES = {
    "another domain": (gs_node("Relu", {}, [MAP], MAP, domain="example.com"), "example.com.Relu"),
    "unknown": (gs_node("InstanceNormalization", {}, [MAP, ONES, ONES], MAP), "whole map"),
    "Softmax": (gs_node("Softmax", {"axis": 2}, [MAP], MAP), "rows or columns"),
    "three axes": (gs_node("Relu", {}, [[1, 4, 9]], [1, 4, 9]), "4-D"),
    "open shape": (gs_node("Relu", {}, [[1, 4, None, 11]], MAP), "4-D"),
    "moving weights": (gs_node("Conv", {}, [MAP, [6, 4, 1, 1]], [1, 6, 9, 11]), "weights depend"),
    "divisor": (
        gs_node("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [MAP], MAP),
        "divisor",
    ),
    "Pad of channels": (
        gs_node("Pad", {}, [MAP, np.array([0, 1, 0, 0, 0, 0, 0, 0])], [1, 5, 9, 11]),
        "the channels",
    ),
    "Pad by a larger reflection": (
        gs_node("Pad", {"mode": "reflect"}, [MAP, np.array([0, 0, 9, 1, 0, 0, 1, 1])], [1, 4, 19, 13]),
        "larger than the map",
    ),
    "Concat of rows": (gs_node("Concat", {"axis": 2}, [MAP, MAP], [1, 4, 18, 11]), "another axis"),
    "spread over the map": (gs_node("Mul", {}, [MAP, [1, 4, 1, 1]], MAP), "different heights"),
    "constant with a batch": (gs_node("Add", {}, [MAP, normal(3, 4, 9, 11)], [3, 4, 9, 11]), "does not follow"),
}


@pytest.mark.parametrize("name", NO_RULES)
def test_no_window_rule_and_why(name: str) -> None:
    made, reason = NO_RULES[name]
    rule = rule_of(made)
    assert isinstance(rule, NoRule)
    assert reason in rule.reason


def test_no_window_rule_for_several_outputs_or_a_map_of_another_input() -> None:
    split = gs_node("Split", {"axis": 1}, [MAP], [1, 2, 9, 11])
    split.outputs.append(gs.Variable("z", np.dtype(np.float32), [1, 2, 9, 11]))
    assert rule_of(split) == NoRule("Split with several outputs")
    rule = rule_of(gs_node("Add", {}, [MAP, [9, 11]], MAP), "x1")
    assert rule == NoRule("an operand that is a map of another input")


# ----------------------------------------------------------------------------------------------- normalization


def normal_form(model: onnx.ModelProto, folder: Path) -> tuple[Network, Any]:
    onnx.save(model, folder / "net.onnx")
    return normalized(folder / "net.onnx")


def pools() -> list[dict[str, Any]]:
    """Pooling layers that ONNX Runtime takes, of all paddings."""
    found: list[dict[str, Any]] = []
    for kernel, stride in product((1, 2, 3), (1, 2, 3)):
        shared = {"kernel_shape": [kernel, 2], "strides": [stride, 2]}
        found += [{**shared, "auto_pad": "VALID"}]
        if kernel >= stride:
            found += [{**shared, "auto_pad": mode} for mode in ("SAME_UPPER", "SAME_LOWER")]
        for begin, end in sorted({(0, 0), (kernel - 1, 0), (kernel // 2, kernel // 2)}):
            found += [{**shared, "pads": [begin, 1, end, 0], "ceil_mode": ceil} for ceil in (0, 1)]
    return found


@pytest.mark.parametrize("size", [(15, 16), (16, 13)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(
    ("kind", "options"), [("MaxPool", {}), *(("AveragePool", {"count_include_pad": i}) for i in (0, 1))]
)
def test_every_pooling_has_onnxruntimes_extents_and_values(
    kind: str, options: dict[str, int], size: tuple[int, int], tmp_path: Path
) -> None:
    nodes = [node("Conv", ["image", "w"], ["c"])]
    nodes += [node(kind, ["c"], [f"pool{i}"], **attrs, **options) for i, attrs in enumerate(pools())]
    outputs = {n.output[0]: (FLOAT, None) for n in nodes[1:]}
    model = small_net(nodes, {"w": normal(2, 3, 1, 1)}, inputs={"image": ["N", 3, *size]}, outputs=outputs)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    image = np.random.default_rng(0).standard_normal((3, *size)).astype(np.float32)
    full = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image[None]})
    session = kx.Session(kx.compile(path, patch=3, verify=False))
    base = session.materialize(np.zeros_like(image))
    in_full = session.infer(base, [(0, 0)], image)
    in_windows = session.infer(session.materialize(image), [(4, 5)], image[:, 4:7, 5:8])
    for name, expected in zip(outputs, full, strict=True):
        attrs = pools()[int(name.removeprefix("pool"))]
        np.testing.assert_allclose(in_full[name], expected, rtol=0, atol=1e-5, err_msg=str(attrs))
        np.testing.assert_allclose(in_windows[name], expected, rtol=0, atol=1e-5, err_msg=str(attrs))


def operators(model: onnx.ModelProto, folder: Path) -> list[str]:
    return [n.op for n in normal_form(model, folder)[0].graph.nodes]


NORM = {name: normal(4, scale=0.2) for name in ("gamma", "beta", "mean")} | {"variance": np.full(4, 2, np.float32)}
CONV = node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1])
BATCH_NORM = node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["n"], epsilon=1e-3)
W = {"w": normal(4, 3, 3, 3)}


def test_batch_normalization_is_folded_into_the_convolution(tmp_path: Path) -> None:
    model = small_net([CONV, BATCH_NORM, *average("n", "y")], {**W, **NORM})
    assert operators(model, tmp_path) == ["Conv", "GlobalAveragePool", "Flatten"]


def test_batch_normalization_of_a_convolution_that_others_read_stays(tmp_path: Path) -> None:
    nodes = [CONV, BATCH_NORM, node("Add", ["c", "n"], ["s"]), *average("s", "y")]
    assert operators(small_net(nodes, {**W, **NORM}), tmp_path)[:3] == ["Conv", "BatchNormalization", "Add"]
    model = small_net(
        [CONV, BATCH_NORM, *average("n", "y")], {**W, **NORM}, outputs={"y": (FLOAT, None), "c": (FLOAT, None)}
    )
    assert operators(model, tmp_path)[:2] == ["Conv", "BatchNormalization"]


def test_zero_padding_is_folded_into_the_convolution(tmp_path: Path) -> None:
    nodes = [node("Pad", ["image", "p"], ["b"]), node("Conv", ["b", "w"], ["c"], pads=[1, 0, 0, 2]), *average("c", "y")]
    net, _ = normal_form(small_net(nodes, {**W, "p": np.array([0, 0, 1, 2, 0, 0, 3, 4])}), tmp_path)
    assert [n.op for n in net.graph.nodes] == ["Conv", "GlobalAveragePool", "Flatten"]
    assert list(net.graph.nodes[0].attrs["pads"]) == [2, 2, 3, 6]


@pytest.mark.parametrize("weights", [{"p": np.array([0, 0, -1, 0, 0, 0, 0, 1])}, {"v": np.float32(1)}])
def test_other_padding_stays(weights: dict[str, Any], tmp_path: Path) -> None:
    padded = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.float32(0), **W, **weights}
    nodes = [node("Pad", ["image", "p", "v"], ["b"]), node("Conv", ["b", "w"], ["c"]), *average("c", "y")]
    assert operators(small_net(nodes, padded), tmp_path)[0] == "Pad"


def test_zero_padding_before_a_pooling_stays(tmp_path: Path) -> None:
    nodes = [CONV, node("Pad", ["c", "p"], ["b"]), node("MaxPool", ["b"], ["m"], kernel_shape=[2, 2])]
    model = small_net([*nodes, *average("m", "y")], {**W, "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])})
    assert operators(model, tmp_path)[:3] == ["Conv", "Pad", "MaxPool"]


def test_dropout_and_identity_are_removed(tmp_path: Path) -> None:
    nodes = [CONV, node("Dropout", ["c"], ["d", "mask"]), node("Identity", ["d"], ["i"]), *average("i", "y")]
    assert operators(small_net(nodes, W), tmp_path) == ["Conv", "GlobalAveragePool", "Flatten"]


def test_a_shape_computation_becomes_a_constant(tmp_path: Path) -> None:
    nodes = [
        CONV,
        node("Shape", ["c"], ["shape"]),
        node("Gather", ["shape", "zero"], ["count"]),
        node("Unsqueeze", ["count", "axis"], ["lead"]),
        node("Concat", ["lead", "rest"], ["target"], axis=0),
        node("Reshape", ["c", "target"], ["y"]),
    ]
    model = small_net(nodes, {**W, "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])})
    net, _ = normal_form(model, tmp_path)
    assert [n.op for n in net.graph.nodes] == ["Conv", "Reshape"]
    assert net.graph.outputs[0].shape == [1, 4 * 16 * 16]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_is_spelt_out(auto_pad: str, tmp_path: Path) -> None:
    nodes = [node("Conv", ["image", "w"], ["c"], auto_pad=auto_pad, strides=[2, 3]), *average("c", "y")]
    net, _ = normal_form(small_net(nodes, W), tmp_path)
    conv = net.graph.nodes[0]
    # 16 rows by stride 2 need 17 rows, 16 columns by stride 3 need 18
    pads = {"SAME_UPPER": [0, 1, 1, 1], "SAME_LOWER": [1, 1, 0, 1], "VALID": [0, 0, 0, 0]}
    assert list(conv.attrs["pads"]) == pads[auto_pad]
    assert "auto_pad" not in conv.attrs
