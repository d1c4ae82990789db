"""A patch slid over one random image: what a benchmark asks, and how long the incremental side takes for it."""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx.plan import Plan
from krypton_onnx.random_inputs import random_images
from krypton_onnx.runtime.arguments import other_inputs
from krypton_onnx.runtime.batches import Batch
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.questions import Pair, grid, pair
from krypton_onnx.runtime.session import Session

SAMPLE = 64
SAMPLE_SECONDS = 2.0
"""Queries of a sample of the plain model, and about the time that they shall take: its time is linear in them, and a
short time is mostly noise."""

SAMPLE_BATCHES = 12
SAMPLE_GROUPS = 4
"""Batches, and groups of them, in a sample of ours, at the least: windows differ from place to place."""

Origins = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """What is asked.

    Attributes:
        patch, stride: (height, width), (y, x).
        image: random, as the model takes it.
        others: the model's inputs beside the image.
        content: what the patch shows, zeros, laid out as the image.
        origins: int64 [Q, 2], the whole grid.
    """

    patch: tuple[int, int]
    stride: tuple[int, int]
    image: Array
    others: Mapping[str, Array]
    content: Array
    origins: Origins

    @classmethod
    def random(
        cls, plan: Plan, patch: Pair, stride: Pair, rng: np.random.Generator, inputs: Mapping[str, ArrayLike]
    ) -> Self:
        """The sweep of a random image.

        Raises:
            KryptonError: the patch does not fit, or `inputs` are not the model's.
        """
        sizes, steps = pair(patch, "patch"), pair(stride, "stride")
        image = random_images(rng, plan, 1)[0]
        channels, height, width = (extent or 0 for extent in plan.image.shape)
        content = np.zeros((*sizes, channels) if plan.channels_last else (channels, *sizes), image.dtype)
        origins = grid((height, width), sizes, steps, "cover", None).reshape(-1, 2)
        return cls(sizes, steps, image, other_inputs(inputs, plan.other_inputs), content, origins)

    def sample(self, rng: np.random.Generator, count: int) -> Origins:
        """Random positions of the grid, in its order; all of them if there are no more."""
        return self.origins[np.sort(rng.permutation(len(self.origins))[:count])]

    def plain_sample(self, rng: np.random.Generator, batch: int, seconds: float) -> Origins:
        """Positions for the plain model: whole batches, since a last, smaller one would count against it.

        Args:
            rng: draws them.
            batch: the plain model's.
            seconds: that it takes a query.
        """
        return self.sample(rng, math.ceil(max(SAMPLE, SAMPLE_SECONDS / seconds) / batch) * batch)

    def shown(self, plan: Plan) -> Array:
        """The content as the incremental graph takes it: [1, C, h, w]."""
        return (np.moveaxis(self.content, -1, 0) if plan.channels_last else self.content)[None]

    def batches(self, session: Session, origins: Origins, enough: int | None = None) -> list[Batch]:
        """The batches in which a session answers queries.

        Args:
            session: of the compiled model.
            origins: int64 [Q, 2].
            enough: for an even sample of the batches that holds about so many queries; None for all.
        """
        found = list(session.exact.batches(origins, self.patch))
        return found if enough is None else even_sample(found, enough=enough)

    def seconds(self, session: Session, origins: Origins, enough: int | None = None) -> float:
        """Seconds that the incremental side takes for queries, or for a sample of their batches.

        What is done once for all queries, the base run and the batching, counts by the share that is answered.

        Args:
            session: of the compiled model.
            origins: int64 [Q, 2].
            enough: as for `batches`.
        """
        content = self.shown(session.plan)
        started = time.perf_counter()
        base = session.materialize(self.image, self.others)
        _ = base.outputs  # a heatmap needs them
        batches = self.batches(session, origins, enough)
        prepared = time.perf_counter()
        deque(session.exact.run(base, batches, lambda _: content), maxlen=0)
        ended = time.perf_counter()
        return (prepared - started) * answered(batches) / len(origins) + ended - prepared


def repetitions(seconds: float) -> int:
    """How often to do what takes so long, to take about as long as a sample of the plain model."""
    return max(1, math.ceil(SAMPLE_SECONDS / seconds))


def answered(batches: Sequence[Batch]) -> int:
    """Queries that batches hold."""
    return sum(len(batch.queries) for batch in batches)


def even_sample(batches: Sequence[Batch], *, enough: int) -> list[Batch]:
    """Every so many groups of a grid's batches, so that they hold about so many queries, and batches of all places."""
    groups = [list(members) for _, members in groupby(batches, attrgetter("group"))]
    share = max(SAMPLE_BATCHES / len(batches), enough / answered(batches))
    count = min(len(groups), max(SAMPLE_GROUPS, math.ceil(share * len(groups))))
    return [batch for position in np.linspace(0, len(groups) - 1, count).round() for batch in groups[int(position)]]
