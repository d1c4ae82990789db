"""Plain layers: convolution, pooling, elementwise operators, normalization per channel."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from nets.sketch import Map, Sketch

BOOL = TensorProto.BOOL
FLOAT = TensorProto.FLOAT


def first_conv(s: Sketch, x: Map) -> Map:
    """A convolution that fits every image: a model without one is refused."""
    channels = s.pick(3, 1, 2, 4, 6)
    weight = s.normal(channels, x.channels, 3, 3, scale=1.3 / math.sqrt(9 * x.channels))
    return s.keep(s.map(s.op("Conv", x.name, weight, pads=[1, 1, 1, 1])))


def conv(s: Sketch, x: Map) -> Map:
    kernel = s.pick((3, 3), (1, 1), (5, 5), (3, 1), (1, 4), (2, 2), (7, 3))
    strides = s.pick((1, 1), (2, 2), (1, 1), (3, 3), (2, 1), (1, 3))
    dilations = s.pick((2, 2), (1, 2), (3, 1)) if s.rarely() else (1, 1)
    groups = s.pick(1, 1, x.channels, math.gcd(x.channels, 2))
    channels = groups * max(1, s.pick(3, 1, 2, 4, 5, 6, 8, 16) // groups)
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    attrs = padding(s, spans, [p // 2 for p in spans], (9, 9), plain=dilations == (1, 1))
    fan = x.channels // groups * math.prod(kernel)
    operands = [x.name, s.normal(channels, x.channels // groups, *kernel, scale=1.3 / math.sqrt(fan))]
    if s.often():
        operands.append(s.normal(channels, scale=0.3))
    if s.often():
        attrs["kernel_shape"] = kernel
    result = s.map(s.op("Conv", *operands, strides=strides, dilations=dilations, group=groups, **attrs))
    return batch_norm(s, result) if s.rarely() else result


def padding(
    s: Sketch, spans: Sequence[int], same: Sequence[int], limit: Sequence[int], *, plain: bool
) -> dict[str, Any]:
    """Attributes of some padding.

    Args:
        s: the sketch.
        spans: input rows and columns that one output cell reads.
        same: the padding that (about) keeps extents.
        limit: the largest padding that ONNX Runtime accepts.
        plain: whether it accepts auto_pad SAME_UPPER and SAME_LOWER.
    """
    match s.pick("same", "none", "uneven", "auto"):
        case "auto":
            return {"auto_pad": s.pick("VALID", "SAME_UPPER", "SAME_LOWER") if plain else "VALID"}
        case "same":
            return {"pads": [*same, *same]}
        case "uneven":
            return {"pads": [s.integer(0, min(k, m)) for k, m in zip((*spans, *spans), (*limit, *limit), strict=True)]}
        case _:
            return {}


def pool(s: Sketch, x: Map) -> Map:
    # ONNX Runtime 1.31 fuses the two even where it then refuses the sum of their paddings.
    s.require(not s.nodes or s.nodes[-1].op_type != "Pad")
    kind = s.pick("MaxPool", "AveragePool")
    kernel = s.pick((2, 2), (3, 3), (1, 1), (3, 2), (1, 4), (5, 5))
    strides = s.pick((2, 2), (1, 1), (3, 3), (1, 2))
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    spans: Sequence[int] = kernel
    if s.opset >= (10 if kind == "MaxPool" else 19) and s.rarely():
        attrs["dilations"] = (2, 1)
        spans = (2 * kernel[0] - 1, kernel[1])
    # ONNX Runtime computes a negative SAME padding where the stride skips rows, and refuses it.
    plain = spans == kernel and all(k >= p for k, p in zip(kernel, strides, strict=True))
    attrs |= padding(s, spans, [k // 2 for k in kernel], [k - 1 for k in kernel], plain=plain)
    s.require(x.rows >= spans[0] and x.cols >= spans[1])
    if kind == "AveragePool" and s.often():
        attrs["count_include_pad"] = 1
    if s.opset < 10 or "auto_pad" in attrs or spans != kernel or s.often():
        return s.map(s.op(kind, x.name, **attrs))
    name = s.op(kind, x.name, ceil_mode=1, **attrs)
    s.declare(name, (s.lead, x.channels, *ceil_extents(x, spans, strides, attrs.get("pads", [0, 0, 0, 0]))))
    return s.map(name)


def ceil_extents(x: Map, spans: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> list[int]:
    """ONNX Runtime's: the last window starts inside the input or its begin padding."""
    extents = []
    for axis, size in enumerate((x.rows, x.cols)):
        steps = -(-(size + pads[axis] + pads[axis + 2] - spans[axis]) // strides[axis])
        extents.append(steps + (steps * strides[axis] < size + pads[axis]))
    return extents


def lp_pool(s: Sketch, x: Map) -> Map:
    kernel = s.pick((2, 2), (3, 3), (1, 2))
    s.require(x.rows >= kernel[0] and x.cols >= kernel[1])
    attrs = padding(s, kernel, [0, 0], [k - 1 for k in kernel], plain=True)
    attrs |= {"p": s.pick(2, 1, 3), "strides": s.pick((1, 1), (2, 2), (2, 1))}
    return s.map(s.op("LpPool", x.name, kernel_shape=kernel, **attrs))


def activation(s: Sketch, x: Map) -> Map:
    kinds = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Abs", "Neg", "Softplus", "Selu", "Softsign"]
    kinds += ["Erf", "Atan", "Sign", "Shrink"] * (s.opset >= 9) + ["ThresholdedRelu"] * (s.opset >= 10)
    kinds += ["Round", "Celu"] * (s.opset >= 12) + ["HardSwish"] * (s.opset >= 14)
    kinds += ["Mish"] * (s.opset >= 18) + ["Gelu"] * (s.opset >= 20)
    return s.like(x, s.op(s.pick(*kinds), x.name))


def sigmoid_like(s: Sketch, x: Map) -> Map:
    """Activations as exporters spell them out, several nodes each."""
    match s.pick("swish", "gelu", "hard_swish", "square"):
        case "swish":
            return s.like(x, s.op("Mul", x.name, s.op("Sigmoid", x.name)))
        case "gelu":
            s.since(9)
            bent = s.op("Erf", s.op("Div", x.name, s.scalar(math.sqrt(2))))
            return s.like(x, s.op("Mul", s.op("Mul", x.name, s.op("Add", bent, s.scalar(1))), s.scalar(0.5)))
        case "hard_swish":
            clipped = clip_name(s, s.op("Add", x.name, s.scalar(3)), 0.0, 6.0)
            return s.like(x, s.op("Div", s.op("Mul", x.name, clipped), s.scalar(6)))
        case _:
            return s.like(x, s.op("Sqrt", s.op("Add", s.op("Pow", x.name, s.scalar(2)), s.scalar(0.1))))


def batch_norm(s: Sketch, x: Map) -> Map:
    c = x.channels
    scale, bias, mean = s.normal(c), s.normal(c, scale=0.3), s.normal(c, scale=0.3)
    attrs = {"epsilon": 1e-3} if s.often() else {}
    variance = s.weight(s.rng.uniform(0.5, 1.5, c))
    return s.like(x, s.op("BatchNormalization", x.name, scale, bias, mean, variance, **attrs))


def norm(s: Sketch, x: Map) -> Map:
    return s.like(x, s.op("LRN", x.name, size=s.pick(3, 1, 5), alpha=0.5, beta=0.75, bias=1.0))


def clip(s: Sketch, x: Map) -> Map:
    return s.like(x, clip_name(s, x.name, *s.pick((-1.0, 1.0), (0.0, 6.0), (None, 0.5), (-0.25, None))))


def clip_name(s: Sketch, x: str, low: float | None, high: float | None) -> str:
    if s.opset < 11:
        return s.op("Clip", x, **{k: v for k, v in (("min", low), ("max", high)) if v is not None})
    bounds = ["" if v is None else s.scalar(v) for v in (low, high)]
    return s.op("Clip", x, *(bounds if high is not None else bounds[:1]))


def prelu(s: Sketch, x: Map) -> Map:
    shape = s.pick((x.channels, 1, 1), (1,), (1, x.channels, 1, 1), (x.channels, x.rows, x.cols))
    return s.like(x, s.op("PRelu", x.name, s.normal(*shape, scale=0.3)))


def constant_operand(s: Sketch, x: Map) -> Map:
    c, h, w = x.shape[1:]
    shape = s.pick((), (c, 1, 1), (1, c, 1, 1), (1, c, h, w), (h, w), (c, h, w), (1, 1, h, 1), (w,), (1, 1), (h, 1))
    values = s.weight(s.rng.choice([-1, 1], shape) * s.rng.uniform(0.5, 1.5, shape))
    if s.rarely():  # a constant that only the compiler can know
        values = s.op("Neg", s.op("Relu", values))
        return s.like(x, s.op(s.pick("Add", "Sub"), x.name, values))
    kind = s.pick("Add", "Mul", "Sub", "Div", *(("Max", "Min") if s.opset >= 8 else ()))
    if kind == "Div":  # a quotient by an activation needs one that stays away from zero
        positive = s.op("Add", s.op("Sigmoid", x.name), s.scalar(0.5))
        return s.like(x, s.op("Div", *((values, positive) if s.often() else (x.name, values))))
    return s.like(x, s.op(kind, *((x.name, values) if s.often() else (values, x.name))))


def compare(s: Sketch, x: Map) -> Map:
    """Masks: comparisons, And / Or / Not / Xor, Where, Cast, with constants of several ranks."""
    c, h, w = x.shape[1:]
    shape = s.pick((), (c, 1, 1), (h, w), (1, c, h, w), (w,))
    kind = s.pick("Greater", "Less", *(("GreaterOrEqual", "LessOrEqual") if s.opset >= 12 else ()))
    mask = s.op(kind, *s.pick((x.name,), (s.op("Tanh", x.name),)), s.normal(*shape, scale=0.5))
    match s.pick("none", "And", "Or", "Not", "Xor"):
        case "Not":
            mask = s.op("Not", mask)
        case "none":
            pass
        case joined:
            mask = s.op(joined, mask, s.weight(s.rng.random(s.pick((h, w), (c, 1, 1))) < 0.5, np.bool_))
    if s.opset < 9 or s.rarely():
        return s.like(x, s.op("Add", s.op("Mul", s.cast(mask, FLOAT), s.scalar(0.5)), x.name))
    other = s.pick(s.scalar(0.3), s.op("Neg", x.name), s.normal(*s.pick((c, 1, 1), (h, w))))
    names = (x.name, other) if s.often() else (other, x.name)
    if s.rarely():
        mask = s.weight(s.rng.random(s.pick((h, w), (c, 1, 1))) < 0.5, np.bool_)
    return s.like(x, s.op("Where", mask, *names))


def noop(s: Sketch, x: Map) -> Map:
    return s.like(x, s.op(s.pick("Identity", "Dropout"), x.name))


def unused(s: Sketch, x: Map) -> Map:
    """A node that nothing reads, and a twin of the next one."""
    s.op("Relu", x.name)
    return s.like(x, s.op("Add", s.op("Tanh", x.name), s.op("Tanh", x.name)))


def other_input(s: Sketch, x: Map) -> Map:
    """A second input of the model, which no query changes; it may look like an image."""
    shape = s.pick([x.channels, 1, 1], [1], [x.rows, x.cols], [1, x.channels, x.rows, x.cols], [1, x.channels, 1, 1])
    name = s.input(f"given{len(s.inputs)}", FLOAT, shape)
    return s.like(x, s.op(s.pick("Add", "Mul"), x.name, s.op("Sigmoid", name)))
