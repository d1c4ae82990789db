"""The cache: models that were compiled to answer one question, kept for the next.

A folder holds an artifact per key: what a model file holds, what it was compiled for, and what compiled it. Any number
of processes may fill, use and clear it at once: an artifact appears there whole, by being renamed, and is removed only
while nobody uses it, the one that was not used for the longest time first.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime as ort
import platformdirs

from krypton_onnx.artifact import Artifact, NotWrittenError, file_checksum, open_artifact
from krypton_onnx.errors import KryptonError
from krypton_onnx.folders import in_use, private_folder, remove_stale, remove_unused, temporary_folder

FOLDER = "KRYPTON_ONNX_CACHE"
"""Environment variable that names another folder than the platform's."""

LIMIT = "KRYPTON_ONNX_CACHE_GB"
"""Environment variable with the gigabytes that the cache may take."""

DEFAULT_LIMIT = 5.0
"""Gigabytes: some fifty models of the size of a ResNet50."""

_KEY = re.compile("[0-9a-f]{64}")
_NAME = "model"
"""Of what is on its way into the cache or out of it."""

_EXTERNAL = b"location"
"""What every model file holds whose weights lie in other files, in whatever form it is written."""

_CHUNK = 1 << 20
"""Bytes read at a time; no fewer than `_EXTERNAL` has."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact in the cache.

    Attributes:
        folder: of the artifact.
        size: bytes of its files.
        used: when it was used last, in seconds.
    """

    folder: Path
    size: int
    used: float


def cache_folder() -> Path:
    """Where the cache lies: `FOLDER`, or what the platform has for caches. Need not exist."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else platformdirs.user_cache_path("krypton-onnx", appauthor=False)


def cache_limit() -> float:
    """Bytes that the cache may take.

    Raises:
        KryptonError: `LIMIT` is no number of gigabytes.
    """
    text = os.environ.get(LIMIT) or str(DEFAULT_LIMIT)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise KryptonError(f"The environment variable {LIMIT} is '{text}': give a number of gigabytes, such as 5.")
    return gigabytes * 1e9


@contextmanager
def cached(model: Path, **settings: Any) -> Iterator[Artifact]:
    """The artifact of a model, from the cache or compiled into it; nobody removes it during the block.

    Where the cache cannot be written, that is logged as a warning, and the artifact vanishes after the block.

    Args:
        model: an ONNX file.
        settings: arguments of `krypton_onnx.compile` beside the model and the output, such as JSON can say.

    Raises:
        KryptonError: the model cannot be read or compiled, or `LIMIT` is malformed.
    """
    cache_limit()  # what is wrong with it is said before the work
    entry = cache_folder() / _key(model, settings)
    with ExitStack() as used:
        artifact = _opened(entry, used)
        if artifact is None:
            used.close()  # nobody can replace a damaged one while it is in use
            artifact = _made(model, settings, entry, used)
        # The one that it was compiled from may have had another name.
        source = replace(artifact.plan.source, file=model.name)
        yield replace(artifact, plan=replace(artifact.plan, source=source))


@contextmanager
def compiled_for_now(model: Path, **settings: Any) -> Iterator[Artifact]:
    """As `cached`, without the cache: the artifact vanishes after the block."""
    from krypton_onnx.compiler import compile  # loads onnx, which what is in the cache does without

    with temporary_folder() as folder:
        yield compile(model, folder / _NAME, **settings)


def entries() -> list[Entry]:
    """What the cache holds, the one that was used last first."""
    try:
        folders = [folder for folder in cache_folder().iterdir() if _KEY.fullmatch(folder.name)]
    except OSError:  # there is none yet
        return []
    found = [_entry(folder) for folder in folders]
    return sorted((entry for entry in found if entry), key=lambda entry: entry.used, reverse=True)


def clear() -> None:
    """Remove all that nobody uses, and what killed processes have left."""
    root = cache_folder()
    with suppress(OSError):
        remove_stale(root / _NAME)
    for entry in entries():
        remove_unused(entry.folder, root / _NAME)


# ------------------------------------------------------------------------------------------------- finding


def _opened(entry: Path, used: ExitStack) -> Artifact | None:
    """The artifact that is there, in use until the stack ends; None if there is none, or it is damaged."""
    try:
        used.enter_context(in_use(entry))
        artifact = open_artifact(entry)
    except (OSError, KryptonError):
        return None
    with suppress(OSError):  # what cannot be written can be read
        os.utime(entry)
    return artifact


def _key(model: Path, settings: dict[str, Any]) -> str:
    """What decides about an artifact, as 64 hexadecimal digits."""
    if not model.is_file():
        raise KryptonError(f"There is no model file at {model}.")
    try:
        digest, has_external = _content(model)
    except OSError as error:
        raise KryptonError(f"{model} cannot be read: {error.strerror or error}.") from error
    parts = [digest, _external_checksums(model) if has_external else {}, settings, _compiler()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _content(model: Path) -> tuple[str, bool]:
    """The checksum of a model file, and whether weights of it may lie in other files."""
    digest, has_external, before = hashlib.sha256(), False, b""
    with model.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            has_external = has_external or _EXTERNAL in before + chunk
            before = chunk[-len(_EXTERNAL) :]
    return digest.hexdigest(), has_external


def _external_checksums(model: Path) -> dict[str, str]:
    from krypton_onnx.passes.load import external_files  # loads onnx, which most models do without

    return {location: file_checksum(file) for location, file in external_files(model).items()}


def _compiler() -> list[str]:
    """Versions of what writes and checks artifacts, and a digest of its source: a change of it needs no new version."""
    passes = find_spec("krypton_onnx.passes")  # in this package or beside it; importing it would load onnx
    folders = [str(Path(__file__).parent), *((passes and passes.submodule_search_locations) or ())]
    digest = hashlib.sha256()
    for file in sorted({file for folder in folders for file in Path(folder).rglob("*.py")}):
        digest.update(file.read_bytes())
    return [*map(version, ("krypton-onnx", "onnx", "onnx-graphsurgeon")), ort.__version__, digest.hexdigest()]


# -------------------------------------------------------------------------------------------------- making


def _made(model: Path, settings: dict[str, Any], entry: Path, used: ExitStack) -> Artifact:
    """The model compiled into the cache, or, where that cannot be written, for now; in use until the stack ends."""
    from krypton_onnx.compiler import compile

    with ExitStack() as making:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            remove_stale(entry.with_name(_NAME))
            staging = making.enter_context(private_folder(entry.with_name(_NAME)))
            made = compile(model, staging / _NAME, **settings)
        except (OSError, NotWrittenError) as error:
            _warn(model, entry.parent, error)
            return used.enter_context(compiled_for_now(model, **settings))
        if _key(model, settings) != entry.name:
            raise KryptonError(f"{model} was changed while it was compiled: try again once it is complete.")
        making.enter_context(in_use(made.folder))
        artifact = _inserted(made, entry)
        if artifact.folder == entry:
            used.enter_context(in_use(entry))
        else:  # it stays where it was made
            used.push(making.pop_all())
    return artifact


def _warn(model: Path, root: Path, error: OSError | NotWrittenError) -> None:
    reason = error if isinstance(error, OSError) else error.__cause__
    _log.warning(
        f"The cache of compiled models in {root} cannot be written ({getattr(reason, 'strerror', None) or reason}), so "
        f"that {model} is compiled for now alone: set {FOLDER} to another folder, or give --no-cache."
    )


def _inserted(artifact: Artifact, entry: Path) -> Artifact:
    """The artifact in its place in the cache; where it is, if it is too large or another process was quicker."""
    made = _entry(artifact.folder)
    if made is None or made.size > cache_limit():
        return artifact
    remove_unused(entry, entry.with_name(_NAME))  # a damaged one
    try:
        artifact.folder.rename(entry)
    except OSError:
        return artifact
    _make_room(entry)
    return replace(artifact, folder=entry)


def _make_room(kept: Path) -> None:
    """Remove what was not used for the longest time, until the rest is within the limit.

    Args:
        kept: what is about to be used, and stays even where the system has no locks to say so.
    """
    held, limit = entries(), cache_limit()
    total = sum(entry.size for entry in held)
    for entry in reversed(held):
        if total > limit and entry.folder != kept and remove_unused(entry.folder, kept.with_name(_NAME)):
            total -= entry.size


def _entry(folder: Path) -> Entry | None:
    """What is in a folder; None if another process has just removed it."""
    try:
        return Entry(folder, sum(file.stat().st_size for file in folder.iterdir()), folder.stat().st_mtime)
    except OSError:
        return None
