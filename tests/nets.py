"""Random small CNNs as ONNX models: what the exactness tests are run on.

Every decision is asked of a `Choices`, so that one generator serves Hypothesis (which shrinks the decisions) and
seeded loops. Decision 0 is always the plainest one. Weights come from a seeded generator and are scaled so that
activations stay of order one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
T = TypeVar("T")

MAX_CELLS = 6 * 40 * 40


class Choices(Protocol):
    """Where decisions come from."""

    def below(self, n: int) -> int:
        """An integer from 0 to n − 1."""
        ...


@dataclass
class Seeded:
    """Decisions of a seeded random generator."""

    rng: np.random.Generator

    def below(self, n: int) -> int:
        return int(self.rng.integers(n))


@dataclass
class Drawn:
    """Decisions that Hypothesis draws, and shrinks."""

    draw: Callable[[st.SearchStrategy[int]], int]

    def below(self, n: int) -> int:
        return self.draw(st.integers(0, n - 1))


@dataclass(frozen=True)
class Net:
    """A random model, and what has to be known to run it.

    Attributes:
        model: the ONNX model; its image input is called "image".
        image: shape [C, H, W].
    """

    model: onnx.ModelProto
    image: tuple[int, int, int]


@dataclass(frozen=True)
class Map:
    """A tensor [1, channels, rows, cols]."""

    name: str
    channels: int
    rows: int
    cols: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, self.channels, self.rows, self.cols


@st.composite
def nets(draw: Callable[[st.SearchStrategy[int]], int]) -> Net:
    """Hypothesis strategy for `random_net`."""
    return random_net(Drawn(draw), draw(st.integers(0, 1 << 16)))


def random_net(choices: Choices, seed: int) -> Net:
    """Draw a model: some layers on maps, a dense tail, one or more outputs."""
    sketch = Sketch(choices, seed)
    image = sketch.image()
    x = sketch.first_conv(image)
    for _ in range(sketch.integer(0, 6)):
        x = sketch.layer(x)
    outputs = [sketch.tail(x)]
    if sketch.rarely():
        outputs.append((sketch.op("Identity", x.name), 4))
    if sketch.rarely():
        outputs.append(sketch.tail(sketch.any_map(x)))
    return Net(sketch.model(outputs), image.shape[1:])


@dataclass
class Sketch:
    """An ONNX graph that is being drawn."""

    choices: Choices
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.opset = self.pick(17, 13, 11, 18, 21, 9, 7, 8, 10, 12, 14, 19, 20) if self.rarely() else 17
        self.listed = self.opset < 9 or self.rarely()

    # -------------------------------------------------------------------------------------------- decisions

    def pick(self, *options: T) -> T:
        return options[self.choices.below(len(options))]

    def integer(self, low: int, high: int) -> int:
        return low + self.choices.below(high - low + 1)

    def rarely(self) -> bool:
        return self.choices.below(6) == 5

    def often(self) -> bool:
        return self.choices.below(2) == 0

    # --------------------------------------------------------------------------------------------- elements

    def op(self, kind: str, *inputs: str, **attrs: Any) -> str:
        return self.ops(kind, 1, *inputs, **attrs)[0]

    def ops(self, kind: str, results: int, *inputs: str, **attrs: Any) -> list[str]:
        names = [f"{kind.lower()}{len(self.nodes)}" + (f".{i}" if i else "") for i in range(results)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", **attrs))
        return names

    def weight(self, values: Any, dtype: npt.DTypeLike = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        return self.weight(values, np.int64)

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.weight(self.rng.standard_normal(shape) * scale)

    def with_axes(self, kind: str, since: int, x: str, axes: Sequence[int], **attrs: Any) -> str:
        """An operator whose axes became an input in opset `since`."""
        if self.opset >= since:
            return self.op(kind, x, self.integers(*axes), **attrs)
        return self.op(kind, x, axes=list(axes), **attrs)

    def known(self, x: Map) -> Map:
        self.maps.append(x)
        return x

    def any_map(self, x: Map) -> Map:
        return x if self.often() else self.maps[self.choices.below(len(self.maps))]

    def image(self) -> Map:
        rows = self.integer(5, 40)
        cols = rows if self.often() else self.integer(5, 40)
        channels = self.pick(3, 1, 2)
        batch = self.pick("N", 1, None)
        self.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, channels, rows, cols]))
        return self.known(Map("image", channels, rows, cols))

    def model(self, outputs: Sequence[tuple[str, int]]) -> onnx.ModelProto:
        infos = [
            helper.make_tensor_value_info(name, _output_type(name), [f"{name}_{i}" for i in range(rank)])
            for name, rank in dict(outputs).items()
        ]
        listed = [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights]
        graph = helper.make_graph(
            self.nodes, "random", [*self.inputs, *(listed if self.listed else [])], infos, self.weights
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))

    # ----------------------------------------------------------------------------------------------- layers

    def layer(self, x: Map) -> Map:
        """One layer or block behind x, or behind an earlier map."""
        x = x if not self.rarely() else self.any_map(x)
        common = (self.conv, self.activation, self.pool, self.residual, self.concat, self.constant_operand)
        rare = (self.batch_norm, self.norm, self.clip, self.prelu, self.pad, self.noop, self.other_input)
        if self.rarely():
            return self.known(self.unknown(x))
        layer = self.pick(*common) if self.choices.below(3) < 2 else self.pick(*rare)
        return self.known(layer(x))

    def first_conv(self, x: Map) -> Map:
        """A convolution that fits every image: a model without one is refused."""
        weight = self.normal(self.pick(3, 1, 2, 4, 6), x.channels, 3, 3, scale=1.3 / math.sqrt(9 * x.channels))
        channels = int(self.weights[-1].dims[0])
        return self.known(Map(self.op("Conv", x.name, weight, pads=[1, 1, 1, 1]), channels, x.rows, x.cols))

    def conv(self, x: Map) -> Map:
        kernel = self.pick((3, 3), (1, 1), (5, 5), (3, 1), (1, 4), (2, 2), (7, 3))
        strides = self.pick((1, 1), (2, 2), (1, 1), (3, 3), (2, 1), (1, 3))
        dilations = self.pick((2, 2), (1, 2), (3, 1)) if self.rarely() else (1, 1)
        groups = self.pick(1, 1, x.channels, math.gcd(x.channels, 2))
        channels = groups * max(1, self.pick(3, 1, 2, 4, 5, 6, 8, 16) // groups)
        spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
        padding, extents = self.padding(x, spans, strides, [p // 2 for p in spans], (9, 9), dilations == (1, 1))
        if min(extents) < 1:
            return x
        fan = x.channels // groups * math.prod(kernel)
        operands = [x.name, self.normal(channels, x.channels // groups, *kernel, scale=1.3 / math.sqrt(fan))]
        if self.often():
            operands.append(self.normal(channels, scale=0.3))
        attrs = {"strides": strides, "dilations": dilations, "group": groups, **padding}
        if self.often():
            attrs["kernel_shape"] = kernel
        result = Map(self.op("Conv", *operands, **attrs), channels, *extents)
        return self.batch_norm(result) if self.rarely() else result

    def padding(
        self,
        x: Map,
        spans: Sequence[int],
        strides: Sequence[int],
        same: Sequence[int],
        limit: Sequence[int],
        plain: bool,
    ) -> tuple[dict[str, Any], list[int]]:
        """Attributes of some padding, and the extents that it leads to.

        Args:
            x: what is padded.
            spans: input rows and columns that one output cell reads.
            strides: of the sliding window.
            same: the padding that (about) keeps extents.
            limit: the largest padding that ONNX Runtime accepts.
            plain: whether it accepts auto_pad SAME_UPPER and SAME_LOWER.
        """
        sizes, kind = (x.rows, x.cols), self.pick("same", "none", "uneven", "auto")
        if kind == "auto":
            mode = self.pick("VALID", "SAME_UPPER", "SAME_LOWER") if plain else "VALID"
            if mode != "VALID":
                return {"auto_pad": mode}, [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
            return {"auto_pad": mode}, [(n - k) // s + 1 for n, k, s in zip(sizes, spans, strides, strict=True)]
        pads = [0, 0, 0, 0]
        if kind == "same":
            pads = [*same, *same]
        elif kind == "uneven":
            pads = [self.integer(0, min(k, m)) for k, m in zip((*spans, *spans), (*limit, *limit), strict=True)]
        extents = [(sizes[a] + pads[a] + pads[a + 2] - spans[a]) // strides[a] + 1 for a in (0, 1)]
        return ({} if kind == "none" else {"pads": pads}), extents

    def pool(self, x: Map) -> Map:
        if self.nodes and self.nodes[-1].op_type == "Pad":
            return x  # ONNX Runtime 1.31 fuses the two even where it then refuses the sum of their paddings
        kind = self.pick("MaxPool", "AveragePool")
        kernel = self.pick((2, 2), (3, 3), (1, 1), (3, 2), (1, 4), (5, 5))
        strides = self.pick((2, 2), (1, 1), (3, 3), (1, 2))
        attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
        spans: Sequence[int] = kernel
        if self.opset >= (10 if kind == "MaxPool" else 19) and self.rarely():
            attrs["dilations"] = (2, 1)
            spans = (2 * kernel[0] - 1, kernel[1])
        limit = [k - 1 for k in kernel]
        # ONNX Runtime computes a negative SAME padding where the stride skips rows, and refuses it.
        plain = spans == kernel and all(k >= s for k, s in zip(kernel, strides, strict=True))
        padding, extents = self.padding(x, spans, strides, [k // 2 for k in kernel], limit, plain)
        if kind == "AveragePool" and self.often():
            attrs["count_include_pad"] = 1
        if self.opset >= 10 and "auto_pad" not in padding and spans == kernel and not self.often():
            attrs["ceil_mode"] = 1
            pads = padding.get("pads", [0, 0, 0, 0])
            for axis, size in enumerate((x.rows, x.cols)):
                extents[axis] = -(-(size + pads[axis] + pads[axis + 2] - spans[axis]) // strides[axis]) + 1
                if (extents[axis] - 1) * strides[axis] >= size + pads[axis]:
                    extents[axis] -= 1
        fits = all(n >= k for n, k in zip((x.rows, x.cols), spans, strict=True))
        if min(extents) < 1 or not fits:
            return x
        return Map(self.op(kind, x.name, **attrs, **padding), x.channels, *extents)

    def activation(self, x: Map) -> Map:
        kinds = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Abs", "Neg", "Softplus", "Selu"]
        kinds += ["Erf", "Atan"] * (self.opset >= 9) + ["HardSwish"] * (self.opset >= 14)
        kinds += ["Mish"] * (self.opset >= 18) + ["Gelu"] * (self.opset >= 20)
        return self.like(x, self.op(self.pick(*kinds), x.name))

    def like(self, x: Map, name: str) -> Map:
        return Map(name, x.channels, x.rows, x.cols)

    def batch_norm(self, x: Map) -> Map:
        c = x.channels
        scale, bias, mean = self.normal(c), self.normal(c, scale=0.3), self.normal(c, scale=0.3)
        variance = self.weight(self.rng.uniform(0.5, 1.5, c))
        attrs = {"epsilon": 1e-3} if self.often() else {}
        return self.like(x, self.op("BatchNormalization", x.name, scale, bias, mean, variance, **attrs))

    def norm(self, x: Map) -> Map:
        return self.like(x, self.op("LRN", x.name, size=self.pick(3, 1, 5), alpha=0.5, beta=0.75, bias=1.0))

    def clip(self, x: Map) -> Map:
        low, high = self.pick((-1.0, 1.0), (0.0, 6.0), (None, 0.5), (-0.25, None))
        if self.opset < 11:
            limits = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            return self.like(x, self.op("Clip", x.name, **limits))
        bounds = ["" if v is None else self.weight(np.float32(v)) for v in (low, high)]
        return self.like(x, self.op("Clip", x.name, *(bounds if high is not None else bounds[:1])))

    def prelu(self, x: Map) -> Map:
        shape = self.pick((x.channels, 1, 1), (1,), (1, x.channels, 1, 1), (x.channels, x.rows, x.cols))
        return self.like(x, self.op("PRelu", x.name, self.normal(*shape, scale=0.3)))

    def constant_operand(self, x: Map) -> Map:
        c, h, w = x.shape[1:]
        shape = self.pick((), (c, 1, 1), (1, c, 1, 1), (1, c, h, w), (h, w), (c, h, w), (1, 1, h, 1), (w,), (1, 1))
        values = self.weight(self.rng.choice([-1, 1], shape) * self.rng.uniform(0.5, 1.5, shape))
        if self.rarely():  # a constant that only the compiler can know
            values = self.op("Neg", self.op("Relu", values))
            return self.like(x, self.op(self.pick("Add", "Sub"), x.name, values))
        kind = self.pick("Add", "Mul", "Sub", "Div", *(("Max", "Min") if self.opset >= 8 else ()))
        if kind == "Div":  # a quotient by an activation needs one that stays away from zero
            positive = self.op("Add", self.op("Sigmoid", x.name), self.weight(np.float32(0.5)))
            return self.like(x, self.op("Div", *((values, positive) if self.often() else (x.name, values))))
        return self.like(x, self.op(kind, *((x.name, values) if self.often() else (values, x.name))))

    def pad(self, x: Map) -> Map:
        low = -1 if min(x.rows, x.cols) > 3 and self.rarely() else 0
        pads = [self.integer(low, 2) for _ in range(4)]
        value, mode = self.pick(0.0, 0.5, -3.0), self.pick("edge", "reflect") if self.rarely() else "constant"
        if mode == "reflect" and (low < 0 or min(x.rows, x.cols) < 3):
            mode = "edge"
        amounts = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        if mode == "edge" and low < 0:
            mode = "constant"
        if self.opset < 11:
            filled = {"value": value} if mode == "constant" else {}
            name = self.op("Pad", x.name, pads=amounts, mode=mode, **filled)
        elif self.opset >= 18 and self.often():
            axes = self.integers(2, -1)
            name = self.op("Pad", x.name, self.integers(*pads), self.weight(np.float32(value)), axes, mode=mode)
        else:
            operands = [self.integers(*amounts), *([self.weight(np.float32(value))] if value else [])]
            name = self.op("Pad", x.name, *operands, mode=mode)
        return Map(name, x.channels, x.rows + pads[0] + pads[2], x.cols + pads[1] + pads[3])

    def noop(self, x: Map) -> Map:
        return self.like(x, self.op(self.pick("Identity", "Dropout"), x.name))

    def other_input(self, x: Map) -> Map:
        shape = self.pick([1, x.channels, 1, 1], [1], [x.rows, x.cols])
        if len(shape) == 4:  # an input of four dimensions could be the image
            shape = shape[1:]
        name = f"given{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self.like(x, self.op(self.pick("Add", "Mul"), x.name, self.op("Sigmoid", name)))

    # ----------------------------------------------------------------------------------------------- blocks

    def branch(self, x: Map) -> Map:
        for _ in range(self.integer(0, 2)):
            x = self.pick(self.conv, self.activation, self.pool, self.constant_operand, self.pad)(x)
        return x

    def fit(self, x: Map, like: Map, channels: int) -> Map:
        """A convolution that brings x to the extents of another map."""
        if x.shape[2:] == like.shape[2:] and x.channels == channels:
            return x
        kernel, strides, pads = [], [], [0, 0, 0, 0]
        for axis, (size, wanted) in enumerate(zip((x.rows, x.cols), (like.rows, like.cols), strict=True)):
            stride = max(1, size // wanted)
            span = max(self.pick(1, 2, 3), size - (wanted - 1) * stride)
            missing = (wanted - 1) * stride + span - size
            pads[axis] = self.integer(0, missing)
            pads[axis + 2] = missing - pads[axis]
            kernel.append(span)
            strides.append(stride)
        weight = self.normal(channels, x.channels, *kernel, scale=1 / math.sqrt(x.channels * math.prod(kernel)))
        name = self.op("Conv", x.name, weight, strides=strides, pads=pads)
        return Map(name, channels, like.rows, like.cols)

    def residual(self, x: Map) -> Map:
        long = self.branch(x)
        short = self.fit(self.branch(self.any_map(x)), long, long.channels)
        kind = self.pick("Add", "Mul", "Sub", "Max")
        names = (long.name, short.name) if self.often() else (short.name, long.name)
        return self.like(long, self.op(kind, *names))

    def concat(self, x: Map) -> Map:
        first = self.branch(x)
        others = [self.fit(self.branch(self.any_map(x)), first, self.integer(1, 3)) for _ in range(self.integer(0, 2))]
        parts = [first, *others]
        channels = sum(p.channels for p in parts)
        axis = 1 if self.opset < 11 or self.often() else -3
        name = self.op("Concat", *(p.name for p in parts), axis=axis)
        return Map(name, channels, first.rows, first.cols)

    # -------------------------------------------------------------------------- what has no window rule

    def unknown(self, x: Map) -> Map:
        makers = [
            self.squeeze_excite,
            self.instance_norm,
            self.channel_softmax,
            self.transposes,
            self.shuffle,
            self.global_max,
            self.channel_mean,
            self.space_to_depth,
            self.conv_transpose,
            self.upsample,
            self.split,
            self.flip,
            self.losing_reshape,
            self.losing_transpose,
            self.spatial_softmax,
            self.with_indices,
            self.conditional,
            self.loop,
        ]
        return self.pick(*makers)(x)

    def squeeze_excite(self, x: Map) -> Map:
        pooled = self.op("GlobalAveragePool", x.name)
        gate = self.op("Conv", pooled, self.normal(x.channels, x.channels, 1, 1))
        return self.like(x, self.op("Mul", x.name, self.op("Sigmoid", gate)))

    def instance_norm(self, x: Map) -> Map:
        operands = self.normal(x.channels), self.normal(x.channels, scale=0.3)
        return self.like(x, self.op("InstanceNormalization", x.name, *operands, epsilon=0.1))

    def channel_softmax(self, x: Map) -> Map:
        return self.like(x, self.op("Add", self.op("Softmax", x.name, axis=1), x.name))

    def transposes(self, x: Map) -> Map:
        last = self.op("Transpose", x.name, perm=[0, 2, 3, 1])
        return self.like(x, self.op("Transpose", self.op("Relu", last), perm=[0, 3, 1, 2]))

    def shuffle(self, x: Map) -> Map:
        groups = math.gcd(x.channels, 2)
        lead = self.pick(1, -1, 0)
        split = self.integers(lead, groups, x.channels // groups, x.rows, x.cols)
        swapped = self.op("Transpose", self.op("Reshape", x.name, split), perm=[0, 2, 1, 3, 4])
        return self.like(x, self.op("Reshape", swapped, self.integers(lead, *x.shape[1:])))

    def global_max(self, x: Map) -> Map:
        return self.like(x, self.op("Sub", x.name, self.op("GlobalMaxPool", x.name)))

    def channel_mean(self, x: Map) -> Map:
        kind, since = self.pick(("ReduceMean", 18), ("ReduceMax", 18), ("ReduceSum", 13))
        return self.like(x, self.op("Mul", x.name, self.with_axes(kind, since, x.name, [1], keepdims=1)))

    def space_to_depth(self, x: Map) -> Map:
        if x.rows % 2 or x.cols % 2:
            return self.depth_to_space(x)
        return Map(self.op("SpaceToDepth", x.name, blocksize=2), x.channels * 4, x.rows // 2, x.cols // 2)

    def depth_to_space(self, x: Map) -> Map:
        if x.channels % 4 or math.prod(x.shape) > MAX_CELLS:
            return x
        return Map(self.op("DepthToSpace", x.name, blocksize=2), x.channels // 4, x.rows * 2, x.cols * 2)

    def conv_transpose(self, x: Map) -> Map:
        if math.prod(x.shape) > MAX_CELLS // 4:
            return x
        weight = self.normal(x.channels, 2, 3, 3, scale=1 / math.sqrt(3 * x.channels))
        name = self.op("ConvTranspose", x.name, weight, strides=[2, 2])
        return Map(name, 2, 2 * x.rows + 1, 2 * x.cols + 1)

    def upsample(self, x: Map) -> Map:
        if self.opset < 13 or math.prod(x.shape) > MAX_CELLS // 4:
            return x
        scales = self.weight([1, 1, 2, 2])
        mode = self.pick("nearest", "linear")
        return Map(self.op("Resize", x.name, "", scales, mode=mode), x.channels, x.rows * 2, x.cols * 2)

    def split(self, x: Map) -> Map:
        if x.channels < 2:
            return x
        sizes = [1, x.channels - 1]
        extra = [self.integers(*sizes)] if self.opset >= 13 else []
        attrs = {} if extra else {"split": sizes}
        first, second = self.ops("Split", 2, x.name, *extra, axis=1, **attrs)
        return self.like(x, self.op("Concat", self.op("Tanh", second), first, axis=1))

    def flip(self, x: Map) -> Map:
        if self.opset < 10:
            return x
        start, end, axis, step = (self.integers(v) for v in (-1, -(1 << 30), 3, -1))
        return self.like(x, self.op("Slice", x.name, start, end, axis, step))

    def losing_reshape(self, x: Map) -> Map:
        flat = self.op("Reshape", x.name, self.integers(x.channels, -1))
        return self.like(x, self.op("Reshape", self.op("Softplus", flat), self.integers(*x.shape)))

    def losing_transpose(self, x: Map) -> Map:
        turned = self.op("Transpose", x.name, perm=[1, 0, 2, 3])
        return self.like(x, self.op("Transpose", self.op("Tanh", turned), perm=[1, 0, 2, 3]))

    def spatial_softmax(self, x: Map) -> Map:
        flat = self.op("Reshape", x.name, self.integers(self.pick(0, 1), x.channels, x.rows * x.cols))
        back = self.op("Reshape", self.op("Softmax", flat, axis=2), self.integers(*x.shape))
        return self.like(x, self.op("Add", self.op("Mul", back, self.weight(np.float32(x.rows * x.cols))), x.name))

    def with_indices(self, x: Map) -> Map:
        if min(x.rows, x.cols) < 2 or self.opset < 8:
            return x
        top, places = self.ops("MaxPool", 2, x.name, kernel_shape=[2, 2])
        scale = self.weight(np.float32(1 / math.prod(x.shape)))
        shares = self.op("Mul", self.op("Cast", places, to=TensorProto.FLOAT), scale)
        return Map(self.op("Add", top, shares), x.channels, x.rows - 1, x.cols - 1)

    def conditional(self, x: Map) -> Map:
        """An If whose branches reach for outer tensors, and of which the image decides which one runs."""
        scale = self.normal(x.channels, 1, 1)
        condition = self.op("Less", self.op("ReduceMean", x.name, keepdims=0), self.weight(np.float32(0)))
        branches = {}
        for name, kind in (("then_branch", "Mul"), ("else_branch", "Add")):
            result = f"{name}{len(self.nodes)}"
            node = helper.make_node(kind, [x.name, scale], [result])
            info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
            branches[name] = helper.make_graph([node], name, [], [info])
        return self.like(x, self.op("If", condition, **branches))

    def loop(self, x: Map) -> Map:
        """Two rounds of y ← tanh(y · w) + x, with x from outside."""
        tag = len(self.nodes)
        i, go, y, out, go_on = (f"{n}{tag}" for n in ("i", "go", "y", "next_y", "go_on"))
        body = helper.make_graph(
            [
                helper.make_node("Identity", [go], [go_on]),
                helper.make_node("Tanh", [y], [f"tanh_{tag}"]),
                helper.make_node("Add", [f"tanh_{tag}", x.name], [out]),
            ],
            "body",
            [
                helper.make_tensor_value_info(i, TensorProto.INT64, []),
                helper.make_tensor_value_info(go, TensorProto.BOOL, []),
                helper.make_tensor_value_info(y, TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
                helper.make_tensor_value_info(out, TensorProto.FLOAT, None),
            ],
        )
        rounds, go_first = self.weight(np.array(2), np.int64), self.weight(np.array(True), np.bool_)
        return self.like(x, self.op("Loop", rounds, go_first, x.name, body=body))

    # ------------------------------------------------------------------------------------------------ tails

    def tail(self, x: Map) -> tuple[str, int]:
        """From a map to an output. Returns its name and its rank."""
        if self.rarely():
            return self.losing_tail(x)
        flat, width = self.flat(x)
        end = self.pick("gemm", "matmul", "none")
        if end == "gemm":
            flat, width = self.gemm(flat, width), 5
        elif end == "matmul":
            scale = 1 / math.sqrt(width)
            flat = self.op("Add", self.op("MatMul", flat, self.normal(width, 5, scale=scale)), self.normal(5))
            width = 5
        finish = self.pick("none", "Softmax", "Sigmoid", "LogSoftmax", "ArgMax", "TopK")
        if finish == "ArgMax":
            return self.op("ArgMax", flat, axis=1, keepdims=self.pick(1, 0)), 2 - (self.keepdims() == 0)
        if finish == "TopK" and self.opset >= 10:
            return self.ops("TopK", 2, flat, self.integers(1 + width // 2))[0], 2
        return (
            flat
            if finish in ("none", "TopK")
            else self.op(finish, flat, axis=1)
            if "max" in finish
            else self.op(finish, flat)
        ), 2

    def keepdims(self) -> int:
        return next(a.i for a in self.nodes[-1].attribute if a.name == "keepdims")

    def gemm(self, flat: str, width: int) -> str:
        turned = self.pick(1, 0)
        weight = self.normal(*((5, width) if turned else (width, 5)), scale=1 / math.sqrt(width))
        bias = [] if self.opset >= 11 and self.rarely() else [self.normal(*self.pick((5,), (1, 5)))]
        return self.op("Gemm", flat, weight, *bias, transB=turned)

    def flat(self, x: Map) -> tuple[str, int]:
        """[1, width] from a map."""
        kind, name, cells = self.pick("average", "mean", "whole", "map"), x.name, x.rows * x.cols
        if kind == "mean":
            return self.with_axes("ReduceMean", 18, name, self.pick([2, 3], [-2, -1]), keepdims=0), x.channels
        if kind == "average" or x.channels * cells > 4000:
            name, cells = self.op("GlobalAveragePool", name), 1
        if kind == "map" and cells > 1:
            name, cells = self.with_axes("ReduceMean", 18, name, [3], keepdims=1), x.rows
        width = x.channels * cells
        how = self.pick("flatten", "one", "rows", "zero", "exported", "squeeze")
        if how == "squeeze" and cells == 1:
            return self.with_axes("Squeeze", 13, name, [2, 3]), width
        if how == "exported":
            return self.op("Reshape", name, self.exported_shape(name)), width
        targets = {"one": (1, -1), "rows": (-1, width), "zero": (0, -1)}
        if how in targets:
            return self.op("Reshape", name, self.integers(*targets[how])), width
        return self.op("Flatten", name, axis=1 if self.opset < 11 or self.often() else -3), width

    def exported_shape(self, name: str) -> str:
        """`x.view(x.size(0), -1)` as PyTorch writes it."""
        size = self.op("Gather", self.op("Shape", name), self.weight(np.array(0), np.int64), axis=0)
        return self.op("Concat", self.with_axes("Unsqueeze", 13, size, [0]), self.integers(-1), axis=0)

    def losing_tail(self, x: Map) -> tuple[str, int]:
        """Tails that are right for one image and mix images in a batch."""
        cells = x.rows * x.cols
        match self.pick("flatten", "rows", "mixed", "turned", "all", "gram", "first", "squeeze"):
            case "flatten":
                pooled = self.op("GlobalAveragePool", x.name)
                axis = 0 if self.opset < 11 or self.often() else -4
                return self.gemm(self.op("Flatten", pooled, axis=axis), x.channels), 2
            case "rows":
                rows = self.op("Reshape", x.name, self.integers(x.channels, cells))
                means = self.with_axes("ReduceMean", 18, rows, [1], keepdims=0)
                return self.gemm(self.with_axes("Unsqueeze", 13, means, [0]), x.channels), 2
            case "mixed":
                mixed = self.op("Reshape", x.name, self.integers(1, x.rows, -1))
                turned = self.op("Transpose", mixed, perm=[1, 0, 2])
                return self.with_axes("ReduceMax", 18, turned, [2], keepdims=0), 2
            case "turned":
                turned = self.op("Transpose", x.name, perm=[1, 0, 2, 3])
                pooled = self.op("GlobalAveragePool", turned)
                return self.op("Reshape", pooled, self.integers(1, x.channels)), 2
            case "all":
                kept = self.pick(0, 1)
                return self.op("ReduceMean", x.name, keepdims=kept), 4 * kept
            case "gram":
                rows = self.op("Reshape", x.name, self.integers(x.channels, cells))
                product = self.op("MatMul", rows, self.op("Transpose", rows, perm=[1, 0]))
                return self.op("Mul", product, self.weight(np.float32(1 / cells))), 2
            case "first":
                pooled = self.op("Reshape", self.op("GlobalAveragePool", x.name), self.integers(-1))
                return self.op("ArgMax", pooled, axis=0, keepdims=1), 1
            case _:
                return self.op("Squeeze", self.op("GlobalAveragePool", x.name)), 1 if x.channels > 1 else 0


def _output_type(name: str) -> int:
    return TensorProto.INT64 if name.startswith("argmax") else TensorProto.FLOAT
