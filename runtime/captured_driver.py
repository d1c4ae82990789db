"""The driver of one variant on a device, of which CUDA graphs are captured: all kernels of a run start at once.

What has been captured reads and writes the very places that it did then. So there is one place for the views, into
which those of another image are computed anew; for batches of the same extents there is one for what is sent and one
for what comes back; and runs follow one another.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from threading import Lock

from krypton_onnx.artifact import Files
from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.base import Base, Content, Outputs
from krypton_onnx.runtime.batches import Batch
from krypton_onnx.runtime.device_driver import DeviceDriver
from krypton_onnx.runtime.driver import Driver, Resources
from krypton_onnx.runtime.engine import Array, Engine
from krypton_onnx.runtime.outputs import Pick, source_of
from krypton_onnx.runtime.providers import NOT_CAPTURED
from krypton_onnx.runtime.resident import Device, Resident, can_hold

MOST = 64
"""Shapes of batches that are captured, each of which keeps memory; others run as without."""


_TURN = Lock()
"""While anything is captured, CUDA takes no other work of the process."""

_NUMBERS = count()
"""Of all that is captured: two drivers can share a tail."""


class CapturedDriver(DeviceDriver):
    """A `DeviceDriver` whose runs are captured once for each shape, and replayed.

    Raises:
        KryptonError: as for `Driver`; and of a plan whose index is not apart, of which nothing can be captured.
    """

    def __init__(
        self, folder: Path, files: Files, plan: Plan, resources: Resources, like: Driver | None = None
    ) -> None:
        if not plan.index_apart:
            raise KryptonError(
                "CUDA graphs can only be captured of what was compiled for CUDA: compile the model again with "
                "device='cuda', or leave out enable_cuda_graph."
            )
        super().__init__(folder, files, plan, resources, like)
        self._runs: dict[object, _Run] = {}  # by all that a run is captured for
        self._laid: Base | None = None  # whose views lie in their places

    def _views(self, engine: Engine, feed: Mapping[str, Array]) -> Mapping[str, Resident]:
        return {}  # computed when they are read

    def _returned(
        self, base: Base, batches: Sequence[Batch], content: Content, wanted: Mapping[str, str | Pick]
    ) -> list[Outputs]:
        with _TURN:
            views = self._laid_out(base)
            return [self._replayed(base, batch, content(batch.queries), wanted, views) for batch in batches]

    def _laid_out(self, base: Base) -> dict[str, Resident]:
        """The views of a base, in their places."""
        feed, engine = {self.plan.image.name: base.image[None], **base.inputs}, self.open().base
        run = self._run_for(engine, feed, {}, engine.outputs, queries=1)
        if self._laid is not base:
            self._laid = None
            run(feed)
            self._laid = base
        return {
            view.name: place.reshaped((view.rows * view.cols, view.channels))
            for view, place in zip(self.plan.views, run.results.values(), strict=True)
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
        tail, engines, queries = self.plan.tail, self.open(), len(batch.queries)
        sources = {name: source_of(one) for name, one in wanted.items()}
        late = [source for source in sources.values() if tail is not None and source in tail.outputs]
        between = tail.inputs if tail is not None and late else ()
        early = dict.fromkeys([*between, *(source for source in sources.values() if source not in late)])
        told = self._told(base, batch, content)
        found = self._run_for(engines.incremental, told, views, tuple(early), queries)(told)
        if engines.tail is not None and late:
            handed = {name: found[name] for name in between}
            found |= self._run_for(engines.tail.result(), {}, handed, tuple(late), queries)({})
        return {name: self._brought(found[sources[name]], one) for name, one in wanted.items()}

    def _run_for(
        self,
        engine: Engine,
        told: Mapping[str, Array],
        fixed: Mapping[str, Resident],
        names: tuple[str, ...],
        queries: int,
    ) -> "_Run":
        """The run that was captured for the same, or is when it first runs."""
        there = engine.inputs_on(self._device)
        key = (
            id(engine),
            names,
            queries,
            # extents that the host knows are captured as they are
            *((name, array.shape, None if name in there else array.tobytes()) for name, array in told.items()),
        )
        if key not in self._runs:
            number = next(_NUMBERS) if len(self._runs) < MOST else NOT_CAPTURED
            run = _Run(engine, self._device, told, fixed, names, queries, number)
            if number == NOT_CAPTURED:
                return run
            self._runs[key] = run
        return self._runs[key]


class _Run:
    """A graph with places for what goes in and what comes out, of which a number names what is captured.

    Args:
        engine: of the graph.
        device: where it runs.
        told: what differs from run to run, as it is once.
        fixed: what lies in its place already.
        names: of the outputs.
        queries: of a batch.
        number: of what is captured.
    """

    def __init__(
        self,
        engine: Engine,
        device: Device,
        told: Mapping[str, Array],
        fixed: Mapping[str, Resident],
        names: Sequence[str],
        queries: int,
        number: int,
    ) -> None:
        self._engine, self._device, self._fixed, self._number = engine, device, fixed, number
        there = engine.inputs_on(device)
        self._sent = device.put_together({name: array for name, array in told.items() if name in there})
        self.results = {name: device.empty(*_known(engine, name, queries)) for name in names}

    def __call__(self, told: Mapping[str, Array]) -> dict[str, Resident]:
        """Run, or replay what was captured."""
        self._device.refill(self._sent, told)
        feed: dict[str, Array | Resident] = {**told, **self._sent, **self._fixed}
        return self._engine.run_on(self._device, feed, self.results, self._number)


def _known(engine: Engine, name: str, queries: int) -> tuple[tuple[int, ...], str]:
    """Extents and numpy's type of an output."""
    extents, dtype = engine.results[name]
    shape = [queries if extent == "Q" else extent for extent in extents]
    known = tuple(extent for extent in shape if isinstance(extent, int))
    if not can_hold(dtype) or len(known) < len(shape):
        raise KryptonError(
            f"CUDA graphs cannot be captured of this model, because nothing tells beforehand how large its output "
            f"'{name}' is: leave out enable_cuda_graph."
        )
    return known, dtype
