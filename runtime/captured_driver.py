"""The driver of one variant on a device, of which CUDA graphs are captured: all kernels of a run start at once.

What has been captured reads and writes the very places that it did then. So there is one place for the views, into
which those of another image are computed anew; for batches of the same extents there is one for what is sent and one
for what comes back; and runs follow one another. ONNX Runtime keeps what a thread has captured for that thread, so that
one thread does all of it, for all sessions.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from krypton_onnx.artifact import Files
from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.base import Base, Content, Outputs
from krypton_onnx.runtime.batches import Batch
from krypton_onnx.runtime.device_driver import DeviceDriver
from krypton_onnx.runtime.driver import Driver, Engines, Resources
from krypton_onnx.runtime.engine import NOT_CAPTURED, Array, Engine
from krypton_onnx.runtime.failures import OutOfMemoryError
from krypton_onnx.runtime.memory import waiting_bytes
from krypton_onnx.runtime.outputs import Pick, source_of
from krypton_onnx.runtime.resident import Device, Resident, can_hold

Result = TypeVar("Result")

MOST = 64
"""Shapes of batches of which runs stay captured; of more, those that ran last."""

_NUMBERS = count()
"""Of all that is captured: two drivers can share a tail."""

_THREAD = "krypton-onnx-cuda-graphs"
_CAPTURING = ThreadPoolExecutor(1, thread_name_prefix=_THREAD)


class CapturedDriver(DeviceDriver):
    """A `DeviceDriver` whose runs are captured once for each shape, and replayed.

    While one captures, CUDA refuses much of what other threads of the process may do on the device, such as to
    allocate: all that drivers of this kind do there, loading included, is done on one thread.

    Raises:
        KryptonError: as for `Driver`; and of a plan whose index is not apart, of which nothing can be captured.
    """

    _number = NOT_CAPTURED

    def __init__(
        self, folder: Path, files: Files, plan: Plan, resources: Resources, like: Driver | None = None
    ) -> None:
        if not plan.index_apart:
            raise KryptonError(
                "CUDA graphs can only be captured of what was compiled for CUDA: compile the model again with "
                "device='cuda', or leave out enable_cuda_graph."
            )
        super().__init__(folder, files, plan, resources, like)
        self._base_run: _Run | None = None
        self._runs: dict[object, _Run] = {}  # of queries, by their keys, the last ones last
        self._laid: Base | None = None  # whose views lie in their places

    def _opened(self) -> Engines:
        engines = _alone(super()._opened)
        if engines.tail is not None:
            engines.tail.result()  # loads on a thread of its own
        return engines

    def _views(self, engine: Engine, feed: Mapping[str, Array]) -> Mapping[str, Resident]:
        return {}  # computed when they are read

    def _returned(
        self, base: Base, batches: Sequence[Batch], content: Content, wanted: Mapping[str, str | Pick]
    ) -> list[Outputs]:
        self.open()
        return _alone(lambda: self._captured(base, batches, content, wanted))

    def _captured(
        self, base: Base, batches: Sequence[Batch], content: Content, wanted: Mapping[str, str | Pick]
    ) -> list[Outputs]:
        try:
            views = self._laid_out(base)
            if not self._is_known(wanted):
                return super()._returned(replace(base, views=views), batches, content, wanted)
            return [self._replayed(base, batch, content(batch.queries), wanted, views) for batch in batches]
        except OutOfMemoryError:
            self._forget(0)
            self._forget_base()
            raise

    def _is_known(self, wanted: Mapping[str, str | Pick]) -> bool:
        """Whether the extents of all outputs are known beforehand, without which there is no place for them."""
        engines = self.open()
        known = engines.incremental.results | (engines.tail.result().results if engines.tail is not None else {})
        return all(_known_shape(known[source_of(one)], 1) is not None for one in wanted.values())

    def _laid_out(self, base: Base) -> dict[str, Resident]:
        """The views of a base, in their places."""
        engine = self.open().base
        call = _Call(engine, {self.plan.image.name: base.image[None], **base.inputs}, {}, engine.outputs, 1)
        if self._base_run is None or self._base_run.key != call.key(self._device):
            self._forget_base()
            self._base_run = _Run(call, self._device)
        if self._laid is not base:
            self._laid = None
            self._base_run(call.told)
            self._laid = base
        return {
            view.name: place.reshaped((view.rows * view.cols, view.channels))
            for view, place in zip(self.plan.views, self._base_run.results.values(), strict=True)
        }

    def _replayed(
        self,
        base: Base,
        batch: Batch,
        content: Array,
        wanted: Mapping[str, str | Pick],
        views: Mapping[str, Resident],
    ) -> Outputs:
        """Outputs of one batch."""
        engines, queries = self.open(), len(batch.queries)
        sources = {name: source_of(one) for name, one in wanted.items()}
        early, between, late = self._stages(sources.values())
        found = self._ran(_Call(engines.incremental, self._told(base, batch, content), views, early, queries))
        if engines.tail is not None and late:
            handed = {name: found[name] for name in between}
            found |= self._ran(_Call(engines.tail.result(), {}, handed, late, queries))
        return {name: self._brought(found[sources[name]], one) for name, one in wanted.items()}

    def _ran(self, call: "_Call") -> dict[str, Resident]:
        """What a run gives, in its places, which was captured for the same before, or is now."""
        key = call.key(self._device)
        run = self._runs.pop(key, None) or _Run(call, self._device)
        found = run(call.told)
        self._runs[key] = run
        self._forget(MOST)
        return found

    def _forget_base(self) -> None:
        if self._base_run is not None:
            self._base_run.forget()
        self._base_run = self._laid = None

    def _forget(self, most: int) -> None:
        """Keep of what is captured the last ones: so many, whose places fit into what may wait of the budget."""
        room, kept = waiting_bytes(self._resources.budget), 0
        for number, (key, run) in enumerate(reversed(list(self._runs.items()))):
            kept += run.nbytes
            if number >= most or (kept > room and number > 0):
                self._runs.pop(key).forget()


@dataclass(frozen=True, slots=True)
class _Call:
    """What is asked of a graph.

    Attributes:
        engine: of the graph.
        told: inputs that differ from run to run, by name.
        fixed: those that lie in their places already.
        names: of the outputs, whose extents are known.
        queries: of a batch.
    """

    engine: Engine
    told: Mapping[str, Array]
    fixed: Mapping[str, Resident]
    names: tuple[str, ...]
    queries: int

    def key(self, device: Device) -> tuple[object, ...]:
        """All that a run of it is captured for: the host's numbers, which are extents, too."""
        there = self.engine.inputs_on(device)
        sent = ((name, array.shape, None if name in there else array.tobytes()) for name, array in self.told.items())
        return (id(self.engine), self.names, self.queries, *sent, *(place.pointer for place in self.fixed.values()))


class _Run:
    """A graph with places for what goes in and what comes out, which is captured when it first runs.

    Args:
        call: the first of all for which it is captured.
        device: where it runs.

    Attributes:
        key: of the call.
        results: places of the outputs.
    """

    def __init__(self, call: _Call, device: Device) -> None:
        self.key = call.key(device)
        self._engine, self._device, self._fixed, self._number = call.engine, device, call.fixed, next(_NUMBERS)
        self._sent: dict[str, Resident] | None = None
        self.results = {name: _place(device, call.engine, name, call.queries) for name in call.names}

    @property
    def nbytes(self) -> int:
        """Of all places."""
        return sum(place.nbytes for place in (*self.results.values(), *(self._sent or {}).values()))

    def __call__(self, told: Mapping[str, Array]) -> dict[str, Resident]:
        """Capture and run, or replay what was captured."""
        if self._sent is None:
            there = self._engine.inputs_on(self._device)
            self._sent = self._device.put_together({name: told[name] for name in told if name in there})
        else:
            self._device.refill(self._sent, told)
        feed: dict[str, Array | Resident] = {**told, **self._sent, **self._fixed}
        return self._engine.run_on(self._device, feed, self.results, self._number)

    def forget(self) -> None:
        """Let go what was captured."""
        self._engine.forget(self._number)


def _place(device: Device, engine: Engine, name: str, queries: int) -> Resident:
    shape = _known_shape(engine.results[name], queries)
    assert shape is not None, "outputs of unknown extents are not captured"
    return device.empty(shape, engine.results[name][1])


def _known_shape(result: tuple[Sequence[int | str | None], str], queries: int) -> tuple[int, ...] | None:
    """Extents of an output; None if nothing tells them beforehand."""
    extents, dtype = result
    known = tuple(
        queries if extent == "Q" else extent for extent in extents if isinstance(extent, int) or extent == "Q"
    )
    return known if can_hold(dtype) and len(known) == len(extents) else None  # type: ignore[return-value]


def _alone(work: Callable[[], Result]) -> Result:
    """Do something on the thread that captures."""
    if threading.current_thread().name.startswith(_THREAD):
        return work()
    return _CAPTURING.submit(work).result()
