"""The layers that CNN architectures are written in: each call adds ONNX nodes and draws their weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod, sqrt
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

Pair: TypeAlias = int | tuple[int, int]
"""A length along height and width; one integer means both."""

OPSET = 17
IR_VERSION = 8

# Random ReLU nets are either ordered or chaotic (Poole et al. 2016, arXiv:1606.05340). With plain random filters
# the mean of the rectified features swamps what the image contributes, and an occlusion hardly moves the logits;
# with zero-sum filters (Brock et al. 2021, arXiv:2101.08692) every layer amplifies differences, rounding errors
# too. Taking away this share of each filter's mean lies between: an occluded patch of 16 x 16 pixels moves the
# logits by a hundredth of the largest or more, float32 rounding by a few millionths at most.
_CENTRING = 0.4


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation of shape [N, channels, H, W], or [N, channels] after `Net.flatten`.

    Attributes:
        name: The name of the ONNX value.
        channels: Length of axis 1.
        mean: Expected mean over all elements; with `variance` it scales the weights of the next layer.
        variance: Expected variance over all elements.
    """

    name: str
    channels: int
    mean: float
    variance: float


class Net:
    """An ONNX graph under construction, with seeded float32 weights.

    Each method adds one layer behind the given tensor and returns the layer's output. Filters are drawn as by He
    et al. 2015 (arXiv:1502.01852): scaled to give unit variance, so that activations stay of order one through
    the depth without any training. A rough estimate of each tensor's moments is enough for that.
    """

    def __init__(self, name: str, *, size: int, seed: int) -> None:
        """Starts the graph `name` with the input "image", float32 [N, 3, size, size]."""
        self.size = size
        self.image = Tensor("image", channels=3, mean=0.0, variance=1.0)
        self._rng = np.random.default_rng(seed)
        self._scope = ""
        self._names: dict[str, int] = {}
        # Weights go straight into the final protobuf: building a graph and copying it into a model would hold
        # VGG16's 553 MB three times.
        self._model = ModelProto(ir_version=IR_VERSION, producer_name="krypton-onnx")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._graph.name = name
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
        self._graph.input.append(image)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefixes the names of the nodes added inside, as in "layer1.0/Conv"; nested scopes join with a dot."""
        outer = self._scope
        self._scope = f"{outer}.{name}" if outer else name
        try:
            yield
        finally:
            self._scope = outer

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: Pair,
        *,
        stride: int = 1,
        pad: Pair = 0,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        """Convolves [N, C, H, W] into [N, channels, H', W']; `pad` zeros on both sides of each axis."""
        name = self._unique("Conv")
        shape = (channels, x.channels // groups, *_pair(kernel))
        # A depthwise filter has few taps: without their mean it would see nothing but edges.
        inputs = [x.name, self._filters(f"{name}.weight", shape, x, centring=_CENTRING if groups == 1 else 0.0)]
        if bias:
            inputs.append(self._normal(f"{name}.bias", channels, mean=0.0, std=0.05))
        self._add("Conv", name, inputs, dilations=[1, 1], group=groups, **_window(kernel, stride, pad))
        return Tensor(name, channels, mean=0.0, variance=1.0)

    def batch_norm(self, x: Tensor, *, epsilon: float = 1e-5) -> Tensor:
        """Normalises each channel of [N, C, H, W] by random statistics near the expected ones."""
        name = self._unique("BatchNormalization")
        std = sqrt(x.variance)
        inputs = [
            x.name,
            self._uniform(f"{name}.weight", x.channels, 0.75, 1.25),
            self._normal(f"{name}.bias", x.channels, mean=0.0, std=0.1),
            self._normal(f"{name}.running_mean", x.channels, mean=x.mean, std=0.1 * std),
            self._uniform(f"{name}.running_var", x.channels, 0.75 * x.variance, 1.25 * x.variance),
        ]
        self._add("BatchNormalization", name, inputs, epsilon=epsilon, momentum=0.9, training_mode=0)
        return Tensor(name, x.channels, mean=0.0, variance=1.0)

    def relu(self, x: Tensor) -> Tensor:
        """Clamps below at 0, element by element."""
        return _rectified(self._apply("Relu", x))

    def relu6(self, x: Tensor) -> Tensor:
        """Clamps to 0..6, as the Clip with two Constant bounds that exporters write."""
        name = self._unique("Clip")
        bounds = [self._constant(f"{name}.min", 0.0), self._constant(f"{name}.max", 6.0)]
        self._add("Clip", name, [x.name, *bounds])
        return _rectified(replace(x, name=name))

    def max_pool(self, x: Tensor, kernel: int, *, stride: int, pad: int = 0, ceil: bool = False) -> Tensor:
        """Maximum over windows of [N, C, H, W]; `ceil` lets the last window hang over the edge."""
        out = self._apply("MaxPool", x, ceil_mode=int(ceil), **_window(kernel, stride, pad))
        # Measured on rectified features, whose neighbours are alike: the maximum lies about 0.7 std higher.
        return replace(out, mean=x.mean + 0.7 * sqrt(x.variance))

    def avg_pool(self, x: Tensor, kernel: int, *, stride: int, pad: int = 0) -> Tensor:
        """Mean over windows of [N, C, H, W], padding counted as PyTorch does by default."""
        # The variance stays roughly as it is, here and in global_avg_pool: most of it lies between channels.
        return self._apply("AveragePool", x, ceil_mode=0, count_include_pad=1, **_window(kernel, stride, pad))

    def global_avg_pool(self, x: Tensor) -> Tensor:
        """Mean over H and W: [N, C, H, W] into [N, C, 1, 1]."""
        return self._apply("GlobalAveragePool", x)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sums two tensors of equal shapes."""
        name = self._unique("Add")
        self._add("Add", name, [a.name, b.name])
        return Tensor(name, a.channels, a.mean + b.mean, a.variance + b.variance)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins tensors [N, C_i, H, W] into [N, sum of C_i, H, W]."""
        name = self._unique("Concat")
        self._add("Concat", name, [part.name for part in parts], axis=1)
        channels = sum(part.channels for part in parts)
        mean = sum(part.channels * part.mean for part in parts) / channels
        square = sum(part.channels * (part.mean**2 + part.variance) for part in parts) / channels
        return Tensor(name, channels, mean, square - mean**2)

    def flatten(self, x: Tensor, *, positions: int = 1) -> Tensor:
        """[N, C, H, W] into [N, C * positions], where positions = H * W."""
        return replace(self._apply("Flatten", x, axis=1), channels=x.channels * positions)

    def gemm(self, x: Tensor, features: int) -> Tensor:
        """Fully connected layer: [N, C] into [N, features]."""
        name = self._unique("Gemm")
        inputs = [
            x.name,
            self._filters(f"{name}.weight", (features, x.channels), x, centring=_CENTRING),
            self._normal(f"{name}.bias", features, mean=0.0, std=0.05),
        ]
        self._add("Gemm", name, inputs, alpha=1.0, beta=1.0, transB=1)
        return Tensor(name, features, mean=0.0, variance=1.0)

    def model(self, logits: Tensor) -> ModelProto:
        """Ends the graph at the layer added last, whose output [N, channels] is renamed "logits"."""
        last = self._graph.node[-1]
        assert list(last.output) == [logits.name], "logits come from the layer added last"
        last.output[0] = "logits"
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", logits.channels])
        self._graph.output.append(output)
        return self._model

    def _apply(self, op: str, x: Tensor, **attributes: int | list[int]) -> Tensor:
        name = self._unique(op)
        self._add(op, name, [x.name], **attributes)
        return replace(x, name=name)

    def _add(self, op: str, name: str, inputs: list[str], **attributes: float | int | list[int]) -> None:
        node = helper.make_node(op, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._graph.node.append(node)

    def _unique(self, op: str) -> str:
        """A node name, which also names the node's output: "scope/Op", then "scope/Op_1" and so on."""
        name = f"{self._scope}/{op}" if self._scope else op
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name

    def _constant(self, name: str, value: float) -> str:
        tensor = helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        self._graph.node.append(helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def _filters(self, name: str, shape: tuple[int, ...], x: Tensor, *, centring: float) -> str:
        """Filters [out, ...] that give unit variance on `x`, each rid of the share `centring` of its mean."""
        values = self._rng.standard_normal(shape, dtype=np.float32)
        taps = tuple(range(1, len(shape)))
        values -= np.float32(centring) * values.mean(axis=taps, keepdims=True)
        square = ((1 - centring) * x.mean) ** 2 + x.variance
        values *= np.float32(1 / sqrt(prod(shape[1:]) * square))
        return self._initializer(name, values)

    def _normal(self, name: str, length: int, *, mean: float, std: float) -> str:
        values = self._rng.standard_normal(length, dtype=np.float32)
        return self._initializer(name, np.float32(mean) + np.float32(std) * values)

    def _uniform(self, name: str, length: int, low: float, high: float) -> str:
        values = self._rng.random(length, dtype=np.float32)
        return self._initializer(name, np.float32(low) + np.float32(high - low) * values)

    def _initializer(self, name: str, values: npt.NDArray[np.float32]) -> str:
        tensor = self._graph.initializer.add(name=name, dims=values.shape, data_type=TensorProto.FLOAT)
        tensor.raw_data = values.astype("<f4", copy=False).tobytes()
        return name


def _rectified(x: Tensor) -> Tensor:
    """The moments of max(x, 0) for a Gaussian x."""
    gauss = NormalDist(x.mean, sqrt(x.variance))
    positive = 1 - gauss.cdf(0)
    edge = x.variance * gauss.pdf(0)
    mean = x.mean * positive + edge
    square = (x.mean**2 + x.variance) * positive + x.mean * edge
    return replace(x, mean=mean, variance=square - mean**2)


def _pair(length: Pair) -> tuple[int, int]:
    return (length, length) if isinstance(length, int) else length


def _window(kernel: Pair, stride: int, pad: Pair) -> dict[str, list[int]]:
    """The attributes that Conv and the pools share."""
    return {"kernel_shape": [*_pair(kernel)], "pads": [*_pair(pad), *_pair(pad)], "strides": [stride, stride]}
