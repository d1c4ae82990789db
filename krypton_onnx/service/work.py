"""Computing for requests: so many at a time, in the order in which they came, and none that nobody waits for."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Workers:
    """Threads that compute for requests.

    Args:
        running: requests that compute at a time; others wait.
    """

    def __init__(self, running: int) -> None:
        self._pool = ThreadPoolExecutor(running, thread_name_prefix="heatmap")

    async def run(self, work: Callable[[threading.Event], Result]) -> Result:
        """Compute on one of the threads.

        Args:
            work: is handed an event that is set if the task that waits here is cancelled. The thread stays taken until
                the work has come to its end.
        """
        stop = threading.Event()
        try:
            return await asyncio.wrap_future(self._pool.submit(work, stop))
        finally:
            stop.set()

    def close(self) -> None:
        """Begin nothing more, and wait for what runs."""
        self._pool.shutdown(cancel_futures=True)
