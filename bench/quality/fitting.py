"""What gives the seeded architectures scores that vary from place to place: their statistics and their last layer.

Random weights alone do not. Random nets contract: whatever the picture, the features are nearly the same (in ResNet18
those of two crops correlate to about 0.9, after step 1 to about 0.2), and an occlusion moves them little. Two steps
make up for training:

1. `normalise`: the mean and variance of every BatchNormalization become those of the activations that really arrive,
   as training would have left them. A net without BatchNormalization (VGG16) gets the same into its weights: every
   layer but the last is scaled and shifted to zero mean and unit variance per channel (as layer-sequential unit
   variance, Mishkin and Matas 2015, arXiv:1511.06422, but by channel).
2. `fit_head`: the last layer becomes a classifier of the penultimate features, and a Softmax follows it.

The maps have contrast then, but most are rougher than a trained net's: with patch and stride of 16, drops beside each
other correlate to 0.04 to 0.66, where SqueezeNet, trained, has 0.35 to 0.81. In ResNet18 and VGG16, penalties from
0.0001 to 100 (C) did not change that.
"""

from typing import TypeVar, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float32]
Logits = NDArray[np.float64]

Message = TypeVar("Message", ModelProto, NodeProto, TensorProto)

EPSILON = 1e-5
BATCH = 8
INVERSE_PENALTY = 1.0
"""Of the logistic regression (scikit-learn's C), on standardised features."""
SURENESS = 0.75
"""The median largest probability for photographs that a classifier was not fitted to."""


# ------------------------------------------------------------------------------------------------ statistics


def normalise(model: ModelProto, images: Floats) -> None:
    """Make every normalised layer have zero mean and unit variance per channel, before its own scale and shift.

    One run of a twin does the whole depth, because the twin computes in place what the model has stored::

        x -> BatchNormalization(x, scale, shift, mean, var)             in the model, mean and var stored
        x -> BatchNormalization(x, scale, shift, mean(x), var(x))       in the twin

    Args:
        model: changed in place.
        images: float32 [N, C, H, W]; the statistics are over all of them and all positions.
    """
    stored = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    twin = _copy(model)
    if not stored:
        _insert_norms(twin.graph)
    names = _compute_statistics(twin.graph)
    found = dict(zip(names, _session(twin, names).run(names, {"image": images}), strict=True))
    if stored:
        for name, values in found.items():
            _store(model.graph, name, values)
    else:
        _fold(model.graph, found)


def _insert_norms(graph: GraphProto) -> None:
    """Put a BatchNormalization behind every Conv and Gemm but the last: x.raw -> BatchNormalization -> x."""
    nodes = []
    for node in _taken(graph):
        nodes.append(node)
        if node.op_type in ("Conv", "Gemm"):
            (x,) = node.output
            node.output[0], *parameters = (f"{x}.{part}" for part in ("raw", "scale", "shift", "mean", "var"))
            ones = np.ones(len(_load(graph, node.input[2])), np.float32)
            for name, value in zip(parameters, (ones, 0 * ones, 0 * ones, ones), strict=True):
                _store(graph, name, value)
            inputs = [node.output[0], *parameters]
            nodes.append(helper.make_node("BatchNormalization", inputs, [x], f"{x}.norm", epsilon=EPSILON))
    # The last layer keeps its scale: it is fitted.
    last = nodes.pop()
    nodes[-1].output[0] = last.output[0]
    graph.node.extend(nodes)


def _compute_statistics(graph: GraphProto) -> list[str]:
    """Let nodes compute each BatchNormalization's mean and variance from its input; returns their names."""
    names: list[str] = []
    flat: set[str] = set()
    for node in _taken(graph):
        if node.op_type in ("Gemm", "Flatten"):
            flat.update(node.output)
        if node.op_type == "BatchNormalization":
            names += node.input[3:]
            graph.node.extend(_statistics(node, [0] if node.input[0] in flat else [0, 2, 3]))
        graph.node.append(node)
    kept = [_copy(tensor) for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return names


def _statistics(norm: NodeProto, axes: list[int]) -> list[NodeProto]:
    x, *_, mean, var = norm.input
    middle, off, square = (f"{norm.output[0]}.{part}" for part in ("middle", "off", "square"))
    return [
        helper.make_node("ReduceMean", [x], [mean], axes=axes, keepdims=0),
        helper.make_node("ReduceMean", [x], [middle], axes=axes, keepdims=1),
        helper.make_node("Sub", [x, middle], [off]),
        helper.make_node("Mul", [off, off], [square]),
        helper.make_node("ReduceMean", [square], [var], axes=axes, keepdims=0),
    ]


def _fold(graph: GraphProto, found: dict[str, Floats]) -> None:
    """Bring the statistics of the norms that `_insert_norms` inserts into the weights before them."""
    for node in list(graph.node)[:-1]:
        if node.op_type in ("Conv", "Gemm"):
            (x,), (weight, bias) = node.output, node.input[1:]
            scale = 1 / np.sqrt(found[f"{x}.var"] + EPSILON)
            filters = _load(graph, weight)
            _store(graph, weight, filters * scale.reshape(-1, *[1] * (filters.ndim - 1)))
            _store(graph, bias, (_load(graph, bias) - found[f"{x}.mean"]) * scale)


# ------------------------------------------------------------------------------------------------------ head


def fit_head(model: ModelProto, images: Floats, labels: NDArray[np.int64]) -> None:
    """Make the last layer tell the labels apart, and put a Softmax behind it.

    The classifier is a multinomial logistic regression on standardised features, folded back into weight and bias.
    Its logits are then scaled by one number. What matters is how sure it is of pictures that it was not fitted to, so
    each label is left out once: the scale is the one at which the median of the largest probability, for the pictures
    of the label that was left out, is `SURENESS`.

    Args:
        model: changed in place; ends in a Gemm to as many logits as there are labels. Its output "logits" becomes
            "probabilities", float32 [N, classes].
        images: float32 [N, C, H, W].
        labels: int64 [N], 0 to classes − 1.
    """
    graph = model.graph
    head = graph.node[-1]
    features = _features(model, head.input[0], images).astype(np.float64)
    middle = features.mean(axis=0)
    # What never fires has no spread to be divided by.
    spread = features.std(axis=0) + 1e-3 * features.std()
    standard = (features - middle) / spread
    scale = _scale([_left_out(standard, labels, label) for label in np.unique(labels)])
    fitted = _classifier(standard, labels)
    weight = fitted.coef_ / spread
    _store(graph, head.input[1], scale * weight)
    _store(graph, head.input[2], scale * (fitted.intercept_ - weight @ middle))
    graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "Softmax", axis=-1))
    graph.output[0].name = "probabilities"


def _features(model: ModelProto, name: str, images: Floats) -> Floats:
    session = _session(model, [name])
    groups = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([session.run([name], {"image": group})[0] for group in groups])


def _classifier(features: Logits, labels: NDArray[np.int64]) -> LogisticRegression:
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=2000).fit(features, labels)


def _left_out(features: Logits, labels: NDArray[np.int64], label: np.int64) -> Logits:
    """The logits that the pictures of one label get from the classifier of the others."""
    out = labels == label
    return cast(Logits, _classifier(features[~out], labels[~out]).decision_function(features[out]))


def _scale(logits: list[Logits]) -> float:
    """The factor at which the median of the largest probabilities is `SURENESS`, by bisection of its logarithm."""
    low, high = 1e-4, 1e4
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        if np.median([value for group in logits for value in _largest(middle * group)]) > SURENESS:
            high = middle
        else:
            low = middle
    return low


def _largest(logits: Logits) -> Logits:
    """Of each row [N, classes], the largest probability: [N]."""
    return cast(Logits, 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))


# ---------------------------------------------------------------------------------------------------- graphs


def _session(model: ModelProto, outputs: list[str]) -> ort.InferenceSession:
    """The model with other outputs, on one thread, so that sums are in the same order every time."""
    changed = _copy(model)
    del changed.graph.output[:]
    changed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # the last layer's weights are not used, which is no news
    return ort.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _taken(graph: GraphProto) -> list[NodeProto]:
    """The nodes, taken out of the graph: a protobuf list does not keep what is deleted from it."""
    nodes = [_copy(node) for node in graph.node]
    del graph.node[:]
    return nodes


def _tensor(graph: GraphProto, name: str) -> TensorProto | None:
    return next((tensor for tensor in graph.initializer if tensor.name == name), None)


def _load(graph: GraphProto, name: str) -> Floats:
    tensor = _tensor(graph, name)
    assert tensor is not None, name
    return numpy_helper.to_array(tensor)


def _store(graph: GraphProto, name: str, values: NDArray[np.floating]) -> None:
    tensor = _tensor(graph, name) or graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
