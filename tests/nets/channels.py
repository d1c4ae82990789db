"""What works over the channels of each cell: reductions, softmax, normalization, shuffles, products."""

import math

from onnx import TensorProto

from nets.resizing import slice_channels
from nets.sketch import Map, Sketch


def softmax(s: Sketch, x: Map) -> Map:
    """Before opset 13, over all that stands behind the axis."""
    kind = s.pick("Softmax", "LogSoftmax", "Hardmax") if s.rarely() else "Softmax"
    bent = s.op(kind, x.name, axis=s.pick(1, -3) if s.opset >= 13 else 1)
    return s.like(x, s.op("Add", bent, x.name))


def reduced(s: Sketch, x: Map) -> Map:
    """A reduction over channels, as a map of its own, as a gate, or beside the others (as in CBAM)."""
    kinds = ["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
    kind = s.pick(*kinds, "ReduceLogSumExp")
    if s.rarely():
        flat = s.reduce(kind, x.name, [s.pick(1, -3) if s.opset >= 11 else 1], 0)
        one = s.with_axes("Unsqueeze", 13, flat, [1])
    else:
        one = s.reduce(kind, x.name, [s.pick(1, -3) if s.opset >= 11 else 1], 1)
    match s.pick("gate", "alone", "concat", "centre"):
        case "gate":
            return s.like(x, s.op("Mul", x.name, s.op("Sigmoid", one)))
        case "alone":
            return s.map(one)
        case "centre":
            return s.like(x, s.op("Sub", x.name, one))
        case _:
            both = s.op("Concat", one, s.reduce("ReduceMax", x.name, [1], 1), axis=1)
            return s.map(s.op("Conv", both, s.normal(2, 2, 3, 3, scale=0.3), pads=[1, 1, 1, 1]))


def arg_max(s: Sketch, x: Map) -> Map:
    place = s.op(s.pick("ArgMax", "ArgMin"), x.name, axis=1, keepdims=1)
    share = s.op("Mul", s.cast(place, TensorProto.FLOAT), s.scalar(1 / x.channels))
    return s.like(x, s.op("Add", x.name, share))


def top_k(s: Sketch, x: Map) -> Map:
    s.since(11)
    s.require(x.channels > 1)
    count = s.integers(s.integer(1, x.channels - 1))
    return s.map(s.ops("TopK", 2, x.name, count, axis=1, largest=s.pick(1, 0))[0])


def layer_norm(s: Sketch, x: Map) -> Map:
    """Over channels in place, spelled out (as ConvNeXt exports it)."""
    centred = s.op("Sub", x.name, s.reduce("ReduceMean", x.name, [1], 1))
    square = s.op("Mul", centred, centred) if s.often() else s.op("Pow", centred, s.scalar(2))
    spread = s.op("Sqrt", s.op("Add", s.reduce("ReduceMean", square, [1], 1), s.epsilon()))
    scaled = s.op("Mul", s.op("Div", centred, spread), s.normal(x.channels, 1, 1))
    return s.like(x, s.op("Add", scaled, s.normal(x.channels, 1, 1, scale=0.3)))


def lp_norm(s: Sketch, x: Map) -> Map:
    positive = s.op("Add", s.op("Sigmoid", x.name), s.scalar(0.1))
    return s.like(x, s.op("LpNormalization", positive, axis=1, p=s.pick(2, 1)))


def cumulative(s: Sketch, x: Map) -> Map:
    s.since(11)
    attrs = {"exclusive": s.pick(0, 1), "reverse": s.pick(0, 1)}
    axis = s.weight(s.pick(1, 1, 2, 3), "int64")
    summed = s.op("CumSum", x.name, axis, **attrs)
    return s.like(x, s.op("Tanh", s.op("Mul", summed, s.scalar(0.2))))


def shuffle(s: Sketch, x: Map) -> Map:
    groups = math.gcd(x.channels, s.pick(2, 3))
    lead = s.pick(s.lead, -1, 0)
    split = s.integers(lead, groups, x.channels // groups, x.rows, x.cols)
    swapped = s.op("Transpose", s.op("Reshape", x.name, split), perm=[0, 2, 1, 3, 4])
    return s.map(s.op("Reshape", swapped, s.integers(lead, *x.shape[1:])))


def grouped_rows(s: Sketch, x: Map) -> Map:
    """A channel shuffle that keeps rows and columns as one axis."""
    groups = math.gcd(x.channels, 2)
    split = s.integers(s.lead, groups, x.channels // groups, -1)
    swapped = s.op("Transpose", s.op("Reshape", x.name, split), perm=[0, 2, 1, 3])
    return s.map(s.op("Reshape", swapped, s.integers(s.lead, *x.shape[1:])))


def einsum(s: Sketch, x: Map) -> Map:
    """A 1x1 convolution."""
    s.since(12)
    out, scale = s.pick(3, 2, 5), 1 / math.sqrt(x.channels)
    equation, shape = s.pick(
        ("bchw,oc->bohw", (out, x.channels)),
        ("bchw,co->bohw", (x.channels, out)),
        ("bchw,c->bchw", (x.channels,)),
        ("nchw,chw->nchw", (x.channels, x.rows, x.cols)),
        ("...chw,oc->...ohw", (out, x.channels)),
    )
    name = s.op("Einsum", x.name, s.normal(*shape, scale=scale), equation=equation)
    s.declare(name, (s.lead, out if "o" in equation else x.channels, x.rows, x.cols))
    return s.map(name)


def einsum_reduce(s: Sketch, x: Map) -> Map:
    """A score per cell, as attention gates write it."""
    s.since(12)
    name = s.op("Einsum", x.name, s.normal(x.channels), equation="bchw,c->bhw")
    s.declare(name, (s.lead, x.rows, x.cols))
    return s.like(x, s.op("Mul", x.name, s.with_axes("Unsqueeze", 13, s.op("Sigmoid", name), [1])))


def rows_product(s: Sketch, x: Map) -> Map:
    """A 1x1 convolution as a constant matrix times the flattened map."""
    flat = s.op("Reshape", x.name, s.integers(s.lead, x.channels, -1))
    out = s.pick(3, 2)
    product = s.op("MatMul", s.normal(out, x.channels, scale=1 / math.sqrt(x.channels)), flat)
    return s.map(s.op("Reshape", product, s.integers(s.lead, out, x.rows, x.cols)))


def last_axis_product(s: Sketch, x: Map) -> Map:
    """MatMul by a constant along the columns, which mixes them."""
    return s.map(s.op("MatMul", x.name, s.normal(x.cols, x.cols, scale=1 / math.sqrt(x.cols))))


def groups_of_channels(s: Sketch, x: Map) -> Map:
    """GLU: one half of the channels gates the other."""
    s.require(x.channels % 2 == 0)
    if s.opset >= 13:
        first, second = s.ops("Split", 2, x.name, s.integers(x.channels // 2, x.channels // 2), axis=1)
    else:
        first, second = s.ops("Split", 2, x.name, axis=1)
    return s.map(s.op("Mul", first, s.op("Sigmoid", second)))


LAYERS = (
    reduced,
    softmax,
    layer_norm,
    shuffle,
    slice_channels,
    groups_of_channels,
    einsum,
    lp_norm,
    arg_max,
    top_k,
    cumulative,
    grouped_rows,
    einsum_reduce,
    rows_product,
    last_axis_product,
)
