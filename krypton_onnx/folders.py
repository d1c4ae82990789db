"""Folders that several processes make, use and remove at once.

Hidden folders beside a target are locked by the process that fills them, folders in use by all that use them, so that
others know they are alive. A lock is the kernel's and ends with the process, however that ends. Where the system has no
such locks, nothing is ever taken for stale; Windows itself refuses to move a folder whose files are open.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from krypton_onnx.errors import KryptonError

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


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other processes' `remove_unused` from removing a folder during the block, even if it is renamed in it.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        lock = _lock_in_place(folder, shared=True)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without locks
        lock = None
    try:
        yield
    finally:
        _unlock(lock)


def remove_unused(folder: Path, target: Path) -> bool:
    """Remove a folder that nobody uses, in one step, so that nobody finds a part of it.

    Args:
        folder: to remove.
        target: beside which its rests lie for `remove_stale`, should this process be killed.

    Returns:
        Whether it is gone.
    """
    try:
        lock = _lock_in_place(folder)
    except FileNotFoundError:
        return True
    except OSError:  # somebody uses it, or the file system has no locks
        return False
    try:
        with private_folder(target) as aside:
            os.replace(folder, aside / "old")
    except OSError:
        return False
    finally:
        _unlock(lock)
    return True


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that vanishes with all that is in it.

    Raises:
        KryptonError: there is no room for one.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="krypton-", ignore_cleanup_errors=True)
    except OSError as error:
        raise KryptonError(
            f"No temporary folder can be made ({error.strerror or error}): free some space or set TMPDIR."
        ) from error
    with folder as name:
        yield Path(name)


def _lock_in_place(folder: Path, *, shared: bool = False) -> int | None:
    """As `_lock`, of the folder that is still there once it is locked: another may have taken its place meanwhile."""
    while True:
        lock = _lock(folder, shared=shared)
        if lock is None or _is_at(lock, folder):
            return lock
        _unlock(lock)


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False


def _lock(folder: Path, *, shared: bool = False) -> int | None:
    """A descriptor that locks the folder until it is closed; None where the system has no locks.

    Args:
        folder: to lock.
        shared: with others that share it, for which this waits; else alone, or not at all.

    Raises:
        OSError: another has the lock (BlockingIOError), or the folder cannot be locked.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
