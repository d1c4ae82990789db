"""The planner takes the cheapest of its candidates; rows where sums are re-read; classes by what they cost."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from twin import average, normal, small_net

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.classes import window_tables
from krypton_onnx.passes import planner
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.runtime import batches
from krypton_onnx.runtime.memory import Lanes

node = helper.make_node


def test_no_single_policy_is_predicted_to_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(models.build("resnet18", input_size=160), tmp_path / "net.onnx")
    net, regions = normalized(tmp_path / "net.onnx")
    best = planner.plan_layout(net, regions, (16, 16)).costs.usual.incremental
    found = []
    for coverage in planner.COVERAGES:
        for join in planner.JOINS:
            with monkeypatch.context() as patched:
                patched.setattr(planner, "COVERAGES", (coverage,))
                patched.setattr(planner, "JOINS", (join,))
                found.append(planner.plan_layout(net, regions, (16, 16)).costs.usual.incremental)
    assert best == pytest.approx(min(found))
    assert max(found) > 1.05 * best


def bottleneck() -> onnx.ModelProto:
    """A residual bottleneck whose identity is smaller than the sum, so that it is re-read."""
    nodes = [
        node("Conv", ["image", "first"], ["w"], pads=[1, 1, 1, 1]),
        node("Conv", ["w", "second"], ["x"], pads=[1, 1, 1, 1]),
        node("Conv", ["x", "narrow"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "wide"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "expand"], ["e"]),
        node("Add", ["e", "x"], ["sum"]),
        node("Relu", ["sum"], ["out"]),
        node("Conv", ["out", "last"], ["f"], pads=[1, 1, 1, 1]),
        *average("f", "y"),
    ]
    weights = {
        "first": normal(64, 3, 3, 3),
        "second": normal(64, 64, 3, 3),
        "narrow": normal(16, 64, 1, 1),
        "wide": normal(16, 16, 3, 3),
        "expand": normal(64, 16, 1, 1),
        "last": normal(16, 64, 3, 3),
    }
    return small_net(nodes, weights, inputs={"image": ["N", 3, 96, 96]})


def test_products_and_sums_beside_a_re_read_branch_are_on_rows(tmp_path: Path) -> None:
    onnx.save(bottleneck(), tmp_path / "net.onnx")
    layout = planner.plan_layout(*normalized(tmp_path / "net.onnx"), (8, 8))
    assert {"x", "b", "d", "sum"} <= layout.window_of.keys()
    assert {"e", "sum", "out"} <= layout.on_rows
    assert not {"x", "c", "d", "f"} & layout.on_rows
    artifact = kx.compile(tmp_path / "net.onnx")
    graph = onnx.load(artifact.folder / "incremental.onnx", load_external_data=False).graph
    assert "Gemm" in {n.op_type for n in graph.node}
    # one weight in two shapes is stored once
    base = onnx.load(artifact.folder / "base.onnx", load_external_data=False).graph
    places = {tuple(t.dims): t.external_data[1].value for g in (base, graph) for t in g.initializer if t.external_data}
    assert places[64, 16] == places[64, 16, 1, 1]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("queries", [1, 6, 60, 600])
def test_batches_are_those_that_are_predicted_to_end_first(tmp_path: Path, queries: int, workers: int) -> None:
    onnx.save(models.build("squeezenet1_1", input_size=128), tmp_path / "net.onnx")
    plan = kx.compile(tmp_path / "net.onnx", patch=8, verify=False).plan
    tables, lanes = window_tables(plan.program, plan.windows, (8, 8)), Lanes(workers, 16, None)
    origins = np.random.default_rng(0).integers(0, 128 - 8, (queries, 2))
    candidates = [grouping.seconds for grouping in batches._groupings(plan, tables, origins, lanes)]
    assert len(candidates) <= len(batches.CLASS_LIMITS) * (batches.HALVINGS + 1)
    assert len(candidates) == 1 if queries == 1 else len(candidates) > 5
    found = list(batches.plan_batches(plan, tables, origins, (8, 8), lanes))
    each = [
        plan.run_seconds
        + plan.query_seconds * len(b.queries)
        + len(b.queries) * sum(w.seconds * r * c for w, (r, c) in zip(plan.windows, b.window_sizes, strict=True))
        for b in found
    ]
    assert sum(each) / workers + max(each) * (1 - 1 / workers) == pytest.approx(min(candidates))
    assert each == sorted(each, reverse=True)
    assert len(found) >= min(workers, queries)
    assert max(len(b.queries) for b in found) <= 16
    classes = len({b.window_sizes.tobytes() for b in found})
    assert classes == 1 if queries == 1 else classes <= queries
    assert (queries < 100) or classes > 4


def test_a_bias_that_is_an_input_stays_with_its_convolution(tmp_path: Path) -> None:
    model = bottleneck()
    next(n for n in model.graph.node if "e" in n.output).input.append("bias")
    model.graph.input.append(helper.make_tensor_value_info("bias", onnx.TensorProto.FLOAT, [64]))
    onnx.save(model, tmp_path / "net.onnx")
    layout = planner.plan_layout(*normalized(tmp_path / "net.onnx", image_input="image"), (8, 8))
    assert "e" in layout.window_of
    assert "e" not in layout.on_rows
    kx.compile(tmp_path / "net.onnx", image_input="image")  # verified
