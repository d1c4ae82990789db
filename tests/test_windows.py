"""Every operator with a window rule, in the middle of a small net: it runs on windows, and the answers are exact."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import Array, Net
from onnx import TensorProto, helper
from twin import FLOAT, average, normal, probe, small_net, twin

from krypton_onnx import geometry

node = helper.make_node
C, H, W = 4, 29, 34
IMAGE = (3, H, W)
Layer = tuple[list[onnx.NodeProto], dict[str, Any]]


def one(op: str, *extra: Any, **attrs: Any) -> Layer:
    """x → op → z, with further constant operands (None for an absent one)."""
    names = ["" if value is None else f"k{i}" for i, value in enumerate(extra)]
    weights = {name: np.asarray(value) for name, value in zip(names, extra, strict=True) if name}
    return [node(op, ["x", *names], ["z"], name="under_test", **attrs)], weights


def net(layer: Layer, channels: int = C, opset: int = 17) -> onnx.ModelProto:
    """conv → x → the layer → z → conv → relu → the output, and a second output that is the map itself."""
    nodes, weights = layer
    before = [node("Conv", ["image", "first"], ["x"], pads=[1, 1, 1, 1], name="before")]
    after = [
        node("Conv", ["z", "second"], ["c"], pads=[1, 1, 1, 1], name="after"),
        node("Relu", ["c"], ["map"]),
        *average("map", "y"),
    ]
    more = {"first": normal(C, 3, 3, 3), "second": normal(3, channels, 3, 3, scale=0.6)}
    outputs = {"y": (FLOAT, None), "map": (FLOAT, None)}
    return small_net(
        [*before, *nodes, *after],
        {**more, **weights},
        outputs=outputs,
        opset=opset,
        inputs={"image": ["N", *IMAGE]},
        domains=["com.microsoft"],
    )


def answers_exactly(model: onnx.ModelProto, folder: Path, patch: tuple[int, int] = (4, 3)) -> set[str]:
    """Compile, hold random queries to the definition of exact, and return the tensors computed in windows."""
    pair = twin(Net(model, IMAGE), folder, patch)
    rng = np.random.default_rng(3)
    for size in (patch, (1, 1), (7, 9)):
        for check in pair.check(probe(rng, IMAGE, size, 12)):
            assert check.exact, (size, check)
            assert check.moved > 1e-3
    return {name for window in pair.session.plan.windows for name in window.tensors}


RESIZES: list[tuple[str, Layer]] = [
    (
        f"{mode} {coordinates} {rounding} {what}",
        one(
            "Resize",
            None,
            *((None, np.array([1, C, *sizes])) if sizes else (np.array([1, 1, *scales], np.float32),)),
            mode=mode,
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        ),
    )
    for (mode, roundings), coordinates, (what, scales, sizes) in product(
        [("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]), ("linear", ["floor"])],
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"],
        [("twice", (2, 2), None), ("odd", (1.7, 0.6), None), ("sizes", None, (47, 21)), ("one axis", (1, 3), None)],
    )
    for rounding in (roundings if coordinates == "half_pixel" or what == "odd" else roundings[:1])
]


@pytest.mark.parametrize(("name", "layer"), RESIZES, ids=[name for name, _ in RESIZES])
def test_resize(name: str, layer: Layer, tmp_path: Path) -> None:
    assert "z" in answers_exactly(net(layer), tmp_path)


def transposed(**attrs: Any) -> Layer:
    groups = attrs.get("group", 1)
    kernel = attrs.pop("kernel", (3, 3))
    return one("ConvTranspose", normal(C, 4 // groups, *kernel), normal(4), **attrs)


TRANSPOSED = {
    "two by two": transposed(kernel=(2, 2), strides=[2, 2]),
    "overlapping": transposed(kernel=(4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    "output padding": transposed(strides=[2, 3], pads=[1, 0, 1, 0], output_padding=[1, 2]),
    "dilated": transposed(strides=[2, 1], dilations=[2, 3], pads=[1, 2, 0, 1]),
    "grouped": transposed(strides=[2, 2], group=2),
    "depthwise": transposed(kernel=(4, 4), strides=[2, 2], group=4, pads=[1, 1, 1, 1]),
    "stride one": transposed(kernel=(5, 3), pads=[2, 1, 2, 1]),
    "same upper": transposed(strides=[2, 2], auto_pad="SAME_UPPER"),
    "same lower": transposed(kernel=(4, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    "output shape": transposed(strides=[2, 2], output_shape=[58, 67]),
    "output shape, upper": transposed(kernel=(5, 4), strides=[2, 2], output_shape=[58, 67], auto_pad="SAME_UPPER"),
}


def test_same_padding_where_a_kernel_is_smaller_than_its_stride(tmp_path: Path) -> None:
    """The extent is then less than the stride's multiple, and a pooling in ceil_mode behind it counts on that."""
    nodes, weights = transposed(kernel=(5, 1), strides=[3, 2], auto_pad="SAME_UPPER", output_padding=[1, 0])
    nodes[-1].output[0] = "t"
    pool = node("MaxPool", ["t"], ["z"], kernel_shape=[5, 5], strides=[3, 3], pads=[4, 0, 3, 1], ceil_mode=1)
    answers_exactly(net(([*nodes, pool], weights), channels=4), tmp_path)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution(name: str, tmp_path: Path) -> None:
    assert "z" in answers_exactly(net(TRANSPOSED[name], channels=4), tmp_path)


AXES = {"spatial": [2, 3], "all": [0, 1, 2, 3]}
SPATIAL = {
    "Pad": one("Pad", np.array([0, 0, 1, 2, 0, 0, 3, 0]), np.float32(-0.7)),
    "Pad, cropping": one("Pad", np.array([0, 0, -2, 2, 0, 0, 0, -3]), np.float32(0.5)),
    "Pad by edges": one("Pad", np.array([0, 0, 2, 1, 0, 0, 0, 3]), mode="edge"),
    "Pad by reflection": one("Pad", np.array([0, 0, 2, 1, 0, 0, 4, 3]), mode="reflect"),
    "Slice of rows": one("Slice", np.array([3]), np.array([-2]), np.array([2])),
    "Slice with steps": one("Slice", np.array([1, 0]), np.array([99, -1]), np.array([-2, 3]), np.array([2, 3])),
    "Gather of columns": one("Gather", np.arange(0, W, 3), axis=-1),
    "SpaceToDepth": (
        [node("Slice", ["x", "k0", "k1", "k2"], ["s"]), node("SpaceToDepth", ["s"], ["z"], blocksize=2)],
        {"k0": np.array([1]), "k1": np.array([H]), "k2": np.array([2])},
    ),
    "DepthToSpace": one("DepthToSpace", blocksize=2),
    "DepthToSpace, CRD": one("DepthToSpace", blocksize=2, mode="CRD"),
    "LpPool": one("LpPool", kernel_shape=[3, 2], p=2, pads=[1, 0, 1, 1], strides=[2, 1]),
    "AveragePool": one("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]),
}
CHANNELS = {"SpaceToDepth": 16, "DepthToSpace": 1, "DepthToSpace, CRD": 1}


@pytest.mark.parametrize("name", SPATIAL)
def test_rows_and_columns_that_move(name: str, tmp_path: Path) -> None:
    assert "z" in answers_exactly(net(SPATIAL[name], channels=CHANNELS.get(name, C)), tmp_path)


def test_pad_that_wraps(tmp_path: Path) -> None:
    layer = one("Pad", np.array([1, 2, 0, 3]), None, np.array([2, 3]), mode="wrap")
    assert "z" in answers_exactly(net(layer, opset=19), tmp_path)


def test_a_map_read_backwards_is_whole(tmp_path: Path) -> None:
    layer = one("Slice", np.array([-1]), np.array([np.iinfo(np.int64).min]), np.array([3]), np.array([-1]))
    answers_exactly(net(layer), tmp_path)


POINTWISE = {
    "Slice of channels": (one("Slice", np.array([1]), np.array([3]), np.array([1])), 2),
    "Gather of channels": (one("Gather", np.array([3, 0, 0, 2, 1]), axis=1), 5),
    "Softmax": (one("Softmax", axis=1), C),
    "LpNormalization": (one("LpNormalization", axis=1), C),
    "ReduceMax": (one("ReduceMax", axes=[1]), 1),
    "Einsum": ([node("Einsum", ["k0", "x"], ["z"], equation="oc,bchw->bohw")], {"k0": normal(5, C)}),
    "a mean image": (one("Sub", normal(C, H, W)), C),
    "Concat with coordinates": ([node("Concat", ["x", "k0"], ["z"], axis=1)], {"k0": normal(1, 2, H, W)}),
    "Where": (
        ([node("Greater", ["x", "k0"], ["g"]), node("Where", ["g", "x", "k1"], ["z"])],
         {"k0": np.float32(0.1), "k1": normal(H, 1)}), C),
    "Cast": (([node("Cast", ["x"], ["i"], to=TensorProto.INT32), node("Cast", ["i"], ["f"], to=FLOAT),
               node("Add", ["f", "x"], ["z"])], {}), C),
}  # fmt: skip
POINTWISE["Einsum"] = (POINTWISE["Einsum"], 5)  # type: ignore[assignment]
POINTWISE["Concat with coordinates"] = (POINTWISE["Concat with coordinates"], C + 2)  # type: ignore[assignment]


@pytest.mark.parametrize("name", POINTWISE)
def test_one_cell_at_a_time(name: str, tmp_path: Path) -> None:
    layer, channels = POINTWISE[name]
    assert "z" in answers_exactly(net(layer, channels=channels), tmp_path)


def last(*nodes: onnx.NodeProto, **weights: Array) -> Layer:
    """x → Transpose → the nodes, from "a" to "b", channels last → Transpose → z."""
    return [
        node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
        *nodes,
        node("Transpose", ["b"], ["z"], perm=[0, 3, 1, 2]),
    ], weights


CHANNELS_LAST = {
    "elementwise": last(node("Mul", ["a", "k0"], ["b"]), k0=normal(C)),
    "a constant map": last(node("Mul", ["a", "k0"], ["b"]), k0=normal(H, W, 1)),
    "MatMul": last(node("MatMul", ["a", "k0"], ["m"]), node("Add", ["m", "k1"], ["b"]), k0=normal(C, C), k1=normal(C)),
    "LayerNormalization": last(node("LayerNormalization", ["a", "k0"], ["b"], axis=-1), k0=normal(C)),
    "Softmax": last(node("Softmax", ["a"], ["b"])),
    "Concat": last(node("Concat", ["a", "a"], ["m"], axis=3), node("Slice", ["m", "k0", "k1", "k2"], ["b"]),
                   k0=np.array([1]), k1=np.array([1 + C]), k2=np.array([3])),
    "Pad": last(node("Pad", ["a", "k0"], ["b"]), k0=np.array([0, 1, 2, 0, 0, 0, 1, 0])),
    "Resize": last(node("Resize", ["a", "", "k0"], ["b"], mode="nearest"), k0=np.array([1, 2, 2, 1], np.float32)),
    "linear Resize": last(node("Resize", ["a", "", "k0"], ["b"], mode="linear"), k0=np.array([1, 2, 2, 1], np.float32)),
    "Einsum": last(node("Einsum", ["a", "k0"], ["b"], equation="bhwc,cd->bhwd"), k0=normal(C, C)),
    "ReduceMean": last(node("ReduceMean", ["a"], ["m"], axes=[3]), node("Sub", ["a", "m"], ["b"])),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_channels_last(name: str, tmp_path: Path) -> None:
    windowed = answers_exactly(net(CHANNELS_LAST[name]), tmp_path)
    assert {"a", "b", "z"} <= windowed


def test_rows_and_columns_that_change_places(tmp_path: Path) -> None:
    turned = [
        node("Transpose", ["x"], ["a"], perm=[0, 1, 3, 2]),
        node("MaxPool", ["a"], ["b"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
        node("Transpose", ["b"], ["z"], perm=[0, 1, 3, 2]),
    ]
    model = net((turned, {}))
    assert {"a", "b", "z"} <= answers_exactly(model, tmp_path)


@pytest.mark.parametrize("turned", [False, True])
def test_upsampling_by_tiling_a_new_axis(tmp_path: Path, turned: bool) -> None:
    """TensorFlow's way to repeat rows: [1, C, H, W] → [1, C, H, 1, W] → tiled → [1, C, 2·H, W]."""
    middle = [node("Transpose", ["t"], ["p"], perm=[0, 2, 3, 4, 1])] if turned else []
    shape = np.array([1, 2 * H, W, C] if turned else [1, C, 2 * H, W])
    after = [node("Transpose", ["r"], ["z"], perm=[0, 3, 1, 2])] if turned else []
    layer: Layer = (
        [
            node("Unsqueeze", ["x", "k0"], ["u"]),
            node("Tile", ["u", "k1"], ["t"]),
            *middle,
            node("Reshape", ["p" if turned else "t", "k2"], ["r" if turned else "z"]),
            *after,
        ],
        {"k0": np.array([3]), "k1": np.array([1, 1, 1, 2, 1]), "k2": shape},
    )
    assert "z" in answers_exactly(net(layer), tmp_path)


TURNED = {
    "DepthToSpace": one("DepthToSpace", blocksize=2)[0],
    "SpaceToDepth": [
        node("Slice", ["x", "k0", "k1", "k2"], ["s"]),
        node("SpaceToDepth", ["s"], ["z"], blocksize=2),
    ],
    "ConvTranspose": [node("ConvTranspose", ["x", "k3"], ["z"], strides=[2, 1], kernel_shape=[3, 2])],
}


@pytest.mark.parametrize("name", TURNED)
def test_expanding_and_shrinking_where_rows_and_columns_have_changed_places(name: str, tmp_path: Path) -> None:
    around = [
        node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        node("Transpose", ["result"], ["z"], perm=[0, 1, 3, 2]),
    ]
    renamed = {"x": "turned", "z": "result"}
    middle = []
    for made in TURNED[name]:
        new = onnx.NodeProto()
        new.CopyFrom(made)
        new.input[:] = [renamed.get(i, i) for i in made.input]
        new.output[:] = [renamed.get(o, o) for o in made.output]
        middle.append(new)
    weights = {"k0": np.array([1]), "k1": np.array([H]), "k2": np.array([3]), "k3": normal(C, C, 3, 2)}
    model = net(([around[0], *middle, around[1]], weights), channels=CHANNELS.get(name, C))
    assert {"result", "z"} <= answers_exactly(model, tmp_path)


def test_what_onnx_runtimes_optimizer_would_break_behind_a_transpose(tmp_path: Path) -> None:
    """A dense Pad that names its axes, and a cubic Resize: the Transpose of their input would be moved behind them."""
    dense = [
        node("Concat", ["x", "x"], ["wide"], axis=3),
        node("Pad", ["wide", "k0", "", "k1"], ["padded"]),
        node("Resize", ["padded", "", "", "k2"], ["small"], mode="cubic"),
        node("Transpose", ["small"], ["z"], perm=[0, 1, 3, 2]),
    ]
    weights = {"k0": np.array([1, 1, 0, 1]), "k1": np.array([1, 3]), "k2": np.array([1, C + 1, 17, 21])}
    answers_exactly(net((dense, weights), channels=C + 1, opset=18), tmp_path)


def test_a_dense_resize_that_names_its_axes(tmp_path: Path) -> None:
    """Of which ONNX Runtime's optimizer would do the same."""
    dense = [
        node("Concat", ["x", "x"], ["wide"], axis=3),
        node("Resize", ["wide", "", "k0"], ["large"], mode="nearest", axes=[2, 3]),
        node("Transpose", ["large"], ["z"], perm=[0, 1, 3, 2]),
    ]
    answers_exactly(net((dense, {"k0": np.array([1.5, 2], np.float32)}), opset=18), tmp_path)


def test_a_linear_resize_of_what_is_dequantized(tmp_path: Path) -> None:
    """The reader blends floats, and cannot read through to the integers."""
    layer: Layer = (
        [
            node("QuantizeLinear", ["x", "k0", "k1"], ["q"]),
            node("DequantizeLinear", ["q", "k0", "k1"], ["d"]),
            node("Resize", ["d", "", "k2"], ["z"], mode="linear"),
        ],
        {"k0": np.float32(0.02), "k1": np.uint8(128), "k2": np.array([1, 1, 2, 2], np.float32)},
    )
    assert "z" in answers_exactly(net(layer), tmp_path)


SCALES = (0.3, 0.37, 0.6, 0.9, 1.3, 1.7, 2.2, 2.6, 3.0)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("mode", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
def test_nearest_rows_are_those_of_onnx_runtime(mode: str, rounding: str) -> None:
    """Ties are decided by the last bit of float arithmetic, and by what the runtime takes for a tie."""
    attrs = {"mode": "nearest", "coordinate_transformation_mode": mode, "nearest_mode": rounding}
    model = helper.make_model(
        helper.make_graph(
            [node("Resize", ["x", "", "scales"], ["y"], **attrs)],
            "resize",
            [helper.make_tensor_value_info("x", FLOAT, [1, "n"]), helper.make_tensor_value_info("scales", FLOAT, [2])],
            [helper.make_tensor_value_info("y", FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for scale, size in product(SCALES, (35, 36, 101)):
        given = {"x": np.arange(size, dtype=np.float32)[None], "scales": np.array([1, scale], np.float32)}
        ((theirs,),) = session.run(None, given)
        positions = geometry.resize_positions(size, len(theirs), float(np.float32(scale)), mode)
        assert positions is not None
        assert geometry.nearest_rows(positions, size, rounding) == tuple(theirs.astype(int))
