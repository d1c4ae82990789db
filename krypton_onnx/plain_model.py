"""The unmodified model, run on occluded images in batches: what the incremental graph is measured against.

It runs as it was exported, except that a batch that it fixes is made symbolic, if its rows then are still those that
it gives for one image; otherwise it runs in the batch that was exported.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.random_inputs import random_images
from krypton_onnx.runtime.base import Outputs
from krypton_onnx.runtime.engine import Array, Engine
from krypton_onnx.runtime.outputs import ragged_names
from krypton_onnx.runtime.providers import CPU, Provider

BATCHES = (1, 2, 4, 8, 16, 32)
"""Batch sizes that full inference is tried at."""

_HOPELESS = 1.5
"""Two batch sizes in a row that are this much slower than the best so far end the search."""

_LONG = 1.5
"""So does a run of that many seconds: what it costs once no longer counts, and larger ones need the memory."""

_ROUNDS = 4
"""Runs at each batch size tried, of which the fastest counts."""

_SAME_ROWS = 1e-4
"""Largest relative difference between a row of a batch and the same image alone."""


class PlainModel:
    """The unmodified model, asked for occluded images in batches.

    Args:
        path: the ONNX file.
        plan: describes its inputs and outputs.
        options: ONNX Runtime's session options.
        others: the model's inputs beside the image.
        providers: to run on, as `providers.chosen` gives them.

    Attributes:
        batch: the exported batch, or None where any batch may be run.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        options: ort.SessionOptions | None = None,
        others: Mapping[str, Array] | None = None,
        providers: Sequence[Provider] = (CPU,),
    ) -> None:
        self._plan, self._others = plan, dict(others or {})
        self._engine = Engine(path, providers, options)
        exported = self._engine.shapes[plan.image.name][0]
        self.batch = exported if isinstance(exported, int) and exported > 0 else None
        self._ragged = ragged_names(plan)
        if self._ragged:
            self.batch = self.batch or 1  # of a batch's detections nobody could tell whose they are
        elif self.batch is not None or self._others:
            free = with_free_batch(self._engine, path, plan, options, self._others)
            # Another input can be tied to a batch that the model leaves open.
            self._engine, self.batch = (self._engine, self.batch or 1) if free is None else (free, None)

    def run(self, image: Array, origins: NDArray[np.int64], content: Array, batch: int) -> Outputs:
        """Outputs for an image with `content` at each origin.

        Args:
            image: as the model takes it, [C, H, W] or [H, W, C].
            origins: [Q, 2].
            content: [C, h, w] or [h, w, C].
            batch: images a run, unless the model's batch is fixed.
        """
        size = self.batch or batch
        results: dict[str, list[Array]] = {name: [] for name in self._engine.outputs}
        channels = 2 if self._plan.channels_last else 0
        height, width = np.delete(content.shape, channels)
        for start in range(0, len(origins), size):
            places = origins[start : start + size]
            images = np.repeat(image[None], size if self.batch else len(places), axis=0)
            for occluded, (y, x) in zip(np.moveaxis(images, channels + 1, -1), places, strict=False):
                occluded[y : y + height, x : x + width] = np.moveaxis(content, channels, -1)
            answers = self._engine.run({self._plan.image.name: images, **self._others})
            for info, values in zip(self._plan.outputs, answers, strict=True):
                rows = values[None] if info.name in self._ragged and values.ndim == len(info.shape) else values
                results[info.name].append(rows[: len(places)])
        return {
            name: [one for part in values for one in part] if name in self._ragged else np.concatenate(values)
            for name, values in results.items()
        }

    def best_batch(self, image: Array, content: Array) -> dict[int, float]:
        """Seconds a query by batch size, for as long as larger batches are worth trying; warms up, too."""
        seconds: dict[int, float] = {}
        hopeless = 0
        for batch in (self.batch,) if self.batch else BATCHES:
            again = partial(self.run, image, np.zeros((batch, 2), np.int64), content, batch)
            try:
                again()
            except KryptonError:
                if not seconds:
                    raise
                break  # it declares that it takes any number of images, and does not
            seconds[batch] = min(timed(again) for _ in range(_ROUNDS)) / batch
            hopeless = hopeless + 1 if seconds[batch] > _HOPELESS * min(seconds.values()) else 0
            if hopeless == 2 or seconds[batch] * batch > _LONG:
                break
        return seconds


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def with_free_batch(
    exported: Engine, path: Path, plan: Plan, options: ort.SessionOptions | None, others: Mapping[str, Array]
) -> Engine | None:
    """The model with a symbolic batch, if it then still answers each image as it does alone."""
    model = onnx.load(path)
    for info in (*model.graph.input, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.name == plan.image.name or (info in model.graph.output and len(dims)):
            dims[0].ClearField("dim_value")
            dims[0].dim_param = "batch"
    del model.graph.value_info[:]
    with _written(model) as file:
        try:
            free = Engine(file, exported.providers, options)
            return free if _rows_agree(exported, free, plan, others) else None
        except KryptonError:  # it insists on its batch
            return None


@contextmanager
def _written(model: onnx.ModelProto) -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="krypton-", ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "model.onnx"
            onnx.save(model, file, save_as_external_data=model.ByteSize() > 2**30)
            yield file
    except OSError as error:
        raise KryptonError(
            f"The model cannot be written to a temporary folder ({error.strerror or error}): free some space or set "
            "TMPDIR."
        ) from error


def _rows_agree(exported: Engine, free: Engine, plan: Plan, others: Mapping[str, Array]) -> bool:
    rng = np.random.default_rng(0)
    batch = exported.shapes[plan.image.name][0]
    fixed = batch if isinstance(batch, int) else 1
    images = random_images(rng, plan, 3 * fixed)
    batched = free.run({plan.image.name: images, **others})
    parts = [exported.run({plan.image.name: images[i : i + fixed], **others}) for i in range(0, len(images), fixed)]
    return all(same_rows(rows, [part[number] for part in parts]) for number, rows in enumerate(batched))


def same_rows(rows: Array, parts: Sequence[Array]) -> bool:
    """Whether rows of a batch are what parts of it, run apart, give, up to rounding."""
    alone = np.concatenate(parts)
    if rows.shape != alone.shape:
        return False
    a, b = rows.astype(np.float64), alone.astype(np.float64)
    return bool(np.abs(a - b).max(initial=0) <= _SAME_ROWS * max(1.0, float(np.abs(b).max(initial=0))))
