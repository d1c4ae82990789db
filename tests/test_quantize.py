"""The variant in bytes: its windows are its own full inference bit for bit, its scales those of the image."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from twin import average, normal, small_net

import krypton_onnx as kx
from krypton_onnx.passes import quantize
from krypton_onnx.passes.network import detached_weights, infer_shapes, to_model
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.runtime.driver import Driver
from krypton_onnx.runtime.explain import levels_of

node = helper.make_node
PATCH = (5, 4)


def branched_net() -> onnx.ModelProto:
    """All that runs in bytes: chains, a pooling, branches that are joined and added, a bounded activation, a bias."""
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["ra"]),
        node("Conv", ["ra", "w2", "b2"], ["b"], pads=[1, 1, 1, 1]),
        node("Relu", ["b"], ["rb"]),
        node("MaxPool", ["rb"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["p", "w3"], ["c"]),
        node("Relu", ["c"], ["rc"]),
        node("Conv", ["p", "w4"], ["d"], pads=[1, 1, 1, 1]),
        node("Relu", ["d"], ["rd"]),
        node("Concat", ["rc", "rd"], ["j"], axis=1),
        node("Conv", ["j", "w5", "b5"], ["e"], pads=[1, 1, 1, 1]),
        node("Conv", ["j", "w6"], ["f"]),
        node("Add", ["e", "f"], ["s"]),
        node("Relu", ["s"], ["rs"]),
        node("Conv", ["rs", "w7"], ["g"], pads=[1, 1, 1, 1], group=8),
        node("Clip", ["g", "zero", "six"], ["rg"]),
        node("Conv", ["rg", "w8"], ["h"]),
        node("Sigmoid", ["h"], ["i"]),
        *average("i", "flat"),
        node("Gemm", ["flat", "w9"], ["y"]),
    ]
    weights = {
        "w1": normal(8, 3, 3, 3),
        "b1": normal(8),
        "w2": normal(8, 8, 3, 3),
        "b2": normal(8) + 1,
        "w3": normal(6, 8, 1, 1),
        "w4": normal(10, 8, 3, 3),
        "w5": normal(8, 16, 3, 3),
        "b5": normal(8),
        "w6": normal(8, 16, 1, 1),
        "w7": normal(8, 1, 3, 3),
        "w8": normal(7, 8, 1, 1),
        "w9": normal(7, 3),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    return small_net(nodes, weights, inputs={"image": ["N", 3, 26, 31]})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "net.onnx"
    onnx.save(branched_net(), path)
    session = kx.Session(kx.compile(path, patch=PATCH))
    image = np.random.default_rng(3).standard_normal((3, 26, 31)).astype(np.float32)
    return path, session, image


def dense(path: Path) -> tuple[ort.InferenceSession, Counter]:
    """The model in bytes, as a whole, and its operators."""
    made = quantize.quantized(normalized(path)[0])
    assert made is not None
    net = infer_shapes(made.net, after="quantized")
    model, weights = to_model(net.graph), dict(detached_weights(net.graph))
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    return ort.InferenceSession(model.SerializeToString()), Counter(n.op for n in net.graph.nodes)


def test_what_can_runs_in_bytes(compiled):
    path, session, _ = compiled
    _, operators = dense(path)
    assert operators["QLinearConv"] == 7
    assert operators["Conv"] == 1  # which reads the image
    assert operators["Relu"] == 1
    assert operators["Clip"] == 0
    assert operators["MaxPool"] == operators["Concat"] == 1
    windowed = {name for window in session.plan.int8.windows for name in window.tensors}
    assert sum("qlinearconv" in name for name in windowed) == 7


def test_windows_are_full_inference_in_bytes_bit_for_bit(compiled):
    path, session, image = compiled
    whole, _ = dense(path)
    base = session.materialize(image).variant(session.int8)
    rng = np.random.default_rng(0)
    origins = np.array([(0, 0), (21, 27), (0, 27), *rng.integers(0, 22, (20, 2))])
    content = 2 * rng.standard_normal((len(origins), 3, *PATCH)).astype(np.float32)
    found = session.int8.outputs(base, origins, content)["y"]
    moved = 0.0
    for origin, patch, ours in zip(origins, content, found, strict=True):
        occluded = image[None].copy()
        occluded[0, :, origin[0] : origin[0] + PATCH[0], origin[1] : origin[1] + PATCH[1]] = patch
        (full,) = whole.run(None, {"image": occluded, **base.inputs})
        np.testing.assert_allclose(ours, full[0], rtol=0, atol=3e-6)  # floats are summed at the end
        moved = max(moved, np.abs(full[0] - session.int8.outputs(base, origin[None], patch[None])["y"]).max())
    assert np.ptp(found, axis=0).max() > 0.01
    assert moved < 1e-5


def test_bytes_are_near_floats_and_not_the_same(compiled):
    _, session, image = compiled
    base = session.materialize(image)
    origins = np.random.default_rng(1).integers(0, 22, (30, 2))
    content = np.zeros((1, 3, *PATCH), np.float32)
    floats = session.infer(base, origins, content)["y"]
    found = session.int8.outputs(base.variant(session.int8), origins, content)["y"]
    assert 0 < np.abs(found - floats).max() < 0.1 * np.abs(floats).max()


def test_scales_are_those_of_the_image(compiled):
    _, session, image = compiled
    small, large = (session.materialize(factor * image).variant(session.int8).inputs for factor in (0.5, 2.0))
    assert small.keys() == large.keys()
    scales = [name for name in small if name.endswith("/scale")]
    assert all(small[name] < large[name] for name in scales if "rg" not in name)
    assert max(large[name] for name in scales if "rg" in name) == pytest.approx(6 / 255, rel=1e-6)
    joined = {name for name in scales if name.split("/")[1] in ("rc", "rd", "j")}
    assert len(joined) == 1  # what is joined shares a scale


@pytest.mark.parametrize(
    ("source", "result", "weights", "bias", "group"), [("ra", "b", "w2", "b2", 1), ("rs", "g", "w7", None, 8)]
)
def test_what_rounding_takes_from_weights_is_given_back_to_the_mean(compiled, source, result, weights, bias, group):
    path, session, image = compiled
    model = onnx.load(path)
    known = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    model.graph.output.append(helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None))
    read = ort.InferenceSession(model.SerializeToString()).run([source], {"image": image[None]})[0][0]
    w = known[weights]
    step = np.abs(w).max(axis=(1, 2, 3)) / 127
    inside = np.outer(*([1 - 1 / extent, 1, 1 - 1 / extent] for extent in read.shape[1:]))  # not on the padding
    lost = (inside * (w - step[:, None, None, None] * np.rint(w / step[:, None, None, None]))).sum(axis=(2, 3))
    mean = read.mean(axis=(1, 2), dtype=np.float64).reshape(group, -1).repeat(len(w) // group, axis=0)
    shift = (lost * mean).sum(axis=1)
    inputs = session.materialize(image).variant(session.int8).inputs
    unit = step * inputs[f"int8/{source}/scale"]
    found = inputs[f"int8/{result}/bias"] * unit
    np.testing.assert_allclose(found, known.get(bias, 0) + shift, rtol=0, atol=0.51 * unit.max())
    assert np.abs(shift).max() > 5 * unit.max()


def little_net(path: Path, before: list, weights: dict, channels: int = 3, **conv) -> kx.Session:
    """A convolution on the image, or on what is made of it, and one in bytes with a bias."""
    nodes = [
        *before,
        node("Conv", ["before" if before else "image", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["ra"]),
        node("Conv", ["ra", "w2", "b2"], ["b"], **({"pads": [1, 1, 1, 1]} | conv)),
        *average("b", "flat"),
        node("ReduceMean", ["flat"], ["y"], axes=[0], keepdims=1),
    ]
    given = {"w1": normal(8, channels, 3, 3), "b1": normal(8), "w2": normal(8, 8, 3, 3), "b2": normal(8) + 1}
    onnx.save(small_net(nodes, given | weights, inputs={"image": [1, 3, 24, 24]}), path / "net.onnx")
    return kx.Session(kx.compile(path / "net.onnx", patch=4))


def off_by(session: kx.Session) -> float:
    """How far the int8 variant's own answer for an image is from the exact one, over that one's spread."""
    base = session.materialize(np.random.default_rng(3).standard_normal((3, 24, 24)).astype(np.float32))
    own, exact = (np.asarray(one.outputs["y"]) for one in (base.variant(session.int8), base))
    return float(np.abs(own - exact).max() / np.ptp(exact))


def test_a_model_that_folds_into_the_batch_has_biases_too(tmp_path: Path):
    folded = [node("Reshape", ["image", "shape"], ["before"])]
    weights = {"shape": np.array([3, 1, 24, 24], np.int64)}
    session = little_net(tmp_path, folded, weights, channels=1)
    for seed in range(3, 8):
        base = session.materialize(np.random.default_rng(seed).standard_normal((3, 24, 24)).astype(np.float32))
        variant = base.variant(session.int8)
        own, exact = (np.asarray(one.outputs["y"]) for one in (variant, base))
        # What comes in and what goes out is rounded, half a step each at the most; without the bias it is off by 15.
        assert np.abs(own - exact).max() < variant.inputs["int8/b/scale"]


def test_padding_takes_nothing_from_weights(tmp_path: Path):
    assert off_by(little_net(tmp_path, [], {}, dilations=[8, 8], pads=[8, 8, 8, 8])) < 0.005


@pytest.mark.parametrize("weights", [{"w2": np.zeros((8, 8, 3, 3), np.float32)}, {"b1": np.full(8, -99, np.float32)}])
def test_biases_fit_into_whole_numbers(tmp_path: Path, weights):
    """Where weights, or what they are multiplied with, are zeros, no scale is too small for the bias."""
    assert off_by(little_net(tmp_path, [], weights)) < 0.01


def test_the_models_own_inputs_stay(tmp_path: Path):
    nodes = [
        node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Mul", ["a", "gain"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        node("Conv", ["c", "w3"], ["d"], pads=[1, 1, 1, 1]),
        *average("d", "y"),
    ]
    weights = {"w1": normal(4, 3, 3, 3), "w2": normal(8, 4, 3, 3), "w3": normal(8, 8, 3, 3)}
    inputs = {"image": [1, 3, 24, 24], "gain": [1]}
    onnx.save(small_net(nodes, weights, inputs=inputs), tmp_path / "net.onnx")
    session = kx.Session(kx.compile(tmp_path / "net.onnx", patch=4))
    assert session.int8 is not None
    image, given = np.ones((3, 24, 24), np.float32), {"gain": np.array([0.5], np.float32)}
    base = session.materialize(image, given)
    content = np.zeros((1, 3, 4, 4), np.float32)
    floats = session.infer(base, [[8, 8]], content)["y"]
    found = session.int8.outputs(base.variant(session.int8), np.array([[8, 8]]), content)["y"]
    assert 0 < np.abs(found - floats).max() < 0.1 * np.abs(floats).max()
    assert [i.name for i in session.plan.other_inputs] == ["gain"]


def test_a_model_with_little_to_convert_has_no_such_variant(tmp_path: Path):
    nodes = [node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["b"]), *average("b", "y")]
    onnx.save(small_net(nodes, {"w1": normal(4, 3, 3, 3)}), tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4)
    assert artifact.plan.int8 is None
    assert not list(artifact.folder.glob("int8*"))
    session = kx.Session(artifact)
    assert session.int8 is None
    levels = levels_of(session, session.materialize(np.ones((3, 16, 16), np.float32)))
    assert not any(level.name.startswith("int8") for level in levels)


def test_nothing_of_it_is_used_for_exact_answers(compiled, monkeypatch):
    _, session, image = compiled

    def forbidden(*_):
        raise AssertionError("an approximate variant was opened")

    fresh = kx.Session(session.artifact)
    monkeypatch.setattr(Driver, "_opened", forbidden)
    fresh.explain(image, patch=PATCH, stride=6, progress=False)
    with pytest.raises(AssertionError, match="was opened"):
        fresh.explain(image, patch=PATCH, stride=6, mode=kx.Approximate(tau=0.5), progress=False)
