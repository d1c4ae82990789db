"""The bundled demo model: small, and its heatmaps point at the digit."""

from importlib import resources

import numpy as np
import onnx
import pytest

import krypton_onnx as kx
from krypton_onnx.models.digits import SIDE, digit_scene

FILES = resources.files("krypton_onnx.models")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    preprocess = kx.Preprocess.from_json(str(FILES / "demo_preprocess.json"))
    labels = (FILES / "demo_labels.txt").read_text().splitlines()
    folder = tmp_path_factory.mktemp("demo") / "demo.krypton"
    artifact = kx.compile(str(FILES / "demo.onnx"), folder, preprocess=preprocess, labels=labels)
    return preprocess, artifact


def test_the_model_is_what_was_promised():
    file = FILES / "demo.onnx"
    assert len(file.read_bytes()) < 1_000_000
    graph = onnx.load(str(file)).graph
    strides = [a.ints for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "strides"]
    assert any(n.op_type == "Add" for n in graph.node)
    assert any(list(s) == [2, 2] for s in strides)
    assert min(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[2:]) >= 128


def test_the_artifact_is_exact(demo):
    _, artifact = demo
    for check in kx.verify(str(FILES / "demo.onnx"), artifact, queries=16, seed=1):
        assert check.exact
        assert check.moved > 1e-3


def test_the_largest_drop_lies_on_the_digit(demo):
    """On fresh scenes; bench/demo_quality.py does it with 200."""
    preprocess, artifact = demo
    session = kx.Session(artifact)
    rng = np.random.default_rng(20)
    right, hits = 0, 0
    for _ in range(20):
        scene = digit_scene(rng, "test")
        heatmap = session.explain(preprocess.tensor(scene.picture), stride=8, fill="mean", progress=False)
        y, x, drop = heatmap.most_important()
        right += heatmap.target == scene.label
        hits += drop > 0.05 and scene.holds_centre((y, x), heatmap.patch)
    assert right >= 19
    assert hits >= 19


def test_a_scene_knows_where_its_digit_is():
    scene = digit_scene(np.random.default_rng(3), "test", digit=8)
    rows, cols = np.flatnonzero(scene.ink.any(axis=1)), np.flatnonzero(scene.ink.any(axis=0))
    assert scene.box == (rows[0], cols[0], rows[-1] + 1, cols[-1] + 1)
    assert scene.picture.shape == (SIDE, SIDE, 3)
    y0, x0, _, _ = scene.box
    assert scene.holds_centre((y0, x0), (2, 2))
    assert not scene.holds_centre((y0 - 3, x0), (2, 2))
