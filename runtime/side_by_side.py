"""Running batches side by side, one on each core."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 1
"""Items behind those that run, so that no worker waits for the next."""


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Apply `work` to items on several threads.

    Args:
        work: may run on any thread; what it raises is raised here, and what has not begun by then never does.
        items: taken one by one, no further ahead than the workers need.
        workers: how many threads; with 1 everything runs on the caller's.

    Returns:
        (item, result), in the order of the items.
    """
    if workers == 1:
        yield from ((item, work(item)) for item in items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[tuple[Item, Future[Result]]] = deque()
        try:
            pending.extend((item, pool.submit(work, item)) for item in islice(rest, workers + WAITING))
            while pending:
                item, future = pending.popleft()
                result = future.result()
                pending.extend((item_, pool.submit(work, item_)) for item_ in islice(rest, 1))
                yield item, result
        finally:
            for _, future in pending:
                future.cancel()
