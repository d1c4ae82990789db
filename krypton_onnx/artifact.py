"""The artifact: the folder that `compile` writes and a `Session` reads. Needs neither onnx nor ONNX Runtime."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from krypton_onnx.errors import KryptonError
from krypton_onnx.folders import private_folder, remove_stale
from krypton_onnx.plan import FORMAT, Plan

PLAN_FILE, WEIGHTS_FILE = "plan.json", "weights.bin"
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
class Weight:
    """A weight of a graph, in weights.bin.

    Attributes:
        name: the graph's.
        offset: bytes from the beginning of the file.
        dtype: numpy's name for the element type.
        shape: of the weight.
    """

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]


Weights = dict[str, tuple[Weight, ...]]
"""By the file of the graph."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled model on disk.

    Attributes:
        folder: where its files lie.
        plan: what the compiler decided.
        weights: of each graph.
    """

    folder: Path
    plan: Plan
    weights: Weights


@dataclass(frozen=True, slots=True)
class _Manifest:
    """plan.json: the plan, where weights lie, checksums of the other files, and one of all that."""

    plan: Plan
    weights: Weights
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
    if manifest.checksum != _checksum(manifest.plan, manifest.weights, manifest.files):
        raise KryptonError(f"{plan_file} was edited after it was written; compile the model again.")
    for name, checksum in manifest.files.items():
        if not (folder / name).is_file():
            raise KryptonError(f"The compiled model {folder} lacks its file {name}; compile the model again.")
        if file_checksum(folder / name) != checksum:
            raise KryptonError(f"{folder / name} was changed after it was written; compile the model again.")
    return Artifact(folder, manifest.plan, manifest.weights)


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


def write_manifest(folder: Path, plan: Plan, weights: Weights) -> Artifact:
    """Write plan.json beside the other files, the graphs and weights.bin, which are complete."""
    checksums = {name: file_checksum(folder / name) for name in (*weights, WEIGHTS_FILE)}
    return _write_plan(Artifact(folder, plan, weights), checksums)


def _write_plan(artifact: Artifact, checksums: dict[str, str]) -> Artifact:
    plan, weights = artifact.plan, artifact.weights
    manifest = _Manifest(plan, weights, checksums, _checksum(plan, weights, checksums))
    (artifact.folder / PLAN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return artifact


def rewrite_plan(artifact: Artifact, plan: Plan) -> Artifact:
    """Replace the plan of an artifact, in one step; its other files stay as they are.

    Raises:
        NotWrittenError: the disk refuses.
    """
    files = _read_manifest(artifact.folder / PLAN_FILE).files
    try:
        with private_folder(artifact.folder / PLAN_FILE) as aside:
            _write_plan(replace(artifact, folder=aside, plan=plan), files)
            os.replace(aside / PLAN_FILE, artifact.folder / PLAN_FILE)
    except OSError as error:
        raise NotWrittenError(f"{artifact.folder} cannot be written to: {error.strerror or error}.") from error
    return replace(artifact, plan=plan)


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


def _checksum(plan: Plan, weights: Weights, files: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode([plan, weights, files])).hexdigest()
