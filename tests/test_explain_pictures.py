"""Real pictures, a trained ImageNet classifier: its heatmaps are exact and lie on the animals."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

import krypton_onnx as kx
from krypton_onnx.cli import main

SHARED = Path(__file__).parents[2] / "shared"
pytestmark = pytest.mark.skipif(
    not (SHARED / "models" / "SqueezeNet_fp16.onnx").is_file(), reason=f"no trained model and pictures in {SHARED}"
)

# index, base score, and the animal's tight box (y0, x0, y1, x1) in the 224 crop, drawn by eye before any heatmap
PICTURES = {
    "kitten_224.png": (281, 0.93, (15, 36, 209, 211)),
    "fish.png": (0, 0.74, (52, 0, 151, 205)),
    "dog.jpg": (207, 0.96, (28, 42, 205, 150)),
}
LABELS = {281: "tabby, tabby cat", 0: "tench, Tinca tinca", 207: "golden retriever"}


def as_float32(source, target):
    """The same network in float32, weights and interface alike."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT16:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A compiled SqueezeNet: BGR, pixels from 0 to 255 as they are."""
    folder = tmp_path_factory.mktemp("squeezenet")
    as_float32(SHARED / "models" / "SqueezeNet_fp16.onnx", folder / "squeezenet.onnx")
    preprocess = kx.Preprocess(resize=224, crop=(224, 224), scale=(1.0,), channel_order="BGR")
    (folder / "preprocess.json").write_text(json.dumps(preprocess.to_dict()))
    arguments = ["compile", "squeezenet.onnx", "--preprocess", "preprocess.json", "--labels"]
    run(folder, *arguments, SHARED / "models" / "imagenet_labels.txt")
    return folder


def run(folder, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.mark.parametrize("name", PICTURES)
def test_the_largest_drop_lies_on_the_animal(folder, name):
    index, score, (y0, x0, y1, x1) = PICTURES[name]
    output = f"{name}.npz"
    ask = ["explain", "squeezenet.krypton", SHARED / "images" / name, "--stride", "8", "-o", output, "--json"]
    found = json.loads(run(folder, *ask))
    (target,) = found["targets"]
    assert (target["index"], target["label"]) == (index, LABELS[index])
    assert target["base_score"] == pytest.approx(score, abs=0.015)
    place = target["most_important"]
    assert place["drop"] > 0.1
    y, x = place["y"] + 8, place["x"] + 8  # the patch's middle
    assert y0 <= y < y1
    assert x0 <= x < x1
    # and not just that one patch: so do the pixels that reach half of the largest mean drop
    with np.load(folder / output) as arrays:
        rows, cols = np.nonzero(arrays["pixels"] >= arrays["pixels"].max() / 2)
    inside = (y0 <= rows) & (rows < y1) & (x0 <= cols) & (cols < x1)
    assert inside.mean() > 0.9


def test_the_kitten_is_explained_exactly(folder):
    """The incremental scores against the unmodified model on occluded pictures, by the definition of exact."""
    from krypton_onnx.artifact import open_artifact
    from krypton_onnx.source import Source
    from krypton_onnx.verification import check_output, noise_of

    artifact = open_artifact(folder / "squeezenet.krypton")
    preprocess = kx.Preprocess.from_dict(artifact.plan.preprocess)
    image = preprocess.tensor(preprocess.picture(kx.open_picture(SHARED / "images" / "kitten_224.png")))
    corners = [(0, 0), (0, 208), (208, 0), (208, 208)]
    origins = np.concatenate([corners, np.random.default_rng(0).integers(0, 209, (12, 2))])
    content = np.zeros((3, 16, 16), np.float32)
    images = np.repeat(image[None], len(origins), axis=0)
    for occluded, (y, x) in zip(images, origins, strict=True):
        occluded[:, y : y + 16, x : x + 16] = content
    source = Source(folder / "squeezenet.onnx", artifact.plan, {})
    full, plain = (source.run(engine, images)["softmaxout_1"] for engine in (source.optimised, source.unoptimised))
    base = source.run(source.optimised, image[None])["softmaxout_1"]
    ours = kx.Session(artifact).infer(image, origins, content)["softmaxout_1"]
    check = check_output("softmaxout_1", ours, full, base[0], noise_of(full, plain))
    assert check.moved > 0.05
    assert check.exact, check


def test_random_queries_are_exact(folder):
    checks = kx.verify(folder / "squeezenet.onnx", kx.open_artifact(folder / "squeezenet.krypton"), queries=32)
    assert all(check.exact for check in checks), checks
