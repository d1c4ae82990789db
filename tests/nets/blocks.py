"""Blocks of several layers, with branches that merge."""

import math

from nets.layers import activation, batch_norm, constant_operand, conv, pool
from nets.resizing import pad
from nets.sketch import Map, Sketch


def branch(s: Sketch, x: Map) -> Map:
    for _ in range(s.integer(0, 2)):
        x = s.attempt(s.pick(conv, activation, pool, constant_operand, pad), x)
    return x


def fit(s: Sketch, x: Map, like: Map, channels: int) -> Map:
    """A convolution that brings x to the extents of another map."""
    if x.shape[2:] == like.shape[2:] and x.channels == channels:
        return x
    kernel, strides, pads = [], [], [0, 0, 0, 0]
    for axis, (size, wanted) in enumerate(zip((x.rows, x.cols), (like.rows, like.cols), strict=True)):
        stride = max(1, size // wanted)
        span = max(s.pick(1, 2, 3), size - (wanted - 1) * stride)
        missing = (wanted - 1) * stride + span - size
        pads[axis] = s.integer(0, missing)
        pads[axis + 2] = missing - pads[axis]
        kernel.append(span)
        strides.append(stride)
    weight = s.normal(channels, x.channels, *kernel, scale=1 / math.sqrt(x.channels * math.prod(kernel)))
    return s.map(s.op("Conv", x.name, weight, strides=strides, pads=pads))


def residual(s: Sketch, x: Map) -> Map:
    long = branch(s, x)
    short = fit(s, branch(s, s.any_map(x)), long, long.channels)
    kind = s.pick("Add", "Mul", "Sub", "Max")
    names = (long.name, short.name) if s.often() else (short.name, long.name)
    return s.like(long, s.op(kind, *names))


def concat(s: Sketch, x: Map) -> Map:
    first = branch(s, x)
    others = [fit(s, branch(s, s.any_map(x)), first, s.integer(1, 3)) for _ in range(s.integer(0, 2))]
    names = [part.name for part in (first, *others)]
    if s.rarely():
        names.insert(s.integer(0, len(names)), s.normal(1, 2, first.rows, first.cols))
    return s.map(s.op("Concat", *names, axis=1 if s.opset < 11 or s.often() else -3))


def concat_space(s: Sketch, x: Map) -> Map:
    """Concat over rows or columns."""
    first, axis = branch(s, x), s.pick(2, 3)
    names = [first.name, s.op("Tanh", first.name)]
    if s.often():
        shape = [1, first.channels, first.rows, first.cols]
        shape[axis] = s.integer(1, 3)
        names[1] = s.normal(*shape)
    return s.map(s.op("Concat", *(names if s.often() else names[::-1]), axis=axis))


def shared(s: Sketch, x: Map) -> Map:
    """One weight for two convolutions, of which one may be followed by a BatchNormalization."""
    weight = s.normal(x.channels, x.channels, 3, 3, scale=1 / math.sqrt(9 * x.channels))
    first = s.map(s.op("Conv", x.name, weight, pads=[1, 1, 1, 1]))
    if s.often():
        first = batch_norm(s, first)
    second = s.op("Conv", s.op("Relu", first.name), weight, pads=[1, 1, 1, 1])
    return s.like(x, s.op("Add", first.name, second))
