"""Class names, as they go with a compiled model."""

import math
from collections.abc import Sequence

from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan


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
