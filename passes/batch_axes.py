"""Analysis: which axis of a tensor is the batch, if many queries are computed at once?

A dense node runs on all queries of a batch together. That is right only where the operator treats some axis as a
batch, which an export for a single image need not do. Where `batch_rules` has a doubt, the axis is lost, and what
follows runs query by query.
"""

from dataclasses import dataclass

from krypton_onnx.passes.batch_operands import Doubt
from krypton_onnx.passes.batch_rules import batch_rule
from krypton_onnx.passes.network import Network, describe, outputs
from krypton_onnx.passes.regions import used_names


@dataclass(frozen=True, slots=True)
class BatchAxes:
    """Result of the analysis, by name, for every tensor that depends on the image: in one of the two.

    Attributes:
        axes: the axis along which a tensor is a batch.
        lost: why it surely is along none.
    """

    axes: dict[str, int]
    lost: dict[str, str]


def batch_axes(net: Network, moving: frozenset[str], windowed: frozenset[str]) -> BatchAxes:
    """Find the batch axis of every tensor that depends on the image.

    Args:
        net: the normalized model, with the shapes that it has for one image.
        moving: names of the tensors that depend on the image.
        windowed: those that are computed in windows, for which the builder keeps the batch on the first axis.
    """
    axes = {net.image: 0}
    lost: dict[str, str] = {}
    results = {t.name for t in net.graph.outputs}
    for node in net.graph.nodes:
        names = [t.name for t in outputs(node)]
        used = [name for name in used_names(node) if name in moving]
        if not used:
            continue
        if names[0] in windowed:
            axes[names[0]] = 0
            continue
        inherited = next((lost[name] for name in used if name in lost), None)
        found = Doubt(inherited) if inherited else batch_rule(node, {name: axes[name] for name in used if name in axes})
        if isinstance(found, int) and found != 0 and results.intersection(names):
            found = Doubt("it is an output, and the batch is not its first axis")
        if isinstance(found, Doubt):
            reason = inherited or f"{describe(node)}: {found.reason}"
            lost.update(dict.fromkeys(names, reason))
        else:
            axes.update(dict.fromkeys(names, found))
    return BatchAxes(axes, lost)
