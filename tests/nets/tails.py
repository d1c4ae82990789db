"""From the last map to the outputs."""

import math

import numpy as np

from nets.channels_last import TO_LAST, steps
from nets.sketch import IllegalError, Map, Sketch


def tail(s: Sketch, x: Map) -> str:
    """From a map to an output."""
    maker = s.pick(classes, whole_map, losing, ragged) if s.choices.below(3) == 2 else classes
    if maker in (losing, ragged) and s.lead > 1:
        maker = classes
    marks = len(s.nodes), len(s.weights)
    try:
        return maker(s, x)
    except IllegalError:
        del s.nodes[marks[0] :], s.weights[marks[1] :]
        return s.op("GlobalAveragePool", x.name)


def classes(s: Sketch, x: Map) -> str:
    flat, width = flattened(s, x)
    end = s.pick("gemm", "matmul", "none")
    if end == "gemm":
        flat, width = gemm(s, flat, width), 5
    elif end == "matmul":
        scale = 1 / math.sqrt(width)
        flat = s.op("Add", s.op("MatMul", flat, s.normal(width, 5, scale=scale)), s.normal(5))
        width = 5
    match s.pick("none", "Softmax", "Sigmoid", "LogSoftmax", "ArgMax", "TopK"):
        case "none":
            return flat
        case "ArgMax":
            return s.op("ArgMax", flat, axis=1, keepdims=s.pick(1, 0))
        case "TopK":
            return s.ops("TopK", 2, flat, s.integers(1 + width // 2))[0] if s.opset >= 10 else flat
        case "Sigmoid":
            return s.op("Sigmoid", flat)
        case kind:
            return s.op(kind, flat, axis=1)


def gemm(s: Sketch, flat: str, width: int) -> str:
    turned = s.pick(1, 0)
    weight = s.normal(*((5, width) if turned else (width, 5)), scale=1 / math.sqrt(width))
    bias = [] if s.opset >= 11 and s.rarely() else [s.normal(*s.pick((5,), (1, 5)))]
    return s.op("Gemm", flat, weight, *bias, transB=turned)


def flattened(s: Sketch, x: Map) -> tuple[str, int]:
    """[1, width] from a map."""
    kind, name, cells = s.pick("average", "mean", "whole", "map", "last"), x.name, x.rows * x.cols
    if kind == "mean":
        return s.reduce("ReduceMean", name, s.pick([2, 3], [-2, -1]), 0), x.channels
    if kind == "last":  # the end of a channels-last graph
        last = steps(s, s.op("Transpose", name, perm=TO_LAST), x, s.integer(0, 2))
        return s.reduce("ReduceMean", last, [1, 2], 0), s.shape(last)[3]
    if kind == "average" or x.channels * cells > 4000:
        name, cells = s.op("GlobalAveragePool", name), 1
    if kind == "map" and cells > 1:
        name, cells = s.reduce("ReduceMean", name, [3], 1), x.rows
    width = x.channels * cells
    how = s.pick("flatten", "one", "rows", "zero", "exported", "squeeze")
    if how == "squeeze" and cells == 1:
        return s.with_axes("Squeeze", 13, name, [2, 3]), width
    if how == "exported":
        flat = s.op("Reshape", name, exported_shape(s, name))
        s.declare(flat, (s.lead, width))
        return flat, width
    targets = {"one": (s.lead, -1), "rows": (-1, width), "zero": (0, -1)}
    if how in targets:
        return s.op("Reshape", name, s.integers(*targets[how])), width
    return s.op("Flatten", name, axis=1 if s.opset < 11 or s.often() else -3), width


def exported_shape(s: Sketch, name: str) -> str:
    """`x.view(x.size(0), -1)` as PyTorch writes it."""
    size = s.op("Gather", s.op("Shape", name), s.weight(np.array(0), np.int64), axis=0)
    return s.op("Concat", s.with_axes("Unsqueeze", 13, size, [0]), s.integers(-1), axis=0)


def whole_map(s: Sketch, x: Map) -> str:
    """A map is the output: segmentation, depth, a heatmap of its own."""
    match s.pick("plain", "sigmoid", "last", "classes", "rows", "reduced", "grown"):
        case "sigmoid":
            return s.op("Sigmoid", x.name)
        case "last":
            return s.op("Transpose", s.op("Tanh", x.name), perm=TO_LAST)
        case "classes":
            return s.op("ArgMax", x.name, axis=1, keepdims=s.pick(0, 1))
        case "rows":
            return s.op("Reshape", x.name, s.integers(s.lead, x.channels, -1))
        case "reduced":
            return s.reduce("ReduceMax", x.name, [1], s.pick(0, 1))
        case "grown":
            s.since(13)
            scales = s.weight([1, 1, 2, 2], fixed=True)
            return s.op("Resize", x.name, "", scales, mode=s.pick("linear", "nearest"))
        case _:
            return s.op("Identity", x.name)


def losing(s: Sketch, x: Map) -> str:
    """Tails that are right for one image and mix images in a batch."""
    cells = x.rows * x.cols
    match s.pick("flatten", "rows", "mixed", "turned", "all", "gram", "first", "squeeze"):
        case "flatten":
            pooled = s.op("GlobalAveragePool", x.name)
            return gemm(s, s.op("Flatten", pooled, axis=0 if s.opset < 11 or s.often() else -4), x.channels)
        case "rows":
            rows = s.op("Reshape", x.name, s.integers(x.channels, cells))
            means = s.reduce("ReduceMean", rows, [1], 0)
            return gemm(s, s.with_axes("Unsqueeze", 13, means, [0]), x.channels)
        case "mixed":
            mixed = s.op("Reshape", x.name, s.integers(1, x.rows, -1))
            turned = s.op("Transpose", mixed, perm=[1, 0, 2])
            return s.reduce("ReduceMax", turned, [2], 0)
        case "turned":
            turned = s.op("Transpose", x.name, perm=[1, 0, 2, 3])
            return s.op("Reshape", s.op("GlobalAveragePool", turned), s.integers(1, x.channels))
        case "all":
            return s.op("ReduceMean", x.name, keepdims=s.pick(0, 1))
        case "gram":
            rows = s.op("Reshape", x.name, s.integers(x.channels, cells))
            product = s.op("MatMul", rows, s.op("Transpose", rows, perm=[1, 0]))
            return s.op("Mul", product, s.scalar(1 / cells))
        case "first":
            pooled = s.op("Reshape", s.op("GlobalAveragePool", x.name), s.integers(-1))
            return s.op("ArgMax", pooled, axis=0, keepdims=1)
        case _:
            return s.op("Squeeze", s.op("GlobalAveragePool", x.name))


def ragged(s: Sketch, x: Map) -> str:
    """A list of places, longer for some queries than for others."""
    if s.often():
        s.since(9)
        return s.op("NonZero", s.op("Relu", x.name))
    s.since(11)
    cells = x.rows * x.cols
    corners = s.rng.uniform(0, 10, (1, cells, 2))
    boxes = s.weight(np.concatenate([corners, corners + s.rng.uniform(1, 5, (1, cells, 2))], axis=2))
    scores = s.op("Reshape", x.name, s.integers(1, x.channels, cells))
    limits = [s.integers(5), s.scalar(0.5), s.scalar(0.1)]
    return s.op("NonMaxSuppression", boxes, scores, *limits)
