"""Drawing a whole net: its image, its layers, its tails."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from nets import channels, control, quantized, resizing, tails, whole_map
from nets.blocks import concat, concat_space, residual, shared
from nets.channels_last import TO_FIRST, segment, steps
from nets.choices import Choices, Drawn
from nets.layers import (
    FLOAT,
    activation,
    batch_norm,
    clip,
    compare,
    constant_operand,
    conv,
    first_conv,
    lp_pool,
    noop,
    norm,
    other_input,
    pool,
    prelu,
    sigmoid_like,
    unused,
)
from nets.sketch import Map, Net, Sketch

Layer = Callable[[Sketch, Map], Map]

COMMON = (conv, activation, pool, residual, concat, constant_operand)
PLAIN = (batch_norm, norm, clip, prelu, noop, other_input, compare, sigmoid_like, lp_pool, shared, unused)
RESIZING = (
    resizing.resize,
    resizing.conv_transpose,
    resizing.pad,
    resizing.slice_space,
    resizing.depth_to_space,
    resizing.space_to_depth,
    resizing.split,
    resizing.gather,
    concat_space,
    resizing.tile,
    resizing.exchange,
    resizing.max_unpool,
    resizing.with_indices,
)
RARE = (*whole_map.LAYERS, *control.LAYERS)
Themes = tuple[tuple[Layer, ...], ...]
THEMES: Themes = (
    *[COMMON] * 6,
    *[PLAIN] * 2,
    *[RESIZING] * 4,
    *[channels.LAYERS] * 2,
    *[(segment,)] * 2,
    quantized.LAYERS,
    RARE,
)
LOSING = (*control.LOSING, *whole_map.LOSING)


def focused(names: str) -> Themes:
    """Themes that draw mostly these layers: names such as "resizing.conv_transpose,channels.LAYERS"."""
    layers: list[Layer] = []
    for name in names.split(","):
        module, _, wanted = name.partition(".")
        found = getattr(import_module(f"nets.{module}"), wanted)
        layers += found if isinstance(found, tuple) else [found]
    return tuple(layers), tuple(layers), COMMON


@st.composite
def nets(draw: Callable[[st.SearchStrategy[int]], int]) -> Net:
    """Hypothesis strategy for `random_net`."""
    return random_net(Drawn(draw), draw(st.integers(0, 1 << 16)))


def random_net(choices: Choices, seed: int, themes: Themes = THEMES) -> Net:
    """Draw a model: some layers on maps, a tail, one or more outputs.

    Args:
        choices: where decisions come from.
        seed: of the weights.
        themes: each layer is one of a theme's, all themes being as likely.
    """
    s = Sketch(choices, seed)
    picture, x = image(s)
    x = first_conv(s, s.attempt(s.pick(*PLAIN), x) if s.rarely() else x)
    for _ in range(s.integer(0, 6) if not s.rarely() else s.integer(7, 14)):
        x = s.keep(s.attempt(lambda sketch, y: layer(sketch, y, themes), x))
    outputs = [tails.tail(s, x)]
    if s.rarely():
        made = any(x.name in node.output for node in s.nodes)
        outputs.append(x.name if made and s.often() else s.op("Identity", x.name))
    if s.rarely():
        outputs.append(tails.tail(s, s.any_map(x)))
    model = s.model(outputs)
    if picture.halved:
        halve(model.graph, s.fixed32)
    return Net(model, picture.shape, picture.channels_last, picture.dtype)


def layer(s: Sketch, x: Map, themes: Themes) -> Map:
    """One layer or block behind x, or behind an earlier map."""
    x = x if not s.rarely() else s.any_map(x)
    if s.rarely() and s.rarely() and s.lead == 1:
        return s.pick(*LOSING)(s, x)
    return s.pick(*s.pick(*themes))(s, x)


@dataclass(frozen=True)
class Picture:
    """The image input: its shape [C, H, W], its layout, its type, and whether all else is float16 too."""

    shape: tuple[int, int, int]
    channels_last: bool = False
    dtype: str = "float32"
    halved: bool = False


def image(s: Sketch) -> tuple[Picture, Map]:
    """The image input and the map that layers start from."""
    rows = s.integer(5, 40)
    cols = rows if s.often() else s.integer(5, 40)
    s.batch = s.pick("N", 1, None) if not s.rarely() else s.pick(2, 3)
    kind = s.pick("float32", "last", "uint8", "float16", "cast") if s.rarely() else "float32"
    channels = s.pick(3, 1, 2)
    if kind == "last":
        channels = 3 if channels == 2 else channels
        name = s.input("image", FLOAT, [s.batch, rows, cols, channels])
        if s.often():
            name = steps(s, name, Map(name, rows, cols, channels), 2)
        x = s.map(s.op("Transpose", name, perm=TO_FIRST))
        return Picture((channels, rows, cols), channels_last=True), s.keep(x)
    shape = (channels, rows, cols)
    types = {"uint8": TensorProto.UINT8, "cast": TensorProto.FLOAT16}
    name = s.input("image", types.get(kind, FLOAT), [s.batch, *shape])
    if kind in types:
        name = s.cast(name, FLOAT)
    if kind == "uint8":
        name = s.op("Mul", s.op("Sub", name, s.scalar(50)), s.scalar(1 / 30))
    dtype = "float16" if kind == "cast" else kind
    return Picture(shape, dtype=dtype, halved=kind == "float16"), s.keep(s.map(name))


def halve(graph: onnx.GraphProto, fixed: set[str]) -> None:
    """Turn a model of float32 into one of float16, in place."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in fixed:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT and info.name not in fixed:
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.t.data_type == FLOAT and node.output[0] not in fixed:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
            elif node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.type == onnx.AttributeProto.GRAPH:
                halve(attribute.g, fixed)
