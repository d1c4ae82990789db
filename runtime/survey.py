"""A question about an image, to be asked at any positions and at any level of accuracy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from krypton_onnx.calibration import EXACT
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.batches import Integers
from krypton_onnx.runtime.fills import shown_by
from krypton_onnx.runtime.questions import Question, grid
from krypton_onnx.runtime.scores import Setting
from krypton_onnx.runtime.targets import score_of

if TYPE_CHECKING:
    from krypton_onnx.runtime.driver import Driver

Floats = NDArray[np.float64]

IMAGE_RUN = 5.0
"""What a variant's run of the image itself takes, in queries of full inference: no batch shares what a run costs once,
views are written, and the outputs are another run."""

PLANNING, PLANNING_QUERY = 1e-3, 5e-6
"""Seconds that it takes to cut queries into batches, and more for each query, on one core while the others wait."""

LOOKING = 1e-6
"""Seconds for each position of the grid that it takes to look at a map: to correct and to judge it, likewise."""

Progress = bool | Callable[[int, int | None], None] | None
"""A progress bar or none, or a function of the queries answered and of how many there will be, if that is known."""

_PICKED = "picked"


@dataclass(frozen=True, slots=True)
class Level:
    """A way to answer queries.

    Attributes:
        name: ``exact``, ``tau 0.5``, ``int8``, ``int8 tau 0.5``.
        driver: of the variant.
        image: the exact variant's run of the image.
        tau: the share of a map's rows, and columns, that a window may have; 1 for all that can change.
    """

    name: str
    driver: "Driver"
    image: Base
    tau: float

    @property
    def base(self) -> Base:
        """The variant's own run of the image."""
        return self.image.variant(self.driver)

    @property
    def exact(self) -> bool:
        """Whether the answers are those of full inference."""
        return self.name == EXACT


@dataclass
class Spent:
    """What has been asked at one level.

    Attributes:
        queries: how many.
        seconds: that they are predicted to take, on one core of the reference machine.
        flops: floating-point operations.
    """

    queries: int = 0
    seconds: float = 0.0
    flops: int = 0


class Survey:
    """One question about one image.

    Args:
        base: of the exact variant.
        question: what to ask.
        progress: see `Session.explain`.

    Attributes:
        origins: int64 [rows, cols, 2], the grid.
        places: int64 [N, 2], the same in a list.
        shown, score: what patches show, and what is scored.
        own: float32 [] or [T], the scores of the image itself.
        spent: per level's name, what has been asked.
        fixed: seconds that all else is predicted to take: the image's own runs, of all variants that have been asked,
            planning, and looking at maps.
    """

    def __init__(self, base: Base, question: Question, progress: Progress) -> None:
        plan, (height, width) = base.plan, base.image.shape[1:]
        self.base, self.question = base, question
        self.origins = grid((height, width), question.patch, question.stride, question.edge, question.region)
        self.places = self.origins.reshape(-1, 2)
        self.shown = shown_by(question.fill, plan, base.image, question.patch)
        name = plan.outputs[0].name if question.output is None else question.output
        self.score = score_of(question.target, Setting(base.outputs, name, (height, width), plan.channels_last))
        self.own = self.score.of(base.outputs)[0]
        self.spent: dict[str, Spent] = {}
        self.fixed = IMAGE_RUN * plan.full_seconds
        self._ran = {id(plan)}
        self._known: dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}
        self._bar = tqdm(unit="query", disable=None if progress is None else progress is not True)
        self._told = progress if callable(progress) else None

    def __enter__(self) -> "Survey":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, queries: int) -> None:
        """Tell how many queries there will be."""
        self._bar.total = queries
        self._bar.refresh()

    def at(self, level: Level, positions: Integers) -> NDArray[np.float32]:
        """Scores at positions of the grid, which are asked for once only: float32 [n, T].

        Args:
            level: how to answer.
            positions: int64 [n], indices into `places`.
        """
        if level.name not in self._known:
            size = len(self.places)
            self._known[level.name] = np.empty((size, max(1, self.own.size)), np.float32), np.zeros(size, np.bool_)
        values, known = self._known[level.name]
        new = np.unique(positions[~known[positions]])
        if len(new):
            values[new] = self.ask(level, self.places[new])
            known[new] = True
        return np.asarray(values[positions])

    def known(self, level: str) -> NDArray[np.float32]:
        """The scores that have been asked for at a level, by its name: [n, T]."""
        values, known = self._known[level]
        return np.asarray(values[known])

    def ask(self, level: Level, places: Integers) -> NDArray[np.float32]:
        """Scores with the patch at any origins, int64 [n, 2]: float32 [n, T]."""
        scores = np.empty((len(places), max(1, self.own.size)), np.float32)
        spent, plan = self.spent.setdefault(level.name, Spent()), level.driver.plan
        self.fixed += self.image_seconds(level) + PLANNING + PLANNING_QUERY * len(places)
        self._ran.add(id(plan))
        flops = np.array([window.flops for window in plan.windows], np.int64)
        content = self.shown.content(places, self.question.patch)
        # What a variant makes of the image itself, it makes of every query.
        offset = 0.0 if level.exact else (self.own - self.score.of(level.base.outputs)[0]).reshape(-1)
        batches, pick = level.driver.batches(places, self.question.patch, level.tau), self.score.pick
        names = None if pick is None else {_PICKED: pick}
        for batch, outputs in level.driver.run(level.base, batches, content, names):
            found = self.score.of(outputs) if pick is None else np.asarray(outputs[_PICKED], np.float32)
            scores[batch.queries] = found.reshape(len(batch.queries), -1) + offset
            spent.queries += len(batch.queries)
            spent.seconds += batch.seconds
            spent.flops += len(batch.queries) * int(flops @ batch.window_sizes.prod(axis=1) + plan.dense_flops)
            self._tell(len(batch.queries))
        return scores

    def _tell(self, answered: int) -> None:
        self._bar.update(answered)
        if self._told is not None:
            total = self._bar.total
            self._told(sum(spent.queries for spent in self.spent.values()), None if total is None else int(total))

    @property
    def seconds(self) -> float:
        """What everything asked so far is predicted to take, on one core of the reference machine."""
        return self.fixed + sum(spent.seconds for spent in self.spent.values())

    def query_seconds(self, level: Level) -> float:
        """What a query is predicted to take at a level, on one core of the reference machine."""
        return level.driver.query_seconds(self.question.patch, level.tau)

    def image_seconds(self, level: Level) -> float:
        """What the image's own run by a level's variant will take; 0 if that has been asked already."""
        return 0.0 if id(level.driver.plan) in self._ran else IMAGE_RUN * self.base.plan.full_seconds

    def charge_look(self) -> None:
        """Count what looking at a map takes."""
        self.fixed += LOOKING * len(self.places)

    def heatmap(self, scores: NDArray[Any], record: dict[str, Any], done: bool) -> Heatmap:
        """The heatmap of scores [N, T].

        Args:
            scores: at every position.
            record: see `Heatmap`.
            done: see `Heatmap`.
        """
        maps = np.moveaxis(scores.reshape(*self.origins.shape[:2], *self.own.shape), (0, 1), (-2, -1))
        height, width = self.base.image.shape[1:]
        return Heatmap(
            scores=np.ascontiguousarray(maps, np.float32),
            base_score=self.own if self.own.ndim else float(self.own),
            origins=self.origins,
            patch=self.question.patch,
            image_size=(height, width),
            target=self.score.target,
            record=record,
            done=done,
        )
