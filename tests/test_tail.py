"""The tail: products of many weights run apart, for batches of several window classes at once."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from twin import FLOAT, close, normal, small_net

import krypton_onnx as kx
from krypton_onnx.cli import main
from krypton_onnx.compiler import COMPILE_QUERIES
from krypton_onnx.runtime.batches import Batch
from krypton_onnx.runtime.session import Session
from krypton_onnx.segment_times import _owners, measure_segments

node = helper.make_node
SIZE, HIDDEN = 32, 512


def wide_net(*after: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """Convolutions, a product of some megabytes of weights, and what follows it."""
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "v"], ["d"], pads=[1, 1, 1, 1]),
        node("Flatten", ["d"], ["flat"]),
        node("Gemm", ["flat", "g"], ["h"]),
        *(after or [node("Relu", ["h"], ["k"]), node("Gemm", ["k", "o"], ["y"])]),
    ]
    made = {
        "w": normal(8, 3, 3, 3),
        "v": normal(16, 8, 3, 3),
        "g": normal(16 * SIZE * SIZE // 4, HIDDEN),
        "o": normal(HIDDEN, 7),
        **weights,
    }
    return small_net(nodes, made, inputs={"image": ["N", 3, SIZE, SIZE]})


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tail") / "wide.onnx"
    onnx.save(wide_net(), path)
    return path


@pytest.fixture(scope="module")
def artifact(wide: Path) -> kx.Artifact:
    return kx.compile(wide, patch=4)


def test_the_products_are_in_a_graph_of_their_own(artifact: kx.Artifact) -> None:
    tail = artifact.plan.tail
    assert tail is not None
    assert (tail.inputs, tail.outputs) == (("flat",), ("y",))
    incremental, apart = (onnx.load(artifact.folder / f"{name}.onnx").graph for name in ("incremental", "tail"))
    assert [t.name for t in incremental.output] == ["flat"]
    assert [n.op_type for n in apart.node] == ["Gemm", "Relu", "Gemm"]
    assert ([t.name for t in apart.input], [t.name for t in apart.output]) == (["flat"], ["y"])
    assert {"g", "o"}.isdisjoint(t.name for t in incremental.initializer)


def test_answers_are_those_of_the_model(wide: Path, artifact: kx.Artifact) -> None:
    assert all(check.exact for check in kx.verify(wide, artifact, queries=4 * COMPILE_QUERIES))


def test_batches_of_a_group_share_a_run(artifact: kx.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    session = kx.Session(artifact, threads=2)
    image = np.random.default_rng(0).standard_normal((3, SIZE, SIZE)).astype(np.float32)
    base = session.materialize(image)
    origins = np.stack(np.meshgrid(np.arange(29), np.arange(29)), axis=-1).reshape(-1, 2)
    groups = groups_of(session, origins)
    assert len(groups) == 8  # 841 queries in groups of about 128, as many for either worker
    assert max(len(group) for group in groups) > 1
    counts = [sum(len(batch.queries) for batch in group) for group in groups]
    assert sum(counts) == 841
    assert artifact.plan.tail is not None
    assert max(counts) <= artifact.plan.tail.batch
    runs = []
    loading = session.exact.open().tail
    assert loading is not None
    tail = loading.result()
    run = tail.run
    monkeypatch.setattr(tail, "run", lambda feed, names: (runs.append(len(feed["flat"])), run(feed, names))[1])
    outputs = session.infer(base, origins, np.zeros((3, 4, 4), np.float32))["y"]
    assert sorted(runs) == sorted(counts)
    alone = session.infer(base, origins[[3, 400]], np.zeros((3, 4, 4), np.float32))["y"]
    close(outputs[[3, 400]], alone)


def groups_of(session: Session, origins: np.ndarray) -> list[list[Batch]]:
    groups: dict[int, list[Batch]] = {}
    for batch in session.exact.batches(origins, (4, 4)):
        groups.setdefault(batch.group, []).append(batch)
    return list(groups.values())


def test_few_queries_are_shared_out(artifact: kx.Artifact) -> None:
    origins = np.random.default_rng(0).integers(0, 29, (100, 2))
    assert len(groups_of(kx.Session(artifact, threads=2), origins)) == 2
    assert len(groups_of(kx.Session(artifact, threads=2), origins[:1])) == 1
    assert len(groups_of(kx.Session(artifact, threads=1), origins)) == 1


def test_a_budget_makes_groups_smaller(artifact: kx.Artifact) -> None:
    origins = np.stack(np.meshgrid(np.arange(29), np.arange(29)), axis=-1).reshape(-1, 2)
    with pytest.raises(kx.KryptonError, match="one query at a time") as refused:
        kx.Session(artifact, memory_budget=1)
    least = float(re.search(r"needs ([\d.]+) MB", str(refused.value)).group(1))  # type: ignore[union-attr]
    session = kx.Session(artifact, threads=2, memory_budget=int(least * 1.01e6))
    groups = groups_of(session, origins)
    assert [len(group) for group in groups] == [1] * len(origins)
    more = groups_of(kx.Session(artifact, threads=2, memory_budget=int(least * 10e6)), origins)
    assert 1 < max(sum(len(batch.queries) for batch in group) for group in more) < 128
    content = np.zeros((3, 4, 4), np.float32)
    image = np.random.default_rng(1).standard_normal((3, SIZE, SIZE)).astype(np.float32)
    few, ample = session.infer(image, origins[::40], content), kx.Session(artifact).infer(image, origins[::40], content)
    close(few["y"], ample["y"])


def test_outputs_go_by_the_names_that_are_asked_for(artifact: kx.Artifact) -> None:
    session = kx.Session(artifact)
    base = session.materialize(np.ones((3, SIZE, SIZE), np.float32))
    content = np.zeros((1, 3, 4, 4), np.float32)
    ((_, found),) = session.exact.run(
        base, session.exact.batches(np.array([[3, 4]]), (4, 4)), lambda _: content, {"mine": "y"}
    )
    np.testing.assert_array_equal(found["mine"], session.infer(base, [[3, 4]], content)["y"])


def test_the_other_outputs_stay_with_the_windows(tmp_path: Path) -> None:
    model = wide_net()
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4)
    assert artifact.plan.tail is not None
    session = kx.Session(artifact)
    base = session.materialize(np.zeros((3, SIZE, SIZE), np.float32))
    content = np.ones((3, 4, 4), np.float32)
    whole = session.infer(base, [[0, 0], [20, 9]], content)
    assert list(whole) == ["y", "flat", "d"]
    assert whole["flat"].shape == (2, 16 * SIZE * SIZE // 4)
    parts = session.infer(base, [[0, 0], [20, 9]], content, regions=True)
    np.testing.assert_array_equal(parts["y"], whole["y"])
    assert {part.shape[0] for part in parts["d"].windows} == {16}


def test_the_plan_says_so(wide: Path) -> None:
    found = CliRunner().invoke(main, ["inspect", str(wide), "--patch", "4", "--plan"], catch_exceptions=False)
    assert "All from flat on runs apart, up to 128 queries at once." in found.output


def test_segments_hold_the_time_of_the_tail(wide: Path, artifact: kx.Artifact) -> None:
    last = next(i for i, segment in enumerate(artifact.plan.segments) if "y" in segment.tensors)
    owners = _owners(artifact)
    assert {owners[name] for name in ("h", "k", "y")} == {last}
    assert measure_segments(wide, artifact, (4, 4), (8, 8), {})[last].measured > 0


@pytest.mark.parametrize("doubt", ["another input", "no batch", "two rows a query", "large maps", "bfloat16"])
def test_any_doubt_means_no_tail(tmp_path: Path, doubt: str) -> None:
    match doubt:
        case "another input":
            model = wide_net(node("Add", ["h", "shift"], ["y"]))
            model.graph.input.append(helper.make_tensor_value_info("shift", TensorProto.FLOAT, [1, HIDDEN]))
        case "two rows a query":
            halves = [node("Reshape", ["flat", "two"], ["z"]), node("Reshape", ["h", "two"], ["h2"])]
            sums = [node("ReduceSum", ["z", "last"], ["zs"]), node("Add", ["h2", "zs"], ["u"])]
            joined, whole = node("Reshape", ["u", "one"], ["y"]), np.array([1, -1])
            model = wide_net(*halves, *sums, joined, two=np.array([2, -1]), last=np.array([1]), one=whole)
            model.graph.output.append(helper.make_tensor_value_info("zs", TensorProto.FLOAT, [2, 1]))
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        case "bfloat16":  # between h and what is cast alike before it
            short = [node("Cast", [name], [f"{name}16"], to=TensorProto.BFLOAT16) for name in ("h", "gap")]
            joined = [node("Concat", ["h16", "gap16"], ["both"], axis=1), node("Cast", ["both"], ["y"], to=FLOAT)]
            mean = [node("GlobalAveragePool", ["d"], ["g4"]), node("Flatten", ["g4"], ["gap"])]
            model = wide_net(*mean, *short, *joined)
        case "no batch":
            model = wide_net(node("Squeeze", ["h", "axis"], ["y"]), axis=np.zeros(1, np.int64))
        case _:  # as squeeze-and-excitation has it
            maps = [node("Resize", ["d", "", "twice"], ["large"], mode="cubic"), node("Gemm", ["h", "o"], ["k"])]
            scaled = [node("Reshape", ["k", "scale"], ["s"]), node("Mul", ["large", "s"], ["y"])]
            made = {"twice": np.array([1, 1, 8, 8], np.float32), "scale": np.array([-1, 1, 1, 1])}
            model = wide_net(*maps, *scaled, **made, o=normal(HIDDEN, 1))
    onnx.save(model, tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4, image_input="image")
    assert artifact.plan.tail is None
    assert not artifact.plan.one_query
    assert not (artifact.folder / "tail.onnx").exists()
