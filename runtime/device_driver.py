"""The driver of one variant on a device with a memory of its own: what is computed there stays there.

The image goes to the device once, and its views never leave it. What the queries of a batch differ in goes there in one
piece; of a group, every output, or what is scored of it, comes back in one. Where there is no room, batches are halved.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from krypton_onnx.artifact import PICK_FILE
from krypton_onnx.classes import WindowTable
from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.base import Base, Content, Output, Outputs
from krypton_onnx.runtime.batches import Batch
from krypton_onnx.runtime.driver import Driver
from krypton_onnx.runtime.engine import Array, Engine
from krypton_onnx.runtime.failures import OutOfMemoryError
from krypton_onnx.runtime.memory import Lanes, grown_by_doubling, queries_that_wait, waiting_bytes
from krypton_onnx.runtime.outputs import Pick, given, source_of
from krypton_onnx.runtime.providers import uncaptured
from krypton_onnx.runtime.resident import FLOAT32, Device, Resident, can_hold, device_of


class DeviceDriver(Driver):
    """A `Driver` whose views, queries and outputs live on the device of its first provider."""

    _number: int | None = None  # of what a run captures, see `Engine.run_on`

    @property
    def _device(self) -> Device:
        device = device_of(self._resources.providers)
        assert device is not None, "the first provider computes on the host"
        return device

    @cached_property
    def _room(self) -> dict[tuple[int, int], int]:
        """Queries of a batch for which the device has turned out to have room, by their patch."""
        return {}

    @staticmethod
    def _way(
        plan: Plan, budget: int | None, workers: int, patch: tuple[int, int], tau: float
    ) -> tuple[tuple[WindowTable, WindowTable], Lanes]:
        waiting = waiting_bytes(budget)
        try:
            rest = None if budget is None else grown_by_doubling(plan, budget - waiting)
            tables, lane = Driver._way(plan, rest, workers, patch, tau)
        except KryptonError:  # all of it, or less, is needed for a single query
            waiting, (tables, lane) = 0, Driver._way(plan, budget, workers, patch, tau)
        return tables, replace(lane, group=max(lane.batch, queries_that_wait(plan, patch, waiting)))

    def _views(self, engine: Engine, feed: Mapping[str, Array]) -> Mapping[str, Resident]:
        found = engine.run_on(self._device, feed, dict.fromkeys(engine.outputs))
        views = {
            view.name: result.reshaped((math.prod(result.shape[:-1]), view.channels))
            for view, result in zip(self.plan.views, found.values(), strict=True)
        }
        there = self.open().incremental.inputs_on(self._device)
        return views | self._device.put_together({name: feed[name] for name in feed if name in there})

    def _answered(
        self, base: Base, group: Sequence[Batch], content: Content, wanted: Mapping[str, str | Pick]
    ) -> list[Outputs]:
        """Outputs of the batches of one group, after as many halvings as it takes.

        Where there has once been no room, batches no longer share the way to the device and back.
        """
        patch, whole = group[0].patch, max(len(batch.queries) for batch in group)
        while True:
            most = min(self._room.get(patch, whole), whole)
            parts = [batch.cut(most) for batch in group]
            try:
                if patch in self._room:
                    alone = [[self._returned(base, [part], content, wanted)[0] for part in cut] for cut in parts]
                    return [_joined(answers) for answers in alone]
                return self._returned(base, group, content, wanted)
            except OutOfMemoryError:
                if most == 1:
                    raise
                self._room[patch] = min(most // 2, self._room.get(patch, most))  # others may have found out, too

    def _returned(
        self, base: Base, batches: Sequence[Batch], content: Content, wanted: Mapping[str, str | Pick]
    ) -> list[Outputs]:
        """Outputs of batches, which come back together where their shape is known beforehand."""
        rows = list(pairwise([0, *accumulate(len(batch.queries) for batch in batches)]))
        sources = {name: source_of(one) for name, one in wanted.items()}
        held = self._held(rows[-1][1], sources)
        alone: list[Outputs] = []
        for batch, (first, stop) in zip(batches, rows, strict=True):
            places = {
                source: held[name].rows(first, stop) if name in held else None for name, source in sources.items()
            }
            found = self._run(base, self._sent(self._told(base, batch, content(batch.queries))), places)
            alone.append(
                {
                    name: given(self._fetched(found[source], name), wanted[name])
                    for name, source in sources.items()
                    if name not in held
                }
            )
        together = {name: self._brought(buffer, wanted[name]) for name, buffer in held.items()}
        return [
            {name: one[name] if name in one else together[name][first:stop] for name in wanted}
            for one, (first, stop) in zip(alone, rows, strict=True)
        ]

    def _told(self, base: Base, batch: Batch, content: Array) -> dict[str, Array]:
        """What the incremental graph takes beside the views, by name."""
        everything = [0] * len(self.plan.views)  # of all views, all rows are there
        others = {name: array for name, array in base.inputs.items() if name not in base.views}
        return {"patch_content": content, **self._places(batch, content, everything), **others}

    def _sent(self, told: Mapping[str, Array]) -> dict[str, Array | Resident]:
        """The same, where the graph wants it."""
        there = self.open().incremental.inputs_on(self._device)
        return {**told, **self._device.put_together({name: told[name] for name in told if name in there})}

    def _held(self, queries: int, sources: Mapping[str, str]) -> dict[str, Resident]:
        """Room for the outputs of so many queries, by name: of the model's own whose extents are known."""
        known = {info.name: info for info in self.plan.outputs if None not in info.shape and can_hold(info.dtype)}
        return {
            name: self._device.empty((queries, *(extent or 0 for extent in known[source].shape)), known[source].dtype)
            for name, source in sources.items()
            if source in known
        }

    def _brought(self, buffer: Resident, wanted: str | Pick) -> Output:
        """What is wanted of an output, and where the artifact has a graph for that, nothing else."""
        if isinstance(wanted, str) or self._picker is None or buffer.element != FLOAT32:
            return given(buffer.fetched(), wanted)
        rows = buffer.reshaped((buffer.shape[0], math.prod(buffer.shape[1:])))
        feed: dict[str, Array | Resident] = {"values": rows, "indices": np.array(wanted.indices, np.int64)}
        return self._picker.run_on(self._device, feed, {"picked": None})["picked"].fetched()

    @cached_property
    def _picker(self) -> Engine | None:
        if self.plan.device == "cpu":
            return None
        return Engine(self._folder / PICK_FILE, uncaptured(self._resources.providers), self._resources.options)

    def _run(
        self, base: Base, sent: Mapping[str, Array | Resident], places: Mapping[str, Resident | None]
    ) -> dict[str, Resident]:
        """One run of the incremental graph, and of the tail behind it, by the names of their outputs."""
        engines, (early, between, late) = self.open(), self._stages(places)
        feed = {**sent, **base.views}
        found = engines.incremental.run_on(self._device, feed, {name: places.get(name) for name in early}, self._number)
        if engines.tail is not None and late:
            handed, results = {name: found[name] for name in between}, {name: places[name] for name in late}
            found |= engines.tail.result().run_on(self._device, handed, results, self._number)
        return found

    def _stages(self, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Which outputs the incremental graph computes, which of them the tail takes, and which that computes."""
        tail, wanted = self.plan.tail, dict.fromkeys(names)
        late = tuple(name for name in wanted if tail is not None and name in tail.outputs)
        between = tail.inputs if tail is not None and late else ()
        # What goes into the tail may be an output, too.
        return tuple(dict.fromkeys([*between, *(name for name in wanted if name not in late)])), between, late

    def _fetched(self, values: Resident, name: str) -> Output:
        found = values.fetched()
        return list(found) if name in self._ragged else found


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of a batch that ran in parts."""
    first, *others = parts
    for part in others:
        for name, values in part.items():
            known = first[name]
            first[name] = [*known, *values] if isinstance(known, list) else np.concatenate([known, values])
    return first
