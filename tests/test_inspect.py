"""Inspection: the bound against an independent oracle and published figures, the table against hand-made nets."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from krypton_onnx.errors import KryptonError
from krypton_onnx.inspection import inspect_model
from krypton_onnx.models import build

ORACLE = Path(__file__).parents[2] / "shared" / "tools" / "region_bound.py"

# full ÷ mean query at patch 16, stride 4, from exact regions
BOUNDS = {
    "vgg16": 9.14,
    "resnet18": 2.83,
    "resnet50": 2.69,
    "inception_v3": 1.94,
    "densenet121": 2.32,
    "mobilenet_v2": 2.21,
    "squeezenet1_1": 3.40,
}


@pytest.fixture(scope="module", params=BOUNDS)
def architecture(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("architecture") / f"{request.param}.onnx"
    onnx.save(build(request.param), path)
    yield request.param, path
    path.unlink()


def small_model(path, nodes, weights, size=32, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_bound_of_published_architectures(architecture):
    name, path = architecture
    found = inspect_model(path)
    assert found.bound == pytest.approx(BOUNDS[name], rel=0.01)
    # windows are no smaller than the regions, so that their arithmetic lies between the bound and none saved
    assert 1 < found.planned <= found.bound * (1 + 1e-9)


def test_the_oracle_agrees(architecture):
    if not ORACLE.is_file():
        pytest.skip(f"the oracle is not at {ORACLE}")
    spec = importlib.util.spec_from_file_location("region_bound", ORACLE)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    _, path = architecture
    model = onnx.load(path)
    oracle._fix_input(model, None)
    full, mean, queries = oracle.flops(model, 16, 4)

    found = inspect_model(path, edge="stop")
    assert (found.queries, found.flops) == (queries, full)
    assert found.query_flops == pytest.approx(mean, rel=1e-6)

    covering = inspect_model(path)  # the grid that a heatmap has by default
    assert covering.query_flops == pytest.approx(mean, rel=0.01)
    assert covering.bound == pytest.approx(full / mean, rel=0.01)


def test_regions_of_a_small_net_are_those_counted_by_hand(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], name="third"),
    ]
    path = small_model(tmp_path / "net.onnx", nodes, {"w": (4, 3, 3, 3)}, size=10)
    found = inspect_model(path, patch=2, stride=4)  # origins 0, 4, 8: regions of 3, 4 and 3 rows
    first, second, third = found.tensors
    assert [t.node for t in found.tensors] == ["first", "second", "third"]
    assert first.shape == (1, 4, 10, 10)
    assert first.region == second.region == (pytest.approx(10 / 3), pytest.approx(10 / 3))
    assert first.share == pytest.approx(1 / 9)
    assert first.flops == 2 * 4 * 10 * 10 * 27
    assert first.query_flops == pytest.approx(first.flops / 9)
    assert (first.windowed, first.reason) == (True, None)
    assert (third.region, third.share, third.windowed) == (None, 1.0, False)
    assert "GlobalAveragePool" in third.reason
    assert (found.queries, found.image_shape, found.bound) == (9, (3, 10, 10), pytest.approx(9))


def test_stride_and_patch_of_two_extents(tmp_path):
    path = small_model(
        tmp_path / "net.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])], {"w": (1, 3, 1, 1)}
    )
    found = inspect_model(path, patch=(4, 8), stride=(28, 24))
    assert found.queries == 2 * 2
    assert found.tensors[0].region == (4.0, 8.0)


def test_a_tensor_past_the_frontier_keeps_its_region_and_says_why_it_is_dense(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], kernel_shape=[29, 29], name="wide"),
        helper.make_node("Conv", ["a", "w2"], ["b"], kernel_shape=[1, 1], name="late"),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], name="pool"),
    ]
    path = small_model(tmp_path / "net.onnx", nodes, {"w1": (2, 3, 29, 29), "w2": (2, 2, 1, 1)})
    wide, late, _ = inspect_model(path).tensors
    assert wide.region == late.region == (4.0, 4.0)
    assert not wide.windowed
    assert "100%" in wide.reason
    assert late.reason == "follows a dense tensor"


def test_what_does_not_depend_on_the_image_costs_queries_nothing(tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
            helper.make_node("Conv", ["other", "w"], ["b"], kernel_shape=[1, 1]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 16, 16]) for n in ("x", "other")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    found = inspect_model(path, patch=8, stride=8, image_input="x")
    assert [t.operator for t in found.tensors] == ["Conv", "Add"]
    assert found.bound == pytest.approx(2 * 4)


def test_a_patch_larger_than_the_image_is_refused(tmp_path):
    path = small_model(tmp_path / "net.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": (1, 3, 1, 1)})
    with pytest.raises(KryptonError, match=r"patch of 33x33 does not fit into the 32x32 image"):
        inspect_model(path, patch=33)
