"""The command line's targets, fills, tensors and further inputs, each against the Python API or by hand."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import krypton_onnx as kx
from krypton_onnx.artifact import open_artifact
from krypton_onnx.cli import main

FLOAT = TensorProto.FLOAT
SIZE = (24, 32)


def write_model(path, *, channels=3, size=SIZE, classes=4, gain=False, head=None):
    """Maps [1, classes, H, W], their mean [1, classes], and with `head` a detector's table; `gain` adds an input."""
    rng = np.random.default_rng(channels)
    arrays = {
        "w": rng.standard_normal((6, channels, 3, 3)) / (3 * channels**0.5),
        "v": rng.standard_normal((classes, 6, 3, 3)) / 3,
    }
    info = helper.make_tensor_value_info
    inputs = [info("x", FLOAT, [1, channels, *size])]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], pads=[1, 1, 1, 1]),
    ]
    if gain:
        nodes.append(helper.make_node("Mul", ["c", "gain"], ["maps"]))
        inputs.append(info("gain", FLOAT, [1, classes, 1, 1]))
    else:
        nodes[-1].output[0] = "maps"
    nodes += [
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    outputs = [info("y", FLOAT, [1, classes]), info("maps", FLOAT, [1, classes, *size])]
    if head:
        cells = size[0] * size[1]
        y, x = np.mgrid[: size[0], : size[1]].reshape(2, -1)
        arrays["boxes"] = np.stack([x, y, np.full(cells, 9), np.full(cells, 7)])[None]
        initial = numpy_helper.from_array(np.array([1, classes, cells]), "shape")
        nodes += [
            helper.make_node("Sigmoid", ["maps"], ["sure"]),
            helper.make_node("Reshape", ["sure", "shape"], ["flat"]),
            helper.make_node("Concat", ["boxes", "flat"], ["table"], axis=1),
        ]
        outputs.append(info("table", FLOAT, [1, 4 + classes, cells]))
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, initializers + ([initial] if head else []))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("compiled") / "net.onnx", head=True)
    return kx.compile(path, patch=6)


PREPROCESS = kx.Preprocess(resize=28, crop=SIZE, mean=(120, 110, 100), scale=(0.02,))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a picture of 36 × 50 pixels."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (36, 50, 3), np.uint8)
    Image.fromarray(pixels).save("cat.png")
    (tmp_path / "pre.json").write_text(json.dumps(PREPROCESS.to_dict()))
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="krypton-onnx")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code == 0 else result.stderr


def answer(*arguments):
    return json.loads(run(*arguments, "--json"))


GRID = ("--patch", "6", "--stride", "8")


def explain(compiled, *options, picture="cat.png", preprocess=("--preprocess", "pre.json")):
    """(the report, the scores) of the command."""
    found = answer("explain", compiled.folder, picture, *preprocess, *GRID, *options, "-o", "h.npz")
    with np.load("h.npz") as arrays:
        return found, arrays["scores"]


def expected(compiled, target, tensor=None, **question):
    if tensor is None:
        tensor = PREPROCESS.tensor(PREPROCESS.picture(kx.open_picture("cat.png")))
        question = {"fill": (np.float64((0, 0, 0)) - (120, 110, 100)) * 0.02, **question}
    return kx.Session(compiled).explain(tensor, target, patch=6, stride=8, progress=False, **question).scores


# -------------------------------------------------------------------------------------------------- targets


def test_a_class_in_a_rectangle_and_in_its_own_region(place, compiled):
    found, scores = explain(compiled, "--target", "mask:2:3,4,20,30", "--output-name", "maps")
    np.testing.assert_array_equal(scores, expected(compiled, kx.InMask(2, (3, 4, 20, 30)), output="maps"))
    assert found["targets"][0]["index"] == 2
    assert found["record"]["target"]["mask"] == {"of": [3, 4, 20, 30], "cells": 17 * 26}
    _, scores = explain(compiled, "--target", "mask:2", "--output-name", "maps")
    np.testing.assert_array_equal(scores, expected(compiled, kx.InMask(2), output="maps"))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_mask_file_of_the_pictures_size_goes_the_pictures_way(place, compiled, mode):
    mask = np.zeros((36, 50), np.uint8)
    mask[9:21, 20:40] = 255
    picture = Image.fromarray(mask)
    picture = picture.quantize() if mode == "P" else picture.convert(mode)
    picture.save("mask.png")
    # Resized by 28 / 36 and cropped by 2 above, 3 to the left.
    small = np.array(picture.convert("L").resize((38, 28), Image.Resampling.NEAREST))[2:26, 3:35] != 0
    assert 0 < small.sum() < small.size
    _, scores = explain(compiled, "--target", "mask:1:mask.png", "--output-name", "maps")
    np.testing.assert_array_equal(scores, expected(compiled, kx.InMask(1, small), output="maps"))


@pytest.mark.parametrize("name", ["mask.png", "mask.npy"])
def test_a_mask_file_of_the_models_size_is_taken_as_it_is(place, compiled, name):
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 11:17] = 1
    np.save(name, mask) if name.endswith("npy") else Image.fromarray(mask).save(name)
    _, scores = explain(compiled, "--target", f"mask:1:{name}", "--output-name", "maps")
    np.testing.assert_array_equal(scores, expected(compiled, kx.InMask(1, mask), output="maps"))


@pytest.mark.parametrize(
    ("text", "near"), [("box:1", None), ("box:1:4,6,15,20", (4, 6, 15, 20)), ("box:1:9,11.5", (9, 11.5))]
)
def test_a_box(place, compiled, text, near):
    options = ("--box-head", "yolov8", "--box-min-iou", "0.1", "--output-name", "table")
    found, scores = explain(compiled, "--target", text, *options)
    target = kx.BoxScore(1, near, head="yolov8", min_iou=0.1)
    np.testing.assert_array_equal(scores, expected(compiled, target, output="table"))
    assert scores.std() > 0
    assert found["targets"][0]["index"] == 1


def test_options_of_a_box_reach_it(place, compiled):
    options = ["--box-outputs", "table", "--box-coordinates", "xywh", "--box-normalized", "--box-activation", "sigmoid"]
    found, _ = explain(compiled, "--target", "box:1", "--box-head", "yolov8", *options)
    record = found["record"]["target"]
    assert (record["outputs"], record["coordinates"]) == (["table"], "xywh")
    assert (record["normalized"], record["activation"]) == (True, "sigmoid")


def test_cosine(place, compiled):
    found, scores = explain(compiled, "--target", "cosine")
    np.testing.assert_array_equal(scores, expected(compiled, kx.Cosine()))
    assert found["targets"][0]["index"] is None
    assert found["targets"][0]["base_score"] == pytest.approx(1)
    text = run("explain", compiled.folder, "cat.png", *GRID, "--target", "cosine", "-o", "h.png")
    assert text.startswith("similarity: score 1;")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "mask:x"], ("names no class", "mask:x")),
        (["--target", "mask:1:1,2,3"], "no region"),
        (["--target", "box:1:1,2,3"], "y0,x0,y1,x1"),
        (["--target", "box:1:a"], "no place"),
        (["--target", "cosine:1"], "no target"),
        (["--target", "box:1"], "--box-head"),
        (["--box-head", "yolov8"], ("--box-head", "--target box")),
        (["--target", "mask:1:no.png"], "cannot read no.png"),
        (["--target", "mask:1:clear.png", "--output-name", "maps"], "transparency"),
        (["--target", "mask:1:small.png", "--output-name", "maps"], ("5x4", "24x32")),
        (["--target", "mask:1:mask.jpg", "--output-name", "maps"], "JPEG"),
        (["--fill", "no.png"], "no.png"),
        (["--fill", "pink"], "nor blur, noise"),
        (["--fill", "blur:0"], "blur:8"),
        (["--fill", "small.png", "--crop", "none"], "fill's picture"),
        (["--input", "gain"], "NAME=FILE.npy"),
        (["--input", "gain=cat.png"], "no .npy file"),
        (["--input", "gain=g.npy", "--input", "gain=g.npy"], "twice"),
        (["--input", "gain=g.npy"], "unknown: gain"),
    ],
)
def test_what_cannot_be_asked(place, compiled, options, words):
    Image.new("L", (4, 5), 255).save("small.png")
    Image.new("RGBA", (50, 36), (255, 255, 255, 0)).save("clear.png")
    Image.new("L", (50, 36), 255).save("mask.jpg")
    np.save("g.npy", np.zeros(3))
    error = run("explain", compiled.folder, "cat.png", "--preprocess", "pre.json", *GRID, *options, code=2)
    assert error.count("\n") == 1
    for word in (words,) if isinstance(words, str) else words:
        assert word in error


# ---------------------------------------------------------------------------------------------------- fills


@pytest.mark.parametrize("fill", ["blur", "blur:1.5", "noise", "noise:3"])
def test_made_fills(place, compiled, fill):
    found, scores = explain(compiled, "--fill", fill, "--target", "1")
    np.testing.assert_array_equal(scores, expected(compiled, 1, fill=fill))
    assert found["record"]["fill"] == {"blur": "blur:3", "noise": "noise:0"}.get(fill, fill)


def test_a_pictures_fill_goes_the_pictures_way(place, compiled):
    other = Image.fromarray(np.random.default_rng(7).integers(0, 256, (30, 44, 3), np.uint8))
    other.save("other.png")
    _, scores = explain(compiled, "--fill", "other.png", "--target", "1")
    np.testing.assert_array_equal(
        scores, expected(compiled, 1, fill=PREPROCESS.tensor(PREPROCESS.picture(kx.open_picture("other.png"))))
    )


# ------------------------------------------------------------------------------------------ tensors and inputs


@pytest.mark.parametrize("channels", [1, 5, 13])
@pytest.mark.parametrize("leading", [(), (1,)])
def test_a_tensor_of_any_number_of_channels(place, channels, leading):
    artifact = kx.compile(write_model(place / "net.onnx", channels=channels), patch=6)
    tensor = np.random.default_rng(2).standard_normal((channels, *SIZE)).astype(np.float32)
    np.save("scene.npy", tensor.reshape(*leading, *tensor.shape))
    ask = {"picture": "scene.npy", "preprocess": ()}
    _, scores = explain(artifact, "--target", "2", **ask)
    np.testing.assert_array_equal(scores, expected(artifact, 2, tensor, fill=0.0))
    colour = list(np.linspace(-1, 2, channels))
    _, scores = explain(artifact, "--target", "2", "--fill", ",".join(map(str, colour)), **ask)
    np.testing.assert_array_equal(scores, expected(artifact, 2, tensor, fill=colour))
    np.save("fill.npy", tensor[:, ::-1])
    _, scores = explain(artifact, "--target", "2", "--fill", "fill.npy", **ask)
    np.testing.assert_array_equal(scores, expected(artifact, 2, tensor, fill=tensor[:, ::-1]))
    run("explain", artifact.folder, "scene.npy", *GRID, "--fill", "mean")
    with Image.open("scene.heatmap.png") as drawn:
        assert drawn.width >= 1600


def test_a_tensor_with_a_stored_preprocessing_takes_its_colours(place):
    artifact = kx.compile(write_model(place / "net.onnx"), patch=6, preprocess=PREPROCESS)
    tensor = PREPROCESS.tensor(PREPROCESS.picture(kx.open_picture("cat.png")))
    np.save("cat.npy", tensor)
    ask = {"preprocess": ()}
    for fill in ("white", "0,128,255", "200"):
        of_picture, of_tensor = (
            explain(artifact, "--fill", fill, "--target", "1", picture=picture, **ask)[1]
            for picture in ("cat.png", "cat.npy")
        )
        np.testing.assert_array_equal(of_tensor, of_picture)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["wrong.npy"], "shape"),
        (["text.npy"], "no .npy file"),
        (["missing.npy"], "cannot be read"),
        (["scene.npy", "--mean", "3"], "omit --preprocess"),
        (["scene.npy", "--fill", "black"], "colour"),
        (["scene.npy", "--fill", "1,2"], "each of the 5 channels"),
        (["scene.npy", "--fill", "cat.png"], "cannot fill"),
    ],
)
def test_tensors_that_do_not_fit(place, arguments, word):
    artifact = kx.compile(write_model(place / "net.onnx", channels=5), patch=6)
    np.save("scene.npy", np.zeros((5, *SIZE), np.float32))
    np.save("wrong.npy", np.zeros((4, *SIZE), np.float32))
    (place / "text.npy").write_text("none")
    assert word in run("explain", artifact.folder, *arguments, *GRID, code=2)


def test_a_picture_for_a_model_of_five_channels_is_told_of_tensors(place):
    path = write_model(place / "net.onnx", channels=5)
    assert "as a .npy file" in run("explain", path, "cat.png", *GRID, code=2)


def test_a_grey_picture_of_other_height_than_width(place):
    artifact = kx.compile(write_model(place / "net.onnx", channels=1, size=(20, 44)), patch=6)
    grey = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 44), np.uint8))
    grey.save("scan.png")
    _, scores = explain(artifact, "--target", "1", picture="scan.png", preprocess=())
    tensor = np.asarray(grey, np.float32)[None] * np.float32(1 / 255)
    np.testing.assert_allclose(scores, expected(artifact, 1, tensor, fill=0.0), atol=1e-6)
    assert scores.shape == (3, 6)
    run("explain", artifact.folder, "scan.png", *GRID)


def test_other_inputs(place):
    path = write_model(place / "net.onnx", gain=True)
    gain = np.float32([1, -2, 3, 0.5]).reshape(1, 4, 1, 1)
    np.save("gain.npy", gain)
    given = ["--input", "gain=gain.npy"]
    open_options = ["--image-input", "x"]
    run("compile", path, "-o", "net.krypton", "--patch", "6", *open_options)
    artifact = open_artifact("net.krypton")
    _, scores = explain(artifact, "--target", "1", *given)
    session = kx.Session(artifact)
    tensor = PREPROCESS.tensor(PREPROCESS.picture(kx.open_picture("cat.png")))
    fill = (np.float64((0, 0, 0)) - (120, 110, 100)) * 0.02
    base = session.materialize(tensor, {"gain": gain})
    np.testing.assert_array_equal(scores, session.explain(base, 1, patch=6, stride=8, fill=fill, progress=False).scores)
    assert answer("verify", "net.krypton", "--model", path, "--queries", "8", *given)["exact"]
    assert "unknown: gains" in run("verify", "net.krypton", "--model", path, "--input", "gains=gain.npy", code=2)
    found = answer("bench", path, *GRID, *open_options, *given, "--queries", "8", "--repeats", "1")
    assert found["difference"] < 1e-4 < found["movement"]
    assert "missing: gain" in run("bench", path, *GRID, *open_options, code=2)


def test_verify_uses_the_inputs_that_are_given(place):
    """A gain of zero leaves nothing to move."""
    path = write_model(place / "net.onnx", gain=True)
    kx.compile(path, "net.krypton", patch=6, image_input="x")
    np.save("zero.npy", np.zeros((1, 4, 1, 1), np.float32))
    found = answer("verify", "net.krypton", "--model", path, "--queries", "8", "--input", "gain=zero.npy")
    assert [output["moved"] for output in found["outputs"]] == [0, 0]
    found = answer("verify", "net.krypton", "--model", path, "--queries", "8")
    assert min(output["moved"] for output in found["outputs"]) > 0
