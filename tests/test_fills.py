"""Fills: what patches show, against loops that do the definition's word, and on the model's image."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.runtime.fills import blurred, noise_like, parse_made, shown_by

SIZE = (20, 26)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A model whose single output is the image itself, weighted by place: it tells what a patch showed."""
    place = np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "same"], ["kept"]),
        helper.make_node("Mul", ["kept", "place"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "weigh",
        [info("x", TensorProto.FLOAT, [1, 3, *SIZE])],
        [info("y", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(np.eye(3, dtype=np.float32)[..., None, None], "same"),
            numpy_helper.from_array(place, "place"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    path = tmp_path_factory.mktemp("fills") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return kx.compile(path, patch=4)


@pytest.fixture(scope="module")
def image():
    smooth = np.add.outer(np.arange(SIZE[0]), 2 * np.arange(SIZE[1])) / 20
    return (smooth + np.random.default_rng(6).standard_normal((3, *SIZE))).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.8, 3.0, 11.0])
def test_a_blur_is_the_gaussian_mean_of_the_mirrored_image(sigma):
    rng = np.random.default_rng(1)
    image = rng.standard_normal((2, 7, 9)).astype(np.float32)
    reach = round(4 * sigma)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    mirrored = np.pad(image.astype(float), ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    expected = np.empty(image.shape)
    for y in range(7):
        for x in range(9):
            part = mirrored[:, y : y + 2 * reach + 1, x : x + 2 * reach + 1]
            expected[:, y, x] = (part * np.outer(kernel, kernel)).sum(axis=(1, 2))
    np.testing.assert_allclose(blurred(image, sigma), expected, atol=1e-12)


def test_a_blur_keeps_an_even_image_and_forgets_detail():
    even = np.full((3, 8, 5), 0.7, np.float32)
    np.testing.assert_allclose(blurred(even, 2.5), even, rtol=1e-12)
    noise = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    assert blurred(noise, 4).std() < noise.std() / 5


def test_noise_has_the_images_own_mean_and_deviation_in_each_channel():
    rng = np.random.default_rng(3)
    image = (rng.standard_normal((3, 90, 90)) * [[[1]], [[5]], [[0.1]]] + [[[0]], [[-3]], [[9]]]).astype(np.float32)
    noise = noise_like(image, 0)
    np.testing.assert_allclose(noise.mean(axis=(1, 2)), image.mean(axis=(1, 2)), atol=0.2)
    np.testing.assert_allclose(noise.std(axis=(1, 2)), image.std(axis=(1, 2)), rtol=0.05)
    np.testing.assert_array_equal(noise, noise_like(image, 0))
    assert not np.array_equal(noise, noise_like(image, 1))
    assert abs(np.corrcoef(noise[0].ravel(), image[0].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("fill", "record"),
    [("blur", "blur:3"), ("blur:2", "blur:2"), ("noise", "noise:0"), ("noise:7", "noise:7")],
)
def test_made_fills_are_images_cut_at_the_origin(artifact, image, fill, record):
    session = kx.Session(artifact)
    ask = {"target": [0, 1, 2], "patch": (4, 6), "stride": 3, "progress": False}
    heatmap = session.explain(image, fill=fill, **ask)
    made = blurred(image, float(record[5:])) if fill.startswith("blur") else noise_like(image, int(record[6:]))
    np.testing.assert_array_equal(heatmap.scores, session.explain(image, fill=made.astype(np.float32), **ask).scores)
    # whatever the model, one patch by hand
    origins = heatmap.origins[2, 3]
    content = made[:, origins[0] : origins[0] + 4, origins[1] : origins[1] + 6]
    by_hand = session.infer(image, origins[None], content.astype(np.float32))["y"][0]
    np.testing.assert_allclose(heatmap.scores[:, 2, 3], by_hand, atol=1e-4)
    assert heatmap.record["fill"] == record
    assert np.abs(heatmap.drop).max() > 0.01


def test_a_recorded_fill_asks_the_same_again(artifact, image):
    session = kx.Session(artifact)
    first = session.explain(image, 0, fill="blur", patch=8, progress=False)
    again = session.explain(image, 0, fill=first.record["fill"], patch=8, progress=False)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_made_fills_need_no_preprocessing_and_heed_whole_numbers(artifact, image):
    plan = artifact.plan
    whole = replace(plan, image=replace(plan.image, dtype="uint8"))
    pixels = np.clip(image * 40 + 100, 0, 255).astype(np.uint8)
    for fill in ("blur:1", "noise"):
        values = shown_by(fill, whole, pixels, (4, 4)).values
        assert values.dtype == np.uint8
        assert values.std() > 5
    blur = shown_by("blur:1", whole, pixels, (4, 4)).values
    np.testing.assert_array_equal(blur, np.rint(blurred(pixels, 1)))


def test_an_image_is_recorded_by_its_checksum(artifact, image):
    heatmap = kx.Session(artifact).explain(image, 0, fill=np.zeros_like(image), patch=8, progress=False)
    assert len(heatmap.record["fill"]["sha256"]) == 64


@pytest.mark.parametrize(
    "text", ["blur:", "blur:0", "blur:-1", "blur:nan", "blur:x", "noise:", "noise:1.5", "noise:-1"]
)
def test_malformed_fills(artifact, image, text):
    with pytest.raises(kx.KryptonError, match="malformed"):
        kx.Session(artifact).explain(image, 0, fill=text)


def test_what_is_neither_blur_nor_noise():
    assert parse_made("black") is None
    assert parse_made("Blur") == ("blur", None)
    assert parse_made("blur:2.5") == ("blur", 2.5)
    assert parse_made("noise:3") == ("noise", 3.0)
