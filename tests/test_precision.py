"""float16 and TF32: what computes in fewer bits, and what is said of it."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from twin import average, normal, small_net

import krypton_onnx as kx
from krypton_onnx import compiler
from krypton_onnx.cli import main
from krypton_onnx.cli.options import device
from krypton_onnx.models.digits import digit_scene
from krypton_onnx.passes.halve import HALVED
from krypton_onnx.runtime.providers import CPU, CUDA, in_full, in_tf32

node = helper.make_node
FILES = resources.files("krypton_onnx.models")


def net(scale: float = 1.0) -> onnx.ModelProto:
    """Convolutions, an exponential between them, and a second output that is a map."""
    nodes = [
        node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["maps"]),
        node("Conv", ["maps", "w2"], ["b"], pads=[1, 1, 1, 1]),
        node("Softplus", ["b"], ["s"]),
        node("Conv", ["s", "w3"], ["c"], pads=[1, 1, 1, 1]),
        *average("c", "flat"),
        node("Gemm", ["flat", "w4"], ["y"]),
    ]
    weights = {
        "w1": scale * normal(8, 3, 3, 3),
        "w2": normal(8, 8, 3, 3),
        "w3": normal(8, 8, 3, 3),
        "w4": normal(8, 5),
    }
    model = small_net(nodes, weights, inputs={"image": ["N", 3, 24, 24]})
    model.graph.output.append(helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, ["N", 8, 24, 24]))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> kx.Artifact:
    path = tmp_path_factory.mktemp("precision") / "net.onnx"
    onnx.save(net(), path)
    return kx.compile(path, patch=4, precision="float16")


def types(artifact: kx.Artifact) -> dict[str, set[int]]:
    """ONNX's types of what the incremental graph computes, by operator."""
    graph = onnx.load(artifact.folder / "incremental.onnx", load_external_data=False).graph
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.output)}
    found: dict[str, set[int]] = {}
    for one in graph.node:
        found.setdefault(one.op_type, set()).add(known[one.output[0]])
    return found


def test_windows_are_computed_in_float16(made: kx.Artifact) -> None:
    computed = types(made)
    assert computed["Conv"] == {onnx.TensorProto.FLOAT16}
    assert computed["Softplus"] == {onnx.TensorProto.FLOAT}
    assert {view.dtype for view in made.plan.views} == {"float32", "float16"}  # the image is float32
    assert {info.dtype for info in (made.plan.image, *made.plan.outputs)} == {"float32"}
    assert (made.plan.precision, made.plan.int8) == ("float16", None)


def test_answers_are_off_by_what_is_said(made: kx.Artifact) -> None:
    assert made.plan.precision_error is not None
    assert 1e-5 < made.plan.precision_error < 0.02
    exact = kx.Session(kx.compile(made.folder.with_name("net.onnx"), made.folder.with_name("exact"), patch=4))
    rng = np.random.default_rng(0)
    image, content = rng.standard_normal((3, 24, 24)), rng.standard_normal((50, 3, 4, 4))
    origins = rng.integers(0, 21, (50, 2))
    base = exact.materialize(image)
    found, expected = kx.Session(made).infer(image, origins, content), exact.infer(base, origins, content)
    for name, values in expected.items():
        moved = np.abs(values - np.asarray(base.outputs[name])).max()
        off = np.abs(found[name] - values).max()
        assert 1e-5 * moved < off < 3 * made.plan.precision_error * moved


def test_a_heatmap_says_in_what_it_was_computed(made: kx.Artifact) -> None:
    found = kx.Session(made).explain(np.zeros((3, 24, 24)), patch=4, progress=False)
    assert found.record["precision"] == "float16"
    assert found.record["precision_error"] == made.plan.precision_error
    exact = kx.compile(made.folder.with_name("net.onnx"), made.folder.with_name("other"), patch=4, verify=False)
    record = kx.Session(exact).explain(np.zeros((3, 24, 24)), patch=4, progress=False).record
    assert record["precision"] == "float32"
    assert "precision_error" not in record


def test_a_trained_model_shows_the_same(tmp_path: Path) -> None:
    preprocess = kx.Preprocess.from_json(str(FILES / "demo_preprocess.json"))
    image = preprocess.tensor(digit_scene(np.random.default_rng(3), "test").picture)
    half, full = (
        kx.Session(kx.compile(str(FILES / "demo.onnx"), tmp_path / precision, precision=precision, verify=False))
        for precision in ("float16", "float32")
    )
    assert half.plan.precision_error is None  # nothing was verified
    found, expected = (session.explain(image, stride=8, progress=False).drop for session in (half, full))
    off = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-6 < off < 5e-3


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, scale: float) -> None:
    """Activations of which some are beyond it; the weights themselves, in float32 then, are."""
    onnx.save(net(scale), tmp_path / "net.onnx")
    with pytest.raises(
        kx.KryptonError, match=r"^float16 cannot hold what .*net\.onnx computes: .* Compile it in float32"
    ):
        kx.compile(tmp_path / "net.onnx", patch=4, precision="float16")
    assert not (tmp_path / "net.krypton").exists()


def test_what_is_off_by_much_of_what_queries_change_is_refused(
    tmp_path: Path, made: kx.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made.plan.precision_error is not None
    monkeypatch.setattr(compiler, "TOO_COARSE", made.plan.precision_error / 2)
    onnx.save(net(), tmp_path / "net.onnx")
    with pytest.raises(
        kx.KryptonError, match=r"is off by [\d.e-]+, where queries change it by [\d.e-]+; nothing was w"
    ):
        kx.compile(tmp_path / "net.onnx", patch=4, precision="float16")


@pytest.mark.parametrize(("target", "where"), [("cuda", None), ("cpu", [CPU])])
def test_what_is_for_a_device_is_compared_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, where: Any
) -> None:
    asked, verified = [], compiler.verify_artifact

    def verify(*given: Any, providers: Any, **options: Any) -> Any:
        asked.append(providers)
        return verified(*given, providers=[CPU], **options)

    monkeypatch.setattr(compiler, "verify_artifact", verify)
    onnx.save(net(), tmp_path / "net.onnx")
    for precision in ("float16", "float32"):
        kx.compile(tmp_path / "net.onnx", patch=4, device=target, precision=precision)  # type: ignore[arg-type]
    assert asked == [where, [CPU]]


def test_constants_beyond_float16_stay_in_float32(tmp_path: Path) -> None:
    nodes = [
        node("Mul", ["image", "large"], ["l"]),
        node("Mul", ["l", "small"], ["n"]),
        node("Conv", ["n", "w"], ["c"]),
        node("Relu", ["c"], ["y"]),
    ]
    weights = {"large": np.full((1, 3, 1, 1), 1e6, np.float32), "small": np.full((1, 3, 1, 1), 1e-6, np.float32)}
    model = small_net(nodes, {**weights, "w": normal(4, 3, 3, 3)}, inputs={"image": [1, 3, 16, 16]})
    onnx.save(model, tmp_path / "net.onnx")
    computed = types(kx.compile(tmp_path / "net.onnx", patch=4, precision="float16", verify=False))
    assert computed["Conv"] == {onnx.TensorProto.FLOAT16}
    assert onnx.TensorProto.FLOAT in computed["Mul"]


def test_what_makes_an_output_stays_in_float32(made: kx.Artifact, tmp_path: Path) -> None:
    """So that a large bias costs nothing of what queries change."""
    assert types(made)["Gemm"] == {onnx.TensorProto.FLOAT}
    model = net()
    model.graph.initializer.append(numpy_helper.from_array(np.full(5, 1000, np.float32), "bias"))
    model.graph.node[-1].input.append("bias")
    onnx.save(model, tmp_path / "net.onnx")
    error = kx.compile(tmp_path / "net.onnx", patch=4, precision="float16").plan.precision_error
    assert error is not None
    assert error < 0.02


def test_models_in_several_types(tmp_path: Path) -> None:
    """What is float16 or float64 already stays so, and what a branch reads stays as it is."""
    branch = [helper.make_node("Relu", ["c"], ["inner"])]
    inner = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [1, 4, 16, 16])
    nodes = [
        node("Conv", ["image", "w1"], ["c"], pads=[1, 1, 1, 1]),
        node(
            "If",
            ["always"],
            ["i"],
            then_branch=helper.make_graph(branch, "then", [], [inner]),
            else_branch=helper.make_graph(branch, "else", [], [inner]),
        ),
        node("Cast", ["i"], ["h"], to=onnx.TensorProto.FLOAT16),
        node("Add", ["h", "half"], ["a"]),
        node("Cast", ["a"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Conv", ["f", "w2"], ["d"], pads=[1, 1, 1, 1]),
        node("Cast", ["d"], ["wide"], to=onnx.TensorProto.DOUBLE),
        node("Mul", ["wide", "two"], ["e"]),
        node("Cast", ["e"], ["g"], to=onnx.TensorProto.FLOAT),
        *average("g", "y"),
    ]
    weights = {
        "always": np.array(True),
        "w1": normal(4, 3, 3, 3),
        "half": np.ones((1, 4, 1, 1), np.float16),
        "w2": normal(4, 4, 3, 3),
        "two": np.array(2.0),
    }
    model = small_net(nodes, weights, inputs={"image": [1, 3, 16, 16]})
    onnx.save(model, tmp_path / "net.onnx")
    made = kx.compile(tmp_path / "net.onnx", patch=4, precision="float16")
    assert made.plan.precision_error is not None
    assert made.plan.precision_error < 0.05


def test_only_what_bears_it_is_halved() -> None:
    assert HALVED.isdisjoint({"Softmax", "Exp", "Log", "Pow", "Div", "Erf", "Sum", "ReduceSum", "ReduceMean", "CumSum"})
    assert HALVED.isdisjoint({"GlobalAveragePool", "LayerNormalization", "InstanceNormalization", "BatchNormalization"})


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    unknown: Any = "float8"
    with pytest.raises(kx.KryptonError, match="precision must be 'float32' or 'float16', not 'float8'"):
        kx.compile(tmp_path / "any.onnx", precision=unknown)


def test_the_command_line(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "net.onnx")
    compile_it = ["compile", str(tmp_path / "net.onnx"), "--patch", "4", "--precision", "float16"]
    done = CliRunner().invoke(main, compile_it)
    assert done.exit_code == 0, done.output
    assert "Computes in float16, which is not exact: off by 0." in done.output
    assert "Compared with the model" in done.output
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "net.krypton"), "--device", "cpu"])
    assert (done.exit_code, "as float16 rounds" in done.output, "exact" in done.output) == (0, True, False)
    picture = str(FILES / "pictures" / "nine.png")
    explain = ["explain", str(tmp_path / "net.krypton"), picture, "--device", "cpu", "-o", str(tmp_path / "map.png")]
    assert "Computed in float16, which is not exact" in CliRunner().invoke(main, explain).output
    done = CliRunner().invoke(main, [*compile_it, "--no-verify", "--json"])
    assert (json.loads(done.stdout)["precision"], json.loads(done.stdout)["precision_error"]) == ("float16", None)
    assert "how far off was not measured" in CliRunner().invoke(main, [*compile_it, "--no-verify"]).output
    done = CliRunner().invoke(main, [*compile_it, "--single-file", str(tmp_path / "one.onnx")])
    assert done.exit_code == 2
    assert "leave out --precision" in done.output


def test_tf32_is_asked_of_the_device() -> None:
    providers: Any = device("cuda:1+tf32")
    assert providers == [(CUDA, {"device_id": 1, "use_tf32": "1"}), CPU]
    assert in_tf32(providers)
    assert not in_tf32(device("cuda"))
    assert in_tf32([(CUDA, {"use_tf32": True}), CPU])
    assert not in_tf32([("OtherExecutionProvider", {"use_tf32": "1"}), CPU])


def test_a_session_says_tf32(made: kx.Artifact) -> None:
    exact = kx.Session(kx.compile(made.folder.with_name("net.onnx"), made.folder.with_name("e"), patch=4, verify=False))
    half = kx.Session(made)
    assert (exact.precision, half.precision) == ("float32", "float16")
    for session in (exact, half):
        session.providers = ((CUDA, {"use_tf32": 1}), CPU)
    assert (exact.precision, half.precision) == ("tf32", "float16")
    assert exact.explain(np.zeros((3, 24, 24)), patch=4, progress=False).record["precision"] == "tf32"
    exact.providers = (CPU, (CUDA, {"use_tf32": 1}))
    assert exact.precision == "float32"


def test_what_models_are_compared_with_runs_in_full() -> None:
    asked: list[Any] = [(CUDA, {"device_id": 1, "use_tf32": "1", "enable_cuda_graph": "1"}), CPU]
    ((name, options), behind) = in_full(asked)
    assert (name, behind, options["device_id"]) == (CUDA, CPU, 1)
    assert options["use_tf32"] == "0"
    assert "enable_cuda_graph" not in options
