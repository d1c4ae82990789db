"""The session: materialize a base once, then ask it any number of queries."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Literal, overload

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike

from krypton_onnx.artifact import BASE_FILE, INCREMENTAL_FILE, TAIL_FILE, Artifact, open_artifact
from krypton_onnx.classes import WindowTable, window_tables
from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Fill
from krypton_onnx.runtime.arguments import image_tensor, other_inputs, patch_origins, patch_tensor
from krypton_onnx.runtime.base import Base, Content, Output, Outputs
from krypton_onnx.runtime.batches import Batch, Integers, plan_batches
from krypton_onnx.runtime.engine import Array, Engine, Provider, quiet_options, workers_for
from krypton_onnx.runtime.explain import Edge, Pair, Question, explain, pair
from krypton_onnx.runtime.memory import Lanes, lanes
from krypton_onnx.runtime.outputs import Regions, gathered, gathered_regions, no_answers, ragged_names, region_windows
from krypton_onnx.runtime.side_by_side import available_cores, side_by_side
from krypton_onnx.runtime.targets import Target


class Session:
    """A compiled model, ready to be asked. Immutable; threads may share it.

    Args:
        artifact: an `Artifact`, or the path of one.
        providers: ONNX Runtime's execution providers; the CPU's by default.
        session_options: ONNX Runtime's options, used for all graphs. Batches then run one after another, each on as
            many threads as they say; side by side only if they give a run a single one, and `threads` is more.
        memory_budget: bytes that all but the weights may take at the peak, by which the batch size is chosen; None for
            no limit.
        threads: cores to use, by default all that this process may, with `session_options` one. On the CPU a batch
            runs on one thread, and as many batches side by side: so no thread ever waits for another within a batch.

    Raises:
        KryptonError: the artifact is not whole, ONNX Runtime refuses it, or the budget is too small for one query.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str],
        providers: Sequence[Provider] | None = None,
        session_options: ort.SessionOptions | None = None,
        memory_budget: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
        self._budget = _checked_count(memory_budget, "memory_budget must be a whole number of bytes")
        self._ragged = ragged_names(self.plan)
        _way(self.plan, self._budget, 1, self.plan.patch)  # refuse too small a budget before any work
        given = _checked_count(threads, "threads must be a whole number of cores, at least 1")
        cores = given or (available_cores() if session_options is None else 1)
        self._workers = workers_for(cores, providers, session_options)
        self._ways = lru_cache(maxsize=8)(partial(_way, self.plan, self._budget, self._workers))
        self._base = Engine(self.artifact.folder / BASE_FILE, providers, session_options or quiet_options(cores))
        own = session_options or quiet_options(cores // self._workers)
        self._incremental = Engine(self.artifact.folder / INCREMENTAL_FILE, providers, own)
        self._tail = None if self.plan.tail is None else Engine(self.artifact.folder / TAIL_FILE, providers, own)

    @property
    def plan(self) -> Plan:
        """What the compiler decided."""
        return self.artifact.plan

    # -------------------------------------------------------------------------------------------- base run

    def materialize(self, image: ArrayLike, inputs: Mapping[str, ArrayLike] | None = None) -> Base:
        """Run the base graph on one image and keep its views.

        Args:
            image: the model's input tensor [C, H, W], without or with a leading 1, of its dtype or castable to it;
                [H, W, C] for a model that takes channels last.
            inputs: the model's other inputs by name, in full shape.

        Raises:
            KryptonError: wrong shape, type or names, or values that are not finite.
        """
        tensor = image_tensor(image, self.plan)
        others = other_inputs(inputs or {}, self.plan.other_inputs)
        feed = {self.plan.image.name: tensor[None], **others}
        results = zip(self.plan.views, self._base.run(feed), strict=True)
        views = {view.name: result.reshape(-1, view.channels) for view, result in results}
        return Base(self.plan, tensor, others, views, self._base_outputs)

    def _base_outputs(self, base: Base) -> Outputs:
        """The model's outputs for the image itself: a patch that shows what is there already changes nothing."""
        height, width = self.plan.patch
        return self._collect(base, np.zeros((1, 2), np.int64), base.image[None, :, :height, :width])

    # -------------------------------------------------------------------------------------------- queries

    @overload
    def infer(
        self, base: Base | ArrayLike, origins: ArrayLike, patch_content: ArrayLike, regions: Literal[False] = False
    ) -> Outputs: ...

    @overload
    def infer(
        self, base: Base | ArrayLike, origins: ArrayLike, patch_content: ArrayLike, regions: Literal[True]
    ) -> dict[str, Output | Regions]: ...

    def infer(
        self, base: Base | ArrayLike, origins: ArrayLike, patch_content: ArrayLike, regions: bool = False
    ) -> Outputs | dict[str, Output | Regions]:
        """The model's outputs for images in which one rectangle each is replaced.

        Args:
            base: from `materialize`, or an image tensor.
            origins: integers [Q, 2], (y, x) of each rectangle's top-left pixel.
            patch_content: [C, h, w] or [1, C, h, w] for all queries, or [Q, C, h, w]; castable to the model's dtype;
                channels last for a model that takes them so.
            regions: give of maps that are computed in windows only the part that can differ from the base run's. Whole
                maps are then neither copied nor kept; ONNX Runtime assembles them nonetheless.

        Returns:
            By output name, an array [Q, …]; for an output whose extents depend on the data a list of Q arrays; with
            `regions`, `Regions` for an output that is computed in windows.

        Raises:
            KryptonError: wrong shapes or types, or a rectangle that leaves the image.
        """
        base = self._as_base(base)
        content = patch_tensor(patch_content, self.plan)
        places = patch_origins(origins, self.plan, content.shape[2:])
        if len(content) not in (1, len(places)):
            raise KryptonError(
                f"patch_content is for {len(content)} queries and there are {len(places)} origins; give one or as many."
            )
        if regions:
            batches = self._answers(base, places, content, self._region_names())
            return gathered_regions(self.plan, batches, len(places))
        return self._collect(base, places, content) if len(places) else no_answers(self.plan)

    def _collect(self, base: Base, places: Integers, content: Array) -> Outputs:
        return gathered(self._answers(base, places, content), len(places))

    def _answers(
        self, base: Base, places: Integers, content: Array, names: Mapping[str, str] | None = None
    ) -> Iterator[tuple[Batch, Outputs]]:
        shared, patch = len(content) == 1, (content.shape[2], content.shape[3])
        batches = self.batches(places, patch)
        return self.run(base, batches, lambda queries: content if shared else content[queries], names)

    def _region_names(self) -> dict[str, str]:
        """Per output of the model, the incremental graph's output that holds its windows, or the map."""
        windows = region_windows(self.plan)
        first = len(self.plan.outputs) - len(self.plan.tail.outputs if self.plan.tail else ())
        names = dict(zip(windows, self._incremental.outputs[first : first + len(windows)], strict=True))
        return {info.name: names.get(info.name, info.name) for info in self.plan.outputs}

    def batches(self, origins: Integers, patch: tuple[int, int]) -> Iterator[Batch]:
        """Queries as they run together, in the order that is fastest.

        Args:
            origins: int64 [Q, 2], inside the image.
            patch: (height, width).
        """
        tables, lanes_ = self._ways(patch)
        return plan_batches(self.plan, tables, origins, patch, lanes_)

    def run(
        self, base: Base, batches: Iterable[Batch], content: Content, names: Mapping[str, str] | None = None
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Run queries batch by batch; for results too large to be kept.

        Args:
            base: from `materialize`.
            batches: from `batches`.
            content: patch content by queries' positions.
            names: which outputs of the incremental graph to compute, by the names to give them; by default the model's.
        """
        wanted = names or {info.name: info.name for info in self.plan.outputs}

        def answer(group: tuple[Batch, ...]) -> list[Outputs]:
            return self._answered(base, group, content, wanted)

        rest = iter(batches)
        for first in rest:  # whose patch tells how many fit into the memory; there may be none
            groups = (tuple(members) for _, members in groupby(chain([first], rest), attrgetter("group")))
            for group, answers in side_by_side(answer, groups, self._ways(first.patch)[1].workers):
                yield from zip(group, answers, strict=True)

    def _answered(
        self, base: Base, group: Sequence[Batch], content: Content, wanted: Mapping[str, str]
    ) -> list[Outputs]:
        """Outputs of the batches of one group, one after another, and of the tail for all of them at once."""
        tail = self.plan.tail
        late = {name: source for name, source in wanted.items() if tail is not None and source in tail.outputs}
        between = tail.inputs if tail is not None and late else ()
        early = {name: source for name, source in wanted.items() if name not in late}
        answers: list[Outputs] = []
        handed: list[list[Array]] = []
        for batch in group:
            feed = self.feed(base, batch, content(batch.queries))
            results = self._incremental.run(feed, [*early.values(), *between])
            answers.append(self._named(early, results[: len(early)]))
            handed.append(results[len(early) :])
        if self._tail is None or not late:
            return answers
        feed = {name: np.concatenate(parts) for name, *parts in zip(between, *handed, strict=True)}
        places = np.cumsum([len(batch.queries) for batch in group])[:-1]
        del handed
        for name, values in zip(late, self._tail.run(feed, list(late.values())), strict=True):
            for outputs, part in zip(answers, np.split(values, places), strict=True):
                outputs[name] = part
        return [{name: outputs[name] for name in wanted} for outputs in answers]

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
        return {
            "origins": batch.origins,
            "patch_content": content,
            "window_sizes": batch.window_sizes,
            "view_rows": np.array([first for first, _ in batch.bands], np.int64),
            **held,
            **base.inputs,
        }

    def _named(self, wanted: Iterable[str], results: Sequence[Array]) -> Outputs:
        """Results by name; ragged ones as lists."""
        return {
            name: list(values) if name in self._ragged else values for name, values in zip(wanted, results, strict=True)
        }

    # ------------------------------------------------------------------------------------------- heatmaps

    def explain(
        self,
        base: Base | ArrayLike,
        target: Target = "top",
        *,
        patch: Pair = 16,
        stride: Pair = 4,
        fill: Fill | ArrayLike = 0.0,
        edge: Edge = "cover",
        region: tuple[int, int, int, int] | None = None,
        output: str | None = None,
        progress: bool | None = None,
    ) -> Heatmap:
        """Slide a patch over the image and record the score at every position.

        Args:
            base: from `materialize`, or an image tensor.
            target: what is scored: an index into the flattened output, a list of T indices, "top" (the largest of the
                base run), `InMask` for segmentations, `BoxScore` for detections, `Cosine` for embeddings, or a function
                from a batch's outputs (by name, [q, …]) to [q] floats.
            patch: its (height, width) in pixels; any size, whatever the model was compiled for.
            stride: pixels between neighbouring positions, (y, x).
            fill: what the patch shows: a number, a value per channel, or an image tensor to cut it from, in units of
                the input tensor. If the model was compiled with its preprocessing, numbers are pixels (0 to 255), and
                names work too: black, gray, white. Whatever the model: "mean", the image's mean colour; "blur" or
                "blur:SIGMA", the image under a Gaussian; "noise" or "noise:SEED".
            edge: "cover" adds the last position that fits, so that every pixel is covered; "stop" does not.
            region: (y0, x0, y1, x1), to ask about part of the image.
            output: name of the output to score; the first by default.
            progress: True for a progress bar, False for none; by default one if standard error is a terminal.

        Returns:
            The heatmap; docs/heatmap.md defines it.

        Raises:
            KryptonError: anything that does not fit the model or the image.
        """
        question = Question(target, pair(patch, "patch"), pair(stride, "stride"), fill, edge, region, output)
        return explain(self, self._as_base(base), question, progress)

    # ------------------------------------------------------------------------------------------- checking

    def _as_base(self, base: Base | ArrayLike) -> Base:
        if not isinstance(base, Base):
            return self.materialize(base)
        if base.plan is not self.plan and base.plan != self.plan:
            raise KryptonError(
                f"The base is of another compiled model ({base.plan.source.file}): materialize the image in this "
                "session."
            )
        return base


def _way(
    plan: Plan, budget: int | None, workers: int, patch: tuple[int, int]
) -> tuple[tuple[WindowTable, WindowTable], Lanes]:
    """Window tables of a patch, and how many of its queries run at a time."""
    tables = window_tables(plan.program, plan.windows, patch)
    return tables, lanes(plan, patch, tables, budget, workers)


def _checked_count(given: object, form: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, int | np.integer) and not isinstance(given, bool) and given >= 1:
        return int(given)
    raise KryptonError(f"{form}, not {given!r}.")
