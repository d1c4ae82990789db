"""Every bad input, caused for real: exit status 2, one line that names what, where and what to do, nothing left."""

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import krypton_onnx as kx
from krypton_onnx.cli import main
from krypton_onnx.runtime import providers

FLOAT = TensorProto.FLOAT


# ------------------------------------------------------------------------------------------------ models


def weight(name, *shape):
    rng = np.random.default_rng(len(name) + sum(shape))
    return numpy_helper.from_array((rng.standard_normal(shape) / 3).astype(np.float32), name)


def write_model(path, *, channels=3, size=32, opset=17, extra=(), inputs=None, nodes=None, outputs=None):
    image = [1, channels, size, size] if isinstance(size, int) else [1, channels, *size]
    inputs, outputs = inputs or {"x": image}, outputs or {"y": [1, 5]}
    nodes = nodes or [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        *extra,
        helper.make_node("Conv", ["b" if not extra else extra[-1].output[0], "w2"], ["c"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [weight("w1", 8, channels, 3, 3), weight("w2", 5, 8, 3, 3)],
    )
    domains = [helper.make_opsetid("", opset)] + [helper.make_opsetid("example.com", 1)] * bool(extra)
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return path


def with_external_weights(folder, location):
    """A model whose weights lie in a file beside it, and claim to lie at `location`."""
    path = write_model(folder / "net.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    model = write_model(folder / "net.onnx")
    return kx.compile(model, patch=8).folder


@pytest.fixture
def artifact(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "net.krypton")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "net.onnx")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    return path


# ----------------------------------------------------------------------------------------------- running


def files_in(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.fixture
def temporary(tmp_path, tmp_path_factory, monkeypatch):
    """A temporary folder of the program's own, to see that it leaves nothing there."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@contextmanager
def nothing_changes(*folders):
    before = [files_in(folder) for folder in folders]
    yield
    assert [files_in(folder) for folder in folders] == before


@pytest.fixture
def refused(tmp_path, temporary, monkeypatch):
    """Runs the program; asserts that it refuses in one line which has all these words, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, words=()):
        with nothing_changes(tmp_path, temporary):
            result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 2, (result.output, result.exception)
        assert_one_line(result.stdout, result.stderr, words)

    return run


def assert_one_line(stdout, stderr, words):
    assert stdout == ""
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("krypton-onnx: ")
    assert "Traceback" not in stderr
    for word in (words,) if isinstance(words, str) else words:
        assert word in stderr, f"'{word}' is not in: {stderr}"


# ------------------------------------------------------------------------------------------- model files


@pytest.mark.parametrize("command", ["compile", "inspect", "verify", "bench"])
def test_missing_model(refused, command):
    refused(command, "absent.onnx", words=("no model file", "absent.onnx"))


def test_missing_model_to_explain(refused, picture):
    refused("explain", "absent.onnx", picture, words=("no model file", "absent.onnx"))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_truncated_model(refused, model, share):
    content = model.read_bytes()
    model.write_bytes(content[: int(share * len(content))])
    refused("compile", model, words=("net.onnx", "not an ONNX model"))


def test_text_file_as_model(refused, tmp_path):
    (tmp_path / "net.onnx").write_text("This is no model at all.\n" * 20)
    refused("compile", "net.onnx", words=("net.onnx", "not an ONNX model"))


def test_picture_as_model(refused, picture):
    refused("inspect", picture, words=("picture.png", "not an ONNX model"))


def test_empty_folder_as_model(refused, tmp_path, picture):
    (tmp_path / "folder").mkdir()
    refused("explain", "folder", picture, words=("folder", "no compiled model", "krypton-onnx compile"))


def test_folder_to_compile(refused, artifact):
    refused("compile", artifact, words=("net.krypton", "model file"))


def test_no_convolution(refused, tmp_path):
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    refused("compile", write_model(tmp_path / "net.onnx", nodes=nodes), words=("net.onnx", "no convolution"))


def test_operator_without_kernel(refused, tmp_path):
    custom = helper.make_node("Sharpen", ["b"], ["sharp"], domain="example.com", name="sharpener")
    path = write_model(tmp_path / "net.onnx", extra=[custom])
    refused("compile", path, words=("net.onnx", "Sharpen"))


def test_old_opset(refused, tmp_path):
    refused("compile", write_model(tmp_path / "net.onnx", opset=6), words=("net.onnx", "opset 6", "opset 7", "export"))


def test_inconsistent_model(refused, tmp_path):
    nodes = [helper.make_node("Conv", ["x", "nowhere"], ["y"])]
    path = write_model(tmp_path / "net.onnx", nodes=nodes, outputs={"y": [1, 8, 30, 30]})
    refused("compile", path, words="nowhere")


def test_contradicting_shapes(refused, tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["y"]),  # 8 channels into a convolution of 3
    ]
    refused("compile", write_model(tmp_path / "net.onnx", nodes=nodes), words=("Conv",))


# ------------------------------------------------------------------------------------------ model inputs


def test_no_image_input(refused, tmp_path):
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["image"]),
        helper.make_node("Conv", ["image", "w1"], ["y"]),
    ]
    path = write_model(tmp_path / "net.onnx", inputs={"x": [3, 32, 32], "axes": [1]}, nodes=nodes)
    refused("compile", path, words=("net.onnx", "no 4-D image input", "'x'"))


def two_images(path):
    nodes = [
        helper.make_node("Add", ["x", "z"], ["both"]),
        helper.make_node("Conv", ["both", "w1"], ["y"]),
    ]
    inputs = {"x": [1, 3, 32, 32], "z": [1, 3, 32, 32]}
    return write_model(path, inputs=inputs, nodes=nodes, outputs={"y": [1, 8, 30, 30]})


def test_several_image_inputs(refused, tmp_path):
    refused("compile", two_images(tmp_path / "net.onnx"), words=("'x'", "'z'", "--image-input"))


def test_other_inputs_have_to_be_given(refused, tmp_path, picture):
    path = two_images(tmp_path / "net.onnx")
    refused("explain", path, picture, "--image-input", "x", words=("missing: z", "--input NAME"))


def test_unknown_image_input(refused, model):
    refused("compile", model, "--image-input", "q", words=("net.onnx", "'q'", "'x'"))


def test_open_size(refused, tmp_path):
    path = write_model(tmp_path / "net.onnx", size=("height", "width"))
    refused("compile", path, words=("net.onnx", "'x'", "--input-size"))


def test_size_of_a_model_that_fixes_it(refused, model):
    refused("compile", model, "--input-size", "64x64", words=("net.onnx", "32x32", "64x64"))


def test_open_channels(refused, tmp_path):
    path = write_model(tmp_path / "net.onnx", inputs={"x": [1, "channels", 32, 32]})
    refused("compile", path, words=("net.onnx", "'x'", "channels"))


def test_options_of_compilation_with_a_compiled_model(refused, artifact, picture):
    refused("explain", artifact, picture, "--input-size", "64", words=("net.krypton", "--input-size", "omit"))


# --------------------------------------------------------------------------------------------- pictures


def test_missing_picture(refused, artifact):
    refused("explain", artifact, "absent.png", words=("absent.png", "No such file"))


def test_text_as_picture(refused, artifact, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    refused("explain", artifact, "notes.png", words=("notes.png", "not a picture"))


def test_truncated_picture(refused, artifact, picture):
    picture.write_bytes(picture.read_bytes()[:1000])
    refused("explain", artifact, picture, words=("picture.png", "damaged"))


def test_folder_as_picture(refused, artifact, tmp_path):
    refused("explain", artifact, tmp_path, words=(str(tmp_path), "directory"))


def test_five_channels(refused, tmp_path, picture):
    path = write_model(tmp_path / "net.onnx", channels=5)
    refused("explain", path, picture, words=("5 channels", "1 or 3"))


def test_wrong_channel_order(refused, artifact, picture):
    refused("explain", artifact, picture, "--channel-order", "L", words=("'L'", "RGB or BGR"))


def test_wrong_crop(refused, artifact, picture):
    refused("explain", artifact, picture, "--crop", "16", words=("[16, 16]", "[32, 32]"))


def test_not_finite_image(compiled):
    image = np.zeros((3, 32, 32), np.float32)
    image[1, 2, 3] = np.nan
    with pytest.raises(kx.KryptonError, match="not finite"):
        kx.Session(compiled).explain(image)


def test_outputs_that_do_not_depend_on_the_image(refused, tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"]), helper.make_node("ReduceSum", ["w2", ""], ["y"])]
    model = write_model(tmp_path / "still.onnx", nodes=nodes, outputs={"y": [1, 1, 1, 1]})
    for command in ("compile", "inspect"):
        refused(command, model, words=("still.onnx", "image 'x'", "nothing can be explained"))


# --------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("target", ["5", "-1", "2,5", "99999999999"])
def test_target_out_of_range(refused, artifact, picture, target):
    refused("explain", artifact, picture, "--target", target, words=("out of range", "5 classes", "0 to 4"))


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--target", "cat", "class index"),
        ("--target", "1,,2", "class index"),
        ("--patch", "0", "size"),
        ("--patch", "8x", "size"),
        ("--patch", "8x8x8", "size"),
        ("--patch", "big", "size"),
        ("--patch", "-8", "size"),
        ("--stride", "0", "size"),
        ("--stride", "2.5", "size"),
        ("--region", "0,0,8", "y0,x0,y1,x1"),
        ("--region", "a,b,c,d", "y0,x0,y1,x1"),
        ("--edge", "round", "cover"),
        ("--resize", "x", "size"),
        ("--mean", "1,a", "number"),
        ("--channel-order", "GBR", "BGR"),
        ("--memory-budget", "lots", "memory"),
        ("--memory-budget", "0", "memory"),
    ],
)
def test_malformed_option(refused, artifact, picture, option, value, word):
    refused("explain", artifact, picture, option, value, words=(option, value, word, "--help"))


def test_unknown_option(refused, artifact, picture):
    refused("explain", artifact, picture, "--colour", "red", words=("--colour", "explain --help"))


def test_unknown_command(refused):
    refused("explian", words=("explian", "--help"))


def test_patch_larger_than_the_image(refused, artifact, picture):
    refused("explain", artifact, picture, "--patch", "33x8", words=("33x8", "32x32 image"))


def test_patch_larger_than_the_region(refused, artifact, picture):
    refused("explain", artifact, picture, "--patch", "16", "--region", "0,0,8,32", words=("16x16", "8x32 region"))


@pytest.mark.parametrize("command", ["compile", "inspect", "verify", "bench"])
def test_patch_larger_than_the_model(refused, model, command):
    refused(command, model, "--patch", "64", words=("64x64", "32x32"))


@pytest.mark.parametrize("region", ["0,0,33,32", "-1,0,16,16", "16,0,16,32", "20,0,10,32"])
def test_region_outside(refused, artifact, picture, region):
    refused("explain", artifact, picture, "--region", region, words=(region, "32x32"))


@pytest.mark.parametrize("fill", ["pink", "300", "-1", "1,2", "1,2,3,4", "nan", "#ff0000"])
def test_unknown_fill(refused, artifact, picture, fill):
    refused("explain", artifact, picture, "--fill", fill, words="fill")


def test_unknown_output_name(refused, artifact, picture):
    refused("explain", artifact, picture, "--output-name", "probabilities", words=("'probabilities'", "y"))


def test_memory_budget_too_small(refused, artifact, picture):
    refused("explain", artifact, picture, "--memory-budget", "1kB", words=("budget", "needs"))


# ---------------------------------------------------------------------------- preprocessing and labels


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON file"),
        ("[]", "one JSON object"),
        ('{"size": [3]}', "size"),
        ('{"meen": 3}', "meen"),
        ('{"scale": 0}', "scale"),
        ('{"channel_order": "RBG"}', "channel_order"),
        ('{"crop": [16, 16]}', "[32, 32]"),
    ],
)
def test_bad_preprocessing_file(refused, artifact, model, picture, tmp_path, content, words):
    (tmp_path / "pre.json").write_text(content)
    refused("explain", artifact, picture, "--preprocess", "pre.json", words=words)
    refused("compile", model, "-o", "new.krypton", "--preprocess", "pre.json", words=words)


def test_missing_preprocessing_file(refused, artifact, model, picture):
    refused("explain", artifact, picture, "--preprocess", "absent.json", words=("absent.json", "No such file"))
    refused("compile", model, "-o", "new.krypton", "--preprocess", "absent.json", words="absent.json")


def test_missing_labels_file(refused, artifact, model, picture):
    refused("explain", artifact, picture, "--labels", "absent.txt", words=("absent.txt", "No such file"))
    refused("compile", model, "-o", "new.krypton", "--labels", "absent.txt", words="absent.txt")


@pytest.mark.parametrize("lines", [4, 6, 1000])
def test_wrong_number_of_labels(refused, artifact, model, picture, tmp_path, lines):
    (tmp_path / "labels.txt").write_text("".join(f"label {n}\n" for n in range(lines)))
    words = (f"{lines} labels", "5 classes")
    refused("explain", artifact, picture, "--labels", "labels.txt", words=words)
    refused("compile", model, "-o", "new.krypton", "--labels", "labels.txt", words=words)


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"\xff\xfe\x00cat", "UTF-8")])
def test_labels_file_that_is_none(refused, model, tmp_path, content, words):
    (tmp_path / "labels.txt").write_bytes(content)
    refused("compile", model, "--labels", "labels.txt", words=("labels.txt", words))


# -------------------------------------------------------------------------------------------- artifacts


def edit_plan(artifact, edit):
    file = artifact / "plan.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_artifact_of_another_version(refused, artifact, picture):
    edit_plan(artifact, lambda content: content["plan"].update(format=999))
    refused("explain", artifact, picture, words=("plan.json", "999", "compile the model again"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["plan"].update(patch=[4, 4]),
        lambda content: content["plan"].update(batch=3),
        lambda content: content["files"].update({"weights.bin": "0" * 64}),
        lambda content: content["files"].pop("weights.bin"),
        lambda content: content.update(checksum="0" * 64),
        lambda content: content["plan"]["source"].update(file="../other.onnx"),
    ],
)
def test_edited_plan(refused, artifact, picture, edit):
    edit_plan(artifact, edit)
    refused("explain", artifact, picture, words=("plan.json", "edited", "compile the model again"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("plan"),
        lambda content: content["plan"].pop("windows"),
        lambda content: content["plan"].update(batch="many"),
    ],
)
def test_damaged_plan(refused, artifact, picture, edit):
    edit_plan(artifact, edit)
    refused("explain", artifact, picture, words=("plan.json", "damaged", "compile the model again"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff", b"null"])
def test_plan_that_is_no_json(refused, artifact, picture, content):
    (artifact / "plan.json").write_bytes(content)
    refused("explain", artifact, picture, words=("plan.json", "damaged"))


@pytest.mark.parametrize("name", ["base.onnx", "incremental.onnx", "weights.bin"])
def test_edited_file(refused, artifact, picture, name):
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / name).write_bytes(content)
    refused("explain", artifact, picture, words=(name, "changed", "compile the model again"))


@pytest.mark.parametrize("name", ["base.onnx", "incremental.onnx", "weights.bin"])
def test_missing_file(refused, artifact, picture, name):
    (artifact / name).unlink()
    refused("explain", artifact, picture, words=("net.krypton", name, "compile the model again"))


def test_missing_plan(refused, artifact, picture):
    (artifact / "plan.json").unlink()
    refused("explain", artifact, picture, words=("net.krypton", "plan.json"))


def test_verify_without_the_source(refused, artifact):
    refused("verify", artifact, words=("net.onnx", "--model"))


def test_verify_with_another_model(refused, artifact, tmp_path):
    other = write_model(tmp_path / "other.onnx", opset=16)
    refused("verify", artifact, "--model", other, words=("other.onnx", "checksum"))


# --------------------------------------------------------------------------------------------- writing


def test_compile_onto_a_folder_of_something_else(refused, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("precious")
    refused("compile", model, "-o", "photos", words=("photos", "exists", "no compiled model"))


def test_compile_onto_a_file(refused, model, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    refused("compile", model, "-o", "notes.txt", words=("notes.txt", "exists"))


def test_compile_below_a_file(refused, model, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    refused("compile", model, "-o", "notes.txt/net.krypton", words="notes.txt")


def test_an_older_artifact_survives_a_failed_compilation(refused, artifact, tmp_path):
    custom = helper.make_node("Sharpen", ["b"], ["sharp"], domain="example.com")
    path = write_model(tmp_path / "bad.onnx", extra=[custom])
    refused("compile", path, "-o", artifact, words="Sharpen")


def test_heatmap_below_a_file(refused, artifact, picture):
    refused("explain", artifact, picture, "-o", picture / "heat.png", words=("heat.png", "folder"))


def test_heatmap_in_a_missing_folder(refused, artifact, picture):
    refused("explain", artifact, picture, "-o", "absent/heat.png", words=("absent", "no folder"))


def test_heatmap_onto_a_folder(refused, artifact, picture, tmp_path):
    (tmp_path / "heat.png").mkdir()
    refused("explain", artifact, picture, "-o", "heat.png", words="heat.png")


@pytest.mark.parametrize("name", ["heat.bmp", "heat", "heat.png.txt"])
def test_heatmap_of_an_unknown_kind(refused, artifact, picture, name):
    refused("explain", artifact, picture, "-o", name, words=(name, ".png, .npy, .npz"))


def test_too_many_panels(refused, artifact, picture):
    targets = ",".join("01234" * 3)
    refused("explain", artifact, picture, "--target", targets, "--stride", "16", words=("15", ".npz"))


def test_demo_below_a_file(refused, picture):
    refused("demo", "-o", picture / "heatmaps", words="heatmaps")


@pytest.fixture
def little_disk(tmp_path, tmp_path_factory):
    """Runs the program in a process whose files cannot grow, as on a full disk; asserts that it says so."""

    def run(*arguments, limit, words):
        with nothing_changes(tmp_path):
            result = run_limited(arguments, tmp_path, tmp_path_factory.mktemp("temporary"), limit)
        assert result.returncode == 2, result
        assert_one_line(result.stdout, result.stderr, words)

    return run


def run_limited(arguments, folder, temporary, limit):
    def full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "krypton_onnx.cli", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=full_disk,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=False,
    )


@pytest.mark.parametrize("limit", [0, 500, 1500])
def test_full_disk_while_compiling(little_disk, model, limit):
    little_disk("compile", model, limit=limit, words=("net.krypton", "cannot be written"))


@pytest.mark.parametrize("limit", [0, 5000])
def test_full_disk_while_saving(little_disk, artifact, picture, limit):
    words = ("picture.heatmap.png", "cannot write")
    little_disk("explain", artifact, picture, "--stride", "16", limit=limit, words=words)


# ---------------------------------------------------------------------------------------- external data


@pytest.fixture
def secret(tmp_path):
    """A file outside the model's folder, as large as its weights."""
    (tmp_path / "model").mkdir()
    with_external_weights(tmp_path / "model", "net.bin")
    target = tmp_path / "secret.bin"
    shutil.copy(tmp_path / "model" / "net.bin", target)
    return target


def test_external_data_is_read(tmp_path):
    result = CliRunner().invoke(main, ["compile", str(with_external_weights(tmp_path, "net.bin"))])
    assert result.exit_code == 0, result.stderr


def test_external_data_above_the_folder(refused, secret):
    path = with_external_weights(secret.parent / "model", "../secret.bin")
    refused("compile", path, words=("../secret.bin", "outside", "w1"))


def test_external_data_at_an_absolute_path(refused, secret):
    path = with_external_weights(secret.parent / "model", str(secret))
    refused("compile", path, words=(str(secret), "outside"))


def test_external_data_behind_a_link(refused, secret):
    path = with_external_weights(secret.parent / "model", "link.bin")
    (secret.parent / "model" / "link.bin").symlink_to(secret)
    refused("compile", path, words=("link.bin", "outside"))


def test_external_data_behind_a_linked_folder(refused, secret):
    path = with_external_weights(secret.parent / "model", "linked/secret.bin")
    (secret.parent / "model" / "linked").symlink_to(secret.parent)
    refused("compile", path, words=("linked/secret.bin", "outside"))


def test_external_data_without_a_location(refused, tmp_path):
    refused("compile", with_external_weights(tmp_path, ""), words=("w1", "external data"))


def test_missing_external_data(refused, tmp_path):
    path = with_external_weights(tmp_path, "net.bin")
    (tmp_path / "net.bin").unlink()
    refused("compile", path, words=("net.bin", "missing"))


def test_truncated_external_data(refused, tmp_path):
    path = with_external_weights(tmp_path, "net.bin")
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes()[:100])
    refused("compile", path, words=("net.onnx", "cut short"))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:one", "cuda:-1", "cpu:1", ""])
def test_no_device(refused, model, picture, device):
    refused("explain", model, picture, "--device", device, words=(f"'{device}' is no device", "cpu", "cuda:1"))


@pytest.mark.parametrize("device", ["cuda", "CUDA:1"])
def test_a_device_that_does_not_work(refused, model, picture, device, monkeypatch):
    if providers.CUDA not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA")
    monkeypatch.setattr(providers, "why_not_cuda", lambda: "there is no NVIDIA driver")
    words = "CUDA does not work here: there is no NVIDIA driver"
    refused("explain", model, picture, "--no-cache", "--device", device, words=words)
    refused("verify", model, "--device", device, words=words)


# ------------------------------------------------------------------------------------------- Python API


def test_unknown_provider(compiled):
    with pytest.raises(kx.KryptonError, match=r"no ImaginaryExecutionProvider; it offers .*CPUExecutionProvider"):
        kx.Session(compiled, providers=["ImaginaryExecutionProvider"])


@pytest.mark.parametrize(("patch", "stride"), [(0, 4), (8, 0), ((8, 0), 4), ((8, 8, 8), 4), ("8", 4)])
def test_malformed_sizes(compiled, patch, stride):
    with pytest.raises(kx.KryptonError, match=r"patch|stride"):
        kx.Session(compiled).explain(np.zeros((3, 32, 32), np.float32), patch=patch, stride=stride)


@pytest.mark.parametrize("shape", [(3, 32, 31), (1, 32, 32), (2, 3, 32, 32), (32, 32), ()])
def test_image_of_a_wrong_shape(compiled, shape):
    with pytest.raises(kx.KryptonError, match=r"\[3, 32, 32\]"):
        kx.Session(compiled).materialize(np.zeros(shape, np.float32))


def test_image_of_a_wrong_type(compiled):
    with pytest.raises(kx.KryptonError, match="complex64"):
        kx.Session(compiled).materialize(np.zeros((3, 32, 32), np.complex64))
