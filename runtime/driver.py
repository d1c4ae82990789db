"""The driver of one variant of a compiled model: base runs, and queries in batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime as ort

from krypton_onnx.artifact import Files
from krypton_onnx.classes import WindowTable, mean_seconds, window_tables
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.base import Base, Content, Outputs
from krypton_onnx.runtime.batches import Batch, Integers, plan_batches
from krypton_onnx.runtime.engine import Array, Engine, quiet_options
from krypton_onnx.runtime.lent_weights import LentWeights
from krypton_onnx.runtime.memory import Lanes, lanes
from krypton_onnx.runtime.outputs import Pick, gathered, given, ragged_names, source_of
from krypton_onnx.runtime.providers import CPU, Provider
from krypton_onnx.runtime.side_by_side import side_by_side


@dataclass(frozen=True, slots=True)
class Resources:
    """What graphs run on.

    Attributes:
        providers: ONNX Runtime's execution providers, as `providers.chosen` gives them.
        options: the user's session options, for all graphs; None for the best known.
        cores: threads of the base run, if there are no options.
        workers: batches side by side.
        budget: bytes that all but the weights may take at the peak; None for no limit.
        weights: that are lent to the graphs; None where each has its own.
    """

    providers: Sequence[Provider]
    options: ort.SessionOptions | None
    cores: int
    workers: int
    budget: int | None
    weights: LentWeights | None


@dataclass(frozen=True, slots=True)
class Engines:
    """The loaded graphs; see `Files`. The tail, whose weights are many, loads on while the first batches run."""

    ranges: Engine | None
    base: Engine
    index: Engine | None
    incremental: Engine
    tail: Future[Engine] | None


class Driver:
    """One variant's graphs, which are loaded when they are first needed. Threads may share it.

    Args:
        folder: the artifact's.
        files: the graphs' names in it.
        plan: the variant's.
        resources: to run on.
        like: another variant's driver, whose tail is this one's as well if they are the same.

    Raises:
        KryptonError: the budget is too small for one query.
    """

    def __init__(
        self, folder: Path, files: Files, plan: Plan, resources: Resources, like: "Driver | None" = None
    ) -> None:
        self.plan = plan
        self._folder, self._files, self._resources, self._like = folder, files, resources, like
        self._ragged = ragged_names(plan)
        self._workers = resources.workers
        self._ways = lru_cache(maxsize=16)(partial(self._way, plan, resources.budget, resources.workers))
        self._way(plan, resources.budget, 1, plan.patch, plan.tau)  # refuse too small a budget before any work
        self._engines: Engines | None = None
        self._opening = Lock()

    def open(self) -> Engines:
        """Load the graphs, if they are not loaded yet; the tail goes on loading.

        Raises:
            KryptonError: ONNX Runtime refuses a graph. If that is the tail, its first run raises it.
        """
        with self._opening:
            if self._engines is None:
                self._engines = self._opened()
            return self._engines

    def _opened(self) -> Engines:
        files, every = self._files, self._resources.cores
        own = every // self._resources.workers
        host = (CPU,), quiet_options(own)
        return Engines(
            ranges=None if files.ranges is None else self._engine(files.ranges, every),
            base=self._engine(files.base, every),
            index=Engine(self._folder / files.index, *host) if self.plan.index_apart else None,
            incremental=self._engine(files.incremental, own),
            tail=None if self.plan.tail is None else self._shared_tail() or _beside(self._engine, files.tail, own),
        )

    def _engine(self, file: str, threads: int) -> Engine:
        """A graph of the artifact."""
        resources = self._resources
        options = resources.options or quiet_options(threads)
        if resources.weights is not None:
            resources.weights.lend(options, file)
        return Engine(self._folder / file, resources.providers, options)

    def _shared_tail(self) -> Future[Engine] | None:
        """The other driver's, if both are the same graph: its weights are many, and need not be loaded twice."""
        if self._like is None or self._like.plan.tail is None:
            return None
        mine, other = (self._folder / files.tail for files in (self._files, self._like._files))
        return self._like.open().tail if mine.read_bytes() == other.read_bytes() else None

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the incremental graph: the model's but for the tail's, then windows, then what the tail takes."""
        return self.open().incremental.outputs

    def materialize(self, image: Array, inputs: Mapping[str, Array]) -> Base:
        """Run the base graph on one image and keep its views.

        Args:
            image: [C, H, W], in the model's type.
            inputs: the model's other inputs by name, in full shape.
        """
        given = {self.plan.image.name: image[None], **inputs}
        engines = self.open()
        if engines.ranges is not None:
            found = zip(engines.ranges.outputs, engines.ranges.run(given), strict=True)
            inputs = {**inputs, **dict(found)}
        return Base(self.plan, image, inputs, self._views(engines.base, {**given, **inputs}), self._base_outputs)

    def _views(self, engine: Engine, feed: Mapping[str, Array]) -> Mapping[str, Any]:
        """The views as rows, by name."""
        results = zip(self.plan.views, engine.run(feed), strict=True)
        return {view.name: result.reshape(-1, view.channels) for view, result in results}

    def _base_outputs(self, base: Base) -> Outputs:
        """The model's outputs for the image itself: a patch that shows what is there already changes nothing."""
        height, width = self.plan.patch
        return self.outputs(base, np.zeros((1, 2), np.int64), base.image[None, :, :height, :width])

    def outputs(self, base: Base, origins: Integers, content: Array, tau: float = 1.0) -> Outputs:
        """The model's outputs for queries, by name.

        Args:
            base: from `materialize`.
            origins: int64 [Q, 2], inside the image.
            content: [1 or Q, C, h, w].
            tau: as for `batches`.
        """
        return gathered(self.answers(base, origins, content, tau), len(origins))

    def answers(
        self,
        base: Base,
        origins: Integers,
        content: Array,
        tau: float = 1.0,
        names: Mapping[str, str] | None = None,
    ) -> Iterator[tuple[Batch, Outputs]]:
        """The same batch by batch; see `run` for the names."""
        shared, patch = len(content) == 1, (content.shape[2], content.shape[3])
        batches = self.batches(origins, patch, tau)
        return self.run(base, batches, lambda queries: content if shared else content[queries], names)

    def batches(self, origins: Integers, patch: tuple[int, int], tau: float = 1.0) -> Iterator[Batch]:
        """Queries as they run together, in the order that is fastest.

        Args:
            origins: int64 [Q, 2], inside the image.
            patch: (height, width).
            tau: the share of a map's rows, and columns, that a window may have: 1 but for a plan with `window_begins`.
        """
        tables, lanes_ = self._ways(patch, tau)
        return plan_batches(self.plan, tables, origins, patch, lanes_, tau)

    def query_seconds(self, patch: tuple[int, int], tau: float = 1.0) -> float:
        """What the mean query of an image is predicted to take, on one core of the reference machine.

        Args:
            patch: (height, width).
            tau: as for `batches`.
        """
        tables, lanes_ = self._ways(patch, tau)
        return mean_seconds(self.plan.windows, tables) + self.plan.query_seconds + self.plan.run_seconds / lanes_.batch

    def run(
        self, base: Base, batches: Iterable[Batch], content: Content, names: Mapping[str, str | Pick] | None = None
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Run queries batch by batch; for results too large to be kept.

        Args:
            base: from `materialize`.
            batches: from `batches`.
            content: patch content by queries' positions.
            names: which outputs of the incremental graph to compute, or which elements of them, by the names to give
                them; by default the model's.
        """
        wanted: Mapping[str, str | Pick] = names or {info.name: info.name for info in self.plan.outputs}

        def answer(group: tuple[Batch, ...]) -> list[Outputs]:
            return self._answered(base, group, content, wanted)

        rest = iter(batches)
        for first in rest:  # whose patch tells how many fit into the memory; there may be none
            groups = (tuple(members) for _, members in groupby(chain([first], rest), attrgetter("group")))
            for group, answers in side_by_side(answer, groups, self._ways(first.patch, first.tau)[1].workers):
                yield from zip(group, answers, strict=True)

    def _answered(
        self, base: Base, group: Sequence[Batch], content: Content, wanted: Mapping[str, str | Pick]
    ) -> list[Outputs]:
        """Outputs of the batches of one group, one after another, and of the tail for all of them at once."""
        tail, engines = self.plan.tail, self.open()
        sources = {name: source_of(one) for name, one in wanted.items()}
        late = {name: source for name, source in sources.items() if tail is not None and source in tail.outputs}
        between = tail.inputs if tail is not None and late else ()
        early = {name: source for name, source in sources.items() if name not in late}
        answers: list[Outputs] = []
        handed: list[list[Array]] = []
        for batch in group:
            feed = self.feed(base, batch, content(batch.queries))
            results = engines.incremental.run(feed, [*early.values(), *between])
            answers.append(self._named(early, results[: len(early)]))
            handed.append(results[len(early) :])
        if engines.tail is not None and late:
            feed = {name: np.concatenate(parts) for name, *parts in zip(between, *handed, strict=True)}
            places = np.cumsum([len(batch.queries) for batch in group])[:-1]
            del handed
            for name, values in zip(late, engines.tail.result().run(feed, list(late.values())), strict=True):
                for outputs, part in zip(answers, np.split(values, places), strict=True):
                    outputs[name] = part
        return [{name: given(outputs[name], one) for name, one in wanted.items()} for outputs in answers]

    @staticmethod
    def _way(
        plan: Plan, budget: int | None, workers: int, patch: tuple[int, int], tau: float
    ) -> tuple[tuple[WindowTable, WindowTable], Lanes]:
        """Window tables of a patch, and how many of its queries run at a time."""
        tables = window_tables(plan.program, plan.windows, patch, tau)
        return tables, lanes(plan, patch, tables, budget, workers)

    def feed(self, base: Base, batch: Batch, content: Array) -> dict[str, Array]:
        """The inputs of the incremental graph for one batch, by name.

        Args:
            base: from `materialize`.
            batch: from `batches`.
            content: [1 or q, C, h, w].
        """
        held = {
            view.name: base.views[view.name][first * view.cols : stop * view.cols]
            for view, (first, stop) in zip(self.plan.views, batch.bands, strict=True)
        }
        places = self._places(batch, content, [first for first, _ in batch.bands])
        return {"patch_content": content, **places, **held, **base.inputs}

    def _places(self, batch: Batch, content: Array, view_rows: Sequence[int]) -> dict[str, Array]:
        """Where the queries lie, in the inputs by which the incremental graph takes that."""
        told: dict[str, Array] = {
            "origins": batch.origins,
            "window_sizes": batch.window_sizes,
            "view_rows": np.array(view_rows, np.int64),
        }
        if batch.window_begins is not None:
            told["window_begins"] = batch.window_begins
        index = self.open().index
        if index is None:
            return told
        return dict(zip(index.outputs, index.run({"patch_content": content, **told}), strict=True))

    def _named(self, wanted: Iterable[str], results: Sequence[Array]) -> Outputs:
        """Results by name; ragged ones as lists."""
        return {
            name: list(values) if name in self._ragged else values for name, values in zip(wanted, results, strict=True)
        }


def _beside(load: Callable[[str, int], Engine], file: str, threads: int) -> Future[Engine]:
    """What is loaded on a thread of its own. What that raises, is raised where the result is asked for."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(load, file, threads)
    finally:
        pool.shutdown(wait=False)
