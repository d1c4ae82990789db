"""Gathering batches: answers in the order of the queries, as arrays, as lists where extents differ, as regions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from krypton_onnx import geometry
from krypton_onnx.plan import Plan, TensorInfo
from krypton_onnx.runtime.base import Output, Outputs
from krypton_onnx.runtime.batches import Batch, Integers
from krypton_onnx.runtime.engine import Array


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """What queries change of an output that is a map; everywhere else it is the base run's.

    Attributes:
        windows: per query, its values in the part that can differ: [C, h, w], or as the output itself is laid out.
        starts: int64 [Q, 2], (row, column) of each window's first cell in the map.
        extents: (H, W) of the whole map.
    """

    windows: list[Array]
    starts: Integers
    extents: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pick:
    """Some elements of an output, in place of all of it.

    Attributes:
        output: its name.
        indices: of the elements, in one query's flattened output.
    """

    output: str
    indices: tuple[int, ...]

    def of(self, values: Output) -> NDArray[np.float32]:
        """Float32 [q, T] of the output [q, …]."""
        rows = np.asarray(values)
        return np.asarray(rows.reshape(len(rows), -1)[:, list(self.indices)], np.float32)


def source_of(wanted: str | Pick) -> str:
    """The graph's output that is wanted, or of which."""
    return wanted if isinstance(wanted, str) else wanted.output


def given(values: Output, wanted: str | Pick) -> Output:
    """What is wanted of an output."""
    return values if isinstance(wanted, str) else wanted.of(values)


def ragged_names(plan: Plan) -> frozenset[str]:
    """Outputs whose extents depend on the data. Only a graph that answers one query a run can have any."""
    return frozenset(info.name for info in plan.outputs if plan.one_query and None in info.shape)


def no_answers(plan: Plan) -> Outputs:
    """The outputs of no queries at all."""
    ragged = ragged_names(plan)
    return {info.name: [] if info.name in ragged else _empty(info) for info in plan.outputs}


def _empty(info: TensorInfo) -> Array:
    return np.empty((0, *(extent or 0 for extent in info.shape)), info.dtype)


def gathered(batches: Iterable[tuple[Batch, Outputs]], queries: int) -> Outputs:
    """Answers of batches in the order of the queries.

    Args:
        batches: with their outputs; together they hold each query once.
        queries: how many.
    """
    results: Outputs = {}
    for batch, outputs in batches:
        for name, values in outputs.items():
            _put(results, name, values, batch.queries, queries)
    return results


def _put(results: Outputs, name: str, values: Output, places: Integers, queries: int) -> None:
    slots = results.get(name)
    if isinstance(values, np.ndarray) and slots is None:
        slots = np.empty((queries, *values.shape[1:]), values.dtype)
    elif slots is None or (isinstance(slots, np.ndarray) and np.shape(values)[1:] != slots.shape[1:]):
        slots = [np.empty(0)] * queries if slots is None else list(slots)
    results[name] = slots
    if isinstance(slots, np.ndarray):
        slots[places] = values
        return
    for place, value in zip(places, values, strict=True):
        slots[place] = value


def gathered_regions(plan: Plan, batches: Iterable[tuple[Batch, Outputs]], queries: int) -> dict[str, Output | Regions]:
    """Answers of batches, as regions where an output is computed in windows.

    Args:
        plan: says which outputs are computed in windows.
        batches: with their outputs, which for those are the windows [q, C, h, w].
        queries: how many.
    """
    windows = region_windows(plan)
    starts = {name: np.zeros((queries, 2), np.int64) for name in windows}

    def listed() -> Iterator[tuple[Batch, Outputs]]:
        for batch, outputs in batches:
            for name, window in windows.items():
                starts[name][batch.queries] = window_starts(plan, window, batch)
                outputs[name] = list(outputs[name])
            yield batch, outputs

    found = gathered(listed(), queries) if queries else no_answers(plan)
    extents = {name: plan.program[plan.windows[window].step].extents for name, window in windows.items()}
    return {
        name: Regions(list(values), starts[name], extents[name]) if name in windows else values
        for name, values in found.items()
    }


def region_windows(plan: Plan) -> dict[str, int]:
    """The outputs that are computed in windows, and which window of the plan that is."""
    pairs = zip(plan.outputs, plan.output_windows, strict=True)
    return {info.name: window for info, window in pairs if window is not None}


def window_starts(plan: Plan, window: int, batch: Batch) -> Integers:
    """Where a window of each query of a batch starts: int64 [q, 2]."""
    step = plan.windows[window].step
    extents = plan.program[step].extents
    starts = [
        geometry.window_start(
            geometry.begins(plan.program, axis, batch.origins[:, axis])[step],
            batch.window_sizes[window, axis],
            extents[axis],
        )
        for axis in (0, 1)
    ]
    return np.stack(starts, axis=1)
