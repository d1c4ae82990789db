"""Models that do not gain by windows, or not by batches: full inference, and one query a run."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from twin import FLOAT, Array, average, close, normal, small_net

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.classes import window_tables
from krypton_onnx.cli import main
from krypton_onnx.passes import planner
from krypton_onnx.passes.pipeline import Compiled, Request, compile_graphs
from krypton_onnx.passes.planner import LEAST_SPEEDUP
from krypton_onnx.passes.write import write_graphs
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.memory import lanes

node = helper.make_node
W = {"w": normal(4, 3, 3, 3)}
CONV = node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1])


def wide_net() -> onnx.ModelProto:
    """A convolution that sees nearly all of the image at once, so that nothing is left to save."""
    nodes = [node("Conv", ["image", "w"], ["c"], pads=[7, 7, 7, 7]), node("Relu", ["c"], ["r"]), *average("r", "y")]
    return small_net(nodes, {"w": normal(4, 3, 15, 15)}, inputs={"image": ["N", 3, 16, 18]})


def detector() -> onnx.ModelProto:
    """Boxes and scores of each cell, and those that NonMaxSuppression keeps: as many as there are."""
    nodes = [
        CONV,
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["head"], strides=[2, 2]),
        node("Reshape", ["head", "flat"], ["cells"]),
        node("Transpose", ["cells"], ["rows"], perm=[0, 2, 1]),
        node("Slice", ["rows", "s0", "s4", "axis"], ["boxes"]),
        node("Slice", ["cells", "s4", "s6", "one"], ["logits"]),
        node("Sigmoid", ["logits"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["kept"]),
    ]
    weights = {
        **W,
        "v": normal(6, 4, 3, 3),
        "flat": np.array([1, 6, 49]),
        "s0": np.array([0]),
        "s4": np.array([4]),
        "s6": np.array([6]),
        "axis": np.array([2]),
        "one": np.array([1]),
        "most": np.array([20]),
        "overlap": np.float32(0.3),
        "least": np.float32(0.5),
    }
    outputs = {"kept": (TensorProto.INT64, None), "scores": (FLOAT, None)}
    return small_net(nodes, weights, outputs=outputs)


def compiled(model: onnx.ModelProto, folder: Path) -> tuple[Compiled, ort.InferenceSession, ort.InferenceSession]:
    """The plan, the model itself, and the incremental graph."""
    onnx.save(model, folder / "net.onnx")
    result = compile_graphs(Request(folder / "net.onnx", patch=(4, 4), version="test"))
    write_graphs(result, folder)
    plain, incremental = (
        ort.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("net.onnx", "incremental.onnx")
    )
    return result, plain, incremental


def feed(plan: Plan, folder: Path, image: Array, origin: tuple[int, int], content: Array) -> dict[str, Any]:
    """The inputs of the incremental graph for one query, with whole views and the largest windows."""
    base = ort.InferenceSession(str(folder / "base.onnx"), providers=["CPUExecutionProvider"])
    names = [o.name for o in base.get_outputs()]
    kept = dict(zip(names, base.run(None, {"image": image[None]}), strict=True))
    views = {view.name: kept[view.name].reshape(-1, view.channels) for view in plan.views}
    largest = [np.max(list(c.sizes), axis=0) for c in (plan.row_classes, plan.col_classes)]
    return {
        "origins": np.array([origin], np.int64),
        "patch_content": content[None],
        "window_sizes": np.stack(largest, axis=1).astype(np.int64).reshape(-1, 2),
        "view_rows": np.zeros(len(plan.views), np.int64),
        **views,
    }


@pytest.mark.parametrize("full", [False, True], ids=["windows", "full inference"])
def test_a_detector_takes_one_query_a_run(full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if full:
        always_full(monkeypatch)
    result, plain, incremental = compiled(detector(), tmp_path)
    plan = result.plan
    assert (plan.one_query, plan.batch, plan.full_inference) == (True, 1, full)
    assert "NonMaxSuppression" in (plan.per_query or "")
    assert lanes(plan, (1, 1), window_tables(plan.program, plan.windows, (1, 1)), None, 1).batch == 1
    assert "Scan" not in [n.op for n in result.exact.incremental.nodes]
    rng = np.random.default_rng(0)
    kept = set()
    for origin in [(0, 0), (12, 12), (5, 9)]:
        image, content = (rng.standard_normal(s).astype(np.float32) for s in ((3, 16, 16), (3, 4, 4)))
        occluded = image.copy()
        occluded[:, origin[0] : origin[0] + 4, origin[1] : origin[1] + 4] = content
        expected = plain.run(["kept", "scores"], {"image": occluded[None]})
        found = incremental.run(["kept", "scores"], feed(plan, tmp_path, image, origin, content))
        np.testing.assert_array_equal(found[0], expected[0][None])
        close(found[1], expected[1])
        kept.add(expected[0].shape[0])
    assert len(kept) > 1, "the number of boxes does not vary"


def test_a_model_that_loses_its_batch_at_once_takes_one_query_a_run(tmp_path: Path) -> None:
    turn = node("Transpose", ["image"], ["t"], perm=[1, 0, 2, 3])
    mixed = node("Softmax", ["t"], ["s"], axis=1)
    back = node("Transpose", ["s"], ["b"], perm=[1, 0, 2, 3])
    nodes = [turn, mixed, back, node("Conv", ["b", "w"], ["c"]), *average("c", "y")]
    plan = compiled(small_net(nodes, W), tmp_path)[0].plan
    assert plan.one_query
    assert "Softmax" in (plan.per_query or "")


def test_a_small_rest_that_loses_its_batch_is_run_once_a_query_in_batches(tmp_path: Path) -> None:
    nodes = [CONV, *average("c", "f"), node("ReduceMax", ["f"], ["y"], axes=[0], keepdims=1)]
    plan = compiled(small_net(nodes, W), tmp_path)[0].plan
    assert (plan.one_query, plan.per_query is None) == (False, False)
    assert plan.batch > 1


def always_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", np.inf)


@pytest.mark.parametrize("patch", [(4, 4), (1, 7), (16, 16)], ids=str)
def test_full_inference_is_the_model_itself(
    patch: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", LEAST_SPEEDUP)
    path = tmp_path / "net.onnx"
    onnx.save(wide_net(), path)
    artifact = kx.compile(path, patch=4)
    plan = artifact.plan
    assert (plan.full_inference, plan.windows, [v.tensor for v in plan.views]) == (True, (), ["image"])
    assert plan.predicted_speedup < 1.1
    assert "full inference" in plan.dense[0].reason
    rng = np.random.default_rng(1)
    origins = rng.integers(0, np.array([17, 19]) - patch, (37, 2))
    image = rng.standard_normal((3, 16, 18)).astype(np.float32)
    contents = rng.standard_normal((37, 3, *patch)).astype(np.float32)
    images = np.repeat(image[None], 37, axis=0)
    for occluded, (y, x), content in zip(images, origins, contents, strict=True):
        occluded[:, y : y + patch[0], x : x + patch[1]] = content
    expected = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    session = kx.Session(artifact)
    close(session.infer(image, origins, contents)["y"], expected)


def test_windows_are_kept_where_they_are_predicted_to_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", LEAST_SPEEDUP)
    onnx.save(models.build("squeezenet1_1", input_size=128), tmp_path / "squeezenet.onnx")
    onnx.save(small_net([CONV, *average("c", "y")], W), tmp_path / "small.onnx")

    def plan(name: str, patch: int) -> Plan:
        return compile_graphs(Request(tmp_path / f"{name}.onnx", patch=(patch, patch), version="test")).plan

    kept = plan("squeezenet", 8)
    assert kept.predicted_speedup > 1.5
    assert not kept.full_inference
    # nothing is left to save, and index arithmetic takes longer than the whole of a small net
    assert plan("squeezenet", 128).full_inference
    assert plan("small", 4).full_inference


def test_full_inference_runs_in_batches_on_several_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", LEAST_SPEEDUP)
    onnx.save(wide_net(), tmp_path / "net.onnx")
    session = kx.Session(kx.compile(tmp_path / "net.onnx", patch=4, verify=False), threads=2)
    origins = np.random.default_rng(0).integers(0, 12, (2000, 2))
    assert session.plan.batch >= 16
    assert max(len(batch.queries) for batch in session.exact.batches(origins, (4, 4))) >= 8


def test_the_command_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", LEAST_SPEEDUP)
    onnx.save(wide_net(), tmp_path / "net.onnx")
    sentence = re.compile(r"Runs as full inference: windows are predicted to give only (0\.\d|1\.0)\dx")
    for command in ("compile", "inspect"):
        result = CliRunner().invoke(main, [command, str(tmp_path / "net.onnx"), "--patch", "4"])
        assert result.exit_code == 0
        assert sentence.search(result.output)
    np.save(tmp_path / "image.npy", np.zeros((3, 16, 18), np.float32))
    asked = ["explain", str(tmp_path / "net.onnx"), str(tmp_path / "image.npy"), "-o", str(tmp_path / "map.npy")]
    result = CliRunner().invoke(main, [*asked, "--patch", "4", "--stride", "8"])
    assert result.exit_code == 0, result.output
    assert sentence.search(result.stdout)
    result = CliRunner().invoke(main, [*asked, "--patch", "4", "--stride", "8", "--json"])
    assert json.loads(result.stdout)["full_inference"] is True
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.onnx"), "--patch", "4", "--json"])
    assert json.loads(result.output)["full_inference"] is True
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", 0.0)
    result = CliRunner().invoke(main, ["compile", str(tmp_path / "net.onnx"), "--patch", "4"])
    assert not sentence.search(result.output)
    assert "Windows end at" in result.output
