"""Writing graphs: with the weights they share into a folder, or all into a single file."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from krypton_onnx.artifact import (
    CAPPED_FILES,
    EXACT_FILES,
    INT8_FILES,
    PICK_FILE,
    WEIGHTS_FILE,
    Weight,
    Weights,
)
from krypton_onnx.errors import KryptonError
from krypton_onnx.passes.build_pick import build_pick
from krypton_onnx.passes.build_single import Single
from krypton_onnx.passes.network import (
    Array,
    Notes,
    detached_weights,
    graphs_of,
    is_external,
    memory_of,
    to_model,
)
from krypton_onnx.passes.pipeline import Compiled

_ALIGNMENT = 4096
"""Weights start on page boundaries, so that a runtime can map them instead of reading them."""

MOST_WEIGHT_BYTES = 2**31 - 2**26
"""Of a single file: protobuf refuses messages of 2 GB, and the graph itself wants some room."""


def write_graphs(compiled: Compiled, folder: Path) -> Weights:
    """Write the graphs of all variants, and weights.bin, and check the graphs in full.

    Args:
        compiled: what `compile_graphs` returned.
        folder: an existing folder.

    Returns:
        The weights of each graph, by the graph's file.
    """
    graphs = _by_file(compiled)
    if compiled.plan.device != "cpu":
        graphs[PICK_FILE] = build_pick(compiled.exact.incremental.opset)
    places: dict[tuple[int, int], tuple[int, int]] = {}
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for graph in graphs.values():
            for _, array in detached_weights(graph):
                if memory_of(array) not in places:
                    file.seek(-file.tell() % _ALIGNMENT, 1)
                    places[memory_of(array)] = (file.tell(), array.nbytes)
                    array.tofile(file)
    weights: Weights = {}
    for name, graph in graphs.items():
        weights[name] = tuple(
            Weight(key, places[memory_of(array)][0], array.dtype.name, array.shape)
            for key, array in detached_weights(graph)
        )
        by_name = {key: places[memory_of(array)] for key, array in detached_weights(graph)}
        model = to_model(graph)
        model.doc_string = compiled.notes.description
        onnx.helper.set_model_props(model, dict(compiled.notes.properties))
        for tensor in (t for part in graphs_of(model.graph) for t in part.initializer if is_external(t)):
            offset, length = by_name[tensor.name]
            tensor.external_data.add(key="offset", value=str(offset))
            tensor.external_data.add(key="length", value=str(length))
        onnx.save_model(model, folder / name)
        _check(name, folder / name)
    return weights


def write_single(single: Single, notes: Notes, properties: Mapping[str, str], path: Path, *, defaults: bool) -> None:
    """Write a single file, and check its graph in full.

    Args:
        single: what `build_single` returned.
        defaults: whether inputs that have a default get it.
        notes: what the model says of itself, carried along.
        properties: metadata_props to add.
        path: the file to write.

    Raises:
        KryptonError: the weights are too many for one file.
    """
    size = sum(array.nbytes for array in single.constants.values())
    if size > MOST_WEIGHT_BYTES:
        raise KryptonError(
            f"The model's weights take {size / 1e9:.2f} GB, and a single ONNX file holds no more than 2 GB: compile it "
            "into a folder, without --single-file."
        )
    model = to_model(single.graph)
    _check(path.name, _with_inputs(model, single.constants))
    for name, array in {**(single.defaults if defaults else {}), **single.constants}.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.initializer.append(
            onnx.TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=array.tobytes())
        )
    model.doc_string = notes.description
    onnx.helper.set_model_props(model, {**dict(notes.properties), **properties})
    onnx.save_model(model, path)


def _with_inputs(model: onnx.ModelProto, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """The same, with inputs in place of the constants: what a check needs, without numbers."""
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    for name, array in constants.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        shell.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    return shell


def _by_file(compiled: Compiled) -> dict[str, gs.Graph]:
    found: dict[str, gs.Graph] = {}
    variants = ((EXACT_FILES, compiled.exact), (CAPPED_FILES, compiled.capped), (INT8_FILES, compiled.int8))
    for files, graphs in variants:
        if graphs is not None:
            found |= {files.base: graphs.base, files.incremental: graphs.incremental}
            found |= {} if graphs.index is None else {files.index: graphs.index}
            found |= {} if graphs.tail is None else {files.tail: graphs.tail}
            found |= {} if graphs.ranges is None or files.ranges is None else {files.ranges: graphs.ranges}
    return found


def _check(name: str, model: onnx.ModelProto | Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise KryptonError(f"The compiled {name} is no valid ONNX: {reason}. Please report this.") from error
