"""Peak private memory of this process, on Linux. Pages that other processes share do not count."""

import threading
from collections.abc import Callable
from pathlib import Path

INTERVAL = 0.005
"""Seconds between two looks."""

_PAGES = Path("/proc/self/smaps_rollup")


def private_bytes() -> int:
    """Private memory of this process now, in bytes."""
    lines = _PAGES.read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def peak_private_bytes(run: Callable[[], object]) -> int:
    """The most that was seen while `run` ran, in bytes."""
    seen = [private_bytes()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL):
            seen.append(private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(seen)
