"""What the segments of a plan take in truth, beside what the planner predicted. Above the driver and the compiler.

A sample of the grid's batches runs on one thread under ONNX Runtime's profiler, and so does full inference. The
planner predicts for a reference machine; full inference, predicted and measured, tells how much faster or slower this
one is.
"""

import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import ArrayLike

from krypton_onnx.artifact import EXACT_FILES, Artifact
from krypton_onnx.plain_model import PlainModel
from krypton_onnx.plan import Segment
from krypton_onnx.runtime.engine import Array, quiet_options
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.session import Session
from krypton_onnx.sweep import SAMPLE, Sweep, answered

Result = TypeVar("Result")

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
    sweep = Sweep.random(plan, patch, stride, np.random.default_rng(0), inputs)
    plain = PlainModel(model, plan, quiet_options(1), sweep.others)
    scale = min(plain.best_batch(sweep.image, sweep.content).values()) / plan.full_seconds
    times = zip(plan.segments, _profiled(artifact, sweep), strict=True)
    return tuple(SegmentTime(segment, segment.seconds * scale, seconds) for segment, seconds in times)


def _profiled(artifact: Artifact, sweep: Sweep) -> list[float]:
    """Seconds a query of each segment: the median of several turns."""
    owners, segments = _owners(artifact), len(artifact.plan.segments)
    queries, profiles = profiled(lambda options: _turns(artifact, sweep, options))
    answering = profiles[1:]  # but for the base's graph
    runs = [list(_seconds(events, owners, segments)) for events in answering]
    turns = [np.array_split(of_graph, 1 + REPEATS)[1:] for of_graph in runs]  # the first warms up
    return [
        median(sum(run[s] for runs in turn for run in runs) / queries for turn in zip(*turns, strict=True))
        for s in range(segments)
    ]


def profiled(run: Callable[[ort.SessionOptions], Result]) -> tuple[Result, list[list[dict[str, Any]]]]:
    """What `run` gives, and the profiler's events of each graph that it opens, in the order of opening.

    Args:
        run: opens sessions with these options, of one thread, so that a node's time is its work. They are gone when it
            returns, for they write what they know as they go.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = quiet_options(1)
        options.enable_profiling, options.profile_file_prefix = True, os.path.join(folder, "run")
        result = run(options)
        return result, [json.loads(file.read_bytes()) for file in sorted(Path(folder).iterdir())]


def _turns(artifact: Artifact, sweep: Sweep, options: ort.SessionOptions) -> int:
    """Answer a sample several times; how many queries it has."""
    session, content = Session(artifact, [CPU], session_options=options), sweep.shown(artifact.plan)
    batches = sweep.batches(session, sweep.origins, SAMPLE)
    base = session.materialize(sweep.image, sweep.others)
    for _ in range(1 + REPEATS):
        deque(session.exact.run(base, batches, lambda _: content), maxlen=0)
    return answered(batches)


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
    """The segment of each node that answers queries, by the node's name and by that of its first output."""
    of_tensor = {name: i for i, segment in enumerate(artifact.plan.segments) for name in segment.tensors}
    graphs = [
        onnx.load(artifact.folder / name, load_external_data=False).graph
        for name in (EXACT_FILES.incremental, *([EXACT_FILES.tail] if artifact.plan.tail else []))
    ]
    nodes = [node for graph in graphs for node in graph.node]
    found = {node.output[0]: _owner(node.output[0], of_tensor) for node in nodes}
    index = next((i for i, s in enumerate(artifact.plan.segments) if s.windowed and s.extents is None), None)
    found.update({name: index for name, owner in found.items() if owner is None and name.startswith(INDEX_SCOPES)})
    names = {node.name: found[node.output[0]] for node in nodes}
    return {name: owner for name, owner in {**names, **found}.items() if owner is not None}


def _owner(name: str, of_tensor: dict[str, int]) -> int | None:
    """The segment of the model's tensor that a tensor is named after: ``x/for_y/cells`` is read for y."""
    _, read, reader = name.rpartition("/for_")
    wanted = reader if read else name
    while wanted and wanted not in of_tensor:
        wanted = wanted.rpartition("/")[0]
    return of_tensor.get(wanted)
