"""`export_triton`: a model that emits heatmaps, as Triton Inference Server's model repositories hold models."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from krypton_onnx.artifact import Kind, refuse_foreign, staged_folder
from krypton_onnx.compiler import check_path
from krypton_onnx.errors import KryptonError
from krypton_onnx.single_file import Port, SingleFile, SingleFileOptions, compile_single_file

CONFIG, VERSION, MODEL, LABELS = "config.pbtxt", "1", "model.onnx", "labels.txt"
ABOUT = "krypton_onnx.triton.json"
TRITON = Kind(ABOUT, "model that export-triton wrote")

_TYPES = {
    "bool": "TYPE_BOOL",
    **{f"uint{bits}": f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    "bfloat16": "TYPE_BF16",
}
"""Triton's names of numpy's element types."""


def export_triton(
    model: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    instances: int = 1,
    **options: Unpack[SingleFileOptions],
) -> SingleFile:
    """Write a model into a Triton model repository: its configuration, and a single file as version 1.

    Args:
        model: an ONNX file of opset 7 or later.
        repository: the folder that Triton is started with; made if it is not there.
        name: of the model in it; by default the file's, with `_heatmap` behind it. An older one that was written by
            this function is replaced.
        instances: how many requests Triton answers side by side.
        options: see `compile_single_file`; `device` also says where Triton shall run it.

    Raises:
        KryptonError: the model cannot be compiled, or something else has its place.
    """
    check_path(model, "model")
    check_path(repository, "repository")
    source = Path(model)
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', source.stem)}_heatmap" if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise KryptonError(f"'{name}' is no name of a Triton model: use letters, digits, '_', '-' and '.'.")
    if instances < 1:
        raise KryptonError(f"instances must be a whole number from 1 on, not {instances}.")
    target = Path(repository) / name
    refuse_foreign(target, TRITON)  # before the work; again at its end
    with staged_folder(target, TRITON) as staged:
        (staged / VERSION).mkdir()
        made = compile_single_file(
            source,
            staged / VERSION / MODEL,
            **options,
            defaults=False,  # Triton's backend knows no inputs that have one
        )
        if made.plan.labels is not None:
            (staged / LABELS).write_text("".join(f"{label}\n" for label in made.plan.labels), encoding="utf-8")
        (staged / CONFIG).write_text(configuration(made, name, instances), encoding="utf-8")
        (staged / ABOUT).write_text(json.dumps({"source": made.plan.source.file, "version": made.plan.compiler}))
    return replace(made, path=target / VERSION / MODEL)


def configuration(made: SingleFile, name: str, instances: int) -> str:
    """The text of config.pbtxt.

    No dynamic batching: it would join requests along an axis that target, fill and part do not have, and a heatmap is
    thousands of queries already. Whoever has several pictures sends them in one request.
    """
    on_gpu = made.plan.device == "cuda"
    blocks = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f'default_model_filename: "{MODEL}"',
        "max_batch_size: 0",
        *(_tensor("input", port) for port in made.inputs),
        *(_tensor("output", port, made.plan.labels is not None and port.name == made.scored) for port in made.outputs),
        _block("instance_group", [f"count: {instances}", f"kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'}"]),
    ]
    return "".join(f"{block}\n" for block in blocks)


def _tensor(kind: str, port: Port, has_labels: bool = False) -> str:
    dims = ", ".join("-1" if isinstance(extent, str) else str(extent) for extent in port.shape)
    fields = [f"name: {json.dumps(port.name)}", f"data_type: {_TYPES[port.dtype]}", f"dims: [ {dims} ]"]
    return _block(kind, [*fields, *([f'label_filename: "{LABELS}"'] if has_labels else [])])


def _block(kind: str, fields: Sequence[str]) -> str:
    lines = "\n".join(f"  {field}" for field in fields)
    return f"{kind} {{\n{lines}\n}}"
