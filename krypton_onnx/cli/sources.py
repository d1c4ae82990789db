"""What commands are given: models, compiled models, labels; and how they say what they did."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from krypton_onnx.artifact import Artifact
    from krypton_onnx.preprocess import Preprocess
    from krypton_onnx.runtime.providers import Provider

ON_CPU: "list[Provider]" = ["CPUExecutionProvider"]
"""What predicts, or times, single cores."""


@contextmanager
def compiled(
    model: Path,
    *,
    patch: tuple[int, int],
    input_size: tuple[int, int] | None,
    image_input: str | None,
    channels_last: bool | None,
    providers: "list[Provider] | None" = None,
    verify: bool = True,
    cache: bool = False,
) -> "Iterator[Artifact]":
    """The artifact at a path, or a model there compiled.

    Args:
        model: an ONNX file, or a folder that `compile` wrote.
        patch: that a model is compiled for.
        input_size, image_input, channels_last: see `krypton_onnx.compile`.
        providers: that will run it, see `krypton_onnx.Session`: a model is compiled for their device.
        verify: whether a model's compiled form is compared with it.
        cache: whether that comes from the cache and is kept there; else it vanishes afterwards.

    Raises:
        KryptonError: neither can be opened, or options do not apply.
    """
    from krypton_onnx.artifact import open_artifact
    from krypton_onnx.cache import cached, compiled_for_now
    from krypton_onnx.runtime.providers import chosen
    from krypton_onnx.runtime.resident import device_of

    if model.is_dir():
        if (input_size, image_input, channels_last) != (None, None, None):
            raise KryptonError(
                f"{model} is compiled already, with its own --input-size, --image-input and order of axes; omit them."
            )
        yield open_artifact(model)
        return
    made = (cached if cache else compiled_for_now)(
        model,
        patch=patch,
        input_size=input_size,
        image_input=image_input,
        channels_last=channels_last,
        device="cpu" if device_of(chosen(providers)) is None else "cuda",
        verify=verify,
    )
    with made as artifact:
        yield artifact


def with_preprocess(artifact: "Artifact", file: Path | None, fields: dict[str, Any]) -> "tuple[Artifact, Preprocess]":
    """Settle the preprocessing: single fields override the file, which overrides what the artifact stores.

    Args:
        artifact: what is to be explained.
        file: a preprocessing file, or None.
        fields: single fields.

    Returns:
        The artifact with that preprocessing in its plan, and the preprocessing.

    Raises:
        KryptonError: it is malformed or does not fit the model's input.
    """
    from krypton_onnx.preprocess import Preprocess

    shape = artifact.plan.model_shape
    if file is not None:
        chosen = Preprocess.from_json(file)
    elif artifact.plan.preprocess is not None:
        chosen = Preprocess.from_dict(artifact.plan.preprocess)
    else:
        chosen = Preprocess.for_input(shape, "NHWC" if artifact.plan.channels_last else "NCHW")
        if artifact.plan.image.dtype.lstrip("u").startswith("int"):
            chosen = replace(chosen, scale=(1.0,))  # a model that takes whole numbers takes pixels
    chosen = Preprocess.from_dict({**chosen.to_dict(), **fields})
    chosen.check_input(shape)
    return replace(artifact, plan=replace(artifact.plan, preprocess=chosen.to_dict())), chosen


def read_inputs(given: Sequence[tuple[str, Path]]) -> "dict[str, NDArray[Any]]":
    """The model's inputs beside the image, by name.

    Args:
        given: names and .npy files.

    Raises:
        KryptonError: a file cannot be read, or a name comes twice.
    """
    from krypton_onnx.cli.images import read_array

    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise KryptonError(f"The input '{name}' is given twice; give each --input once.")
    return {name: read_array(file) for name, file in given}


def read_labels(file: Path) -> tuple[str, ...]:
    """Class names, one a line, in the order of the model's output; a leading index (``0,tench``) is left out.

    Raises:
        KryptonError: the file is missing or no text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise KryptonError(f"The labels file {file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise KryptonError(f"The labels file {file} is no UTF-8 text: give one label a line.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise KryptonError(f"The labels file {file} is empty: give one label a line.")
    heads = [line.partition(",")[0].strip() for line in lines]
    if heads == [str(index) for index in range(len(lines))]:
        lines = [line.partition(",")[2] for line in lines]
    return tuple(line.strip() for line in lines)


def label_of(index: int, labels: Sequence[str] | None) -> str:
    """``tabby cat (281)``, or ``class 281`` where it has no name."""
    name = labels[index] if labels is not None and index < len(labels) else ""
    return f"{name} ({index})" if name else f"class {index}"


def say_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output. What is not finite becomes null, which JSON can say."""
    click.echo(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case Path():
            return str(value)
        case _:
            return value


def table(rows: Sequence[Sequence[str]], right: str) -> str:
    """Columns under their headings.

    Args:
        rows: the headings first.
        right: per column, ``<`` or ``>`` for its side.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(right))]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, right, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def stored_with_model(preprocess: Path | None, labels: Path | None) -> dict[str, Any]:
    """What `--preprocess` and `--labels` name, as keyword arguments.

    Raises:
        KryptonError: a file cannot be read.
    """
    from krypton_onnx.preprocess import Preprocess

    return {
        "preprocess": None if preprocess is None else Preprocess.from_json(preprocess),
        "labels": None if labels is None else read_labels(labels),
    }


def size_text(size: Sequence[int]) -> str:
    """``16x16``."""
    return "x".join(str(extent) for extent in size)


def bytes_text(count: float) -> str:
    """``12.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def full_inference_text(predicted: float) -> str:
    """What to expect of a plan without windows, which were predicted to give this speedup."""
    return f"Runs as full inference: windows are predicted to give only {predicted:.2f}x"
