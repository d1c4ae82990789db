"""From a question about an image to queries, and from their outputs to a score per grid position."""

import hashlib
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from krypton_onnx import geometry
from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Fill
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.fills import Shown, shown_by
from krypton_onnx.runtime.scores import Score, Setting
from krypton_onnx.runtime.targets import Target, score_of

if TYPE_CHECKING:
    from krypton_onnx.runtime.session import Session

Pair = int | tuple[int, int]
Edge = Literal["cover", "stop"]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The arguments of `Session.explain`, with sizes as (h, w)."""

    target: Target
    patch: tuple[int, int]
    stride: tuple[int, int]
    fill: Fill | ArrayLike
    edge: Edge
    region: tuple[int, int, int, int] | None
    output: str | None


def pair(value: Pair, what: str) -> tuple[int, int]:
    """An int or (h, w) as (h, w), both at least 1.

    Raises:
        KryptonError: naming `what`, for anything else.
    """
    numbers = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value, value)
    if len(numbers) != 2 or any(not _is_whole(n) or n < 1 for n in numbers):
        raise KryptonError(f"The {what} must be a whole number of pixels from 1 on, or a (height, width) of such.")
    return int(numbers[0]), int(numbers[1])


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def grid(
    size: tuple[int, int],
    patch: tuple[int, int],
    stride: tuple[int, int],
    edge: Edge,
    region: tuple[int, int, int, int] | None,
) -> NDArray[np.int64]:
    """Origins of the sliding window, int64 [rows, cols, 2]; see docs/heatmap.md.

    Args:
        size: (H, W) of the image.
        patch: (h, w).
        stride: (y, x).
        edge: "cover" or "stop".
        region: (y0, x0, y1, x1), the part of the image to ask about; None for all of it.

    Raises:
        KryptonError: the patch does not fit.
    """
    if edge not in ("cover", "stop"):
        raise KryptonError(f"edge is '{edge}'; it can be 'cover' or 'stop'.")
    corners = np.asarray((0, 0, *size) if region is None else region)
    if corners.shape != (4,) or corners.dtype.kind not in "iu":
        raise KryptonError("The region must be four whole numbers, (y0, x0, y1, x1).")
    y0, x0, y1, x1 = (int(corner) for corner in corners)
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        raise KryptonError(f"The region {y0},{x0},{y1},{x1} is no part (y0,x0,y1,x1) of the {size[0]}x{size[1]} image.")
    if patch[0] > y1 - y0 or patch[1] > x1 - x0:
        place = "image" if region is None else "region"
        raise KryptonError(f"A patch of {patch[0]}x{patch[1]} does not fit into the {y1 - y0}x{x1 - x0} {place}.")
    rows = geometry.grid_axis(y0, y1, patch[0], stride[0], cover=edge == "cover")
    cols = geometry.grid_axis(x0, x1, patch[1], stride[1], cover=edge == "cover")
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)


def explain(session: "Session", base: Base, question: Question, progress: bool | None) -> Heatmap:
    """Ask a question about a base; see `Session.explain`."""
    started = time.perf_counter()
    plan, (height, width) = session.plan, base.image.shape[1:]
    origins = grid((height, width), question.patch, question.stride, question.edge, question.region)
    places = origins.reshape(-1, 2)
    shown = shown_by(question.fill, plan, base.image, question.patch)
    content = shown.content(places, question.patch)
    score = score_of(question.target, _setting(plan, base, question.output))
    own = score.of(base.outputs)[0]
    scores = np.empty((len(places), *own.shape), np.float32)
    with tqdm(total=len(places), unit="query", disable=None if progress is None else not progress) as bar:
        for batch, outputs in session.run(base, session.batches(places, question.patch), content):
            scores[batch.queries] = score.of(outputs)
            bar.update(len(batch.queries))
    maps = np.moveaxis(scores.reshape(*origins.shape[:2], *own.shape), (0, 1), (-2, -1))
    return Heatmap(
        scores=np.ascontiguousarray(maps),
        base_score=own if own.ndim else float(own),
        origins=origins,
        patch=question.patch,
        image_size=(height, width),
        target=score.target,
        record=_record(plan, base, question, shown, score, time.perf_counter() - started),
    )


def _setting(plan: Plan, base: Base, output: str | None) -> Setting:
    height, width = base.image.shape[1:]
    name = plan.outputs[0].name if output is None else output
    return Setting(base.outputs, name, (height, width), plan.channels_last)


def _record(plan: Plan, base: Base, question: Question, shown: Shown, score: Score, seconds: float) -> dict[str, Any]:
    """What was asked, of what, with what; plain JSON values."""
    return {
        "mode": "exact",
        "model": {"file": plan.source.file, "sha256": plan.source.sha256},
        "image_sha256": hashlib.sha256(base.image.tobytes()).hexdigest(),
        "output": question.output or plan.outputs[0].name,
        "target": score.record,
        "patch": list(question.patch),
        "stride": list(question.stride),
        "fill": shown.record,
        "edge": question.edge,
        "region": None if question.region is None else [int(corner) for corner in question.region],
        "seconds": round(seconds, 3),
        "versions": {
            "krypton-onnx": version("krypton-onnx"),
            "compiler": plan.compiler,
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    }
