"""Control flow whose bodies read maps from outside, functions of the model, and what loses the batch axis."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from nets.sketch import LOCAL, Map, Sketch


def conditional(s: Sketch, x: Map) -> Map:
    """An If whose branches reach for outer tensors, and of which the image decides which one runs."""
    scale = s.normal(x.channels, 1, 1)
    condition = s.op("Less", s.op("ReduceMean", x.name, keepdims=0), s.scalar(0))
    branches = {}
    for name, kind in (("then_branch", "Mul"), ("else_branch", "Add")):
        result = f"{name}{len(s.nodes)}"
        node = helper.make_node(kind, [x.name, scale], [result])
        info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([node], name, [], [info])
    return s.opaque("If", x, condition, **branches)


def constant_conditional(s: Sketch, x: Map) -> Map:
    """An If of which the branch is known: exporters leave them around Squeeze and the like."""
    branches = {}
    for name, kind in (("then_branch", "Tanh"), ("else_branch", "Neg")):
        result = f"{name}{len(s.nodes)}"
        info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([helper.make_node(kind, [x.name], [result])], name, [], [info])
    return s.opaque("If", x, s.weight(s.often(), np.bool_), **branches)


def loop(s: Sketch, x: Map) -> Map:
    """Two rounds of y ← tanh(y) + x, with x from outside."""
    tag = len(s.nodes)
    i, go, y, out, go_on = (f"{n}{tag}" for n in ("i", "go", "y", "next_y", "go_on"))
    body = helper.make_graph(
        [
            helper.make_node("Identity", [go], [go_on]),
            helper.make_node("Tanh", [y], [f"tanh_{tag}"]),
            helper.make_node("Add", [f"tanh_{tag}", x.name], [out]),
        ],
        "body",
        [
            helper.make_tensor_value_info(i, TensorProto.INT64, []),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            helper.make_tensor_value_info(y, TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
            helper.make_tensor_value_info(out, TensorProto.FLOAT, None),
        ],
    )
    rounds, go_first = s.weight(np.array(2), np.int64), s.weight(np.array(True), np.bool_)
    return s.opaque("Loop", x, rounds, go_first, x.name, body=body)


def scan(s: Sketch, x: Map) -> Map:
    """From row to row: the state is the mean so far, the map's own sum comes from outside."""
    s.since(9)
    s.require(s.lead == 1)  # behind it, nobody knows which extent is the batch
    total = s.op("Mul", s.op("ReduceMean", x.name, keepdims=0), s.scalar(0.5))
    tag = len(s.nodes)
    state, row, new, out = (f"{n}{tag}" for n in ("state", "row", "new_state", "new_row"))
    body = helper.make_graph(
        [
            helper.make_node("Add", [state, row], [f"sum{tag}"]),
            helper.make_node("Tanh", [f"sum{tag}"], [new]),
            helper.make_node("Add", [new, total], [out]),
        ],
        "rows",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (state, row)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (new, out)],
    )
    first = s.weight(np.zeros((s.lead, x.channels, x.cols)))
    final, name = (f"scan{tag}", f"scan{tag}.1")
    attrs: dict[str, Any] = {"num_scan_inputs": 1, "scan_input_axes": [2], "scan_output_axes": [2]}
    s.nodes.append(helper.make_node("Scan", [first, x.name], [final, name], name=f"n{tag}", body=body, **attrs))
    s.types[name] = s.types[x.name]
    return s.like(x, name)


def function(s: Sketch, x: Map) -> Map:
    """A function that the model brings along, with an attribute or without."""
    s.since(13)
    s.domains[LOCAL] = 1
    name = f"Bend{len(s.functions)}"
    nodes = [
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("MaxPool", ["t"], ["p"], kernel_shape=[3, 3], pads=[1] * 4),
    ]
    nodes.append(helper.make_node(s.pick("Add", "Mul", "Sub"), ["p", "a"], ["r"]))
    opsets = [helper.make_opsetid("", s.opset)]
    s.functions.append(helper.make_function(LOCAL, name, ["a"], ["r"], nodes, opsets))
    return s.opaque(name, x, x.name, domain=LOCAL)


def losing_reshape(s: Sketch, x: Map) -> Map:
    s.require(s.lead == 1)
    flat = s.op("Reshape", x.name, s.integers(x.channels, -1))
    return s.map(s.op("Reshape", s.op("Softplus", flat), s.integers(*x.shape)))


def losing_transpose(s: Sketch, x: Map) -> Map:
    turned = s.op("Transpose", x.name, perm=[1, 0, 2, 3])
    return s.map(s.op("Transpose", s.op("Tanh", turned), perm=[1, 0, 2, 3]))


def losing_squeeze(s: Sketch, x: Map) -> Map:
    """[C, H, W] for a while, as code for a single image writes it."""
    s.require(s.lead == 1)
    one = s.with_axes("Squeeze", 13, x.name, [0])
    gate = s.op("Softmax", one, axis=0) if s.opset >= 13 else s.op("Tanh", one)
    return s.map(s.with_axes("Unsqueeze", 13, s.op("Add", one, gate), [0]))


def losing_gather(s: Sketch, x: Map) -> Map:
    """The first image of the batch."""
    first = s.op("Gather", x.name, s.weight(np.array(0), np.int64), axis=0)
    return s.map(s.with_axes("Unsqueeze", 13, s.op("Relu", first), [0]))


LAYERS = (conditional, constant_conditional, loop, scan, function)
LOSING = (losing_reshape, losing_transpose, losing_squeeze, losing_gather)
