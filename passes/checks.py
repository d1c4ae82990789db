"""What is refused before any work: files that no compiler can make sense of, or that are made to keep it busy."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx

from krypton_onnx.errors import KryptonError
from krypton_onnx.passes import network
from krypton_onnx.passes.contrib import STANDARD
from krypton_onnx.passes.legacy import OLDEST_OPSET, opset_of

MAX_NODES = 50_000
"""Nodes of a model, those of its functions counted at every call. Compiling takes about a millisecond for each."""

MAX_CALLS = 100
"""How deep functions may call one another."""

_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def check_source(model: onnx.ModelProto, path: Path) -> None:
    """Check what later steps take for granted.

    Args:
        model: as it was parsed.
        path: of its file, for messages.

    Raises:
        KryptonError: the model is empty, ambiguous, too old, too new or too large.
    """
    if not model.graph.node or not model.opset_import:
        raise KryptonError(f"{path} is not an ONNX model: it holds no graph.")
    _check_opset(model, path)
    _check_size(model, path)
    if not model.graph.output:
        raise KryptonError(f"{path} has no output: name what it computes among the outputs of its graph.")
    graph = model.graph
    for what, names in {
        "input": [t.name for t in graph.input],
        "output": [t.name for t in graph.output],
        "weight": [t.name for t in graph.initializer],
    }.items():
        _check_names(what, names, path)
    for tensor in (*graph.input, *graph.output):
        kind = tensor.type.tensor_type
        if tensor.type.HasField("tensor_type") and kind.elem_type and kind.elem_type not in _TYPES:
            raise KryptonError(f"The tensor '{tensor.name}' of {path} is of the unknown type {kind.elem_type}.")
    for part in network.graphs_of(graph):
        _check_weights(part, path)
        _check_attributes(part, path)


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    if sum(o.domain in STANDARD for o in model.opset_import) > 1:
        raise KryptonError(f"{path} names the opset of the standard domain more than once: keep one.")
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise KryptonError(
            f"{path} uses ONNX opset {opset}; opset {OLDEST_OPSET} or later is needed: export the model anew."
        )
    if opset > newest:
        raise KryptonError(
            f"{path} uses ONNX opset {opset}, and onnx {onnx.__version__} knows opsets up to {newest}: upgrade onnx, "
            "or export the model with an older opset."
        )


def _check_names(what: str, names: Iterable[str], path: Path) -> None:
    for name, times in Counter(names).items():
        if not name:
            raise KryptonError(f"{path} has a nameless {what}: name it.")
        if times > 1:
            raise KryptonError(f"{path} has {times} {what}s called '{name}': give each a name of its own.")


def _check_weights(graph: onnx.GraphProto, path: Path) -> None:
    for tensor in graph.initializer:
        if tensor.data_type not in _TYPES or any(extent < 0 for extent in tensor.dims):
            raise KryptonError(
                f"The weight '{tensor.name}' of {path} cannot be read: it declares type {tensor.data_type} and shape "
                f"{list(tensor.dims)[:8]}."
            )


def _check_attributes(graph: onnx.GraphProto, path: Path) -> None:
    for node in graph.node:
        names = [a.name for a in node.attribute]
        if len(set(names)) < len(names):
            label = node.name or "".join(node.output[:1])
            raise KryptonError(f"The {node.op_type} node '{label}' of {path} has an attribute twice: keep one.")


def _check_size(model: onnx.ModelProto, path: Path) -> None:
    """Count nodes as they are once functions have been expanded, without expanding them."""
    functions = {(f.domain, f.name): f for f in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > MAX_CALLS:
            raise KryptonError(
                f"The functions of {path} call themselves, or one another more than {MAX_CALLS} deep: inline them."
            )
        return sum(1 + called(node, depth) + sum(size(g.node, depth + 1) for g in _bodies(node)) for node in nodes)

    def called(node: onnx.NodeProto, depth: int) -> int:
        key = (node.domain, node.op_type)
        if key in functions and key not in counted:
            counted[key] = size(functions[key].node, depth + 1)
        return counted.get(key, 0)

    count = size(model.graph.node, 0)
    if count > MAX_NODES:
        raise KryptonError(
            f"{path} has {min(count, 10**9)} nodes or more, functions expanded; models of up to {MAX_NODES} nodes can "
            "be compiled."
        )


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
