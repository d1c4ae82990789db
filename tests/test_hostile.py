"""Hostile models: each is refused in one sentence, or compiled, in bounded time and memory."""

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import limited
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node
info = helper.make_tensor_value_info

SECONDS = 10
BYTES = 2 << 30


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.full(shape, 0.1, np.float32), name)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


CONV = node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])
W = weight("w", 3, 3, 3, 3)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[TensorProto] = (W,),
    *,
    image: Sequence[Any] = (1, 3, 16, 16),
    output: str = "y",
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "hostile", [info("x", FLOAT, list(image))], [info(output, FLOAT, None)], list(weights)
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def compiled(folder: Path, proto: onnx.ModelProto | bytes, *options: str) -> subprocess.CompletedProcess[str]:
    content = proto if isinstance(proto, bytes) else proto.SerializeToString()
    (folder / "net.onnx").write_bytes(content)
    arguments = ("compile", "net.onnx", "--patch", "4", "--no-verify", *options)
    return limited.run(folder, *arguments, seconds=SECONDS, size=BYTES)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert done.stderr.count("\n") == 1, done.stderr[-2000:]
    assert done.stderr.startswith("krypton-onnx: ")
    assert len(done.stderr) < 1000
    for word in words:
        assert word in done.stderr, done.stderr


# ------------------------------------------------------------------------------- constants that would be huge


def plus_constant(*making: onnx.NodeProto) -> list[onnx.NodeProto]:
    """y = conv(x) + the mean of what `making` calls "big"."""
    return [
        CONV,
        *making,
        node("ReduceMean", ["big"], ["mean"], keepdims=0),
        node("Add", ["c", "mean"], ["y"]),
    ]


HUGE = 40_000
ONE = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
BIG_SHAPE = ints("shape", HUGE, HUGE)


def doublings(count: int) -> list[onnx.NodeProto]:
    """A constant that is concatenated with itself again and again."""
    nodes = [node("Identity", ["one"], ["d0"])]
    nodes += [node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(count)]
    return [*nodes, node("Identity", [f"d{count}"], ["big"])]


CONSTANTS: dict[str, tuple[list[onnx.NodeProto], list[TensorProto]]] = {
    "ConstantOfShape": (plus_constant(node("ConstantOfShape", ["shape"], ["big"])), [BIG_SHAPE]),
    "Expand": (plus_constant(node("Expand", ["one", "shape"], ["big"])), [ONE, BIG_SHAPE]),
    "Tile": (plus_constant(node("Tile", ["one", "shape"], ["big"])), [ONE, BIG_SHAPE]),
    "Range": (
        plus_constant(node("Range", ["begin", "end", "step"], ["r"]), node("Cast", ["r"], ["big"], to=FLOAT)),
        [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("begin", 0), ("end", 10**11), ("step", 1))],
    ),
    "Resize": (
        plus_constant(node("Resize", ["pixel", "", "scales"], ["big"])),
        [weight("pixel", 1, 1, 1, 1), numpy_helper.from_array(np.array([1, 1, HUGE, HUGE], np.float32), "scales")],
    ),
    "doublings": (plus_constant(*doublings(40)), [ONE]),
    "MatMul": (
        plus_constant(node("MatMul", ["column", "row"], ["big"])),
        [weight("column", HUGE, 1), weight("row", 1, HUGE)],
    ),
    "Pad": (
        plus_constant(node("Pad", ["one", "amounts"], ["big"])),
        [ONE, ints("amounts", HUGE, HUGE, 0, 0)],
    ),
    "OneHot": (
        plus_constant(node("OneHot", ["places", "depth", "values"], ["big"])),
        [ints("places", *range(200)), ints("depth", 10**9), weight("values", 2)],
    ),
    "EyeLike": (
        plus_constant(node("ConstantOfShape", ["shape"], ["like"]), node("EyeLike", ["like"], ["big"])),
        [BIG_SHAPE],
    ),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_huge_constants_are_not_folded(case: str, tmp_path: Path) -> None:
    nodes, weights = CONSTANTS[case]
    done = compiled(tmp_path, model(nodes, [W, *weights]))
    if case == "Resize":
        assert_refused(done, "'big'", f"maps of {HUGE}x{HUGE} cells")
    else:
        assert done.returncode == 0, done.stderr[-2000:]


# ------------------------------------------------------------------------------------ weights that are not there


def test_weight_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    lie = weight("w", 3, 3, 3, 3)
    lie.dims[0] = 10**12
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [lie])), "'w'", "cannot be read")


@pytest.mark.parametrize("dims", [[10**6, 10**6], [10**10, 10**10, 10**10], [2**62, 4]])
def test_weight_without_data(tmp_path: Path, dims: list[int]) -> None:
    lie = TensorProto(name="w", data_type=FLOAT, dims=dims)
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [lie])), "'w'", "cannot be read")


def test_weight_of_negative_extent(tmp_path: Path) -> None:
    lie = weight("w", 3, 3, 3, 3)
    lie.dims[0] = -3
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [lie])), "'w'", "cannot be read")


def external(location: str, *, dims: Sequence[int] = (3, 3, 3, 3), **entries: int) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [fifo, zeros, to_itself, Path.mkdir])
def test_external_data_that_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "w.bin")
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [external("w.bin")])), "'w'")


@pytest.mark.parametrize("location", ["/dev/zero", "../net.onnx", "", "w.bin\0", "a/../../b", "w" * 5000])
def test_external_data_elsewhere(tmp_path: Path, location: str) -> None:
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [external(location)])), "'w'")


def test_external_file_that_is_far_larger_than_declared(tmp_path: Path) -> None:
    sparse(tmp_path / "w.bin")
    done = compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [external("w.bin")]))
    assert done.returncode == 0 or not assert_refused(done), done.stderr[-2000:]


@pytest.mark.parametrize("entries", [{"offset": -4}, {"length": -1}, {"offset": 1 << 62}, {"length": 1 << 62}])
def test_external_data_at_impossible_places(tmp_path: Path, entries: dict[str, int]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(3 * 3 * 3 * 3 * 4))
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [external("w.bin", **entries)])), "'w'")


def test_external_data_of_impossible_size(tmp_path: Path) -> None:
    sparse(tmp_path / "w.bin")
    lie = external("w.bin", dims=[10**6, 3, 100, 100])
    assert_refused(compiled(tmp_path, model([node("Conv", ["x", "w"], ["y"])], [lie])))


# ------------------------------------------------------------------------------------------------- huge images


CLASSIFIER = [
    CONV,
    node("Relu", ["c"], ["r"]),
    node("Conv", ["r", "w"], ["d"], strides=[2, 2]),
    node("GlobalAveragePool", ["d"], ["y"]),
]


@pytest.mark.parametrize("size", ["1000000x1000000", "1000000x32", "32x9000000000000000000", "2147483648x1"])
def test_huge_images(tmp_path: Path, size: str) -> None:
    open_size = model(CLASSIFIER, image=[1, 3, "h", "w"])
    assert_refused(compiled(tmp_path, open_size, "--input-size", size), "net.onnx", size)


def test_huge_images_in_the_model(tmp_path: Path) -> None:
    assert_refused(compiled(tmp_path, model(CLASSIFIER, image=[1, 3, 10**6, 10**6])), "net.onnx", "1000000x1000000")


# ------------------------------------------------------------------------------------------------- deep and wide


def nested(depth: int) -> onnx.NodeProto:
    inner = node("Relu", ["c"], ["y"])
    for level in range(depth):
        branches = {}
        for name in ("then_branch", "else_branch")[: 1 if level else 2]:
            branches[name] = helper.make_graph([inner], f"{name}{level}", [], [info(inner.output[0], FLOAT, None)])
        branches.setdefault(
            "else_branch",
            helper.make_graph([node("Identity", ["c"], [f"e{level}"])], "e", [], [info(f"e{level}", FLOAT, None)]),
        )
        inner = node("If", ["yes"], ["y" if level == depth - 1 else f"y{level}"], **branches)
    return inner


@pytest.mark.parametrize("depth", [5, 24])
def test_nested_subgraphs(tmp_path: Path, depth: int) -> None:
    yes = numpy_helper.from_array(np.array(True), "yes")
    done = compiled(tmp_path, model([CONV, nested(depth)], [W, yes]))
    assert done.returncode == 0 or not assert_refused(done), done.stderr[-2000:]


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], list(nodes), opsets)


def call(name: str, before: str = "a", after: str = "b") -> onnx.NodeProto:
    return node(name, [before], [after], domain="local")


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    proto = model([CONV, call("f", "c", "y")], functions=[function("f", call("f"))], domains=["local"])
    assert_refused(compiled(tmp_path, proto), "net.onnx")


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    functions = [function("f", call("g")), function("g", call("f"))]
    assert_refused(compiled(tmp_path, model([CONV, call("f", "c", "y")], functions=functions, domains=["local"])))


def test_functions_that_multiply(tmp_path: Path) -> None:
    """Each calls the next ten times: a billion nodes."""
    functions = [function("f0", node("Relu", ["a"], ["b"]))]
    for level in range(1, 10):
        names = ["a", *(f"t{i}" for i in range(9)), "b"]
        calls = [call(f"f{level - 1}", *pair) for pair in pairwise(names)]
        functions.append(function(f"f{level}", *calls))
    proto = model([CONV, call("f9", "c", "y")], functions=functions, domains=["local"])
    assert_refused(compiled(tmp_path, proto), "net.onnx", "functions expanded")


def test_many_nodes(tmp_path: Path) -> None:
    count = 100_000
    chain = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    done = compiled(tmp_path, model([node("Conv", ["x", "w"], ["t0"]), *chain], output=f"t{count}"))
    assert_refused(done, "net.onnx", "nodes")


def test_many_inputs_of_one_node(tmp_path: Path) -> None:
    done = compiled(tmp_path, model([CONV, node("Concat", ["c"] * 10_000, ["y"], axis=1)]))
    assert done.returncode == 0, done.stderr[-2000:]


def test_nodes_in_the_wrong_order(tmp_path: Path) -> None:
    chain = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    done = compiled(tmp_path, model([*reversed(chain), node("Conv", ["x", "w"], ["t0"])], output="t3000"))
    assert done.returncode == 0 or not assert_refused(done), done.stderr[-2000:]


def test_cycle(tmp_path: Path) -> None:
    nodes = [node("Conv", ["b", "w"], ["a"], name="conv"), node("Relu", ["a"], ["b"]), node("Add", ["a", "x"], ["y"])]
    assert_refused(compiled(tmp_path, model(nodes)), "net.onnx", "Cycle")


# ------------------------------------------------------------------------------------------------------- oddities


def edited(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = model([CONV, node("Relu", ["c"], ["y"])])
    change(proto)
    return proto


def opsets(*versions: tuple[str, int]) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        del proto.opset_import[:]
        proto.opset_import.extend(helper.make_opsetid(*version) for version in versions)

    return change


def second_output(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: proto.graph.output.append(info(name, FLOAT, None))


def image_dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: proto.graph.input[0].CopyFrom(info("x", FLOAT, list(dims)))


def image_type(kind: int) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: proto.graph.input[0].CopyFrom(info("x", kind, [1, 3, 16, 16]))


ODD: dict[str, Callable[[onnx.ModelProto], object]] = {
    "no opset": opsets(),
    "no standard opset": opsets(("elsewhere", 3)),
    "two opsets": opsets(("", 17), ("", 13)),
    "two names of the standard domain": opsets(("", 17), ("ai.onnx", 13)),
    "opset of the far future": opsets(("", 10**9)),
    "next opset": opsets(("", 1000)),
    "negative opset": opsets(("", -1)),
    "opset of zero": opsets(("", 0)),
    "output that nobody makes": second_output("nothing"),
    "output twice": second_output("y"),
    "output without a name": second_output(""),
    "no output": lambda proto: proto.graph.ClearField("output"),
    "input twice": lambda proto: proto.graph.input.append(info("x", FLOAT, [1, 3, 16, 16])),
    "tensor made twice": lambda proto: proto.graph.node.append(node("Sigmoid", ["x"], ["c"])),
    "weight twice": lambda proto: proto.graph.initializer.append(weight("w", 4, 3, 1, 1)),
    "node without outputs": lambda proto: proto.graph.node.append(node("Relu", ["c"], [])),
    "node without an operator": lambda proto: proto.graph.node.append(node("", ["c"], ["q"])),
    "node with an empty output": lambda proto: proto.graph.node.append(node("Relu", ["c"], [""])),
    "unknown operator": lambda proto: proto.graph.node.append(node("Florb", ["c"], ["q"])),
    "kernel without extent": lambda proto: proto.graph.initializer[0].CopyFrom(weight("w", 3, 3, 0, 0)),
    "no channels": lambda proto: proto.graph.initializer[0].CopyFrom(weight("w", 0, 3, 3, 3)),
    "image without rows": image_dims(1, 3, 0, 16),
    "image of negative extent": image_dims(1, 3, -5, 16),
    "no images": image_dims(0, 3, 16, 16),
    "image of texts": image_type(TensorProto.STRING),
    "image of complex numbers": image_type(TensorProto.COMPLEX64),
    "image of an unknown type": image_type(99),
    "image of no type": image_type(0),
    "image that is a sequence": lambda proto: proto.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("x", FLOAT, [1, 3, 16, 16])
    ),
    "weight of an unknown type": lambda proto: setattr(proto.graph.initializer[0], "data_type", 99),
    "weight of no type": lambda proto: setattr(proto.graph.initializer[0], "data_type", 0),
    "stride of zero": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("strides", [0, 0])),
    "negative stride": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("strides", [-1, 1])),
    "one stride": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("strides", [1])),
    "strides that are text": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("strides", "ab")),
    "huge stride": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("strides", [2**62, 2**62])),
    "huge padding": lambda proto: proto.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", [2**40] * 4)),
    "huge dilation": lambda proto: proto.graph.node[0].attribute.append(
        helper.make_attribute("dilations", [2**62] * 2)
    ),
    "three pads": lambda proto: proto.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", [1, 1, 1])),
    "group of zero": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("group", 0)),
    "unknown padding": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "SOME")),
    "attribute twice": lambda proto: proto.graph.node[0].attribute.append(helper.make_attribute("pads", [0, 0, 0, 0])),
    "Conv without inputs": lambda proto: proto.graph.node[0].ClearField("input"),
    "Conv without a weight": lambda proto: proto.graph.node[0].input.pop(),
    "Conv with an empty weight": lambda proto: proto.graph.node[0].input.__setitem__(1, ""),
    "Relu with an empty input": lambda proto: proto.graph.node[1].input.__setitem__(0, ""),
    "future IR": lambda proto: setattr(proto, "ir_version", 10**6),
    "no IR": lambda proto: proto.ClearField("ir_version"),
}

VALID = {"no IR", "node with an empty output", "node without outputs", "node without an operator", "unknown operator"}
"""What nothing reads is left out, whatever it is."""


@pytest.mark.parametrize("case", ODD)
def test_oddities_are_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(edited(ODD[case]).SerializeToString())
    if case in VALID:
        kx.compile(path, patch=4, verify=False)
        return
    with pytest.raises(kx.KryptonError, match=r"net\.onnx"):
        kx.compile(path, patch=4, verify=False)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("case", ODD)
def test_oddities_of_an_old_opset_break_nothing(case: str, tmp_path: Path) -> None:
    """onnx's converter, which sees these, raises whatever its assertions give."""
    proto = edited(ODD[case])
    for entry in proto.opset_import:
        entry.version = min(entry.version, 9)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    with suppress(kx.KryptonError):
        kx.compile(path, patch=4, verify=False)


def test_names_of_any_letters(tmp_path: Path) -> None:
    names = {"c": "line\nbreak", "y": "größe/日本語 \"'\\", "w": " ", "x": "a:b,c=d\t"}
    nodes = [
        node("Conv", [names["x"], names["w"]], [names["c"]], name="\n", pads=[1, 1, 1, 1]),
        node("Relu", [names["c"]], [names["y"]], name="\n"),
    ]
    proto = model(nodes, [weight(names["w"], 3, 3, 3, 3)], output=names["y"])
    proto.graph.input[0].name = names["x"]
    done = compiled(tmp_path, proto)
    assert done.returncode == 0, done.stderr[-2000:]
