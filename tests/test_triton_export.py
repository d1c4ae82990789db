"""`export-triton`: a model repository that is valid by Triton's own schema, which its client's package brings."""

import importlib.util
import json
from importlib import resources
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from twin import residual_net

import krypton_onnx as kx
from krypton_onnx.cli import main


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's model_config.proto, without the package around it, which wants gRPC."""
    with resources.as_file(resources.files("tritonclient") / "grpc" / "model_config_pb2.py") as path:
        spec = importlib.util.spec_from_file_location("model_config_pb2", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(residual_net(), tmp_path / "net v1.onnx")
    return tmp_path / "net v1.onnx"


def read(schema: ModuleType, folder: Path):
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def test_the_configuration_is_triton_s(schema: ModuleType, model: Path, tmp_path: Path) -> None:
    made = kx.export_triton(model, tmp_path / "models", patch=4, stride=8, instances=2, labels=list("abcdü"))
    folder = tmp_path / "models" / "net_v1_heatmap"
    assert made.path == folder / "1" / "model.onnx"
    config = read(schema, folder)
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 0)
    assert (folder / "1" / config.default_model_filename).is_file()
    assert [(g.count, g.kind) for g in config.instance_group] == [(2, schema.ModelInstanceGroup.KIND_CPU)]
    assert not config.HasField("dynamic_batching")
    assert [(i.name, schema.DataType.Name(i.data_type), list(i.dims)) for i in config.input] == [
        ("image", "TYPE_FP32", [-1, 3, 20, 26]),
        ("target", "TYPE_INT64", [1]),
        ("fill", "TYPE_FP32", [3]),
        ("part", "TYPE_INT64", [2]),
    ]
    assert [(o.name, list(o.dims), o.label_filename) for o in config.output] == [
        ("y", [-1, 5], "labels.txt"),
        ("heatmap", [-1, 3, 4], ""),
        ("base_score", [-1], ""),
        ("target_index", [-1], ""),
    ]
    assert (folder / "labels.txt").read_text(encoding="utf-8").split() == list("abcdü")


def test_the_configuration_is_the_file_s(schema: ModuleType, model: Path, tmp_path: Path) -> None:
    """Triton's backend refuses a configuration whose inputs are not exactly those that the session wants."""
    made = kx.export_triton(model, tmp_path / "models", patch=4, stride=8, preprocess={"crop": (20, 26)})
    config = read(schema, made.path.parent.parent)
    session = ort.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    names = {"TYPE_UINT8": "tensor(uint8)", "TYPE_INT64": "tensor(int64)", "TYPE_FP32": "tensor(float)"}
    for told, known in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [one.name for one in told] == [one.name for one in known]
        assert [names[schema.DataType.Name(one.data_type)] for one in told] == [one.type for one in known]
        for one, other in zip(told, known, strict=True):
            assert list(one.dims) == [-1 if isinstance(extent, str) else extent for extent in other.shape]
    feed = {
        "image": np.zeros((1, 20, 26, 3), np.uint8),
        "target": np.array([-1]),
        "fill": np.zeros(3, np.float32),
        "part": np.array([0, 1]),
    }
    assert np.isfinite(session.run(["heatmap"], feed)[0]).all()


def test_on_a_gpu(schema: ModuleType, model: Path, tmp_path: Path) -> None:
    made = kx.export_triton(model, tmp_path / "models", name="gpu", patch=4, stride=8, device="cuda")
    (group,) = read(schema, made.path.parent.parent).instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_GPU
    assert made.plan.device == "cuda"


def test_command_line(schema: ModuleType, model: Path, tmp_path: Path) -> None:
    arguments = ["export-triton", model, tmp_path / "models", "--patch", "4", "--stride", "9", "--name", "h"]
    for _ in range(2):  # the second replaces the first
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
    assert "heatmaps of 3x4 positions" in result.output
    assert read(schema, tmp_path / "models" / "h").name == "h"
    report = json.loads(CliRunner().invoke(main, [str(a) for a in (*arguments, "--json", "--no-verify")]).output)
    assert (report["grid"], report["verified"]) == ([3, 4], False)
    assert [folder.name for folder in (tmp_path / "models").iterdir()] == ["h"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "no name of a Triton model"),
        ({"instances": 0}, "instances must be"),
        ({"patch": 99}, "not fit"),
    ],
)
def test_what_cannot_be(options: dict[str, object], message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(kx.KryptonError, match=message):
        kx.export_triton(model, tmp_path / "models", **{"patch": 4, **options})
    assert not list((tmp_path / "models").glob("*"))


def test_somebody_else_s_model_is_not_replaced(model: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "models" / "net_v1_heatmap"
    theirs.mkdir(parents=True)
    (theirs / "config.pbtxt").write_text("mine")
    with pytest.raises(kx.KryptonError, match="is no model that export-triton wrote"):
        kx.export_triton(model, tmp_path / "models", patch=4)
    assert (theirs / "config.pbtxt").read_text() == "mine"
