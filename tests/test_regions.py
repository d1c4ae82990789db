"""`infer(regions=True)`: windows pasted over the base run's maps are the whole maps."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.geometry import regions as exact_regions

SIZE = (40, 28)


def model():
    """Two maps, one of them strided, a label map, and a vector."""
    rng = np.random.default_rng(2)
    weights = {"w": (6, 3, 3, 3), "v": (4, 6, 3, 3), "u": (2, 4, 5, 5)}
    arrays = {name: (rng.standard_normal(shape) / 3).astype(np.float32) for name, shape in weights.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["fine"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["fine", "u"], ["coarse"], strides=[2, 2]),
        helper.make_node("ArgMax", ["fine"], ["labels"], axis=1, keepdims=1),
        helper.make_node("ReduceMean", ["coarse"], ["vector"], axes=[2, 3], keepdims=0),
    ]
    info, float32 = helper.make_tensor_value_info, TensorProto.FLOAT
    outputs = [
        info("labels", TensorProto.INT64, [1, 1, *SIZE]),
        info("coarse", float32, [1, 2, 18, 12]),
        info("vector", float32, [1, 2]),
        info("fine", float32, [1, 4, *SIZE]),
    ]
    graph = helper.make_graph(
        nodes,
        "maps",
        [info("x", float32, [1, 3, *SIZE])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("regions") / "net.onnx"
    onnx.save(model(), path)
    return kx.Session(kx.compile(path, patch=4))


@pytest.fixture(scope="module")
def asked(session):
    """A base, 70 origins in no order, and content of their own."""
    rng = np.random.default_rng(4)
    image = rng.standard_normal((3, *SIZE)).astype(np.float32)
    origins = np.stack([rng.integers(0, SIZE[0] - 4, 70), rng.integers(0, SIZE[1] - 5, 70)], axis=1)
    origins = np.minimum(origins, np.array(SIZE) - (5, 6))
    origins[:2] = [(0, 0), np.array(SIZE) - (5, 6)]
    return session.materialize(image), origins, rng.standard_normal((70, 3, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("name", ["fine", "coarse", "labels"])
def test_windows_over_the_base_are_the_whole_maps(session, asked, name):
    whole = session.infer(*asked)[name]
    found = session.infer(*asked, regions=True)[name]
    pasted = np.repeat(asked[0].outputs[name], len(whole), axis=0)
    assert np.abs(pasted - whole).max() > 0.1
    for one, window, (y, x) in zip(pasted, found.windows, found.starts, strict=True):
        one[:, y : y + window.shape[1], x : x + window.shape[2]] = window
    np.testing.assert_allclose(pasted, whole, atol=1e-5)
    assert found.extents == whole.shape[2:]
    assert found.starts.dtype == np.int64
    assert sum(window.size for window in found.windows) < whole.size / 2


def test_windows_are_in_the_order_of_the_queries(session, asked):
    base, origins, content = asked
    found = session.infer(base, origins, content, regions=True)["fine"]
    for query in (0, 1, 33):
        alone = session.infer(base, origins[[query]], content[[query]], regions=True)["fine"]
        y, x = np.maximum(alone.starts[0], found.starts[query])
        for whole in (alone, found):
            assert whole.windows[0].shape[0] == 4
        at = (alone, 0), (found, query)
        cells = [r.windows[q][:, y - r.starts[q][0] :, x - r.starts[q][1] :][:, :3, :3] for r, q in at]
        np.testing.assert_allclose(*cells, atol=1e-5)


def test_windows_cover_what_a_patch_can_change(session, asked):
    plan, (_, origins, _) = session.plan, asked
    found = session.infer(*asked, regions=True)["coarse"]
    window = plan.output_windows[[o.name for o in plan.outputs].index("coarse")]
    step = plan.windows[window].step
    for axis, size in ((0, 5), (1, 6)):
        first, last = exact_regions(plan.program, axis, origins[:, axis], size)[step]
        begin = found.starts[:, axis]
        end = begin + [w.shape[1 + axis] for w in found.windows]
        inside = first <= last
        assert np.all(begin[inside] <= first[inside])
        assert np.all(end[inside] > last[inside])


def test_what_is_not_computed_in_windows_comes_as_ever(session, asked):
    whole, found = session.infer(*asked), session.infer(*asked, regions=True)
    np.testing.assert_allclose(found["vector"], whole["vector"], atol=1e-6)


def test_the_model_s_own_outputs_stay_alone(session, asked):
    assert list(session.infer(*asked)) == [o.name for o in session.plan.outputs]
    assert list(session.infer(*asked, regions=True)) == [o.name for o in session.plan.outputs]


def test_regions_of_no_queries(session, asked):
    found = session.infer(asked[0], np.empty((0, 2), np.int64), asked[2][0], regions=True)
    assert found["fine"].windows == []
    assert found["fine"].starts.shape == (0, 2)
    assert found["fine"].extents == SIZE
    assert found["vector"].shape == (0, 2)


def test_windows_of_a_channels_last_model_are_laid_out_as_its_maps(tmp_path):
    rng = np.random.default_rng(7)
    weights = numpy_helper.from_array((rng.standard_normal((5, 3, 3, 3)) / 3).astype(np.float32), "w")
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["c"], ["maps"], perm=[0, 2, 3, 1]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "last",
        [info("x", TensorProto.FLOAT, [1, *SIZE, 3])],
        [info("maps", TensorProto.FLOAT, [1, *SIZE, 5])],
        [weights],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    session = kx.Session(kx.compile(tmp_path / "net.onnx", patch=4))
    base = session.materialize(rng.standard_normal((*SIZE, 3)).astype(np.float32))
    asked = base, np.array([(0, 0), (9, 20), (36, 24)]), rng.standard_normal((3, 4, 4, 3)).astype(np.float32)
    whole, found = session.infer(*asked)["maps"], session.infer(*asked, regions=True)["maps"]
    pasted = np.repeat(base.outputs["maps"], 3, axis=0)
    assert found.extents == SIZE
    for one, window, (y, x) in zip(pasted, found.windows, found.starts, strict=True):
        assert window.shape[2] == 5
        one[y : y + window.shape[0], x : x + window.shape[1]] = window
    np.testing.assert_allclose(pasted, whole, atol=1e-5)
    assert np.abs(pasted - base.outputs["maps"]).max() > 0.1
