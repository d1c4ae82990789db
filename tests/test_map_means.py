"""Means over a map whose windows alone are computed: taken from sums, and exact."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import Net
from onnx import helper
from twin import FLOAT, normal, probe, small_net, twin

node = helper.make_node
C, H, W = 8, 37, 42
IMAGE = (3, H, W)

BEFORE = [
    node("Conv", ["image", "first"], ["a"], pads=[1, 1, 1, 1]),
    node("Relu", ["a"], ["b"]),
    node("Conv", ["b", "second"], ["x"], pads=[1, 1, 1, 1], name="last"),
]
PRODUCT = [*BEFORE[:2], node("Conv", ["b", "third"], ["c"]), node("Relu", ["c"], ["x"])]
WEIGHTS = {"first": normal(C, 3, 3, 3), "second": normal(C, C, 3, 3), "third": normal(C, C, 1, 1)}

MEANS = {
    "GlobalAveragePool": ([*BEFORE, node("GlobalAveragePool", ["x"], ["y"])], {}, 17),
    "of rows": ([*PRODUCT, node("GlobalAveragePool", ["x"], ["y"])], {}, 17),
    "ReduceMean": ([*BEFORE, node("ReduceMean", ["x"], ["y"], axes=[2, 3])], {}, 17),
    "ReduceMean, axes from the end, none kept": (
        [*BEFORE, node("ReduceMean", ["x"], ["y"], axes=[-1, -2], keepdims=0)],
        {},
        17,
    ),
    "ReduceMean of opset 18": (
        [*BEFORE, node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        {"axes": np.array([2, 3])},
        18,
    ),
    "channels last": (
        [
            *BEFORE,
            node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
            node("Sigmoid", ["t"], ["s"]),
            node("ReduceMean", ["s"], ["y"], axes=[1, 2], keepdims=0),
        ],
        {},
        17,
    ),
    "two of one map": (
        [
            *BEFORE,
            node("GlobalAveragePool", ["x"], ["g"]),
            node("ReduceMean", ["x"], ["m"], axes=[2, 3]),
            node("Mul", ["g", "m"], ["y"]),
        ],
        {},
        17,
    ),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_windows(name: str, tmp_path: Path) -> None:
    pair = twin(Net(small(name), IMAGE), tmp_path, (5, 4))
    for patch in ((5, 4), (1, 1), (9, 12)):
        for check in pair.check(probe(np.random.default_rng(1), IMAGE, patch, 12)):
            assert check.exact, (patch, check)
            assert check.moved > 1e-3
    plan = pair.session.plan
    sums = [view for view in plan.views if view.sums]
    assert [(view.rows, view.cols, view.channels) for view in sums] == [(H + 2, W + 1, C)]
    assert all(read.window is not None for view in plan.views if not view.sums for read in view.reads)


def small(name: str) -> onnx.ModelProto:
    """The net under test."""
    nodes, more, opset = MEANS[name]
    used = {n for one in nodes for n in one.input}
    weights = {key: value for key, value in {**WEIGHTS, **more}.items() if key in used}
    return small_net(nodes, weights, outputs={"y": (FLOAT, None)}, opset=opset, inputs={"image": ["N", *IMAGE]})


def test_a_sum_or_a_mean_along_one_axis_reads_the_map(tmp_path: Path) -> None:
    nodes = [*BEFORE, node("ReduceMean", ["x"], ["y"], axes=[2], keepdims=0)]
    weights = {key: WEIGHTS[key] for key in ("first", "second")}
    model = small_net(nodes, weights, outputs={"y": (FLOAT, None)}, inputs={"image": ["N", *IMAGE]})
    pair = twin(Net(model, IMAGE), tmp_path, (5, 4))
    assert not any(view.sums for view in pair.session.plan.views)
    assert all(check.exact for check in pair.check(probe(np.random.default_rng(1), IMAGE, (5, 4), 12)))


@pytest.mark.parametrize(
    "behind",
    [
        [node("Pow", ["m", "third"], ["p"]), node("LpNormalization", ["p"], ["y"], axis=1)],
        [node("Log", ["m"], ["y"])],
        [node("QuantizeLinear", ["m", "scale"], ["q"]), node("DequantizeLinear", ["q", "scale"], ["y"])],
    ],
)
def test_what_could_magnify_the_last_bit_of_a_mean_reads_the_map(behind: list[onnx.NodeProto], tmp_path: Path) -> None:
    nodes = [*BEFORE[:2], node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1]), node("Sigmoid", ["c"], ["x"])]
    nodes += [node("GlobalAveragePool", ["x"], ["m"]), *behind]
    weights = {key: WEIGHTS[key] for key in ("first", "second")} | {
        "third": np.float32(1 / 3),
        "scale": np.float32(0.1),
    }
    used = {n for one in nodes for n in one.input}
    weights = {key: value for key, value in weights.items() if key in used}
    model = small_net(nodes, weights, outputs={"y": (FLOAT, None)}, inputs={"image": ["N", *IMAGE]})
    pair = twin(Net(model, IMAGE), tmp_path, (5, 4))
    assert not any(view.sums for view in pair.session.plan.views)
    assert pair.session.plan.windows


def test_bytes_before_a_mean_do_not_keep_it_from_sums(tmp_path: Path) -> None:
    nodes = [
        *BEFORE,
        node("QuantizeLinear", ["x", "scale"], ["q"]),
        node("DequantizeLinear", ["q", "scale"], ["d"]),
        node("GlobalAveragePool", ["d"], ["y"]),
    ]
    weights = {key: WEIGHTS[key] for key in ("first", "second")} | {"scale": np.float32(0.02)}
    model = small_net(nodes, weights, outputs={"y": (FLOAT, None)}, inputs={"image": ["N", *IMAGE]})
    pair = twin(Net(model, IMAGE), tmp_path, (5, 4))
    assert any(view.sums for view in pair.session.plan.views)
    assert all(check.exact for check in pair.check(probe(np.random.default_rng(1), IMAGE, (5, 4), 12)))


def test_a_mean_of_nothing_is_nothing(tmp_path: Path) -> None:
    """Where the patch takes away all there was, no rounding of what there was may stay."""
    nodes = [*BEFORE, node("Relu", ["x"], ["r"]), node("GlobalAveragePool", ["r"], ["y"])]
    weights = {key: WEIGHTS[key] for key in ("first", "second")}
    model = small_net(nodes, weights, outputs={"y": (FLOAT, None)}, inputs={"image": ["N", *IMAGE]})
    session = twin(Net(model, IMAGE), tmp_path, (5, 4)).session
    assert any(view.sums for view in session.plan.views)
    image = np.zeros(IMAGE, np.float32)
    image[:, 10:14, 20:23] = np.random.default_rng(0).random((3, 4, 3)) * 3
    base = session.materialize(image)
    assert np.abs(base.outputs["y"]).max() > 1e-4
    (found,) = session.infer(base, np.array([[9, 19]]), np.zeros((3, 6, 6), np.float32))["y"]
    assert not found.any()
