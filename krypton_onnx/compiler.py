"""`compile`: from a model file to a verified artifact. Above the compiler and the driver, which it brings together."""

import math
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from krypton_onnx.artifact import SUFFIX, Artifact, refuse_foreign, staged_folder, write_manifest
from krypton_onnx.errors import KryptonError
from krypton_onnx.passes.pipeline import compile_graphs
from krypton_onnx.passes.write import write_graphs
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Preprocess
from krypton_onnx.runtime.explain import pair
from krypton_onnx.verification import verify as verify_artifact

COMPILE_QUERIES = 8
"""Random queries with which `compile` checks itself."""


def compile(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    patch: int | tuple[int, int] = 16,
    input_size: tuple[int, int] | None = None,
    image_input: str | None = None,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    verify: bool = True,
) -> Artifact:
    """Compile an exported ONNX CNN into its incremental variant.

    Args:
        model: an ONNX file of opset 7 or later.
        output: the folder to write; by default beside the model, with its name and the suffix `.krypton`. An older
            artifact there is replaced.
        patch: (height, width) in pixels of the patches to tune the plan for; any other patch works too.
        input_size: (height, width), where the model leaves them open.
        image_input: name of the image input, where several inputs have four dimensions.
        preprocess: how a picture becomes the input tensor; stored in the artifact.
        labels: class names; stored in the artifact.
        verify: compare a handful of random queries with the source model, and write nothing if they disagree.

    Raises:
        KryptonError: the model cannot be read, compiled or run, or the folder not be written.
    """
    source = Path(model)
    if not source.is_file():
        raise KryptonError(f"There is no model file at {os.fspath(model) or 'an empty path'}.")
    target = Path(output) if output is not None else source.with_suffix(SUFFIX)
    refuse_foreign(target)  # before the work; again at its end, for what may have come there meanwhile
    compiled = compile_graphs(
        source,
        patch=pair(patch, "patch"),
        version=version("krypton-onnx"),
        image_input=image_input,
        input_size=input_size,
        preprocess=None if preprocess is None else preprocess.to_dict(),
        labels=None if labels is None else tuple(str(label) for label in labels),
    )
    if preprocess is not None:
        preprocess.check_input(compiled.plan.model_shape)
    if labels is not None:
        check_labels(labels, compiled.plan)
    with staged_folder(target) as folder:
        artifact = write_manifest(folder, compiled.plan, write_graphs(compiled, folder))
        if verify:
            _refuse_if_wrong(source, artifact)
    return Artifact(target, compiled.plan)


def check_labels(labels: Sequence[str], plan: Plan) -> None:
    """Check that there is a label for each class of some output.

    Args:
        labels: class names.
        plan: of the model; an output whose extents are not known passes.

    Raises:
        KryptonError: no output has as many classes, along its first axis or in all.
    """
    counts: set[int] = set()
    for output in plan.outputs:
        known = [extent for extent in output.shape if extent is not None]
        if len(known) < len(output.shape):
            return
        counts |= {math.prod(known), *known[:1]}
    if len(labels) not in counts:
        raise KryptonError(
            f"There are {len(labels)} labels, and the model has {' or '.join(map(str, sorted(counts)))} classes: "
            "give one label for each."
        )


def _refuse_if_wrong(source: Path, artifact: Artifact) -> None:
    for check in verify_artifact(source, artifact, queries=COMPILE_QUERIES):
        if not check.exact:
            raise KryptonError(
                f"The compiled model does not reproduce the output '{check.name}' of {source}: it is off by "
                f"{check.error:.3g}, {check.share:.3g} times what is allowed; nothing was written. Please report this."
            )
