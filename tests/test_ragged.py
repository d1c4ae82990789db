"""Outputs whose extents depend on the data: detections after suppression."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.benchmark import largest_difference
from krypton_onnx.plain_model import PlainModel
from krypton_onnx.verification import check_output, noise_of, verify

SIZE = (24, 20)


def detector():
    """A box around every cell of a map that reaches a threshold: boxes [n, 4], scores [n], labels [n], and a sum."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].reshape(2, -1)
    arrays = {
        "w": (rng.standard_normal((1, 3, 3, 3)) / 3).astype(np.float32),
        "all_boxes": np.stack([x - 2, y - 2, x + 3, y + 3], axis=1).astype(np.float32),
        "flat": np.array([-1]),
        "threshold": np.float32([0.93]),
        "last": np.array([1]),
        "axes": np.array([0]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Reshape", ["s", "flat"], ["all"]),
        helper.make_node("Greater", ["all", "threshold"], ["sure"]),
        helper.make_node("NonZero", ["sure"], ["where"]),
        helper.make_node("Squeeze", ["where", "axes"], ["which"]),
        helper.make_node("Gather", ["all_boxes", "which"], ["boxes"]),
        helper.make_node("Gather", ["all", "which"], ["scores"]),
        helper.make_node("Mod", ["which", "two"], ["labels"]),
        helper.make_node("ReduceSum", ["s"], ["sum"], keepdims=0),
        helper.make_node("Reshape", ["sum", "last"], ["total"]),
    ]
    arrays["two"] = np.array([2])
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "detector",
        [info("x", TensorProto.FLOAT, [1, 3, *SIZE])],
        [
            info("boxes", TensorProto.FLOAT, ["n", 4]),
            info("scores", TensorProto.FLOAT, ["n"]),
            info("labels", TensorProto.INT64, ["n"]),
            info("total", TensorProto.FLOAT, [1]),
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("ragged") / "net.onnx"
    onnx.save(detector(), path)
    made = kx.compile(path, patch=4)
    assert made.plan.one_query
    return made


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(5)
    image = rng.standard_normal((3, *SIZE)).astype(np.float32)
    origins = np.stack([rng.integers(0, SIZE[0] - 5, 9), rng.integers(0, SIZE[1] - 5, 9)], axis=1)
    return image, origins, rng.standard_normal((9, 3, 6, 6)).astype(np.float32)


def test_answers_are_lists_in_the_order_of_the_queries(artifact, asked):
    import onnxruntime as ort

    image, origins, content = asked
    outputs = kx.Session(artifact).infer(*asked)
    plain = ort.InferenceSession(artifact.folder.parent / "net.onnx", providers=["CPUExecutionProvider"])
    assert len({len(boxes) for boxes in outputs["boxes"]}) > 2
    assert isinstance(outputs["total"], np.ndarray)
    for query, (y, x) in enumerate(origins):
        occluded = image.copy()
        occluded[:, y : y + 6, x : x + 6] = content[query]
        full = dict(zip(("boxes", "scores", "labels"), plain.run(None, {"x": occluded[None]}), strict=False))
        for name, values in full.items():
            assert isinstance(outputs[name], list)
            np.testing.assert_allclose(outputs[name][query], values, atol=1e-6)


def test_no_queries_give_no_lists(artifact, asked):
    image, _, content = asked
    outputs = kx.Session(artifact).infer(image, np.empty((0, 2), np.int64), content[0])
    assert outputs["boxes"] == []
    assert outputs["total"].shape[0] == 0


def test_a_function_gets_the_lists(artifact, asked):
    image, seen = asked[0], []

    def count(outputs):
        seen.append(outputs["boxes"])
        return [len(boxes) for boxes in outputs["boxes"]]

    heatmap = kx.Session(artifact).explain(image, count, patch=6, stride=6, progress=False)
    assert all(isinstance(boxes, list) for boxes in seen)
    assert heatmap.base_score == len(kx.Session(artifact).materialize(image).outputs["boxes"][0]) > 3
    assert heatmap.scores.std() > 0


def test_a_box_is_explained(artifact, asked):
    session = kx.Session(artifact)
    base = session.materialize(asked[0])
    names = ("boxes", "scores", "labels")
    target = kx.BoxScore(1, head="labels", outputs=names, coordinates="xyxy")
    heatmap = session.explain(base, target, patch=4, stride=4, progress=False)
    scores, labels = base.outputs["scores"][0], base.outputs["labels"][0]
    assert heatmap.base_score == pytest.approx(scores[labels == 1].max())
    y, x, drop = heatmap.most_important()
    assert drop > 0.05
    # hidden where the box is
    y0, x0, y1, x1 = heatmap.record["target"]["place"]
    assert y0 - 4 <= y < y1
    assert x0 - 4 <= x < x1


@pytest.mark.parametrize("target", ["top", 0, [0, 1], kx.Cosine(), kx.InMask(0)])
def test_an_index_means_nothing(artifact, asked, target):
    with pytest.raises(kx.KryptonError, match=r"output 'boxes' depend on the image.*BoxScore \(--target box:"):
        kx.Session(artifact).explain(asked[0], target)
    kx.Session(artifact).explain(asked[0], 0, output="total", patch=6, stride=12, progress=False)


def test_verification_compares_query_by_query(artifact):
    checks = verify(artifact.folder.parent / "net.onnx", artifact, queries=12)
    assert [check.name for check in checks] == ["boxes", "scores", "labels", "total"]
    assert all(check.exact for check in checks), checks
    assert checks[0].moved > 0


FULL = [np.float32([[1, 2], [3, 4]]), np.float32([[5, 6]]), np.zeros((0, 2), np.float32)]


@pytest.mark.parametrize(
    ("changed", "exact"),
    [
        (FULL, True),
        ([FULL[0] + np.float32(1e-5), *FULL[1:]], True),
        ([FULL[0] + np.float32(1e-3), *FULL[1:]], False),
        ([FULL[0], FULL[1] * np.float32(np.nan), FULL[2]], False),
        ([FULL[0], FULL[1][:0], FULL[2]], False),
        ([FULL[0], FULL[2], FULL[1]], False),
    ],
)
def test_a_ragged_output_is_exact_or_not(changed, exact):
    assert check_output("y", changed, FULL, FULL[0], noise_of(FULL, FULL)).exact is exact


def test_ragged_indices_have_to_be_equal():
    full = [np.array([3, 1]), np.array([2])]
    assert check_output("y", [np.array([3, 1]), np.array([2])], full, full[0], 0.0).exact
    assert not check_output("y", [np.array([1, 3]), np.array([2])], full, full[0], 0.0).exact


def test_full_inference_answers_alike(artifact, asked):
    image, origins, content = asked
    plain = PlainModel(artifact.folder.parent / "net.onnx", artifact.plan)
    assert plain.batch == 1
    full = plain.run(image, origins, content[0], 8)
    ours = kx.Session(artifact).infer(image, origins, content[0])
    assert largest_difference(ours, full) < 1e-5
    assert largest_difference({"boxes": ours["boxes"]}, {"boxes": [b[1:] for b in full["boxes"]]}) == np.inf
