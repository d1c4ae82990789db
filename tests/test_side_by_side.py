"""Batches side by side: order, errors, how far ahead."""

import threading
import time
from collections.abc import Iterator

import onnxruntime as ort
import pytest

from krypton_onnx.runtime.engine import quiet_options, workers_for
from krypton_onnx.runtime.providers import CPU, CUDA
from krypton_onnx.runtime.side_by_side import side_by_side


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % workers == 0 else 0.0)
        return -item

    assert list(side_by_side(slow_first, range(9), workers)) == [(item, -item) for item in range(9)]


def test_items_run_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=10)

    def meet(_: int) -> int:
        return together.wait()  # for ever, if the other never came

    assert len(list(side_by_side(meet, range(4), 2))) == 4


def test_an_error_is_raised_and_what_waits_never_begins() -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        if item == 1:
            raise ValueError("item 1")

    with pytest.raises(ValueError, match="item 1"):
        list(side_by_side(fail, range(100), 2))
    assert max(begun) <= 4


def test_items_are_taken_no_further_ahead_than_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = side_by_side(lambda item: item, items(), 2)
    next(results)
    assert len(taken) <= 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 4


def test_one_thread_a_run_lets_batches_run_side_by_side() -> None:
    spread = ort.SessionOptions()
    assert workers_for(4, [CPU], None) == 4
    assert workers_for(4, [CPU], quiet_options(1)) == 4
    assert workers_for(4, [CPU], spread) == 1


def test_two_runs_are_in_flight_on_a_device() -> None:
    assert workers_for(4, [CUDA, CPU], None) == 2
    assert workers_for(1, [CUDA, CPU], None) == 1
    assert workers_for(4, [(CUDA, {"enable_cuda_graph": "1"}), CPU], None) == 1
    assert workers_for(4, ["OtherExecutionProvider", CPU], None) == 1
