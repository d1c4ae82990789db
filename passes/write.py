"""Writing the graphs and the weights they share into a folder."""

from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from krypton_onnx.artifact import CAPPED_FILES, EXACT_FILES, INT8_FILES, PICK_FILE
from krypton_onnx.errors import KryptonError
from krypton_onnx.passes.build_pick import build_pick
from krypton_onnx.passes.network import WEIGHTS_FILE, Array, detached_weights, graphs_of, is_external, to_model
from krypton_onnx.passes.pipeline import Compiled

_ALIGNMENT = 4096
"""Weights start on page boundaries, so that a runtime can map them instead of reading them."""


def write_graphs(compiled: Compiled, folder: Path) -> tuple[str, ...]:
    """Write the graphs of all variants, and weights.bin, and check the graphs in full.

    Args:
        compiled: what `compile_graphs` returned.
        folder: an existing folder.

    Returns:
        The names of the files written.
    """
    graphs = _by_file(compiled)
    if compiled.plan.device != "cpu":
        graphs[PICK_FILE] = build_pick(compiled.exact.incremental.opset)
    places: dict[tuple[int, int], tuple[int, int]] = {}
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for graph in graphs.values():
            for _, array in detached_weights(graph):
                if _memory(array) not in places:
                    file.seek(-file.tell() % _ALIGNMENT, 1)
                    places[_memory(array)] = (file.tell(), array.nbytes)
                    array.tofile(file)
    for name, graph in graphs.items():
        by_name = {key: places[_memory(array)] for key, array in detached_weights(graph)}
        model = to_model(graph)
        model.doc_string = compiled.notes.description
        onnx.helper.set_model_props(model, dict(compiled.notes.properties))
        for tensor in (t for part in graphs_of(model.graph) for t in part.initializer if is_external(t)):
            offset, length = by_name[tensor.name]
            tensor.external_data.add(key="offset", value=str(offset))
            tensor.external_data.add(key="length", value=str(length))
        onnx.save_model(model, folder / name)
        _check(folder / name)
    return (*graphs, WEIGHTS_FILE)


def _by_file(compiled: Compiled) -> dict[str, gs.Graph]:
    found: dict[str, gs.Graph] = {}
    variants = ((EXACT_FILES, compiled.exact), (CAPPED_FILES, compiled.capped), (INT8_FILES, compiled.int8))
    for files, graphs in variants:
        if graphs is not None:
            found |= {files.base: graphs.base, files.incremental: graphs.incremental}
            found |= {} if graphs.tail is None else {files.tail: graphs.tail}
            found |= {} if graphs.ranges is None or files.ranges is None else {files.ranges: graphs.ranges}
    return found


def _memory(array: Array) -> tuple[int, int]:
    """Where its numbers lie and how many bytes they take: the same for one weight in two shapes."""
    return array.__array_interface__["data"][0], array.nbytes


def _check(file: Path) -> None:
    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise KryptonError(f"The compiled {file.name} is no valid ONNX: {reason}. Please report this.") from error
