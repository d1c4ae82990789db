"""The command line: what each command does, prints and writes; bad input is in test_errors.py."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import krypton_onnx as kx
from krypton_onnx.artifact import file_checksum, open_artifact, write_manifest
from krypton_onnx.benchmark import benchmark
from krypton_onnx.cli import main
from krypton_onnx.plain_model import PlainModel
from krypton_onnx.plan import Source

COMMANDS = ("explain", "compile", "inspect", "verify", "bench", "export-web", "export-triton", "serve", "demo", "cache")
HEAVY = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnx_graphsurgeon",
    "matplotlib",
    "PIL",
    "tqdm",
    "msgspec",
    "kserve",
    "fastapi",
)


def write_model(path, *, seed=0, batch=1, size=32, reshape=None, channels_last=False, classes=5):
    rng = np.random.default_rng(seed)
    arrays = {
        "w1": rng.standard_normal((8, 3, 3, 3)) / 3,
        "w2": rng.standard_normal((classes, 8, 3, 3)) / 3,
    }
    nodes = [
        helper.make_node("Conv", ["first", "w1"], ["a"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2], name="conv2"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
    ]
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    shape = [batch, 3, size, size]
    if channels_last:
        shape = [batch, size, size, 3]
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]))
    else:
        nodes[0].input[0] = "x"
    if reshape is None:
        nodes.append(helper.make_node("Flatten", ["d"], ["e"]))
    else:
        initializers.append(numpy_helper.from_array(np.array(reshape, np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", ["d", "shape"], ["e"]))
    nodes.append(helper.make_node("Softmax", ["e"], ["y"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder with a model and a picture in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given").mkdir()
    write_model(tmp_path / "given" / "net.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (48, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "given" / "cat.png")
    return tmp_path


@pytest.fixture
def artifact(place):
    return kx.compile(place / "given" / "net.onnx", patch=8).folder


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="krypton-onnx")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def answer(*arguments, code=0):
    """The one JSON object on standard output."""
    text = run(*arguments, "--json", code=code)
    assert text.count("\n") == 1
    return json.loads(text)


def expected(folder, picture, preprocess, **question):
    session = kx.Session(replace(open_artifact(folder), plan=replace(kx.open_artifact(folder).plan, preprocess=None)))
    tensor = preprocess.tensor(preprocess.picture(kx.open_picture(picture)))
    return session.explain(tensor, **question)


# -------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_itself(command):
    text = run(command, "--help")
    assert text.startswith(f"Usage: krypton-onnx {command}")
    assert f"Examples:\n    krypton-onnx {command}" in text
    assert "--json" in text


def test_the_program_lists_its_commands_in_the_order_of_use():
    text = run("--help")
    places = [text.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)
    assert "..." not in text.partition("Commands:")[2], "a summary is cut short"


def test_version():
    assert "krypton-onnx" in run("--version")


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from krypton_onnx.cli import main\n"
        "for command in ([], *[[c] for c in main.commands]):\n"
        "    main([*command, '--help'], standalone_mode=False)\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


# ----------------------------------------------------------------------------------------------- explain


def test_explain_writes_a_picture_into_the_current_folder(place):
    text = run("explain", "given/net.onnx", "given/cat.png", "--patch", "8")
    assert sorted(p.name for p in place.iterdir()) == ["cat.heatmap.png", "given"]
    assert sorted(p.name for p in (place / "given").iterdir()) == ["cat.png", "net.onnx"]
    with Image.open("cat.heatmap.png") as picture:
        assert picture.width >= 1600
    assert "class " in text
    assert "largest drop" in text
    assert "49 queries" in text
    assert "Wrote cat.heatmap.png" in text


def test_a_model_and_its_artifact_give_the_same_numbers(place, artifact):
    question = ["--patch", "8", "--stride", "6", "--target", "2"]
    run("explain", "given/net.onnx", "given/cat.png", *question, "-o", "model.npy")
    run("explain", artifact, "given/cat.png", *question, "-o", "artifact.npy")
    found = np.load("artifact.npy")
    np.testing.assert_array_equal(np.load("model.npy"), found)
    default = kx.Preprocess(resize=32, crop=(32, 32))
    ours = expected(artifact, "given/cat.png", default, target=2, patch=8, stride=6)
    np.testing.assert_array_equal(found, ours.scores)


def test_explain_arrays_and_record(place, artifact):
    run("explain", artifact, "given/cat.png", "--patch", "4x8", "--stride", "8x6", "--edge", "stop", "-o", "h.npz")
    with np.load("h.npz") as arrays:
        assert arrays["scores"].shape == (4, 5)
        np.testing.assert_array_equal(arrays["origins"][-1, -1], [24, 24])
        record = json.loads(str(arrays["record"]))
    assert (record["patch"], record["stride"], record["edge"]) == ([4, 8], [8, 6], "stop")


def test_explain_a_region(place, artifact):
    run("explain", artifact, "given/cat.png", "--patch", "8", "--region", "4,8,20,32", "-o", "h.npz")
    with np.load("h.npz") as arrays:
        np.testing.assert_array_equal(arrays["origins"][[0, -1], [0, -1]], [[4, 8], [12, 24]])


def test_explain_several_targets_as_json(place, artifact):
    (place / "labels.txt").write_text("".join(f"animal {n}\n" for n in range(5)))
    found = answer("explain", artifact, "given/cat.png", "--target", "3,1", "--labels", "labels.txt", "-o", "h.npz")
    assert [(t["index"], t["label"]) for t in found["targets"]] == [(3, "animal 3"), (1, "animal 1")]
    with np.load("h.npz") as arrays:
        assert arrays["scores"].shape == (2, 5, 5)
        np.testing.assert_allclose([t["base_score"] for t in found["targets"]], arrays["base_score"], rtol=1e-6)
        for target, drop in zip(found["targets"], arrays["drop"], strict=True):
            assert target["most_important"]["drop"] == pytest.approx(drop.max())
    assert (found["queries"], found["output"], found["picture"]) == (25, "h.npz", "given/cat.png")
    assert found["record"]["mode"] == "exact"


def test_explain_draws_a_panel_for_each_target(place, artifact):
    run("explain", artifact, "given/cat.png", "--target", "0", "-o", "one.png")
    run("explain", artifact, "given/cat.png", "--target", "0,1,2", "-o", "three.png")
    with Image.open("one.png") as one, Image.open("three.png") as three:
        assert three.width > one.width


@pytest.mark.parametrize(
    ("lines", "target", "name"),
    [
        ("tench\ngoldfish\n\nshark\nray\n\n", 1, "goldfish (1)"),
        ("tench\ngoldfish\n\nshark\nray\n\n", 2, "class 2"),
        ("0,tench\n1,goldfish\n2,shark\n3, hen\n4,a, b\n", 4, "a, b (4)"),
        ("0,tench\n1,goldfish\n2,shark\n3, hen\n4,a, b\n", 3, "hen (3)"),
    ],
)
def test_labels_with_and_without_an_index(place, artifact, lines, target, name):
    (place / "labels.txt").write_text(lines)
    text = run("explain", artifact, "given/cat.png", "--target", target, "--labels", "labels.txt")
    assert text.startswith(f"{name}: score ")


@pytest.mark.parametrize("fill", ["black", "gray", "white", "mean", "200", "250,10,100"])
def test_fill_is_in_pixels(place, artifact, fill):
    """Filling the whole image is the same as explaining a picture of that colour."""
    mean = ["--mean", "120,110,100", "--scale", "0.02", "--channel-order", "BGR"]
    run("explain", artifact, "given/cat.png", "--patch", "32", "--target", "1", "--fill", fill, *mean, "-o", "h.npy")
    preprocess = kx.Preprocess(32, (32, 32), (120, 110, 100), (0.02,), "BGR")
    seen = preprocess.picture(kx.open_picture("given/cat.png"))
    colour = {"black": 0, "gray": 128, "white": 255, "200": 200, "250,10,100": (250, 10, 100)}.get(fill)
    colour = seen.mean(axis=(0, 1)) if colour is None else np.broadcast_to(colour, 3)
    tensor = ((colour[::-1] - [120, 110, 100]) * 0.02).astype(np.float32)[:, None, None] * np.ones((1, 32, 32), "f4")
    (full,) = ort.InferenceSession("given/net.onnx").run(None, {"x": tensor[None]})
    np.testing.assert_allclose(np.load("h.npy"), [[full[0, 1]]], rtol=1e-5)


def test_single_options_override_the_file_which_overrides_the_artifact(place):
    stored = kx.Preprocess(resize=(32, 32), mean=(10,), scale=(0.1,))
    kx.compile("given/net.onnx", "stored.krypton", patch=8, preprocess=stored, labels=["a", "b", "c", "d", "e"])
    in_file = kx.Preprocess(resize=40, crop=(32, 32), mean=(20,), scale=(0.2,))
    (place / "pre.json").write_text(json.dumps(in_file.to_dict()))
    ask = ["explain", "stored.krypton", "given/cat.png", "--target", "0", "--stride", "8", "-o", "h.npy"]
    cases = [
        ([], stored),
        (["--scale", "0.3"], replace(stored, scale=(0.3,))),
        (["--preprocess", "pre.json"], in_file),
        (["--preprocess", "pre.json", "--mean", "5", "--resize", "32"], replace(in_file, mean=(5,), resize=32)),
        (["--resize", "36", "--crop", "32", "--resample", "nearest"],
         replace(stored, resize=36, crop=(32, 32), resample="nearest")),
        (["--preprocess", "pre.json", "--crop", "none", "--resize", "32x32"],
         replace(in_file, crop=None, resize=(32, 32))),
    ]  # fmt: skip
    for options, preprocess in cases:
        assert run(*ask, *options).startswith("a (0): score ")
        ours = expected("stored.krypton", "given/cat.png", preprocess, target=0, stride=8, fill=_black(preprocess))
        np.testing.assert_array_equal(np.load("h.npy"), ours.scores)


def _black(preprocess):
    return float(-preprocess.mean[0] * preprocess.scale[0])


def test_explain_reads_a_hugging_face_file(place, artifact):
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
    }
    (place / "preprocessor_config.json").write_text(json.dumps(config))
    ask = ["explain", artifact, "given/cat.png", "--target", "0", "--stride", "8", "-o", "h.npy"]
    run(*ask, "--preprocess", "preprocessor_config.json")
    preprocess = kx.Preprocess((32, 32), None, (127.5,), (2 / 255,))
    ours = expected(artifact, "given/cat.png", preprocess, target=0, stride=8, fill=-1.0)
    np.testing.assert_allclose(np.load("h.npy"), ours.scores, rtol=1e-5)


def test_explain_a_channels_last_model(place):
    write_model(place / "first.onnx")
    write_model(place / "last.onnx", channels_last=True)
    for name in ("first", "last"):
        run("explain", f"{name}.onnx", "given/cat.png", "--patch", "8", "--fill", "255,0,0", "-o", f"{name}.npy")
    np.testing.assert_allclose(np.load("last.npy"), np.load("first.npy"), rtol=1e-5)


def test_explain_within_a_memory_budget(place, artifact):
    ask = ["explain", artifact, "given/cat.png", "--stride", "4"]
    run(*ask, "-o", "free.npy")
    run(*ask, "--memory-budget", "1MB", "-o", "budget.npy")
    np.testing.assert_allclose(np.load("budget.npy"), np.load("free.npy"), rtol=1e-5)


# ---------------------------------------------------------------------- compile, inspect, verify, bench


def test_compile_says_what_it_wrote_and_where_windows_end(place):
    text = run("compile", "given/net.onnx", "--patch", "8")
    assert (place / "given" / "net.krypton" / "plan.json").is_file()
    assert "Wrote given/net.krypton" in text
    assert "weights.bin" in text
    assert "Windows end at GlobalAveragePool node 'pool'" in text
    assert "Verified" in text
    assert len(text.splitlines()) <= 6
    assert "Not verified" in run("compile", "given/net.onnx", "-o", "other", "--no-verify")


def test_compile_stores_preprocessing_and_labels(place):
    preprocess = kx.Preprocess((32, 32), mean=(1, 2, 3))
    (place / "pre.json").write_text(json.dumps(preprocess.to_dict()))
    (place / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    options = ["--preprocess", "pre.json", "--labels", "labels.txt", "-o", "n.krypton"]
    found = answer("compile", "given/net.onnx", *options)
    assert found["artifact"] == "n.krypton"
    assert found["files"].keys() == {
        *("base.onnx", "incremental.onnx"),
        *("capped_base.onnx", "capped_incremental.onnx"),
        *("plan.json", "weights.bin"),
    }
    assert found["image"] == {"name": "x", "shape": [3, 32, 32], "dtype": "float32"}
    plan = kx.open_artifact("n.krypton").plan
    assert plan.labels == ("a", "b", "c", "d", "e")
    assert kx.Preprocess.from_dict(plan.preprocess) == preprocess


def test_compile_replaces_an_older_artifact(place, artifact):
    before = kx.open_artifact(artifact).plan.patch
    run("compile", "given/net.onnx", "--patch", "4x6")
    assert (before, kx.open_artifact(artifact).plan.patch) == ((8, 8), (4, 6))


def test_inspect_prints_a_table_and_the_bound(place):
    text = run("inspect", "given/net.onnx", "--patch", "8", "--stride", "8")
    lines = text.splitlines()
    assert lines[0].split() == ["node", "operator", "output", "region", "share", "GFLOP", "query", "runs"]
    assert [line.split()[0] for line in lines[1:5]] == ["conv1", "relu", "conv2", "pool"]
    assert "9.5 x 9.5" in lines[1]  # 9, 10, 10, 9 of 32 rows
    assert "dense: GlobalAveragePool looks at the whole map" in lines[4]
    assert "16 queries" in text
    assert "Bound on the speedup" in text
    found = answer("inspect", "given/net.onnx", "--patch", "8", "--stride", "8")
    assert found["tensors"][0]["region"] == [9.5, 9.5]
    assert found["bound"] == pytest.approx(found["flops"] / found["query_flops"])


def test_verify_a_model_and_an_artifact(place, artifact):
    assert "exact" in run("verify", "given/net.onnx", "--queries", "12")
    found = answer("verify", artifact, "--seed", "3")  # finds its source beside it
    assert found["exact"] is True
    assert [o["name"] for o in found["outputs"]] == ["y"]
    assert found["outputs"][0]["moved"] > 0
    moved = place / "elsewhere.onnx"
    (place / "given" / "net.onnx").rename(moved)
    assert answer("verify", artifact, "--model", moved)["exact"] is True


def test_verify_finds_a_wrong_artifact(place, artifact):
    other = write_model(place / "other.onnx", seed=9)
    plan = replace(kx.open_artifact(artifact).plan, source=Source("other.onnx", file_checksum(other)))
    write_manifest(artifact, plan, {"base.onnx": (), "incremental.onnx": ()})
    assert "WRONG" in run("verify", artifact, "--model", other, code=1)
    assert answer("verify", artifact, "--model", other, code=1)["exact"] is False


def test_bench_compares_with_full_inference(place):
    found = answer("bench", "given/net.onnx", "--patch", "8", "--queries", "20", "--repeats", "2", "--threads", "1")
    assert found["grid"] == 49
    assert found["incremental"]["queries"] == found["full"]["queries"] == 20
    assert len(found["full"]["seconds"]) == len(found["incremental"]["seconds"]) == 2
    assert found["fixed_batch"] is False
    assert str(found["batch"]) in found["batch_seconds"]
    assert found["difference"] < 1e-5 < found["movement"]
    assert found["machine"]["threads"] == 1
    assert found["speedup"] == pytest.approx(found["full_per_query"] / found["incremental_per_query"])


def test_bench_text_says_what_was_sampled(place, monkeypatch):
    monkeypatch.setattr("krypton_onnx.sweep.SAMPLE_SECONDS", 0.0)
    text = run("bench", "given/net.onnx", "--patch", "8", "--stride", "1", "--repeats", "1")
    assert "625 queries" in text
    assert "timed on 64 of the 625 queries: its time is linear in their number" in text
    assert "speedup" in text
    assert "linear" not in run("bench", "given/net.onnx", "--patch", "8", "--queries", "all", "--repeats", "1")


def test_bench_of_a_sample_on_both_sides(place, monkeypatch):
    monkeypatch.setattr("krypton_onnx.sweep.SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr("krypton_onnx.sweep.SAMPLE_BATCHES", 2)
    grid = ("--patch", "8", "--stride", "1", "--queries", "sample", "--repeats", "1")
    found = answer("bench", "given/net.onnx", *grid)
    assert found["grid"] == 625
    assert 30 <= found["incremental"]["queries"] < 400
    assert found["full"]["queries"] == 64


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        ({"batch": "N"}, None),
        ({"batch": 1}, None),
        ({"batch": 1, "channels_last": True}, None),
        ({"batch": 1, "reshape": [1, -1]}, 1),  # would mix images
    ],
)
def test_the_plain_model_runs_in_batches_where_that_is_right(place, options, batch):
    path = write_model(place / "plain.onnx", **options)
    artifact = kx.compile(path, patch=8)
    plain = PlainModel(path, artifact.plan)
    assert plain.batch == batch
    rng = np.random.default_rng(0)
    image = rng.standard_normal(artifact.plan.model_shape, np.float32)
    content = np.zeros((4, 8, 3) if artifact.plan.channels_last else (3, 4, 8), np.float32)
    origins = rng.integers(0, 25, (7, 2))
    (found,) = plain.run(image, origins, content, batch=3).values()
    ours = kx.Session(artifact).infer(image, origins, content)["y"]
    np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-6)
    found = benchmark(path, artifact, patch=8, stride=8, queries="all", repeats=1)
    assert found.fixed_batch == (batch is not None)
    assert found.difference < 1e-5


# -------------------------------------------------------------------------------------------------- demo


def test_demo_explains_its_pictures(place, monkeypatch):
    from contextlib import contextmanager
    from shutil import copy, copytree

    from krypton_onnx import demonstration

    with demonstration.demo_files() as files:
        copytree(files, place / "demo", ignore=lambda *_: ["pictures", "__pycache__"])
        (place / "demo" / "pictures").mkdir()
        first = min((files / "pictures").glob("*.png"))
        copy(first, place / "demo" / "pictures")

    @contextmanager
    def one_picture():
        yield place / "demo"

    monkeypatch.setattr(demonstration, "demo_files", one_picture)
    found = answer("demo", "-o", "out")
    (shown,) = found["pictures"]
    assert shown["difference"] < 1e-5
    assert shown["place"][2] > 0.01
    assert (place / "out" / f"{first.stem}.heatmap.png").is_file()
    text = run("demo", "-o", "out")
    assert first.name in text
    assert "times as fast" in text
    assert "Wrote 1 heatmaps into out" in text


# ------------------------------------------------------------------------------------------------ Ctrl-C


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_quietly_and_leaves_nothing(place, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    write_model(place / "large.onnx", size=512)
    arguments = ["explain", "large.onnx", "given/cat.png", "--stride", "1", "--patch", "8"]
    program = subprocess.Popen(
        [sys.executable, "-m", "krypton_onnx.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        # A shell starts what it runs in the background with SIGINT ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    cache = Path(os.environ["KRYPTON_ONNX_CACHE"])
    while not list(cache.glob("*/plan.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    stdout, stderr = program.communicate(timeout=60)
    # Where Ctrl-C meets code that Python runs from text, as dataclasses do, `python -m` ends itself by the signal,
    # however the interrupt was handled: to a shell that is 130 as well.
    status = program.returncode if program.returncode >= 0 else 128 - program.returncode
    assert (status, stdout, stderr) == (130, "", "")
    assert list(temporary.glob("krypton-*")) == []
    assert [p.name for p in cache.iterdir() if p.name.startswith(".")] == []
    assert sorted(p.name for p in place.iterdir()) == ["given", "large.onnx"]


def test_explain_a_model_that_takes_pixels(place):
    model = onnx.load(write_model("float.onnx"))
    image = model.graph.input[0]
    cast = onnx.helper.make_node("Cast", ["pixels"], [image.name], to=onnx.TensorProto.FLOAT)
    image.name = "pixels"
    image.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node.insert(0, cast)
    onnx.save(model, "pixels.onnx")
    found = answer("explain", "pixels.onnx", "given/cat.png", "--patch", "8", "--stride", "8", "--fill", "white")
    assert found["queries"] == 16
    assert found["record"]["fill"] == 255.0


def test_a_target_beyond_the_labels_has_no_name(place):
    """Labels name the classes of a map, a target one of its cells."""
    model = onnx.load(write_model("map.onnx"))
    del model.graph.node[-3:], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 5, 15, 15]))
    onnx.save(model, "map.onnx")
    (place / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    options = ("--labels", "labels.txt", "--target", "40", "--patch", "8", "--stride", "16")
    assert answer("explain", "map.onnx", "given/cat.png", *options)["targets"][0]["label"] is None
