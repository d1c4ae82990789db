"""What Python callers may pass, and one sentence for everything else."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from twin import average, normal, residual_net, small_net

import krypton_onnx as kx
from krypton_onnx.cli import main
from krypton_onnx.inspection import inspect_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(residual_net(), path)
    return path


@pytest.fixture(scope="module")
def artifact(model: Path) -> kx.Artifact:
    return kx.compile(model, patch=2, verify=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": None}, "model must be the path"),
        ({"model": residual_net()}, "model must be the path of an ONNX file, not a ModelProto"),
        ({"output": 3}, "output must be the path of a folder"),
        ({"image_input": 0}, "image_input must be the name of an input, not a int"),
        ({"image_input": ["image"]}, "image_input must be"),
        ({"input_size": "20x26"}, "input size must be a whole number"),
        ({"input_size": (20, 26, 3)}, "input size must be a whole number"),
        ({"input_size": 20.0}, "input size must be a whole number"),
        ({"input_size": 0}, "input size must be a whole number"),
        ({"channels_last": "yes"}, "channels_last must be True, False or None"),
        ({"preprocess": 3}, "preprocess must be a Preprocess"),
        ({"preprocess": {"meen": 3}}, "unknown key 'meen'"),
        ({"preprocess": "absent.json"}, "absent.json"),
        ({"labels": "a,b,c,d,e"}, "labels must be a list of class names, not a str"),
        ({"labels": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}}, "labels must be a list"),
        ({"labels": 5}, "labels must be a list"),
        ({"patch": "16"}, "patch must be a whole number"),
    ],
)
def test_refused_by_compile(model: Path, tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(kx.KryptonError, match=words) as caught:
        kx.compile(**{"model": model, "output": tmp_path / "net.krypton", "patch": 2, **arguments})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_forms_that_compile_takes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]), *average("c", "y")]
    onnx.save(small_net(nodes, {"w": normal(4, 3, 3, 3)}, inputs={"image": ["N", 3, "H", "W"]}), path)
    fields = {"crop": [16, 16], "scale": 1.0}
    (tmp_path / "pre.json").write_text('{"crop": [16, 16], "scale": 1.0}')
    plans = [
        kx.compile(str(path), patch=2, input_size=16, preprocess=given, labels=labels, verify=False).plan
        for given, labels in [
            (kx.Preprocess.from_dict(fields), ["a", "b", "c", "d"]),
            (fields, ("a", "b", "c", "d")),
            (str(tmp_path / "pre.json"), np.array(["a", "b", "c", "d"])),
        ]
    ]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].image.shape == (3, 16, 16)


@pytest.mark.parametrize("providers", ["CPUExecutionProvider", 3, [3], [("CPUExecutionProvider",)], {"CPU": 1}])
def test_providers_of_wrong_type(artifact: kx.Artifact, providers: Any) -> None:
    with pytest.raises(kx.KryptonError, match="providers must be a list"):
        kx.Session(artifact, providers=providers)


@pytest.mark.parametrize("budget", ["1GB", 1e9, True, [1]])
def test_memory_budget_of_wrong_type(artifact: kx.Artifact, budget: Any) -> None:
    with pytest.raises(kx.KryptonError, match="memory_budget must be a whole number of bytes"):
        kx.Session(artifact, memory_budget=budget)


@pytest.mark.parametrize("threads", ["2", 1.0, True, 0, -1])
def test_threads_of_wrong_type(artifact: kx.Artifact, threads: Any) -> None:
    with pytest.raises(kx.KryptonError, match="threads must be a whole number of cores"):
        kx.Session(artifact, threads=threads)


def test_base_of_another_model(model: Path, artifact: kx.Artifact, tmp_path: Path) -> None:
    other = onnx.load(model)
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(other, tmp_path / "other.onnx")
    first, second = kx.Session(artifact), kx.Session(kx.compile(tmp_path / "other.onnx", patch=2, verify=False))
    base = first.materialize(np.zeros((3, 20, 26), np.float32))
    content = np.ones((3, 2, 2), np.float32)
    with pytest.raises(kx.KryptonError, match=r"base is of another compiled model \(net.onnx\)"):
        second.infer(base, [[0, 0]], content)
    again = kx.Session(artifact.folder).infer(base, [[0, 0]], content)
    np.testing.assert_array_equal(again["y"], first.infer(base, [[0, 0]], content)["y"])


# ----------------------------------------------------------------------------------------------- layout


def ambiguous(path: Path, *, last: bool) -> Path:
    """A model of images whose extents tell nothing: [1, 4, 16, 4] is either layout."""
    transposed = [helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])] if last else []
    nodes = [*transposed, helper.make_node("Conv", ["first" if last else "image", "w"], ["c"]), *average("c", "y")]
    onnx.save(small_net(nodes, {"w": normal(4, 4, 3, 3)}, inputs={"image": [1, 4, 16, 4]}), path)
    return path


@pytest.mark.parametrize(("last", "shape"), [(True, (4, 4, 16)), (False, (4, 16, 4))])
def test_layout_can_be_said(tmp_path: Path, last: bool, shape: tuple[int, int, int]) -> None:
    path = ambiguous(tmp_path / "net.onnx", last=last)
    plan = kx.compile(path, patch=2, channels_last=last).plan
    assert (plan.channels_last, plan.image.shape) == (last, shape)
    assert inspect_model(path, patch=2, channels_last=last).image_shape == shape
    option = "--channels-last" if last else "--channels-first"
    for command in ("compile", "inspect"):
        done = CliRunner().invoke(main, [command, str(path), "--patch", "2", option])
        assert done.exit_code == 0, done.stderr


def test_layout_that_is_guessed_wrong(tmp_path: Path) -> None:
    """Images of 8 channels that are three pixels wide look like channels last."""
    path = tmp_path / "net.onnx"
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]), *average("c", "y")]
    onnx.save(small_net(nodes, {"w": normal(4, 8, 3, 3)}, inputs={"image": [1, 8, 16, 3]}), path)
    assert kx.compile(path, patch=2).plan.channels_last
    assert kx.compile(path, patch=2, channels_last=False).plan.image.shape == (8, 16, 3)


def test_metadata_of_the_source_is_kept(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    proto.metadata_props.add(key="names", value="{0: 'cat'}")
    proto.doc_string = "From a good home."
    onnx.save(proto, tmp_path / "net.onnx")
    folder = kx.compile(tmp_path / "net.onnx", patch=2).folder
    for name in ("base.onnx", "incremental.onnx"):
        written = onnx.load(folder / name)
        assert {entry.key: entry.value for entry in written.metadata_props} == {"names": "{0: 'cat'}"}
        assert written.doc_string == "From a good home."
