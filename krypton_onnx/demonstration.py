"""`demo`: the bundled model on its pictures, incremental against full inference. Returns what it measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from krypton_onnx.compiler import compile
from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.pictures import open_picture
from krypton_onnx.plain_model import PlainModel
from krypton_onnx.preprocess import Preprocess
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.session import Session

FILL = "mean"
"""What patches show in the demo: the mean colour of each picture."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture, explained twice.

    Attributes:
        picture: its file name.
        label: of the predicted class.
        base_score: its score.
        place: (y, x, drop) of the most important patch.
        queries: positions of the grid.
        incremental_seconds: for the heatmap, base run included.
        full_seconds: for the same map by full inference at its best batch size.
        difference: the largest difference between the two maps.
        output: the heatmap's file.
    """

    picture: str
    label: str
    base_score: float
    place: tuple[int, int, float]
    queries: int
    incremental_seconds: float
    full_seconds: float
    difference: float
    output: Path


@contextmanager
def demo_files() -> Iterator[Path]:
    """The folder with the demo model, its preprocessing, its labels and its pictures.

    Raises:
        KryptonError: this installation lacks them.
    """
    with resources.as_file(resources.files("krypton_onnx.models")) as folder:
        if not (folder / "demo.onnx").is_file():
            raise KryptonError(f"This installation has no demo model in {folder}: install krypton-onnx anew.")
        yield folder


def demonstrate(files: Path, artifact_folder: Path, output: Path) -> Iterator[Shown]:
    """Compile the demo model and explain each of its pictures, picture by picture.

    Args:
        files: see `demo_files`.
        artifact_folder: where the compiled model goes.
        output: an existing folder for the heatmaps.

    Raises:
        KryptonError: a file is missing, or cannot be written.
    """
    preprocess = Preprocess.from_json(files / "demo_preprocess.json")
    labels = tuple((files / "demo_labels.txt").read_text(encoding="utf-8").splitlines())
    model = files / "demo.onnx"
    artifact = compile(model, artifact_folder, preprocess=preprocess, labels=labels)
    session, plain = Session(artifact, [CPU]), PlainModel(model, artifact.plan)
    batch = 0
    for picture in sorted((files / "pictures").glob("*.png")):
        seen = preprocess.picture(open_picture(picture))
        tensor = preprocess.tensor(seen)
        content = _patch(tensor, artifact.plan.patch)
        if not batch:
            seconds = plain.best_batch(tensor, content)
            batch = min(seconds, key=lambda size: seconds[size])
            session.explain(tensor, stride=16, fill=FILL, progress=False)  # warms up, as best_batch did
        started = time.perf_counter()
        heatmap = session.explain(tensor, fill=FILL)
        between = time.perf_counter()
        full = plain.run(tensor, heatmap.origins.reshape(-1, 2), content, batch)
        ended = time.perf_counter()
        label = labels[_target(heatmap)]
        file = output / f"{picture.stem}.heatmap.png"
        heatmap.save(file, seen, title=label)
        yield Shown(
            picture=picture.name,
            label=label,
            base_score=float(heatmap.base_score),
            place=heatmap.most_important(),
            queries=heatmap.scores.size,
            incremental_seconds=between - started,
            full_seconds=ended - between,
            difference=_difference(heatmap, np.asarray(full[artifact.plan.outputs[0].name])),
            output=file,
        )


def _patch(image: Array, size: tuple[int, int]) -> Array:
    """The image's mean colour, as `Session.explain` lays it: [C, h, w]."""
    colour = image.mean(axis=(1, 2)).astype(image.dtype)
    return np.broadcast_to(colour[:, None, None], (len(colour), *size))


def _target(heatmap: Heatmap) -> int:
    assert isinstance(heatmap.target, int)
    return heatmap.target


def _difference(heatmap: Heatmap, outputs: Array) -> float:
    scores = outputs.reshape(len(outputs), -1)[:, _target(heatmap)].astype(np.float64)
    return float(np.abs(scores - heatmap.scores.reshape(-1)).max())
