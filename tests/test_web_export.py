"""`export-web`: the folder that it writes, and what it refuses. tests/test_hosts.py opens it in a browser."""

import json
import os
import tarfile
from importlib import resources
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from twin import residual_net

import krypton_onnx as kx
from krypton_onnx.cli import main
from krypton_onnx.web_export import RUNTIME

SHIPPED = Path(str(resources.files("krypton_onnx.models")))


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """What looks like an installed onnxruntime-web."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME:
        (folder / "dist" / name).write_text(f"// {name}")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(residual_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_folder_holds_all_that_the_page_needs(model: Path, runtime: Path, tmp_path: Path) -> None:
    picture = SHIPPED / "pictures" / "nine.png"
    made = kx.export_web(
        model, tmp_path / "page", patch=4, labels=["a", "b<c", "d", "e", "ü"], samples=[picture], runtime=runtime
    )
    page = tmp_path / "page"
    assert made.path == page / "model.onnx"
    about = json.loads((page / "krypton_onnx.page.json").read_text(encoding="utf-8"))
    assert about["image_size"] == [20, 26]
    assert about["rows"] == [0, 8, 16]
    assert about["cols"] == [0, 8, 16, 22]
    assert (about["classes"], about["scored"], about["labels"][4]) == (5, "y", "ü")
    assert about["preprocess"]["resize"] == [20, 26]
    assert about["bytes"] == (page / about["file"]).stat().st_size
    assert [(page / sample).read_bytes() for sample in about["samples"]] == [picture.read_bytes()]
    assert [(page / "runtime" / name).read_text() for name in RUNTIME] == [f"// {name}" for name in RUNTIME]
    # JavaScript cannot override defaults, so there are none
    graph = onnx.load(page / "model.onnx").graph
    assert not {t.name for t in graph.input} & {t.name for t in graph.initializer}


def test_every_file_that_the_page_asks_for_is_there(model: Path, runtime: Path, tmp_path: Path) -> None:
    page = kx.export_web(model, tmp_path / "page", patch=4, runtime=runtime).path.parent
    assets = [file for file in page.iterdir() if file.suffix in (".html", ".js", ".css")]
    assert {"index.html", "worker.js", "style.css"} <= {file.name for file in assets}
    for asset in assets:
        text = asset.read_text(encoding="utf-8")
        for name in [part.split('"')[0] for part in text.split('from "./')[1:]]:
            assert (page / name).is_file(), f"{asset.name} imports {name}"
        assert "://" not in text.replace("http://www.w3.org", ""), f"{asset.name} names a host"


def test_an_older_page_is_replaced(model: Path, runtime: Path, tmp_path: Path) -> None:
    kx.export_web(model, tmp_path / "page", patch=4, runtime=runtime)
    kx.export_web(model, tmp_path / "page", patch=6, runtime=runtime)
    assert json.loads((tmp_path / "page" / "krypton_onnx.page.json").read_text())["patch"] == [6, 6]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "node_modules", "page"]


def test_command_line(model: Path, runtime: Path, tmp_path: Path) -> None:
    arguments = ["export-web", model, tmp_path / "page", "--patch", "4", "--stride", "9", "--runtime", runtime]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "heatmaps of 3x4 positions" in result.output
    assert f"http.server --directory {tmp_path / 'page'}" in result.output
    report = json.loads(CliRunner().invoke(main, [str(a) for a in (*arguments, "--json", "--no-verify")]).output)
    assert (report["grid"], report["verified"]) == ([3, 4], False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtime", "."], "is no onnxruntime-web of version 1.30 or later: it lacks dist/ort.wasm"),
        (["--sample", "none.png"], "none.png"),
        (["--sample", "labels.txt"], "labels.txt"),
        (["--labels", "labels.txt"], "1 labels, and the model has 5"),
        ([], "npm, which would fetch it, is not installed"),
    ],
)
def test_what_cannot_be(
    arguments: list[str], message: str, model: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "labels.txt").write_text("one\n")
    found = ["--runtime", str(runtime)] if "--labels" in arguments else []
    before = sorted(os.listdir())
    result = CliRunner().invoke(main, ["export-web", str(model), "page", "--patch", "4", *arguments, *found])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_npm_that_fails(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kx.KryptonError, match=r"npm could not fetch .* \(no network\): give --runtime"):
        kx.export_web(model, tmp_path / "page", patch=4)
    npm.write_text("#!/bin/sh\necho nothing > package.tgz\n")
    with pytest.raises(kx.KryptonError, match=r"does not hold what the page needs .*: give --runtime"):
        kx.export_web(model, tmp_path / "page", patch=4)
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(model, "package/dist/other.js")
    npm.write_text(f"#!/bin/sh\n/bin/cp '{tmp_path / 'other.tgz'}' .\n")
    with pytest.raises(kx.KryptonError, match=r"does not hold what the page needs \(.*ort.wasm.*\): give --runtime"):
        kx.export_web(model, tmp_path / "page", patch=4)
    assert not (tmp_path / "page").exists()


def test_a_model_with_another_input(runtime: Path, tmp_path: Path) -> None:
    model = residual_net()
    model.graph.input.append(onnx.helper.make_tensor_value_info("shift", onnx.TensorProto.FLOAT, [1]))
    model.graph.node.append(onnx.helper.make_node("Add", ["y", "shift"], ["z"]))
    model.graph.output[0].name = "z"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(kx.KryptonError, match="beside the image, 'shift', which a page cannot know"):
        kx.export_web(tmp_path / "net.onnx", tmp_path / "page", patch=4, runtime=runtime)
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("arguments", [{"folder": None}, {"samples": "nine.png"}])
def test_arguments_that_are_none(arguments: dict[str, object], model: Path, runtime: Path, tmp_path: Path) -> None:
    with pytest.raises(kx.KryptonError, match=r"must be a (path|list)"):
        kx.export_web(model, **{"folder": tmp_path / "page", "runtime": runtime, **arguments})


def test_another_folder_is_not_replaced(model: Path, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "thesis.txt").write_text("mine")
    (tmp_path / "page" / "model.json").write_text("{}")
    with pytest.raises(kx.KryptonError, match="is no exported page"):
        kx.export_web(model, tmp_path / "page", patch=4, runtime=runtime)
    assert (tmp_path / "page" / "thesis.txt").read_text() == "mine"


def test_a_model_that_takes_no_pictures(runtime: Path, tmp_path: Path) -> None:
    model = residual_net()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(model.graph.initializer[0]).repeat(2, axis=1)[:, :4], "w1"
        )
    )
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(kx.KryptonError, match="1 or 3"):
        kx.export_web(tmp_path / "net.onnx", tmp_path / "page", patch=4, runtime=runtime)
