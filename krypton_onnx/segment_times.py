"""What the segments of a plan take in truth, beside what the planner predicted. Above the driver and the compiler.

A sample of the grid's batches runs on one thread under ONNX Runtime's profiler, and so does full inference. The
planner predicts for a reference machine; full inference, predicted and measured, tells how much faster or slower this
one is.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from numpy.typing import ArrayLike

from krypton_onnx.artifact import Artifact
from krypton_onnx.plain_model import PlainModel
from krypton_onnx.plan import Plan, Segment
from krypton_onnx.random_inputs import random_images
from krypton_onnx.runtime.arguments import other_inputs
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.batches import Batch
from krypton_onnx.runtime.engine import Array, Engine, quiet_options
from krypton_onnx.runtime.explain import grid
from krypton_onnx.runtime.session import Session

BATCHES = 12
REPEATS = 5

INDEX_SCOPES = ("queries/", "origins/", "windows/", "view_rows/", "reads/", "index/")
"""What the index arithmetic that serves all reads is named after."""

_KERNEL, _BLOCKED = "_kernel_time", "_nchwc"
"""What ONNX Runtime's profiler, and its optimizer, append to a name."""


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """One segment.

    Attributes:
        segment: from the plan.
        predicted: seconds a query on one core, scaled to this machine.
        measured: seconds a query on one core.
    """

    segment: Segment
    predicted: float
    measured: float


def measure_segments(
    model: Path,
    artifact: Artifact,
    patch: tuple[int, int],
    stride: tuple[int, int],
    inputs: Mapping[str, ArrayLike],
) -> tuple[SegmentTime, ...]:
    """Run a sample of the grid and time every segment.

    Args:
        model: the source model.
        artifact: compiled from it, for this patch.
        patch: (height, width).
        stride: (y, x).
        inputs: the model's inputs beside the image, by name.

    Raises:
        KryptonError: ONNX Runtime refuses the model, or the patch does not fit.
    """
    plan = artifact.plan
    image = random_images(np.random.default_rng(0), plan, 1)[0]
    session = Session(artifact, session_options=quiet_options(1))
    size = (plan.image.shape[1] or 0, plan.image.shape[2] or 0)
    origins = grid(size, patch, stride, "cover", None).reshape(-1, 2)
    batches = list(session.batches(origins, patch))
    chosen = [batches[i] for i in np.unique(np.linspace(0, len(batches) - 1, BATCHES).astype(int))]
    others = other_inputs(inputs, plan.other_inputs)
    scale = _full_seconds(PlainModel(model, plan, quiet_options(1), others), plan, image, patch) / plan.full_seconds
    measured = _profiled(artifact, session, session.materialize(image, others), chosen)
    return tuple(SegmentTime(s, s.seconds * scale, t) for s, t in zip(plan.segments, measured, strict=True))


def _full_seconds(plain: PlainModel, plan: Plan, image: Array, patch: tuple[int, int]) -> float:
    """Seconds an image of full inference at its best batch size."""
    channels = plan.image.shape[0] or 0
    content = np.zeros((*patch, channels) if plan.channels_last else (channels, *patch), image.dtype)
    return min(plain.best_batch(image, content).values())


def _profiled(artifact: Artifact, session: Session, base: Base, batches: list[Batch]) -> list[float]:
    """Seconds a query of each segment: the median of several turns."""
    content = np.zeros((1, artifact.plan.image.shape[0] or 0, *batches[0].patch), artifact.plan.image.dtype)
    with tempfile.TemporaryDirectory() as folder:
        options = quiet_options(1)
        options.enable_profiling, options.profile_file_prefix = True, os.path.join(folder, "run")
        engine = Engine(artifact.folder / "incremental.onnx", None, options)
        for _ in range(1 + REPEATS):
            for batch in batches:
                engine.run(session.feed(base, batch, content))
        events = json.loads(engine.profile().read_text())
    owners = _owners(artifact)
    turns = np.array_split(list(_seconds(events, owners, len(artifact.plan.segments))), 1 + REPEATS)
    queries = sum(len(batch.queries) for batch in batches)
    return [median(turn[:, s].sum() for turn in turns[1:]) / queries for s in range(len(artifact.plan.segments))]


def _seconds(events: Iterable[dict[str, object]], owners: dict[str, int], segments: int) -> Iterator[Array]:
    """Per run of the graph, the seconds of each segment.

    What has no known name, as the changes of layout that ONNX Runtime inserts, counts for the node that follows.
    """
    run, waiting = np.zeros(segments), 0.0
    for event in events:
        if event["name"] == "model_run":
            run[-1] += waiting
            yield run
            run, waiting = np.zeros(segments), 0.0
        elif event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL):
            waiting += float(str(event["dur"])) / 1e6
            owner = owners.get(str(event["name"]).removesuffix(_KERNEL).removesuffix(_BLOCKED))
            if owner is not None:
                run[owner] += waiting
                waiting = 0.0


def _owners(artifact: Artifact) -> dict[str, int]:
    """The segment of each node of the incremental graph, by the node's name and by that of its first output."""
    of_tensor = {name: i for i, segment in enumerate(artifact.plan.segments) for name in segment.tensors}
    graph = onnx.load(artifact.folder / "incremental.onnx", load_external_data=False).graph
    found = {node.output[0]: _owner(node.output[0], of_tensor) for node in graph.node}
    index = next((i for i, s in enumerate(artifact.plan.segments) if s.windowed and s.extents is None), None)
    found.update({name: index for name, owner in found.items() if owner is None and name.startswith(INDEX_SCOPES)})
    names = {node.name: found[node.output[0]] for node in graph.node}
    return {name: owner for name, owner in {**names, **found}.items() if owner is not None}


def _owner(name: str, of_tensor: dict[str, int]) -> int | None:
    """The segment of the model's tensor that a tensor is named after: ``x/for_y/cells`` is read for y."""
    _, read, reader = name.rpartition("/for_")
    wanted = reader if read else name
    while wanted and wanted not in of_tensor:
        wanted = wanted.rpartition("/")[0]
    return of_tensor.get(wanted)
