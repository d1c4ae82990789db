"""Rearrangements stated plainly: the operators that result, and the same outputs in ONNX Runtime before and after."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from twin import normal

from krypton_onnx.passes import network
from krypton_onnx.passes.pipeline import normalized


def n(op: str, inputs: str, outputs: str = "y", /, **attrs: Any) -> onnx.NodeProto:
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, ["" if name == "-" else name for name in outputs.split()], **attrs)


CONV = n("Conv", "x w b", "c", pads=[1, 1, 1, 1])  # [1, 8, 6, 4]


def s(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def sandwich(split: tuple[int, ...], order: list[int], after: tuple[int, ...]) -> tuple[list[onnx.NodeProto], Any]:
    nodes = [n("Reshape", "c s1", "r"), n("Transpose", "r", "t", perm=order), n("Reshape", "t s2")]
    return nodes, {"s1": s(*split), "s2": s(*after)}


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "branch", [], [result])


# nodes behind c, their constants, the operators that are left of all behind c
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], list[str]]] = {
    "an If whose condition is known from shapes": (
        [
            n("Shape", "c", "shape"),
            n("Gather", "shape i", "extent"),
            n("Equal", "extent i", "same"),
            n("If", "same", then_branch=branch(n("Relu", "c", "t")), else_branch=branch(n("Neg", "c", "t"))),
        ],
        {"i": np.array(1)},
        ["Identity", "Neg"],
    ),
    "Split by sizes": (
        [n("Split", "c p", "f h g", axis=1), n("Concat", "g f", axis=1)],
        {"p": s(3, 1, 4)},
        ["Slice", "Slice", "Concat"],
    ),
    "Split in halves": ([n("Split", "c", "f y", axis=-3), n("Relu", "f", "z")], {}, ["Slice", "Slice", "Relu"]),
    "Split of the batch": ([n("Split", "c", axis=0)], {}, ["Split"]),
    "Slice of channels and rows": (
        [n("Slice", "c f t a")],
        {"f": s(1, 2), "t": s(6, 5), "a": s(-2, 1)},
        ["Slice", "Slice"],
    ),
    "Slice of everything but columns": ([n("Slice", "c f t")], {"f": s(0, 0, 0, 1), "t": s(1, 8, 99, 3)}, ["Slice"]),
    "Slice backwards": (
        [n("Slice", "c f t a g")],
        {"f": s(7, -1), "t": s(0, -9), "a": s(1, 3), "g": s(-2, -1)},
        ["Slice", "Slice"],
    ),
    "Transposes that cancel": (
        [n("Transpose", "c", "t", perm=[0, 2, 3, 1]), n("Transpose", "t", "u", perm=[0, 3, 1, 2]), n("Relu", "u")],
        {},
        ["Relu"],
    ),
    "Transposes that merge": (
        [n("Transpose", "c", "t", perm=[0, 2, 3, 1]), n("Transpose", "t", perm=[0, 2, 1, 3])],
        {},
        ["Transpose"],
    ),
    "three Transposes": (
        [
            n("Transpose", "c", "t", perm=[0, 2, 3, 1]),
            n("Transpose", "t", "u", perm=[0, 3, 1, 2]),
            n("Transpose", "u", perm=[1, 0, 3, 2]),
        ],
        {},
        ["Transpose"],
    ),
    "Transposes by default": ([n("Transpose", "c", "t"), n("Transpose", "t", "u"), n("Relu", "u")], {}, ["Relu"]),
    "a Transpose that others read": (
        [
            n("Transpose", "c", "t", perm=[0, 2, 3, 1]),
            n("Transpose", "t", "u", perm=[0, 3, 1, 2]),
            n("Relu", "u", "y"),
            n("Tanh", "t", "z"),
        ],
        {},
        ["Transpose", "Relu", "Tanh"],
    ),
    "channel shuffle": (*sandwich((1, 2, 4, 6, 4), [0, 2, 1, 3, 4], (1, 8, 6, 4)), ["Gather"]),
    "channel shuffle of rows": (*sandwich((1, 4, 2, 24), [0, 2, 1, 3], (1, 8, 6, 4)), ["Gather"]),
    "no channel shuffle": (
        *sandwich((1, 4, 4, 3, 4), [0, 2, 1, 3, 4], (1, 8, 6, 4)),
        ["Reshape", "Transpose", "Reshape"],
    ),
    "channel shuffle that others read": (
        [
            n("Reshape", "c s1", "r"),
            n("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
            n("Reshape", "t s2"),
            n("Relu", "t", "z"),
        ],
        {"s1": s(1, 2, 4, 6, 4), "s2": s(1, 8, 6, 4)},
        ["Reshape", "Transpose", "Reshape", "Relu"],
    ),
    "pixel shuffle": (*sandwich((1, 2, 2, 2, 6, 4), [0, 1, 4, 2, 5, 3], (1, 2, 12, 8)), ["DepthToSpace"]),
    "pixel shuffle by blocks": (*sandwich((1, 2, 2, 2, 6, 4), [0, 3, 4, 1, 5, 2], (1, 2, 12, 8)), ["DepthToSpace"]),
    "no pixel shuffle": (
        *sandwich((1, 2, 2, 2, 6, 4), [0, 1, 4, 3, 5, 2], (1, 2, 12, 8)),
        ["Reshape", "Transpose", "Reshape"],
    ),
    "space to depth": (*sandwich((1, 8, 3, 2, 2, 2), [0, 3, 5, 1, 2, 4], (1, 32, 3, 2)), ["SpaceToDepth"]),
    "pixel unshuffle": (
        *sandwich((1, 8, 3, 2, 2, 2), [0, 1, 3, 5, 2, 4], (1, 32, 3, 2)),
        ["SpaceToDepth", "Gather"],
    ),
    "unequal blocks": (
        *sandwich((1, 8, 2, 3, 2, 2), [0, 1, 3, 5, 2, 4], (1, 48, 2, 2)),
        ["Reshape", "Transpose", "Reshape"],
    ),
    "a product of merged axes": (
        [n("Reshape", "c s1", "r"), n("Gemm", "r m k", "g", transB=1), n("Reshape", "g s2")],
        {"s1": s(24, 8), "s2": s(6, 1, 4, 5), "m": normal(5, 8), "k": normal(5)},
        ["Reshape", "MatMul", "Add"],
    ),
    "a product of merged axes without an addend": (
        [n("Reshape", "c s1", "r"), n("Gemm", "r m", "g"), n("Reshape", "g s2")],
        {"s1": s(24, 8), "s2": s(6, 4, 5), "m": normal(8, 5)},
        ["Reshape", "MatMul"],
    ),
    "a product with an addend a row": (
        [n("Reshape", "c s1", "r"), n("Gemm", "r m k", "g"), n("Reshape", "g s2")],
        {"s1": s(24, 8), "s2": s(6, 4, 5), "m": normal(8, 5), "k": normal(24, 1)},
        ["Reshape", "Gemm", "Reshape"],
    ),
    "a product whose last axis is parted": (
        [n("Reshape", "c s1", "r"), n("Gemm", "r m", "g"), n("Reshape", "g s2")],
        {"s1": s(24, 8), "s2": s(24, 2, 3), "m": normal(8, 6)},
        ["Reshape", "Gemm", "Reshape"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rearrangement(name: str, tmp_path: Path) -> None:
    nodes, weights, expected = CASES[name]
    constants = {"w": normal(8, 3, 3, 3), "b": normal(8), **weights}
    made = {t for node in nodes for t in node.output}
    graph = helper.make_graph(
        [CONV, *nodes],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 4])],
        [helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in ("y", "z") if t in made],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    net, _ = normalized(tmp_path / "net.onnx")
    after = network.to_model(net.graph)
    assert sorted(node.op for node in net.graph.nodes[1:]) == sorted(expected)
    image = np.random.default_rng(0).standard_normal((1, 3, 6, 4)).astype(np.float32)
    names = [o.name for o in graph.output]
    outputs = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(names, {"x": image})
        for m in (model, after)
    ]
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 if "product" in name else 0)
