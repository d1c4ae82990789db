"""Verification of a single file against its source model, by `verification`'s definition of exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from krypton_onnx.passes.build_single import BASE_SCORE, FILL, HEATMAP, IMAGE, PART, TARGET, TARGET_INDEX, Schedule
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Preprocess, as_dtype
from krypton_onnx.random_inputs import random_images, random_input, random_pictures
from krypton_onnx.runtime.batches import Integers
from krypton_onnx.runtime.engine import Array, Engine
from krypton_onnx.source import Source
from krypton_onnx.verification import OutputCheck, Probe, check_output, noise_of

QUERIES = 4
"""Compared of each picture and batch, at the most."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Two pictures and a fill.

    Attributes:
        feed: as the single file takes them, with the model's other inputs.
        images: the pictures as image tensors [2, C, H, W].
        colour: the fill in their units and type, [C].
        others: the model's other inputs.
    """

    feed: dict[str, Array]
    images: Array
    colour: Array
    others: dict[str, Array]


def verify_single(
    model: Path, file: Path, plan: Plan, origins: Integers, schedule: Schedule, scored: str, seed: int = 0
) -> Iterator[OutputCheck]:
    """Compare two random pictures, under a random fill, with the source model.

    Args:
        model: the source model.
        file: compiled from it.
        plan: its plan.
        origins: int64 [rows, cols, 2], its grid, by which the places of the heatmap are judged.
        schedule: its queries; of the first batch and of the last, which are the longest and the shortest, some are
            compared.
        scored: name of the output that it scores.
        seed: of the random numbers.

    Yields:
        A verdict for each of the model's own outputs, for the base scores and for the heatmaps.

    Raises:
        KryptonError: ONNX Runtime refuses one of the two.
    """
    rng = np.random.default_rng(seed)
    asked = _asked(rng, plan)
    engine, source = Engine(file), Source(model, plan, asked.others)
    top = {TARGET: np.full(1, -1)}
    batches = len(schedule.ends) - 1
    parts = {
        n: dict(zip(engine.outputs, engine.run({**asked.feed, **top, PART: np.array([n, batches])}), strict=True))
        for n in (0, batches - 1)
    }
    plain = _Truth(source, asked.images, plan)
    for info in plan.outputs:
        theirs = np.asarray(plain.outputs[info.name])
        for picture, other in ((0, 1), (1, 0)):  # what moves an output is the picture
            ours, full = parts[0][info.name][[picture]], theirs[[picture]]
            yield plain.verdict(info.name, info.name, ours, full, theirs[other])
    for picture, target in enumerate(parts[0][TARGET_INDEX]):
        own, other = np.asarray(plain.outputs[scored]).reshape(2, -1)[[picture, 1 - picture]]
        ours = np.asarray(parts[0][BASE_SCORE])[[picture], None]
        yield plain.verdict(BASE_SCORE, scored, ours, own.max(keepdims=True)[None], other.max(keepdims=True))
        for number, part in parts.items():
            batch = np.arange(schedule.ends[number], schedule.ends[number + 1])
            places = schedule.places[rng.permutation(batch)[:QUERIES]]
            content = np.broadcast_to(asked.colour[:, None, None], (len(places), len(asked.colour), *plan.patch))
            occluded = Probe(origins.reshape(-1, 2)[places], content).images(asked.images[picture])
            truth = _Truth(source, occluded, plan)
            scores = np.asarray(truth.outputs[scored]).reshape(len(places), -1)[:, [int(target)]]
            ours = np.asarray(part[HEATMAP][picture]).reshape(-1)[places, None]
            yield truth.verdict(HEATMAP, scored, ours, scores, own[[int(target)]])


class _Truth:
    """What the source model answers for images [Q, C, H, W]."""

    def __init__(self, source: Source, images: Array, plan: Plan) -> None:
        self._source, self._images, self._plan = source, images, plan
        self.outputs = source.run(source.optimised, images)

    def verdict(self, name: str, output: str, ours: Array, full: Array, base: Array) -> OutputCheck:
        """On what belongs to an output of the model. Noise is measured only if it decides."""
        check = partial(check_output, name, ours, full, base, reduced_precision=self._plan.reduced_precision)
        silent = check(noise_of(full, full, self._plan.epsilon))
        return silent if silent.exact else check(self._noise[output])

    @cached_property
    def _noise(self) -> dict[str, float]:
        again = self._source.run(self._source.unoptimised, self._images)
        return {name: noise_of(known, again[name], self._plan.epsilon) for name, known in self.outputs.items()}


def _asked(rng: np.random.Generator, plan: Plan) -> _Asked:
    others = {info.name: random_input(rng, info) for info in plan.other_inputs}
    channels = plan.image.shape[0] or 0
    if plan.preprocess is None:
        given = images = random_images(rng, plan, 2)
        fill = rng.uniform(0, 1, channels).astype(np.float32)
        images, colour = images.transpose(0, 3, 1, 2) if plan.channels_last else images, fill
    else:
        preprocess, given = Preprocess.from_dict(plan.preprocess), random_pictures(rng, plan, 2)
        tensors = np.stack([preprocess.tensor(picture) for picture in given])
        images = as_dtype(tensors.transpose(0, 3, 1, 2) if plan.channels_last else tensors, plan.image.dtype)
        fill = rng.uniform(0, 255, channels).astype(np.float32)
        colour = preprocess.fill(fill, given[0])
    return _Asked({**others, IMAGE: given, FILL: fill}, images, as_dtype(colour, plan.image.dtype), others)
