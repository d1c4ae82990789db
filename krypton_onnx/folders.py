"""Hidden folders beside a target, each locked by the process that fills it, so that others know it is alive.

The lock is the kernel's and ends with the process, however that ends. Where the system has no such locks, nothing is
ever taken for stale.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".krypton-part"


@contextmanager
def private_folder(target: Path) -> Iterator[Path]:
    """A new, empty folder beside `target`, removed at the end of the block unless it was renamed.

    Raises:
        OSError: the disk refuses.
    """
    folder, lock = _made(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def _made(target: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_SUFFIX, dir=target.parent))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process has taken it for stale before it was locked
        except OSError:  # a file system without locks
            return folder, None
        if folder.exists():
            return folder, lock
        _unlock(lock)


def remove_stale(target: Path) -> None:
    """Remove the private folders of `target` whose processes have died."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")
    for folder in [entry for entry in target.parent.iterdir() if ours.fullmatch(entry.name)]:
        try:
            lock = _lock(folder)
        except OSError:  # it is alive, or gone, or the file system has no locks
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that locks the folder until it is closed; None where the system has no locks.

    Raises:
        OSError: another has the lock (BlockingIOError), or the folder cannot be locked.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
