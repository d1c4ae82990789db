"""Segments in [N, H, W, C]: a Transpose, what exporters of such graphs write, and mostly a Transpose back."""

import math
from collections.abc import Callable

from nets.resizing import sliced
from nets.sketch import IllegalError, Map, Sketch

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def segment(s: Sketch, x: Map) -> Map:
    """One to four operators in channels-last layout."""
    name = s.op("Transpose", x.name, perm=TO_LAST)
    for _ in range(s.integer(1, 4)):
        name = s.pick(*STEPS)(s, name, x)
    if s.rarely():  # back over another way
        s.require(len(s.shape(name)) == 4)
        return s.map(s.op("Transpose", s.op("Transpose", name, perm=[0, 3, 2, 1]), perm=[0, 1, 3, 2]))
    return s.map(s.op("Transpose", name, perm=TO_FIRST))


def elementwise(s: Sketch, name: str, x: Map) -> str:
    kinds = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Abs", "Neg", "Softplus"]
    return s.op(s.pick(*kinds), name)


def constant(s: Sketch, name: str, x: Map) -> str:
    _, h, w, c = s.shape(name)
    shape = s.pick((c,), (), (w, c), (h, w, c), (1, 1, 1, c), (1, h, w, 1), (h, 1, 1), (w, 1))
    values = s.weight(s.rng.choice([-1, 1], shape) * s.rng.uniform(0.5, 1.5, shape))
    return s.op(s.pick("Add", "Mul", "Sub"), *((name, values) if s.often() else (values, name)))


def matmul(s: Sketch, name: str, x: Map) -> str:
    channels, out = s.shape(name)[3], s.pick(3, 2, 5)
    shape = s.pick((channels, out), (channels, out), (1, 1, channels, out), (1, channels, out))
    product = s.op("MatMul", name, s.normal(*shape, scale=1 / math.sqrt(channels)))
    return s.op("Add", product, s.normal(out, scale=0.3)) if s.often() else product


def mlp(s: Sketch, name: str, x: Map) -> str:
    """Two products and a residual: a block of ConvNeXt."""
    channels = s.shape(name)[3]
    inner = s.op("MatMul", name, s.normal(channels, 4, scale=1 / math.sqrt(channels)))
    outer = s.op("MatMul", s.op("Tanh", inner), s.normal(4, channels, scale=0.5))
    return s.op("Add", name, s.op("Mul", outer, s.normal(channels)))


def layer_norm(s: Sketch, name: str, x: Map) -> str:
    channels = s.shape(name)[3]
    scale, bias = s.normal(channels), s.normal(channels, scale=0.3)
    if s.opset >= 17:
        return s.op("LayerNormalization", name, scale, *([bias] if s.often() else []), axis=s.pick(-1, 3), epsilon=0.1)
    centred = s.op("Sub", name, s.reduce("ReduceMean", name, [-1] if s.opset >= 11 else [3], 1))
    square = s.reduce("ReduceMean", s.op("Pow", centred, s.scalar(2)), [3], 1)
    spread = s.op("Sqrt", s.op("Add", square, s.epsilon()))
    return s.op("Add", s.op("Mul", s.op("Div", centred, spread), scale), bias)


def softmax(s: Sketch, name: str, x: Map) -> str:
    return s.op("Add", name, s.op("Softmax", name, axis=s.pick(-1, 3) if s.opset >= 13 else 3))


def reduced(s: Sketch, name: str, x: Map) -> str:
    kind = s.pick("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
    one = s.reduce(kind, name, [3], 1)
    return s.op(s.pick("Sub", "Mul", "Concat"), name, one) if s.rarely() else s.op("Mul", name, s.op("Sigmoid", one))


def concat(s: Sketch, name: str, x: Map) -> str:
    """With itself or with another map, over channels or over space."""
    axis = s.pick(3, -1 if s.opset >= 11 else 3, 1, 2)
    other = s.op("Tanh", name)
    if s.often():
        match = s.op("Transpose", x.name, perm=TO_LAST)
        shape, wanted = s.shape(match), s.shape(name)
        other = (
            match if all(a == b or i == axis % 4 for i, (a, b) in enumerate(zip(shape, wanted, strict=True))) else other
        )
    return s.op("Concat", name, other, axis=axis)


def residual(s: Sketch, name: str, x: Map) -> str:
    other = s.op("Transpose", s.any_map(x).name, perm=TO_LAST)
    if s.shape(other) != s.shape(name):
        other = s.op("Tanh", name)
    return s.op(s.pick("Add", "Mul"), name, other)


def pad(s: Sketch, name: str, x: Map) -> str:
    amounts = [0, s.integer(0, 2), s.integer(0, 2), s.integer(0, 1), 0, s.integer(0, 2), s.integer(0, 2), 0]
    if s.opset < 11:
        return s.op("Pad", name, pads=amounts, value=0.5)
    return s.op("Pad", name, s.integers(*amounts), s.scalar(s.pick(0.0, 0.5)))


def slices(s: Sketch, name: str, x: Map) -> str:
    """Rows, columns or channels, with a step."""
    shape = s.shape(name)
    axis = s.pick(1, 2, 3)
    s.require(shape[axis] > 1)
    as_map = Map(name, *shape[1:])
    if s.opset >= 10 and s.rarely():
        return sliced(s, as_map, [-1], [-(1 << 30)], [axis], [-1]).name
    step = s.pick(1, 2) if s.opset >= 10 else 1
    return sliced(s, as_map, [s.pick(0, 1)], [shape[axis]], [axis], [step]).name


def patch_merge(s: Sketch, name: str, x: Map) -> str:
    """Swin: four interleaved quarters beside each other, normalized, projected."""
    s.since(10)
    _, h, w, c = s.shape(name)
    s.require(h > 1 and w > 1)
    parts = []
    for y, z in ((0, 0), (1, 0), (0, 1), (1, 1)):
        ends = [h // 2 * 2, w // 2 * 2]
        parts.append(sliced(s, Map(name, h, w, c), [y, z], ends, [1, 2], [2, 2]).name)
    return s.op("MatMul", s.op("Concat", *parts, axis=3), s.normal(4 * c, 3, scale=1 / math.sqrt(4 * c)))


def einsum(s: Sketch, name: str, x: Map) -> str:
    s.since(12)
    b, h, w, c = s.shape(name)
    equation, shape, result = s.pick(
        ("bhwc,co->bhwo", (c, 3), (b, h, w, 3)),
        ("bhwc,oc->bhwo", (3, c), (b, h, w, 3)),
        ("...c,co->...o", (c, 2), (b, h, w, 2)),
        ("bhwc,c->bhwc", (c,), (b, h, w, c)),
    )
    made = s.op("Einsum", name, s.normal(*shape, scale=1 / math.sqrt(c)), equation=equation)
    s.declare(made, result)
    return made


def split(s: Sketch, name: str, x: Map) -> str:
    channels = s.shape(name)[3]
    s.require(channels > 1)
    sizes = [1, channels - 1]
    extra = [s.integers(*sizes)] if s.opset >= 13 else []
    first, second = s.ops("Split", 2, name, *extra, axis=3, **({} if extra else {"split": sizes}))
    return s.op("Concat", s.op("Tanh", second), first, axis=3)


def gather(s: Sketch, name: str, x: Map) -> str:
    axis = s.pick(3, 1, 2)
    size = s.shape(name)[axis]
    return s.op("Gather", name, s.integers(*(s.integer(0, size - 1) for _ in range(min(size, 5)))), axis=axis)


def turned(s: Sketch, name: str, x: Map) -> str:
    """Rows and columns exchanged."""
    return s.op("Transpose", name, perm=[0, 2, 1, 3])


def grouped(s: Sketch, name: str, x: Map) -> str:
    """Channels in groups and back: heads of attention, or a shuffle."""
    b, h, w, c = s.shape(name)
    groups = math.gcd(c, 2)
    split_name = s.op("Reshape", name, s.integers(s.pick(0, -1, b), h, w, groups, c // groups))
    return s.op("Reshape", s.op("Transpose", split_name, perm=[0, 1, 2, 4, 3]), s.integers(b, h, w, -1))


def tokens(s: Sketch, name: str, x: Map) -> str:
    """Rows and columns as one axis and back, with a product in between."""
    b, h, w, c = s.shape(name)
    flat = s.op("Reshape", name, s.integers(b, -1, c))
    product = s.op("MatMul", flat, s.normal(c, c, scale=1 / math.sqrt(c)))
    return s.op("Reshape", product, s.integers(b, h, w, c))


def resize(s: Sketch, name: str, x: Map) -> str:
    s.since(11)
    roi = "" if s.opset >= 13 else s.weight([], fixed=True)
    mode = s.pick("nearest", "linear")
    attrs = {"mode": mode, "coordinate_transformation_mode": s.pick("asymmetric", "half_pixel", "align_corners")}
    return s.op("Resize", name, roi, s.weight([1, s.pick(2, 1.5), 2, 1], fixed=True), **attrs)


def instance_mean(s: Sketch, name: str, x: Map) -> str:
    """Squeeze and excitation, channels last."""
    mean = s.reduce("ReduceMean", name, [1, 2], 1)
    channels = s.shape(name)[3]
    return s.op("Mul", name, s.op("Sigmoid", s.op("MatMul", mean, s.normal(channels, channels))))


STEPS: tuple[Callable[[Sketch, str, Map], str], ...] = (
    elementwise,
    constant,
    matmul,
    layer_norm,
    mlp,
    concat,
    residual,
    softmax,
    reduced,
    pad,
    slices,
    einsum,
    split,
    gather,
    grouped,
    patch_merge,
    resize,
    turned,
    tokens,
    instance_mean,
)


def steps(s: Sketch, name: str, x: Map, count: int) -> str:
    """Up to so many steps; those that do not fit are left out."""
    for _ in range(count):
        try:
            name = s.pick(elementwise, constant, matmul, layer_norm, softmax, mlp)(s, name, x)
        except IllegalError:
            continue
    return name
