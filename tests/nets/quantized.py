"""Fewer bits: quantization as exporters and ONNX Runtime's quantizer write it, and float16 segments."""

import math
from typing import Any

import numpy as np
from onnx import TensorProto

from nets.layers import padding
from nets.sketch import CONTRIB, Map, Sketch

STEP = 1 / 24
"""About ±5 in eight bits."""

U8, I8 = np.uint8, np.int8


def _parameters(s: Sketch, dtype: Any, step: float = STEP) -> list[str]:
    """Scale and zero point of a tensor."""
    zero = s.pick(128, 120, 100) if dtype is U8 else s.pick(0, 5, -20)
    return [s.weight(np.float32(step * s.pick(1.0, 0.8, 1.5)), fixed=True), s.weight(zero, dtype)]


def _per_channel(s: Sketch, channels: int, dtype: Any) -> list[str]:
    return [s.weight(STEP * s.rng.uniform(0.7, 1.5, channels), fixed=True), s.weight(np.zeros(channels), dtype)]


def quantized(s: Sketch, x: Map) -> Map:
    """QuantizeLinear and back."""
    s.since(10)
    dtype = s.pick(U8, I8)
    if s.opset >= 13 and s.rarely():
        parameters, attrs = _per_channel(s, x.channels, dtype), {"axis": s.pick(1, -3)}
    else:
        parameters, attrs = _parameters(s, dtype), {}
    stored = s.op("QuantizeLinear", x.name, *parameters, **attrs)
    return s.like(x, s.op("DequantizeLinear", stored, *parameters, **attrs))


def _weights(s: Sketch, channels: int, x: Map, kernel: int) -> tuple[str, str, str, dict[str, int]]:
    """Eight-bit weights, their scale and zero point, per tensor or per channel."""
    values = s.weight(s.rng.integers(-127, 128, (channels, x.channels, kernel, kernel)), I8)
    scale = 1.3 / math.sqrt(x.channels * kernel**2) / 64
    if s.opset >= 13 and s.often():
        scales = s.weight(scale * s.rng.uniform(0.7, 1.3, channels), fixed=True)
        return values, scales, s.weight(np.zeros(channels), I8), {"axis": 0}
    return values, s.weight(np.float32(scale), fixed=True), s.weight(0, I8), {}


def qdq_conv(s: Sketch, x: Map) -> Map:
    """A convolution between DequantizeLinear and QuantizeLinear, as ONNX Runtime's static quantizer writes it."""
    s.since(10)
    dtype, kernel, channels = s.pick(U8, I8), s.pick(3, 1), s.pick(4, 2, 3)
    x = quantized(s, x)
    values, scale, zero, attrs = _weights(s, channels, x, kernel)
    operands = [x.name, s.op("DequantizeLinear", values, scale, zero, **attrs)]
    if s.often():
        bias = s.weight(s.rng.integers(-500, 500, channels), np.int32)
        operands.append(s.op("DequantizeLinear", bias, scale, s.weight(np.zeros(s.shape(scale)), np.int32), **attrs))
    pads = padding(s, (kernel, kernel), [kernel // 2] * 2, [9, 9], plain=True)
    name = s.op("Conv", *operands, strides=s.pick((1, 1), (2, 2)), **pads)
    if s.often():
        name = s.op("Relu", name)
    parameters = _parameters(s, dtype)
    return s.map(s.op("DequantizeLinear", s.op("QuantizeLinear", name, *parameters), *parameters))


def qlinear_conv(s: Sketch, x: Map) -> Map:
    s.since(10)
    channels, kernel = s.pick(4, 2, 3), s.pick(3, 1)
    before, after = _parameters(s, U8), _parameters(s, U8)
    values, scale, zero, _ = _weights(s, channels, x, kernel)
    stored = s.op("QuantizeLinear", x.name, *before)
    extra = [s.weight(s.rng.integers(-500, 500, channels), np.int32)] if s.often() else []
    pads = padding(s, (kernel, kernel), [kernel // 2] * 2, [9, 9], plain=True)
    name = s.op(
        "QLinearConv", stored, *before, values, scale, zero, *after, *extra, strides=s.pick((1, 1), (2, 1)), **pads
    )
    if s.opset >= 12 and s.rarely():
        name = s.op("MaxPool", name, kernel_shape=[2, 2], pads=s.pick([0, 0, 0, 0], [1, 0, 0, 1]))
    return s.map(s.op("DequantizeLinear", name, *after))


def qoperators(s: Sketch, x: Map) -> Map:
    """Operators of ONNX Runtime's own domain, as its quantizer writes them."""
    s.since(10)
    s.domains[CONTRIB] = 1
    before, after = _parameters(s, U8), _parameters(s, U8)
    stored = s.like(x, s.op("QuantizeLinear", x.name, *before))
    kind = s.pick("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat")
    if kind in ("QLinearAdd", "QLinearMul"):
        other = s.op("QuantizeLinear", s.op("Neg", x.name), *before)
        made = s.opaque(kind, stored, stored.name, *before, other, *before, *after, domain=CONTRIB)
    elif kind == "QLinearConcat":
        twice = Map(stored.name, 2 * x.channels, x.rows, x.cols)
        parts = [stored.name, *before, stored.name, *before]
        made = s.opaque(kind, twice, *after, *parts, domain=CONTRIB, axis=1)
    else:
        made = s.opaque(kind, stored, stored.name, *before, *after, domain=CONTRIB)
    return s.map(s.op("DequantizeLinear", made.name, *after))


def conv_integer(s: Sketch, x: Map) -> Map:
    """As the dynamic quantizer writes it, or with a fixed range."""
    s.since(11)
    channels = s.pick(3, 2)
    values = s.weight(s.rng.integers(-127, 128, (channels, x.channels, 3, 3)), s.pick(I8, U8))
    if s.often():
        stored, step, zero = s.ops("DynamicQuantizeLinear", 3, x.name)
    else:
        step, zero = _parameters(s, U8)
        stored = s.op("QuantizeLinear", x.name, step, zero)
    name = s.op("ConvInteger", stored, values, zero, pads=s.pick([1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]))
    scale = s.op("Mul", step, s.weight(np.float32(1 / (64 * 3 * math.sqrt(x.channels))), fixed=True))
    return s.map(s.op("Mul", s.cast(name, TensorProto.FLOAT), scale))


def fake_quantized(s: Sketch, x: Map) -> Map:
    s.since(12)
    rounded = s.op("Round", s.op("Mul", x.name, s.scalar(16)))
    return s.like(x, s.op("Mul", s.op("Clip", rounded, s.scalar(-128), s.scalar(127)), s.scalar(1 / 16)))


def integers(s: Sketch, x: Map) -> Map:
    """Arithmetic in int32."""
    s.since(9)
    whole = s.cast(s.op("Mul", x.name, s.scalar(16)), TensorProto.INT32)
    moved = s.op(s.pick("Add", "Mul", "Sub"), whole, s.weight(s.integer(-3, 3), np.int32))
    return s.like(x, s.op("Mul", s.cast(moved, TensorProto.FLOAT), s.scalar(1 / 32)))


def half(s: Sketch, x: Map) -> Map:
    """A segment in float16."""
    name = s.cast(x.name, TensorProto.FLOAT16)
    channels = x.channels
    for _ in range(s.integer(0, 2)):
        match s.pick("Relu", "Mul", "Conv", "Sigmoid", "MaxPool", "Concat"):
            case "Mul":
                name = s.op("Mul", name, s.weight(s.rng.standard_normal((channels, 1, 1)), np.float16))
            case "Conv":
                weight = s.rng.standard_normal((3, channels, 3, 3)) / math.sqrt(9 * channels)
                name, channels = s.op("Conv", name, s.weight(weight, np.float16), pads=[1, 1, 1, 1]), 3
            case "MaxPool":
                name = s.op("MaxPool", name, kernel_shape=[2, 2], strides=s.pick((1, 1), (2, 2)))
            case "Concat":
                name, channels = s.op("Concat", name, s.op("Neg", name), axis=1), 2 * channels
            case kind:
                name = s.op(kind, name)
    return s.map(s.cast(name, TensorProto.FLOAT))


LAYERS = (quantized, qdq_conv, qlinear_conv, qoperators, half, conv_integer, fake_quantized, integers)
