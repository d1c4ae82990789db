"""Maps that grow, shrink or move: Resize, ConvTranspose, Pad, Slice, Split, Gather, blocks of depth and space."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from nets.sketch import Map, Sketch


def conv_transpose(s: Sketch, x: Map) -> Map:
    kernel = s.pick((3, 3), (2, 2), (1, 1), (4, 4), (2, 3), (5, 1))
    strides = s.pick((2, 2), (1, 1), (2, 1), (3, 2), (1, 2), (4, 4))
    dilations = s.pick((2, 2), (1, 2), (3, 1)) if s.rarely() else (1, 1)
    groups = s.pick(1, 1, x.channels, math.gcd(x.channels, 2))
    channels = s.pick(2, 1, 3)
    fan = x.channels / groups * math.prod(max(1, k / t) for k, t in zip(kernel, strides, strict=True))
    operands = [x.name, s.normal(x.channels, channels, *kernel, scale=1.3 / math.sqrt(fan))]
    if s.often():
        operands.append(s.normal(channels * groups, scale=0.3))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attrs: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    extra = [s.integer(0, max(0, max(t, d) - 1)) for t, d in zip(strides, dilations, strict=True)]
    match s.pick("none", "pads", "even", "auto", "shape"):
        case "pads":
            attrs["pads"] = [s.integer(0, k - 1) for k in (*spans, *spans)]
        case "even":
            attrs["pads"] = [k // 2 for k in (*spans, *spans)]
        case "auto":
            attrs["auto_pad"] = s.pick("VALID", "SAME_UPPER", "SAME_LOWER")
        case "shape":
            attrs["auto_pad"] = s.pick("NOTSET", "SAME_UPPER", "SAME_LOWER")
            attrs["output_shape"] = [
                (n - 1) * t + k + e - s.integer(0, k - 1)
                for n, t, k, e in zip((x.rows, x.cols), strides, spans, extra, strict=True)
            ]
        case _:
            pass
    if s.rarely():
        attrs["output_padding"] = extra
    return s.map(s.op("ConvTranspose", *operands, **attrs))


def resize(s: Sketch, x: Map) -> Map:
    """Resize in the form of the opset, or Upsample before there was one."""
    if s.opset < 10:
        return upsample(s, x)
    s.require(s.opset != 10 or x.rows > 1)
    axes = [2, 3]
    attrs: dict[str, Any] = {"mode": s.pick("nearest", "linear", *(("cubic",) if s.opset >= 11 else ()))}
    if s.opset == 10:
        return s.map(s.op("Resize", x.name, s.weight([1, 1, *_scales(s)], fixed=True), **attrs))
    attrs |= _sampling(s, attrs["mode"])
    roi = ""
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        roi = s.weight([0, 0, *s.pick((0, 0), (0.2, 0.1)), 1, 1, *s.pick((1, 1), (0.8, 1.2))], fixed=True)
        attrs["extrapolation_value"] = s.pick(0.0, 0.5)
    elif s.opset >= 18 and s.often():
        axes = s.pick([2, 3], [3, 2], [3], [2], [-2, -1])
        attrs["axes"] = axes
    elif s.opset < 13:
        roi = s.weight(np.zeros(0), fixed=True)
    whole = "axes" not in attrs
    if s.often():
        scales = _scales(s)
        amounts = [1, 1, *scales] if whole else [scales[a % 2] for a in axes]
        return s.map(s.op("Resize", x.name, roi, s.weight(amounts, fixed=True), **attrs))
    sizes = [s.integer(max(1, n // 3), 2 * n) for n in (x.rows, x.cols)]
    wanted = [s.lead, x.channels, *sizes] if whole else [sizes[a % 2] for a in axes]
    if s.opset >= 18 and not whole and s.often():
        attrs["keep_aspect_ratio_policy"] = s.pick("not_larger", "not_smaller")
    return s.map(s.op("Resize", x.name, roi, "", s.integers(*wanted), **attrs))


def _scales(s: Sketch) -> list[float]:
    down = s.rarely()
    options = (0.5, 0.7, 0.25, 0.34) if down else (2.0, 3.0, 1.5, 1.0, 1.3, 4.0)
    first = s.pick(*options)
    return [first, first if s.often() else s.pick(*options)]


def _sampling(s: Sketch, mode: str) -> dict[str, Any]:
    """Attributes of Resize-11 and later that say which cells are read."""
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize"]
    coordinates += ["tf_half_pixel_for_nn"] * (s.opset in (11, 12)) + ["half_pixel_symmetric"] * (s.opset >= 19)
    attrs: dict[str, Any] = {"coordinate_transformation_mode": s.pick(*coordinates)} if not s.rarely() else {}
    if mode == "nearest":
        nearest = s.pick("", "floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        return attrs | ({"nearest_mode": nearest} if nearest else {})
    if mode == "cubic" and s.often():
        attrs |= {"cubic_coeff_a": s.pick(-0.75, -0.5), "exclude_outside": s.pick(0, 1)}
    if s.opset >= 18 and s.rarely():
        attrs["antialias"] = 1
    return attrs


def upsample(s: Sketch, x: Map) -> Map:
    scales = [1, 1, *(s.pick(2.0, 3.0, 1.5, 1.0) for _ in range(2))]
    mode = s.pick("nearest", "linear")
    if s.opset < 9:
        return s.map(s.op("Upsample", x.name, mode=mode, scales=scales))
    return s.map(s.op("Upsample", x.name, s.weight(scales, fixed=True), mode=mode))


def depth_to_space(s: Sketch, x: Map) -> Map:
    block = s.pick(2, 3)
    if x.channels % block**2:
        weight = s.normal(block**2 * s.pick(1, 2), x.channels, 1, 1, scale=1 / math.sqrt(x.channels))
        x = s.map(s.op("Conv", x.name, weight))
    attrs = {"mode": s.pick("DCR", "CRD")} if s.opset >= 11 else {}
    return s.map(s.op("DepthToSpace", x.name, blocksize=block, **attrs))


def space_to_depth(s: Sketch, x: Map) -> Map:
    block = s.pick(2, 3)
    rows, cols = x.rows // block * block, x.cols // block * block
    if (rows, cols) != (x.rows, x.cols):
        x = sliced(s, x, [0, 0], [rows, cols], [2, 3])
    return s.map(s.op("SpaceToDepth", x.name, blocksize=block))


def pad(s: Sketch, x: Map) -> Map:
    low = -1 if min(x.rows, x.cols) > 3 and s.rarely() else 0
    pads = [s.integer(low, 2) for _ in range(4)]
    modes = ("edge", "reflect", *(("wrap",) if s.opset >= 19 else ()))
    value, mode = s.pick(0.0, 0.5, -3.0), s.pick(*modes) if s.rarely() else "constant"
    s.require(mode == "constant" or min(x.rows, x.cols) > 3)
    before, after = [0, 0, *pads[:2]], [0, 0, *pads[2:]]
    if mode == "constant" and s.rarely():
        before[1], after[1] = s.integer(0, 1), s.integer(0, 2)
    if s.opset < 11:
        filled = {"value": value} if mode == "constant" else {}
        return s.map(s.op("Pad", x.name, pads=[*before, *after], mode=mode, **filled))
    if s.opset >= 18 and s.often():
        axes = s.pick([2, -1], [3, 2], [2], [1, 3])
        amounts = [side[a] for side in (before, after) for a in axes]
        return s.map(s.op("Pad", x.name, s.integers(*amounts), s.scalar(value), s.integers(*axes), mode=mode))
    operands = [s.integers(*before, *after), *([s.scalar(value)] if value else [])]
    return s.map(s.op("Pad", x.name, *operands, mode=mode))


def sliced(
    s: Sketch, x: Map, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int] = ()
) -> Map:
    if s.opset < 10:
        s.require(all(step == 1 for step in steps))
        return s.map(s.op("Slice", x.name, starts=starts, ends=ends, axes=axes))
    extra = [s.integers(*axes), *([s.integers(*steps)] if steps else [])]
    return s.map(s.op("Slice", x.name, s.integers(*starts), s.integers(*ends), *extra))


def slice_space(s: Sketch, x: Map) -> Map:
    """Crop, skip or mirror rows and columns."""
    axes = s.pick([2, 3], [3, 2], [2], [3], [-1])
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = s.pick(1, 2, -1, -2, 3)
        first, last = s.integer(0, size // 3), size - s.integer(0, size // 3)
        end = last if s.often() else last - size - (last == size)
        starts.append(first if step > 0 else last - 1)
        ends.append((1 << 30 if last == size else end) if step > 0 else (first - 1 if first else -(1 << 30)))
        steps.append(step)
    return sliced(s, x, starts, ends, axes, steps)


def slice_channels(s: Sketch, x: Map) -> Map:
    s.require(x.channels > 1)
    first, step = s.integer(0, x.channels // 2), s.pick(1, 2, -1) if s.opset >= 10 else 1
    if step < 0:
        return sliced(s, x, [-1], [-(1 << 30)], [1], [step])
    return sliced(s, x, [first], [x.channels], [s.pick(1, -3) if s.opset >= 10 else 1], [step])


def split(s: Sketch, x: Map) -> Map:
    """Two parts over channels, rows or columns, each with a consumer or two, joined again in another order."""
    axis = s.pick(1, 1, 2, 3)
    size = x.shape[axis]
    s.require(size > 1)
    parts = [s.integer(1, size - 1)]
    parts.append(size - parts[0])
    if s.opset >= 18 and s.rarely():
        first, second = s.ops("Split", 2, x.name, axis=axis, num_outputs=2)
    elif s.opset >= 13:
        first, second = s.ops("Split", 2, x.name, s.integers(*parts), axis=axis)
    else:
        first, second = s.ops("Split", 2, x.name, axis=axis, split=parts)
    bent = s.op("Tanh", second)
    names = s.pick((bent, first), (first, second), (s.op("Abs", second), bent, first))
    return s.map(s.op("Concat", *names, axis=axis))


def gather(s: Sketch, x: Map) -> Map:
    axis = s.pick(1, 1, 2, 3)
    size = x.shape[axis]
    low = -size if s.opset >= 11 else 0
    indices = [s.integer(low, size - 1) for _ in range(s.integer(1, min(size + 1, 6) if axis == 1 else size))]
    return s.map(s.op("Gather", x.name, s.integers(*indices), axis=axis))


def exchange(s: Sketch, x: Map) -> Map:
    """Rows become columns."""
    return s.map(s.op("Transpose", x.name, perm=[0, 1, 3, 2]))


def tile(s: Sketch, x: Map) -> Map:
    return s.map(s.op("Tile", x.name, s.integers(*s.pick((1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2), (1, 1, 2, 2)))))


def max_unpool(s: Sketch, x: Map) -> Map:
    s.since(11)
    s.require(min(x.rows, x.cols) > 1 and s.lead == 1)  # its shape is not inferred, so that nobody knows the batch
    top, places = s.ops("MaxPool", 2, x.name, kernel_shape=[2, 2], strides=[2, 2])
    shape = s.integers(s.lead, x.channels, x.rows, x.cols)
    name = s.op("MaxUnpool", s.op("Tanh", top), places, shape, kernel_shape=[2, 2], strides=[2, 2])
    s.declare(name, (s.lead, *x.shape[1:]))
    return s.like(x, name)


def with_indices(s: Sketch, x: Map) -> Map:
    s.since(8)
    s.require(min(x.rows, x.cols) > 1)
    top, places = s.ops("MaxPool", 2, x.name, kernel_shape=[2, 2])
    scale = s.scalar(1 / math.prod(x.shape))
    return s.map(s.op("Add", top, s.op("Mul", s.cast(places, TensorProto.FLOAT), scale)))
