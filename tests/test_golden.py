"""Golden text: what the compiler makes of small models is written down, so that no change of it goes unseen.

After an intended change: ``pytest tests/test_golden.py --update-golden``, and read the diff.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper, numpy_helper
from twin import residual_net

import krypton_onnx as kx
from krypton_onnx.artifact import PLAN_FILE
from krypton_onnx.models import build
from krypton_onnx.passes import network

GOLDEN = Path(__file__).parent / "golden"
LONGEST = 8
"""Elements of a constant that are listed as they are."""


def compare(made: str, name: str, update: bool) -> None:
    path = GOLDEN / name
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made, encoding="utf-8")
        pytest.skip(f"{name} was written")
    assert made == path.read_text(encoding="utf-8")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    onnx.save(residual_net(), tmp_path / "residual.onnx")
    return kx.compile(tmp_path / "residual.onnx", patch=4, verify=False).folder


@pytest.mark.parametrize("name", ["source", "base", "incremental"])
def test_graphs_of_a_residual_net(name: str, compiled: Path, update: bool) -> None:
    path = compiled.parent / "residual.onnx" if name == "source" else compiled / f"{name}.onnx"
    compare("".join(f"{line}\n" for line in listing(onnx.load(path).graph)), f"residual_{name}.txt", update)


@pytest.mark.parametrize("name", ["index", "incremental"])
def test_graphs_of_a_residual_net_for_a_device(name: str, tmp_path: Path, update: bool) -> None:
    onnx.save(residual_net(), tmp_path / "residual.onnx")
    folder = kx.compile(tmp_path / "residual.onnx", patch=4, device="cuda", verify=False).folder
    lines = listing(onnx.load(folder / f"{name}.onnx").graph)
    compare("".join(f"{line}\n" for line in lines), f"residual_cuda_{name}.txt", update)


def test_single_file_of_a_residual_net(tmp_path: Path, update: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are taken for large, and there are several batches."""
    monkeypatch.setattr(network, "DETACH_BYTES", 256)
    onnx.save(residual_net(), tmp_path / "residual.onnx")
    file = tmp_path / "heatmap.onnx"
    kx.compile_single_file(tmp_path / "residual.onnx", file, patch=4, stride=2, verify=False)
    compare("".join(f"{line}\n" for line in listing(onnx.load(file).graph)), "residual_single.txt", update)


@pytest.mark.parametrize(("model", "size"), [("resnet18", 64), ("squeezenet1_1", 96)])
def test_plan(model: str, size: int, tmp_path: Path, update: bool) -> None:
    path = tmp_path / f"{model}.onnx"
    onnx.save(build(model, seed=1, input_size=size), path)
    folder = kx.compile(path, patch=(8, 6), verify=False).folder
    plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))["plan"]
    del plan["compiler"], plan["source"]["sha256"]
    lines = (f"{json.dumps(key)}: {one_per_line(value)}" for key, value in plan.items())
    compare("{\n" + ",\n".join(lines) + "\n}\n", f"{model}_plan.json", update)


def one_per_line(value: Any) -> str:
    """JSON with the elements of a list below each other, so that a diff points at what changed."""
    if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        return "[\n" + ",\n".join(f" {json.dumps(item)}" for item in value) + "\n]"
    return json.dumps(value)


def listing(graph: onnx.GraphProto) -> Iterator[str]:
    """One line an input, a constant, a node, an output."""
    for value in graph.input:
        yield f"input {value.name} {shape(value)}"
    for tensor in graph.initializer:
        yield f"constant {tensor.name} = {contents(tensor)}"
    for node in graph.node:
        attributes = "".join(f" {a.name}={attribute(a)}" for a in sorted(node.attribute, key=lambda a: a.name))
        yield f"{', '.join(node.output)} = {node.op_type}({', '.join(node.input)}){attributes}"
        for inner in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            yield from (f"    {line}" for line in listing(inner))
    for value in graph.output:
        yield f"output {value.name} {shape(value)}"


def shape(value: onnx.ValueInfoProto) -> str:
    known = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in value.type.tensor_type.shape.dim]
    return str(known)


def contents(tensor: onnx.TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    return f"{array.dtype}{list(array.shape)}" + (f" {array.tolist()}" if array.size <= LONGEST else "")


def attribute(given: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(given)
    return "graph" if isinstance(value, onnx.GraphProto) else str(value)
