"""The artifact: the folder that `compile` writes and a `Session` reads. Needs neither onnx nor ONNX Runtime."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from krypton_onnx.errors import KryptonError
from krypton_onnx.folders import private_folder, remove_stale
from krypton_onnx.plan import FORMAT, Plan

PLAN_FILE = "plan.json"
SUFFIX = ".krypton"


@dataclass(frozen=True, slots=True)
class Files:
    """The names of a variant's graphs.

    Attributes:
        base: image → views.
        incremental: views and queries → outputs.
        index: where queries lie → what the incremental graph takes instead, if the plan has the index apart.
        tail: the last layers, if the plan has a tail.
        ranges: image → what the other graphs take beside it; None if they take nothing else.
    """

    base: str
    incremental: str
    index: str
    tail: str
    ranges: str | None = None


PICK_FILE = "pick.onnx"
"""An output, and indices → its elements there. Only what is planned for a device has it."""

EXACT_FILES = Files("base.onnx", "incremental.onnx", "index.onnx", "tail.onnx")
CAPPED_FILES = Files("capped_base.onnx", "capped_incremental.onnx", "capped_index.onnx", "capped_tail.onnx")
INT8_FILES = Files("int8_base.onnx", "int8_incremental.onnx", "int8_index.onnx", "int8_tail.onnx", "int8_ranges.onnx")


class NotWrittenError(KryptonError):
    """The disk refuses an artifact; the OSError is its cause."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of folder that is written whole, and replaces an older one of its kind only.

    Attributes:
        mark: a file that every one of them holds.
        noun: what it is, in messages.
    """

    mark: str
    noun: str


ARTIFACT = Kind(PLAN_FILE, "compiled model")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled model on disk.

    Attributes:
        folder: where its files lie.
        plan: what the compiler decided.
    """

    folder: Path
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Manifest:
    """plan.json: the plan, and checksums of everything else and of the plan itself."""

    plan: Plan
    files: dict[str, str]
    checksum: str


@dataclass(frozen=True, slots=True)
class _Version:
    """The least that a plan.json of any version holds."""

    format: int


@dataclass(frozen=True, slots=True)
class _AnyManifest:
    plan: _Version


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Open an artifact and check that it is whole and unedited.

    Args:
        path: the folder.

    Raises:
        KryptonError: it is missing, incomplete, edited, or of another version.
    """
    folder = Path(path)
    plan_file = folder / PLAN_FILE
    if not plan_file.is_file():
        raise KryptonError(
            f"{folder} is no compiled model: it has no {PLAN_FILE}; make one with 'krypton-onnx compile'."
        )
    manifest = _read_manifest(plan_file)
    if manifest.checksum != _plan_checksum(manifest.plan, manifest.files):
        raise KryptonError(f"{plan_file} was edited after it was written; compile the model again.")
    for name, checksum in manifest.files.items():
        if not (folder / name).is_file():
            raise KryptonError(f"The compiled model {folder} lacks its file {name}; compile the model again.")
        if file_checksum(folder / name) != checksum:
            raise KryptonError(f"{folder / name} was changed after it was written; compile the model again.")
    return Artifact(folder, manifest.plan)


def _read_manifest(plan_file: Path) -> _Manifest:
    again = "compile the model again"
    try:
        content = plan_file.read_bytes()
        found = msgspec.json.decode(content, type=_AnyManifest).plan.format
        if found != FORMAT:
            raise KryptonError(
                f"{plan_file} is of format {found} and this version reads format {FORMAT}; {again} with this version."
            )
        return msgspec.json.decode(content, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise KryptonError(f"{plan_file} is damaged ({error}); {again}.") from error
    except OSError as error:
        raise KryptonError(f"{plan_file} cannot be read: {error.strerror}.") from error


def write_manifest(folder: Path, plan: Plan, files: tuple[str, ...]) -> Artifact:
    """Write plan.json beside the other files, which are complete."""
    _write_plan(folder, plan, {name: file_checksum(folder / name) for name in files})
    return Artifact(folder, plan)


def _write_plan(folder: Path, plan: Plan, checksums: dict[str, str]) -> None:
    manifest = _Manifest(plan, checksums, _plan_checksum(plan, checksums))
    (folder / PLAN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def rewrite_plan(artifact: Artifact, plan: Plan) -> Artifact:
    """Replace the plan of an artifact, in one step; its other files stay as they are.

    Raises:
        NotWrittenError: the disk refuses.
    """
    files = _read_manifest(artifact.folder / PLAN_FILE).files
    try:
        with private_folder(artifact.folder / PLAN_FILE) as aside:
            _write_plan(aside, plan, files)
            os.replace(aside / PLAN_FILE, artifact.folder / PLAN_FILE)
    except OSError as error:
        raise NotWrittenError(f"{artifact.folder} cannot be written to: {error.strerror or error}.") from error
    return Artifact(artifact.folder, plan)


@contextmanager
def staged_folder(target: Path, kind: Kind = ARTIFACT) -> Iterator[Path]:
    """A new folder that becomes `target` if the block ends well, and vanishes if it does not.

    What a process that was killed has left behind on its way to the same target is removed.

    Raises:
        KryptonError: `target` is something else than a folder of this kind; a `NotWrittenError` if the disk refuses.
    """
    refuse_foreign(target, kind)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        with private_folder(target) as staging:
            yield staging
            staging.chmod(0o777 & ~_umask())
            _replace(staging, target)
    except OSError as error:
        raise NotWrittenError(f"The {kind.noun} cannot be written to {target}: {error.strerror or error}.") from error


def refuse_foreign(target: Path, kind: Kind = ARTIFACT) -> None:
    """Refuse to replace what is of another kind.

    Raises:
        KryptonError: something else stands there.
    """
    if target.exists() and not (target / kind.mark).is_file():
        raise KryptonError(f"{target} exists and is no {kind.noun}; choose another place or remove it.")


def _replace(staging: Path, target: Path) -> None:
    # A folder cannot replace another in one step, so the old one steps aside first.
    if not target.exists():
        os.replace(staging, target)
        return
    with private_folder(target) as aside:
        os.replace(target, aside / "old")
        try:
            os.replace(staging, target)
        except OSError:
            os.replace(aside / "old", target)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plan_checksum(plan: Plan, files: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode([plan, files])).hexdigest()
