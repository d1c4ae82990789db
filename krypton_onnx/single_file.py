"""`compile_single_file`: one ONNX file, from pictures to heatmaps. Above compiler and driver, as `compiler` is.

docs/embedding.md lists its inputs and outputs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from krypton_onnx.classes import window_tables
from krypton_onnx.compiler import check_path, check_plan, refuse_if_wrong, request_for
from krypton_onnx.errors import KryptonError
from krypton_onnx.folders import private_folder, remove_stale
from krypton_onnx.heatmap import DEFINITION
from krypton_onnx.passes.build_single import INTERFACE, Schedule, build_single
from krypton_onnx.passes.pipeline import compile_undivided
from krypton_onnx.passes.write import write_single
from krypton_onnx.plan import Device, Plan
from krypton_onnx.preprocess import Preprocess
from krypton_onnx.runtime.batches import Integers, plan_batches
from krypton_onnx.runtime.memory import lanes
from krypton_onnx.runtime.questions import Edge, Pair, grid, pair
from krypton_onnx.single_verification import verify_single

PROPERTY = "krypton_onnx."
"""What the file's metadata_props begin with."""

_MOST_METADATA = 1 << 22
"""Bytes of a file's end that are looked through for them; class names are most of it."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a single file.

    Attributes:
        name: of the tensor.
        dtype: numpy's name for the element type.
        shape: "N" being the number of pictures.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A single file on disk.

    Attributes:
        path: of the file.
        plan: what the compiler decided.
        inputs, outputs: in order.
        scored: name of the model's output that is scored.
        origins: int64 [rows, cols, 2], the heatmap's grid.
        batches: runs of the incremental graph for a heatmap, into which `part` can divide it.
    """

    path: Path
    plan: Plan
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    scored: str
    origins: Integers
    batches: int


class SingleFileOptions(TypedDict, total=False):
    """What `compile_single_file` takes, and who puts such files somewhere passes on to it."""

    patch: Pair
    stride: Pair
    edge: Edge
    scored: str | None
    input_size: int | tuple[int, int] | None
    image_input: str | None
    channels_last: bool | None
    preprocess: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None
    labels: Sequence[str] | None
    device: Device
    verify: bool


def compile_single_file(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    patch: Pair = 16,
    stride: Pair = 4,
    edge: Edge = "cover",
    scored: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    image_input: str | None = None,
    channels_last: bool | None = None,
    preprocess: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    device: Device = "cpu",
    defaults: bool = True,
    verify: bool = True,
) -> SingleFile:
    """Compile an exported ONNX CNN into one ONNX file that emits heatmaps.

    Args:
        model: an ONNX file of opset 7 or later.
        output: the file to write; an older one is replaced.
        patch: (height, width) in pixels of the patch.
        stride: pixels between neighbouring positions, (y, x).
        edge: "cover" adds the last position that fits, so that every pixel is covered; "stop" does not.
        scored: name of the output to score; the first by default.
        input_size, image_input, channels_last: see `compile`.
        preprocess: how a picture becomes the input tensor, or the fields or the file of that. The file then takes
            pictures as they are after resize and crop, uint8 [N, H, W, 3] in RGB order, or [N, H, W, 1] if grey, and
            fills in pixels.
        labels: class names, stored in the file's metadata.
        device: to plan for, "cpu" or "cuda".
        defaults: whether callers may leave out `target`, `fill` and `part`. ONNX Runtime's JavaScript packages feed no
            input that has a default: for them, False.
        verify: compare random pictures with the source model, and write nothing if they disagree.

    Raises:
        KryptonError: the model cannot be read, compiled or run, or the file not be written.
    """
    check_path(output, "output")
    request = request_for(
        model,
        patch=patch,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
        preprocess=preprocess,
        labels=labels,
        device=device,
    )
    target, steps = Path(output), pair(stride, "stride")
    _refuse_place(target)
    compiled = compile_undivided(request)
    plan = compiled.plan
    check_plan(plan)
    name = _scored(plan, scored)
    origins, schedule = schedule_of(plan, steps, edge)
    single = build_single(compiled.exact.base, compiled.exact.incremental, plan, schedule, name)
    properties = _properties(plan, steps, edge, name)
    try:
        remove_stale(target)
        with private_folder(target) as aside:
            write_single(single, compiled.notes, properties, aside / target.name, defaults=defaults)
            if verify:
                checks = verify_single(request.path, aside / target.name, plan, origins, schedule, name)
                refuse_if_wrong(request.path, checks)
            os.replace(aside / target.name, target)
    except OSError as error:
        raise KryptonError(f"{target} cannot be written: {error.strerror or error}.") from error
    inputs, outputs = (
        tuple(Port(t.name, np.dtype(t.dtype).name, tuple(t.shape)) for t in tensors)
        for tensors in (single.graph.inputs, single.graph.outputs)
    )
    return SingleFile(target, plan, inputs, outputs, name, origins, len(schedule.ends) - 1)


def schedule_of(plan: Plan, stride: tuple[int, int], edge: Edge) -> tuple[Integers, Schedule]:
    """The grid of the plan's patch, int64 [rows, cols, 2], and its queries as they run.

    Raises:
        KryptonError: `edge` is unknown.
    """
    height, width = (extent or 0 for extent in plan.image.shape[1:])
    origins, patch = grid((height, width), plan.patch, stride, edge, None), plan.patch
    places = origins.reshape(-1, 2)
    tables = window_tables(plan.program, plan.windows, patch)
    batches = list(plan_batches(plan, tables, places, patch, lanes(plan, patch, tables, None, 1)))
    queries = np.concatenate([batch.queries for batch in batches])
    return origins, Schedule(
        extents=(origins.shape[0], origins.shape[1]),
        origins=places[queries],
        places=queries,
        ends=np.cumsum([0, *(len(batch.queries) for batch in batches)]),
        window_sizes=np.stack([batch.window_sizes for batch in batches]),
        bands=np.array([batch.bands for batch in batches], np.int64).reshape(len(batches), len(plan.views), 2),
    )


def _refuse_place(target: Path) -> None:
    """Refuse before the work what could not be written, or would replace something else than a single file."""
    if target.is_dir():
        raise KryptonError(f"{target} is a folder; give the name of a file, such as {target / 'heatmap.onnx'}.")
    if target.exists() and not _is_single_file(target):
        raise KryptonError(f"{target} exists and is no single file of krypton-onnx; choose another name or remove it.")
    if not target.parent.is_dir():
        raise KryptonError(f"{target} cannot be written: there is no folder {target.parent}.")


def _is_single_file(path: Path) -> bool:
    """Whether the end of a file, where ONNX keeps metadata, says so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _MOST_METADATA), os.SEEK_END)
        return f"{PROPERTY}definition".encode() in file.read()


def _scored(plan: Plan, wanted: str | None) -> str:
    """The output to score, of which every index means the same for every picture."""
    names = [info.name for info in plan.outputs]
    for name in (*names, *(info.name for info in plan.other_inputs)):
        if name in INTERFACE:
            raise KryptonError(
                f"The model has an input or output '{name}', which is a name of the single file's own: rename it there."
            )
    if wanted is not None and wanted not in names:
        raise KryptonError(f"The model has no output '{wanted}'; its outputs are {', '.join(names)}.")
    scored = plan.outputs[0 if wanted is None else names.index(wanted)]
    ragged = [info for info in plan.outputs if None in info.shape]
    if ragged:
        raise KryptonError(
            f"The extents of the output '{ragged[0].name}' are known only when the model runs, so that no single file "
            "can hold it for several pictures: declare them in the model if they never vary, or compile into a folder."
        )
    return scored.name


def _properties(plan: Plan, stride: tuple[int, int], edge: Edge, scored: str) -> dict[str, str]:
    """What the file says of itself: lists and objects are JSON, all else is plain text."""
    found = {
        "version": plan.compiler,
        "definition": DEFINITION,
        "patch": json.dumps(plan.patch),
        "stride": json.dumps(stride),
        "edge": edge,
        "output": scored,
        "source_file": plan.source.file,
        "source_sha256": plan.source.sha256,
        "image_input": plan.image.name,
        "preprocess": json.dumps(plan.preprocess) if plan.preprocess else None,
        "labels": json.dumps(plan.labels, ensure_ascii=False) if plan.labels else None,
    }
    return {f"{PROPERTY}{name}": value for name, value in found.items() if value is not None}
