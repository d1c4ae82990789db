"""What looks at the whole map: squeeze and excitation, normalization over space, attention, sampling."""

import math

import numpy as np

from nets.layers import FLOAT
from nets.sketch import CONTRIB, Map, Sketch


def squeeze_excite(s: Sketch, x: Map) -> Map:
    inner = s.pick(x.channels, 1, 2)
    if s.often():
        pooled = s.op("GlobalAveragePool", x.name)
        gate = s.op(
            "Conv",
            s.op("Relu", s.op("Conv", pooled, s.normal(inner, x.channels, 1, 1))),
            s.normal(x.channels, inner, 1, 1),
        )
    else:
        pooled = s.reduce("ReduceMean", x.name, [2, 3], 0)
        gate = s.op(
            "MatMul", s.op("Tanh", s.op("MatMul", pooled, s.normal(x.channels, inner))), s.normal(inner, x.channels)
        )
        gate = s.op("Reshape", gate, s.integers(s.pick(0, -1, s.lead), x.channels, 1, 1))
    return s.like(x, s.op("Mul", *((x.name, s.op("Sigmoid", gate)) if s.often() else (s.op("Sigmoid", gate), x.name))))


def instance_norm(s: Sketch, x: Map) -> Map:
    operands = s.normal(x.channels), s.normal(x.channels, scale=0.3)
    return s.like(x, s.op("InstanceNormalization", x.name, *operands, epsilon=0.1))


def group_norm(s: Sketch, x: Map) -> Map:
    groups = math.gcd(x.channels, 2)
    scale, bias = s.normal(x.channels), s.normal(x.channels, scale=0.3)
    if s.opset >= 21 and s.often():
        return s.like(x, s.op("GroupNormalization", x.name, scale, bias, num_groups=groups, epsilon=0.1))
    flat = s.op("Reshape", x.name, s.integers(0, groups, -1))
    plain = s.op("InstanceNormalization", flat, s.weight(np.ones(groups)), s.weight(np.zeros(groups)), epsilon=0.1)
    shape = s.integers(s.lead, *x.shape[1:]) if s.often() else s.op("Shape", x.name)
    back = s.op("Reshape", plain, shape)
    s.declare(back, (s.lead, *x.shape[1:]))
    scale, bias = s.normal(x.channels, 1, 1), s.normal(x.channels, 1, 1)
    return s.like(x, s.op("Add", s.op("Mul", back, scale), bias))


def layer_norm(s: Sketch, x: Map) -> Map:
    """Over channels, rows and columns, or over columns alone."""
    s.since(17)
    axis = s.pick(1, 2, 3, -1)
    shape = x.shape[axis % 4 :]
    return s.like(x, s.op("LayerNormalization", x.name, s.normal(*shape), axis=axis, epsilon=0.1))


def mean_variance(s: Sketch, x: Map) -> Map:
    s.since(9)
    return s.like(x, s.op("MeanVarianceNormalization", x.name, axes=s.pick([2, 3], [1, 2, 3], [0, 2, 3])))


def pooled(s: Sketch, x: Map) -> Map:
    kind = s.pick("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
    one = s.op(kind, x.name)
    return s.like(x, s.op("Sub", x.name, s.op("Tanh", one)))


def pyramid(s: Sketch, x: Map) -> Map:
    """A pooled map, grown to full size again, beside the map itself (ASPP)."""
    one = s.op("Conv", s.op("GlobalAveragePool", x.name), s.normal(2, x.channels, 1, 1))
    if s.opset >= 11 and s.often():
        roi = "" if s.opset >= 13 else s.weight([], fixed=True)
        grown = s.op("Resize", one, roi, "", s.integers(s.lead, 2, x.rows, x.cols), mode=s.pick("linear", "nearest"))
    else:
        s.since(8)
        grown = s.op("Expand", one, s.integers(s.pick(1, s.lead), 2, x.rows, x.cols))
    return s.map(s.op("Concat", x.name, grown, axis=1))


def spatial_softmax(s: Sketch, x: Map) -> Map:
    flat = s.op("Reshape", x.name, s.integers(s.pick(0, s.lead), x.channels, x.rows * x.cols))
    back = s.op("Reshape", s.op("Softmax", flat, axis=2), s.integers(s.lead, *x.shape[1:]))
    return s.like(x, s.op("Add", s.op("Mul", back, s.scalar(x.rows * x.cols)), x.name))


def row_reduction(s: Sketch, x: Map) -> Map:
    """A reduction over rows or columns only (coordinate attention)."""
    kind, axis = s.pick("ReduceMean", "ReduceMax", "ReduceL2"), s.pick(2, 3)
    return s.like(x, s.op("Mul", x.name, s.op("Sigmoid", s.reduce(kind, x.name, [axis], 1))))


def attention(s: Sketch, x: Map) -> Map:
    """Self-attention over cells, as tokens [N, H·W, C]."""
    s.require(x.rows * x.cols <= 400)
    c, cells = x.channels, x.rows * x.cols
    if s.often():
        tokens = s.op("Transpose", s.op("Reshape", x.name, s.integers(s.pick(0, s.lead, -1), c, cells)), perm=[0, 2, 1])
    else:
        last = s.op("Transpose", x.name, perm=[0, 2, 3, 1])
        tokens = s.op("Reshape", last, s.integers(s.lead, cells, c))
    if s.often():
        tokens = s.op("Add", tokens, s.normal(1, cells, c, scale=0.3))
    query, key, value = (s.op("MatMul", tokens, s.normal(c, c, scale=1 / math.sqrt(c))) for _ in range(3))
    if s.opset >= 12 and s.rarely():
        product = s.op("Einsum", query, key, equation="bic,bjc->bij")
        s.declare(product, (s.lead, cells, cells))
    else:
        product = s.op("MatMul", query, s.op("Transpose", key, perm=[0, 2, 1]))
    weights = s.op("Softmax", s.op("Mul", product, s.scalar(1 / math.sqrt(c))), axis=2)
    mixed = s.op("Add", tokens, s.op("MatMul", weights, value))
    back = s.op("Transpose", mixed, perm=[0, 2, 1])
    return s.map(s.op("Reshape", back, s.integers(s.pick(s.lead, -1), c, x.rows, x.cols)))


def windows_attention(s: Sketch, x: Map) -> Map:
    """Swin's partition into windows, whose leading axis counts windows and images at once."""
    s.require(x.rows % 2 == 0 and x.cols % 2 == 0)
    b, c, h, w = s.lead, x.channels, x.rows // 2, x.cols // 2
    cut = s.op("Reshape", x.name, s.integers(b, c, h, 2, w, 2))
    rows = s.op("Reshape", s.op("Transpose", cut, perm=[0, 2, 4, 3, 5, 1]), s.integers(-1, 4, c))
    product = s.op("MatMul", rows, s.op("Transpose", rows, perm=[0, 2, 1]))
    mixed = s.op("MatMul", s.op("Softmax", product, axis=2), rows)
    back = s.op("Reshape", mixed, s.integers(b, h, w, 2, 2, c))
    return s.map(s.op("Reshape", s.op("Transpose", back, perm=[0, 5, 1, 3, 2, 4]), s.integers(b, c, x.rows, x.cols)))


def grid_sample(s: Sketch, x: Map) -> Map:
    s.since(16)
    s.require(s.opset < 20 and s.lead == 1)  # the modes have other names from then on; the grid states the batch
    rows, cols = s.integer(3, 12), s.integer(3, 12)
    grid = s.weight(s.rng.uniform(-1.1, 1.1, (s.lead, rows, cols, 2)))
    if s.rarely():  # the map says where to look
        flow = s.op("Conv", x.name, s.normal(2, x.channels, 1, 1))
        grid = s.op("Tanh", s.op("Transpose", flow, perm=[0, 2, 3, 1]))
    modes = {"mode": s.pick("bilinear", "nearest", "bicubic"), "padding_mode": s.pick("zeros", "border", "reflection")}
    return s.map(s.op("GridSample", x.name, grid, align_corners=s.pick(0, 1), **modes))


def roi_align(s: Sketch, x: Map) -> Map:
    """Fixed boxes of the first image, beside each other as channels."""
    s.since(16)
    boxes = s.rng.uniform(0, 1, (2, 4)) * [x.cols / 2, x.rows / 2, x.cols, x.rows]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    attrs = {"output_height": 3, "output_width": 4, "mode": s.pick("avg", "max"), "sampling_ratio": s.pick(2, 1, 0)}
    cut = s.op("RoiAlign", x.name, s.weight(boxes), s.integers(0, 0), **attrs)
    return s.map(s.op("Reshape", cut, s.integers(1, 2 * x.channels, 3, 4)))


def foreign(s: Sketch, x: Map) -> Map:
    """An operator that is not part of ONNX, and that ONNX Runtime knows."""
    s.domains[CONTRIB] = 1
    match s.pick("QuickGelu", "Gelu", "FastGelu", "FusedConv", "BiasGelu"):
        case "FusedConv":
            weight = s.normal(4, x.channels, 3, 3, scale=1.3 / math.sqrt(9 * x.channels))
            attrs = {"pads": [1, 1, 1, 1], "activation": s.pick("Relu", "Sigmoid", "Tanh")}
            return s.opaque("FusedConv", Map(x.name, 4, x.rows, x.cols), x.name, weight, domain=CONTRIB, **attrs)
        case "BiasGelu":
            return s.opaque("BiasGelu", x, x.name, s.normal(x.cols), domain=CONTRIB)
        case "QuickGelu":
            return s.opaque("QuickGelu", x, x.name, domain=CONTRIB, alpha=1.5)
        case kind:
            return s.opaque(kind, x, x.name, domain=CONTRIB)


def gram(s: Sketch, x: Map) -> Map:
    """Covariance pooling, used as a product with the map."""
    flat = s.op("Reshape", x.name, s.integers(0, x.channels, -1))
    product = s.op("MatMul", flat, s.op("Transpose", flat, perm=[0, 2, 1]))
    mixed = s.op("MatMul", s.op("Mul", product, s.scalar(1 / (x.rows * x.cols))), flat)
    return s.map(s.op("Reshape", mixed, s.integers(s.lead, *x.shape[1:])))


def mask_of_mean(s: Sketch, x: Map) -> Map:
    """Cells above the map's own mean."""
    mask = s.op("Greater", x.name, s.reduce("ReduceMean", x.name, [2, 3], 1))
    return s.like(x, s.op("Mul", x.name, s.cast(mask, FLOAT)))


LAYERS = (
    squeeze_excite,
    instance_norm,
    group_norm,
    pooled,
    pyramid,
    attention,
    layer_norm,
    row_reduction,
    spatial_softmax,
    grid_sample,
    mean_variance,
    windows_attention,
    gram,
    mask_of_mean,
    foreign,
)
LOSING = (roi_align,)
