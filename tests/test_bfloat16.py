"""Models that compute in bfloat16, for which ONNX Runtime's CPU has no kernels: held to onnx's reference evaluator."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from twin import FLOAT, average, normal

import krypton_onnx as kx
from krypton_onnx.classes import window_tables
from krypton_onnx.runtime.batches import plan_batches
from krypton_onnx.runtime.memory import Lanes


def bfloat16_net() -> onnx.ModelProto:
    weights = {"w1": normal(4, 3, 3, 3), "w2": normal(4, 4, 3, 3)}
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["x", "w1"], ["conv1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["conv2", "relu1"], ["add"]),
        *average("add", "mean"),
        helper.make_node("Cast", ["mean"], ["y"], to=FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "bfloat16",
        [helper.make_tensor_value_info("image", FLOAT, ["N", 3, 16, 18])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(w.astype(ml_dtypes.bfloat16), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def test_bfloat16_is_kept_in_views_that_every_host_can_hold(tmp_path: Path) -> None:
    onnx.save(bfloat16_net(), tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4, verify=False)
    plan = artifact.plan
    assert {view.dtype for view in plan.views} == {"float32"}
    assert plan.epsilon == 2.0**-7
    assert {"conv1", "relu1", "conv2"} <= {name for window in plan.windows for name in window.tensors}
    full, base, incremental = (
        ReferenceEvaluator(str(path))
        for path in (tmp_path / "net.onnx", artifact.folder / "base.onnx", artifact.folder / "incremental.onnx")
    )
    rng = np.random.default_rng(0)
    image = rng.standard_normal((3, 16, 18)).astype(np.float32)
    kept = dict(zip(base.output_names, base.run(None, {"image": image[None]}), strict=True))
    views = {view.name: kept[view.name].reshape(-1, view.channels) for view in plan.views}
    origins, content = np.array([[0, 0], [5, 7], [12, 14]]), rng.standard_normal((3, 3, 4, 4)).astype(np.float32)
    (unmoved,) = full.run(None, {"image": image[None]})
    for batch in plan_batches(plan, window_tables(plan.program, plan.windows, (4, 4)), origins, (4, 4), Lanes(1, 8, 8)):
        feed = {"origins": batch.origins, "patch_content": content[batch.queries], "window_sizes": batch.window_sizes}
        (ours,) = incremental.run(None, {**feed, "view_rows": np.zeros(len(plan.views), np.int64), **views})
        for query, answer in zip(batch.queries, ours, strict=True):
            occluded, (y, x) = image.copy(), origins[query]
            occluded[:, y : y + 4, x : x + 4] = content[query]
            np.testing.assert_array_equal(answer, full.run(None, {"image": occluded[None]})[0][0])
            assert np.abs(answer - unmoved).max() > 0.01
