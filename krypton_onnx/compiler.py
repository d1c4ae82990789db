"""`compile`: from a model file to a verified artifact. Above the compiler and the driver, which it brings together."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np

from krypton_onnx.artifact import SUFFIX, Artifact, refuse_foreign, rewrite_plan, staged_folder, write_manifest
from krypton_onnx.errors import KryptonError
from krypton_onnx.labels import check_labels
from krypton_onnx.passes.cost import rounded
from krypton_onnx.passes.pipeline import Request, compile_graphs
from krypton_onnx.passes.write import write_graphs
from krypton_onnx.plan import Device, Plan, Precision
from krypton_onnx.preprocess import Preprocess
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.questions import pair
from krypton_onnx.verification import OutputCheck
from krypton_onnx.verification import verify as verify_artifact

TOO_COARSE = 0.25
"""Of what queries change: what fewer bits are off by must be less."""

COMPILE_QUERIES = 8
"""Random queries with which `compile` checks itself."""


def compile(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    patch: int | tuple[int, int] = 16,
    input_size: int | tuple[int, int] | None = None,
    image_input: str | None = None,
    channels_last: bool | None = None,
    preprocess: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    device: Device = "cpu",
    precision: Precision = "float32",
    verify: bool = True,
) -> Artifact:
    """Compile an exported ONNX CNN into its incremental variant.

    Args:
        model: an ONNX file of opset 7 or later.
        output: the folder to write; by default beside the model, with its name and the suffix `.krypton`. An older
            artifact there is replaced.
        patch: (height, width) in pixels of the patches to tune the plan for; any other patch works too.
        input_size: (height, width), or the side of a square, where the model leaves them open.
        image_input: name of the image input, where several inputs have four dimensions.
        channels_last: whether the image input is [N, H, W, C] and not [N, C, H, W]; by default its extents tell.
        preprocess: how a picture becomes the input tensor, or the fields or the file of that; stored in the artifact.
        labels: class names; stored in the artifact.
        device: to plan for, "cpu" or "cuda". What is compiled for one runs on the other, too, if not as fast.
        precision: "float16" to compute in that what the model computes in float32, which devices do faster. Answers are
            then not exact; the plan's `precision_error` says by how much, as far as it is verified: of what is compiled
            for CUDA, there, if it works here; else on the CPU, which keeps more bits between operators than devices do,
            so that there it is more. What is off by a quarter of what queries change is refused.
        verify: compare a handful of random queries with the source model, and write nothing if they disagree.

    Raises:
        KryptonError: the model cannot be read, compiled or run, or the folder not be written.
    """
    _check_types(output=output)
    request = request_for(
        model,
        patch=patch,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
        preprocess=preprocess,
        labels=labels,
        device=device,
        precision=precision,
    )
    source = request.path
    target = Path(output) if output is not None else source.with_suffix(SUFFIX)
    refuse_foreign(target)  # before the work; again at its end, for what may have come there meanwhile
    compiled = compile_graphs(request)
    check_plan(compiled.plan)
    with staged_folder(target) as folder:
        artifact = write_manifest(folder, compiled.plan, write_graphs(compiled, folder))
        if verify:
            # How far float16 is off, a device itself says best: the CPU keeps more bits between operators.
            where = None if precision != "float32" and device == "cuda" else [CPU]
            checks = verify_artifact(source, artifact, queries=COMPILE_QUERIES, providers=where)
            if precision == "float32":
                refuse_if_wrong(source, checks)
            else:
                _refuse_if_too_coarse(source, checks, precision)
                artifact = rewrite_plan(artifact, replace(artifact.plan, precision_error=_precision_error(checks)))
    return replace(artifact, folder=target)


def _refuse_if_too_coarse(source: Path, checks: Iterable[OutputCheck], precision: Precision) -> None:
    for check in checks:
        if not check.exact or check.error > TOO_COARSE * check.moved > 0:
            raise KryptonError(
                f"{precision} cannot hold what {source} computes: its output '{check.name}' is off by "
                f"{check.error:.3g}, where queries change it by {check.moved:.3g}; nothing was written. Compile it in "
                "float32."
            )


def _precision_error(checks: Iterable[OutputCheck]) -> float | None:
    """The largest error, as a share of what the queries change; None if they change nothing."""
    return max((rounded(check.error / check.moved) for check in checks if check.moved > 0), default=None)


def request_for(
    model: str | os.PathLike[str],
    *,
    patch: int | tuple[int, int],
    input_size: int | tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    preprocess: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None,
    labels: Sequence[str] | None,
    device: Device,
    precision: Precision = "float32",
) -> Request:
    """The compiler's request for what a user asks; see `compile`.

    Raises:
        KryptonError: there is no such model, or something is not what it should be.
    """
    _check_types(model=model, image_input=image_input, channels_last=channels_last, labels=labels)
    if device not in get_args(Device):
        raise KryptonError(f"device must be {' or '.join(map(repr, get_args(Device)))}, not {device!r}.")
    if precision not in get_args(Precision):
        raise KryptonError(f"precision must be {' or '.join(map(repr, get_args(Precision)))}, not {precision!r}.")
    preparation = _preprocess(preprocess)
    source = Path(model)
    if not source.is_file():
        raise KryptonError(f"There is no model file at {os.fspath(model) or 'an empty path'}.")
    return Request(
        source,
        patch=pair(patch, "patch"),
        version=version("krypton-onnx"),
        image_input=image_input,
        input_size=None if input_size is None else pair(input_size, "input size"),
        channels_last=channels_last,
        preprocess=None if preparation is None else preparation.to_dict(),
        labels=None if labels is None else tuple(str(label) for label in labels),
        device=device,
        precision=precision,
    )


def check_path(given: object, name: str) -> None:
    """Raise a `KryptonError` if an argument is no path."""
    if not isinstance(given, str | os.PathLike):
        raise KryptonError(f"{name} must be a path, not a {type(given).__name__}.")


def check_plan(plan: Plan) -> None:
    """Check that what a user says of the model suits it.

    Raises:
        KryptonError: the preprocessing or the labels do not.
    """
    if plan.preprocess is not None:
        Preprocess.from_dict(plan.preprocess).check_input(plan.model_shape)
    if plan.labels is not None:
        check_labels(plan.labels, plan)


def refuse_if_wrong(source: Path, checks: Iterable[OutputCheck]) -> None:
    """Raise a `KryptonError` if a compiled model does not do what its source does."""
    for check in checks:
        if not check.exact:
            raise KryptonError(
                f"The compiled model does not reproduce the output '{check.name}' of {source}: it is off by "
                f"{check.error:.3g}, {check.share:.3g} times what is allowed; nothing was written. Please report this."
            )


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((str, os.PathLike), "the path of an ONNX file"),
    "output": ((str, os.PathLike, NoneType), "the path of a folder"),
    "image_input": ((str, NoneType), "the name of an input"),
    "channels_last": ((bool, NoneType), "True, False or None"),
}


def _check_types(labels: object = None, **given: object) -> None:
    for name, value in given.items():
        types, form = _TYPES[name]
        if not isinstance(value, types):
            raise KryptonError(f"{name} must be {form}, not a {type(value).__name__}.")
    is_list = isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str | bytes)
    if labels is not None and not is_list:
        raise KryptonError(f"labels must be a list of class names, not a {type(labels).__name__}.")


def _preprocess(given: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None) -> Preprocess | None:
    match given:
        case None | Preprocess():
            return given
        case Mapping():
            return Preprocess.from_dict(given)
        case str() | os.PathLike():
            return Preprocess.from_json(given)
    raise KryptonError(
        f"preprocess must be a Preprocess, its fields, or the path of a JSON file, not a {type(given).__name__}."
    )
