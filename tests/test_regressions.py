"""Models that once went wrong, or that only ONNX's dark corners hold: each is exact, or refused with a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import Net
from onnx import TensorProto, helper
from twin import FLOAT, Twin, average, normal, probe, small_net, twin

import krypton_onnx as kx

node = helper.make_node
CONV = node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1])
TURNED = node("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2])
ANY = (FLOAT, None)
LOGITS = {"y": (FLOAT, ["N", 4])}
"""Declared, as exporters do: where inference gets stuck, only this says that there are two axes."""

W = {"w": normal(4, 3, 3, 3)}


def subgraph(name: str, *nodes: onnx.NodeProto, inputs: tuple[onnx.ValueInfoProto, ...] = ()) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)
    return helper.make_graph(list(nodes), name, list(inputs), [result])


def condition(result: str, name: str, factor: str, condition: str = "yes") -> onnx.NodeProto:
    """If: name · factor, else name + factor."""
    return node(
        "If",
        [condition],
        [result],
        then_branch=subgraph("then", node("Mul", [name, factor], [f"{result}/then"])),
        else_branch=subgraph("else", node("Add", [name, factor], [f"{result}/else"])),
    )


def loop(result: str, name: str) -> onnx.NodeProto:
    """Three rounds of y ← tanh(y) + name, with the image-dependent `name` from outside."""
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("Tanh", ["y_in"], ["bent"]),
            node("Add", ["bent", name], ["y_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y_in", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y_out", FLOAT, None),
        ],
    )
    return node("Loop", ["rounds", "yes", name], [result], body=body)


YES = {"yes": np.array(True)}
LOOP = {**YES, "rounds": np.array(3)}
FACTOR = {"k": normal(4, 1, 1)}

EXACT: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], dict[str, Any]]] = {
    "an input of four dimensions that nothing reads": (
        [CONV, *average("c", "y")],
        W,
        {"inputs": {"image": ["N", 3, 16, 16], "left_over": [1, 1, 1, 3]}},
    ),
    "a normalization whose axes are its default": (
        [CONV, node("MeanVarianceNormalization", ["c"], ["m"]), node("Relu", ["m"], ["r"]), *average("r", "y")],
        W,
        {},
    ),
    # The body of the per-query Scan once read all queries' maps instead of its own.
    "windowed map into a lost axis": (
        [
            CONV,
            node("Reshape", ["c", "rows"], ["r"]),
            node("ReduceMax", ["r"], ["m"], axes=[1], keepdims=0),
            node("Reshape", ["m", "back"], ["y"]),
        ],
        {**W, "rows": np.array([4, -1]), "back": np.array([1, 4])},
        {},
    ),
    # Indices count across the batch: those of the second query begin where those of the first end.
    "MaxPool with indices": (
        [
            CONV,
            node("MaxPool", ["c"], ["p", "at"], kernel_shape=[2, 2]),
            node("Cast", ["at"], ["f"], to=FLOAT),
            node("Mul", ["f", "small"], ["g"]),
            node("Add", ["p", "g"], ["s"]),
            *average("s", "y"),
        ],
        {**W, "small": np.float32(1e-3)},
        {},
    ),
    "MaxPool indices as an output": (
        [CONV, node("MaxPool", ["c"], ["p", "at"], kernel_shape=[2, 2], strides=[2, 2]), *average("p", "y")],
        W,
        {"outputs": {"y": (FLOAT, None), "at": (TensorProto.INT64, None)}},
    ),
    "Flatten from axis -4": (
        [CONV, node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"], ["y"], axis=-4)],
        W,
        {},
    ),
    "Flatten from axis -3": (
        [CONV, node("GlobalMaxPool", ["c"], ["g"]), node("Flatten", ["g"], ["y"], axis=-3)],
        W,
        {},
    ),
    # onnx's shape inference gives 9 × 9 here below opset 22, ONNX Runtime 8 × 8.
    "ceil_mode where onnx and ONNX Runtime disagree": (
        [
            CONV,
            node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
            node("Conv", ["p", "w2"], ["d"], pads=[1, 1, 1, 1]),
            *average("d", "y"),
        ],
        {**W, "w2": normal(4, 4, 3, 3)},
        {"inputs": {"image": ["N", 3, 15, 15]}},
    ),
    # The end padding that ceil_mode amounts to may be as large as the kernel, which ONNX Runtime refuses when stated.
    "ceil_mode of a dilated MaxPool": (
        [
            CONV,
            node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], dilations=[3, 3], strides=[3, 3], ceil_mode=1),
            *average("p", "y"),
        ],
        W,
        {"inputs": {"image": ["N", 3, 17, 17]}},
    ),
    "ceil_mode of a dilated AveragePool that counts its padding": (
        [
            CONV,
            node(
                "AveragePool",
                ["c"],
                ["p"],
                kernel_shape=[3, 3],
                dilations=[2, 1],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
                ceil_mode=1,
                count_include_pad=1,
            ),
            *average("p", "y"),
        ],
        W,
        {"opset": 19},
    ),
    "two of them joined": (
        [
            CONV,
            node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
            node("AveragePool", ["c"], ["q"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
            node("Concat", ["p", "q"], ["d"], axis=1),
            *average("d", "y"),
        ],
        W,
        {"inputs": {"image": ["N", 3, 15, 15]}},
    ),
    "If on outer tensors": ([CONV, condition("i", "c", "k"), *average("i", "y")], {**W, **YES, **FACTOR}, {}),
    "If on a large constant": (
        [CONV, condition("i", "c", "k"), *average("i", "y")],
        {**W, **YES, "k": normal(4, 16, 16)},
        {},
    ),
    "If on what folding would remove": (
        [
            CONV,
            node("Dropout", ["c"], ["d"]),
            node("BatchNormalization", ["c", "s", "s", "s", "v"], ["n"]),
            condition("i", "d", "k"),
            condition("j", "c", "k"),
            node("Sum", ["i", "j", "n"], ["t"]),
            *average("t", "y"),
        ],
        {**W, **YES, **FACTOR, "s": normal(4), "v": np.ones(4, np.float32)},
        {},
    ),
    "If that the image decides": (
        [
            CONV,
            node("ReduceMean", ["c"], ["m"], keepdims=0),
            node("Less", ["m", "zero"], ["negative"]),
            condition("i", "c", "k", "negative"),
            *average("i", "y"),
        ],
        {**W, **FACTOR, "zero": np.float32(0)},
        {},
    ),
    "If on another input alone": (
        [
            CONV,
            node("Sigmoid", ["given"], ["s"]),
            condition("i", "s", "k"),
            node("Mul", ["c", "i"], ["t"]),
            *average("t", "y"),
        ],
        {**W, **YES, **FACTOR},
        {"inputs": {"image": ["N", 3, 16, 16], "given": [4, 1, 1]}},
    ),
    "Loop on outer tensors": ([CONV, loop("l", "c"), *average("l", "y")], {**W, **LOOP}, {"outputs": LOGITS}),
    "GRU whose first output is omitted, and a Clip without a lower bound": (
        [
            CONV,
            node("Clip", ["c", "", "high"], ["b"]),
            node("ReduceMean", ["b"], ["m"], axes=[3], keepdims=0),
            node("Transpose", ["m"], ["t"], perm=[2, 0, 1]),
            node("GRU", ["t", "wx", "wh"], ["", "h"], hidden_size=5),
            node("Squeeze", ["h", "first"], ["y"]),
        ],
        {**W, "high": np.float32(0.5), "wx": normal(1, 15, 4), "wh": normal(1, 15, 5), "first": np.array([0])},
        {},
    ),
    "outputs that do not depend on the image": (
        [CONV, *average("c", "y"), node("Relu", ["given"], ["z"]), node("Neg", ["k"], ["n"])],
        {**W, "k": normal(5)},
        {"inputs": {"image": ["N", 3, 16, 16], "given": [7, 3]}, "outputs": {"y": ANY, "z": ANY, "n": ANY}},
    ),
    "a weight as an output": ([CONV, *average("c", "y")], W, {"outputs": {"y": ANY, "w": ANY}}),
    "the image as an output": (
        [CONV, *average("c", "y"), node("Identity", ["image"], ["z"])],
        W,
        {"outputs": {"y": ANY, "z": ANY}},
    ),
    "a map and its average": ([CONV, *average("c", "y")], W, {"outputs": {"y": ANY, "c": ANY}}),
    "a batch of two as exported": ([CONV, *average("c", "y")], W, {"inputs": {"image": [2, 3, 16, 16]}}),
    "sizes that repeat a batch of two": (
        [
            CONV,
            node("Resize", ["c", "", "", "sizes"], ["r"], mode="linear"),
            node("Expand", ["row", "shape"], ["e"]),
            node("Add", ["r", "e"], ["a"]),
            *average("a", "y"),
        ],
        {
            **W,
            "sizes": np.array([2, 4, 20, 24]),
            "row": normal(1, 1, 1, 24),
            "shape": np.array([2, 4, 20, 24]),
        },
        {"inputs": {"image": [2, 3, 16, 16]}},
    ),
    "tensors called like inputs of the incremental graph": (
        [
            node("Conv", ["image", "patch_content"], ["origins"], pads=[1, 1, 1, 1]),
            node("Conv", ["origins", "view_rows"], ["window_sizes"], pads=[1, 1, 1, 1]),
            *average("window_sizes", "y"),
        ],
        {"patch_content": normal(4, 3, 3, 3), "view_rows": normal(4, 4, 3, 3)},
        {},
    ),
    "tensors called like parts of the incremental graph": (
        [
            node("Conv", ["image", "w"], ["image/view"], pads=[1, 1, 1, 1]),
            node("Conv", ["image/view", "w2"], ["image/view/view"], pads=[1, 1, 1, 1]),
            node("Add", ["image/view", "image/view/view"], ["image/overlay"]),
            *average("image/overlay", "y"),
        ],
        {**W, "w2": normal(4, 4, 3, 3)},
        {},
    ),
    "an operator of another domain": (
        [CONV, node("Gelu", ["c"], ["g"], domain="com.microsoft"), *average("g", "y")],
        W,
        {"domains": ["com.microsoft"], "outputs": LOGITS},
    ),
    "a wholly padded pooling window": (
        [
            CONV,
            node("Sub", ["c", "far"], ["s"]),
            node("MaxPool", ["s"], ["p"], kernel_shape=[5, 5], strides=[3, 3], pads=[4, 4, 4, 4]),
            *average("p", "y"),
        ],
        {**W, "far": np.float32(100)},
        {},
    ),
    "Pad by minus infinity before MaxPool": (
        [
            CONV,
            node("Pad", ["c", "amounts", "low"], ["b"]),
            node("MaxPool", ["b"], ["p"], kernel_shape=[3, 3], strides=[2, 2]),
            *average("p", "y"),
        ],
        {**W, "amounts": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "low": np.float32(-np.inf)},
        {},
    ),
    # Old resizing samples asymmetrically; the opset converter leaves another default behind.
    **{
        f"{operator} ({mode}) of opset {opset}": (
            [CONV, node(operator, ["c", "scales"], ["r"], mode=mode), *average("r", "y")],
            {**W, "scales": np.array([1, 1, 2, 1.5], np.float32)},
            {"opset": opset},
        )
        for operator, opset in (("Upsample", 9), ("Resize", 10))
        for mode in ("nearest", "linear")
    },
    "many class names in the graph": (
        [CONV, *average("c", "y")],
        {**W, "names": np.array([f"class number {n}" for n in range(200)], object)},
        {},
    ),
    "a constant twice in one folded node": (
        [CONV, node("Mul", ["k", "k"], ["kk"]), node("Add", ["c", "kk"], ["s"]), *average("s", "y")],
        {**W, **FACTOR},
        {},
    ),
    # ONNX Runtime fuses a Pad into a pooling that counts its padding, and refuses more padding than kernel.
    "Pad before an AveragePool that does not count its padding": (
        [
            CONV,
            node("Pad", ["c", "amounts"], ["b"]),
            node("AveragePool", ["b"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0),
            *average("p", "y"),
        ],
        {**W, "amounts": np.array([0, 0, 2, 2, 0, 0, 2, 2])},
        {},
    ),
    "constants that only folding knows": (
        [
            CONV,
            node("Shape", ["c"], ["extents"]),
            node("Expand", ["k", "extents"], ["e"]),
            node("AveragePool", ["e"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0),
            node("Add", ["c", "a"], ["t"]),
            *average("t", "y"),
        ],
        {**W, **FACTOR},
        {},
    ),
    "a Slice of the first axis": (
        [CONV, node("Slice", ["c", "zero", "one", "zero"], ["s"]), *average("s", "y")],
        {**W, "zero": np.array([0]), "one": np.array([1])},
        {},
    ),
    "a Gather from the first axis": (
        [
            CONV,
            node("Gather", ["c", "zero"], ["g"], axis=0),
            node("ReduceMean", ["g"], ["y"], axes=[1, 2], keepdims=0),
        ],
        {**W, "zero": np.array(0)},
        {},
    ),
    "pixels out of channels where rows are columns": (
        [CONV, TURNED, node("DepthToSpace", ["t"], ["d"], blocksize=2), *average("d", "y")],
        W,
        {},
    ),
    "a ConvTranspose where rows are columns": (
        [CONV, TURNED, node("ConvTranspose", ["t", "v"], ["d"], strides=[2, 3]), *average("d", "y")],
        {**W, "v": normal(4, 2, 3, 4)},
        {},
    ),
    # ONNX Runtime moves a Transpose through the Pad and takes its amounts for those of all axes.
    "Pad of some axes beside a Transpose": (
        [
            CONV,
            node("Concat", ["c", "c"], ["wide"], axis=3),
            node("Pad", ["wide", "amounts", "", "axes"], ["padded"]),
            node("Transpose", ["padded"], ["t"], perm=[0, 1, 3, 2]),
            *average("t", "y"),
        ],
        {**W, "amounts": np.array([1, 1, 0, 1]), "axes": np.array([1, 3])},
        {"opset": 18},
    ),
    # Moved through the Resize, a Transpose leaves it with a layout that ONNX Runtime has no cubic kernel for.
    "a cubic Resize that shrinks": (
        [
            CONV,
            node("Resize", ["c", "", "", "sizes"], ["small"], mode="cubic"),
            node("Transpose", ["small"], ["t"], perm=[0, 1, 3, 2]),
            *average("t", "y"),
        ],
        {**W, "sizes": np.array([1, 4, 21, 9])},
        {},
    ),
    "a product whose rows are channels": (
        [
            CONV,
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Reshape", ["g", "column"], ["f"]),
            node("MatMul", ["k", "f"], ["y"]),
        ],
        {**W, "column": np.array([4, 1]), "k": normal(5, 4)},
        {},
    ),
    "quantized and back": (
        [
            CONV,
            node("QuantizeLinear", ["c", "step", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
            *average("d", "y"),
        ],
        {**W, "step": np.float32(0.05), "zero": np.uint8(128)},
        {},
    ),
    # Pairs of one type would be merged by ONNX Runtime, which rounds once less.
    "a signed pair of quantizations before an unsigned one": (
        [
            CONV,
            node("QuantizeLinear", ["c", "fine", "below"], ["q1"]),
            node("DequantizeLinear", ["q1", "fine", "below"], ["d1"]),
            node("QuantizeLinear", ["d1", "coarse", "middle"], ["q2"]),
            node("DequantizeLinear", ["q2", "coarse", "middle"], ["d2"]),
            node("Conv", ["d2", "v"], ["e"]),
            *average("e", "y"),
        ],
        {
            **W,
            "v": normal(2, 4, 1, 1),
            "fine": np.float32(0.03),
            "below": np.int8(-20),
            "coarse": np.float32(0.05),
            "middle": np.uint8(128),
        },
        {},
    ),
    # The padding that "same" means depends on that extent.
    "a convolution behind a Resize whose extent rounding decides": (
        [
            CONV,
            node("Resize", ["c", "", "factors"], ["r"], mode="nearest"),
            node("Conv", ["r", "v"], ["e"], auto_pad="SAME_UPPER", strides=[2, 2]),
            *average("e", "y"),
        ],
        {**W, "factors": np.float32([1, 1, 1.3, 1.3]), "v": normal(2, 4, 3, 3)},
        {"inputs": {"image": ["N", 3, 16, 20]}},
    ),
    "a Resize of which rounding decides one extent": (
        [CONV, node("Resize", ["c", "", "factors"], ["r"], mode="linear"), node("GlobalMaxPool", ["r"], ["y"])],
        {**W, "factors": np.float32([1, 1, 0.7, 0.7])},
        {"inputs": {"image": ["N", 3, 25, 30]}},
    ),
    "a Resize whose extents rounding decides": (
        [CONV, node("Resize", ["c", "", "factors"], ["r"], mode="nearest"), node("GlobalMaxPool", ["r"], ["y"])],
        {**W, "factors": np.float32([1, 1, 0.7, 0.7])},
        {"inputs": {"image": ["N", 3, 70, 70]}},
    ),
    "a linear Resize of a dequantized tensor": (
        [
            CONV,
            node("QuantizeLinear", ["c", "step", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
            node("Resize", ["d", "", "twice"], ["r"], mode="linear"),
            node("QuantizeLinear", ["r", "step", "zero"], ["rq"]),
            node("DequantizeLinear", ["rq", "step", "zero"], ["rd"]),
            *average("rd", "y"),
        ],
        {**W, "step": np.float32(0.05), "zero": np.uint8(128), "twice": np.float32([1, 1, 2, 2])},
        {},
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_is_exact(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes, weights, options = EXACT[name]
    net = Net(small_net(nodes, weights, **options), (3, *options.get("inputs", {"image": [16, 16]})["image"][-2:]))
    for patch in [(2, 2), (9, 5)]:
        pair = twin(net, tmp_path, patch)
        assert_exact(pair, patch)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def assert_exact(pair: Twin, patch: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    checks = [
        check for size in (patch, (1, 1), (4, 3)) for check in pair.check(probe(rng, pair.base.image.shape, size, 20))
    ]
    assert [c for c in checks if not c.exact] == []
    assert max(c.moved for c in checks) > 1e-3


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    inputs = {"image": ["N", 3, 16, 16], "given": [7]}
    model = small_net([CONV, *average("c", "y")], W, inputs=inputs, outputs={"y": ANY, "given": (FLOAT, [7])})
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(kx.KryptonError, match="one of its inputs"):
        kx.compile(tmp_path / "net.onnx", patch=2)


@pytest.mark.parametrize("fault", ["cycle", "given twice"])
def test_malformed_graphs_are_one_sentence(fault: str, tmp_path: Path) -> None:
    model = small_net([CONV, node("Relu", ["c"], ["r"]), *average("r", "y")], W)
    if fault == "cycle":
        model.graph.node[0].input[0] = "r"
    else:
        model.graph.node[1].output[0] = "c"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(kx.KryptonError, match=r"net\.onnx"):
        kx.compile(tmp_path / "net.onnx", patch=2)


def test_quantized_weights_are_held_to_their_own_noise(tmp_path: Path) -> None:
    scale = np.float32(0.01)
    model = small_net(
        [
            node("DequantizeLinear", ["w8", "scale", "zero"], ["w"]),
            CONV,
            node("QuantizeLinear", ["c", "step", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
            *average("d", "y"),
        ],
        {
            "w8": np.rint(normal(4, 3, 3, 3) / scale).astype(np.int8),
            "scale": scale,
            "step": np.float32(0.05),
            "zero": np.int8(0),
        },
    )
    onnx.save(model, tmp_path / "net.onnx")
    assert kx.compile(tmp_path / "net.onnx", patch=2).plan.reduced_precision


def test_signed_bytes_run_in_the_source_models_kernels(tmp_path: Path) -> None:
    def quantized(name: str) -> list[onnx.NodeProto]:
        there = node("QuantizeLinear", [name, "step", "zero"], [f"{name}/q"])
        return [there, node("DequantizeLinear", [f"{name}/q", "step", "zero"], [f"{name}/d"])]

    nodes = [
        node("DequantizeLinear", ["w8", "scale", "zero"], ["w"]),
        *quantized("image"),
        node("Conv", ["image/d", "w"], ["c"], pads=[1, 1, 1, 1]),
        *quantized("c"),
        *average("c/d", "y"),
    ]
    scale = np.float32(0.01)
    weights = {
        "w8": np.rint(normal(4, 3, 3, 3) / scale).astype(np.int8),
        "scale": scale,
        "step": np.float32(0.05),
        "zero": np.int8(0),
    }
    onnx.save(small_net(nodes, weights), tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=2)
    source, windows = tmp_path / "net.onnx", artifact.folder / "incremental.onnx"
    assert not artifact.plan.full_inference
    assert {o for o in optimised_operators(windows, tmp_path) if "Conv" in o} == {
        o for o in optimised_operators(source, tmp_path) if "Conv" in o
    }


def optimised_operators(model: Path, folder: Path) -> set[str]:
    """What ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model, options)
    return {n.op_type for n in onnx.load(folder / "optimised.onnx", load_external_data=False).graph.node}


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "random numbers": ([CONV, node("RandomNormalLike", ["c"], ["r"]), *average("r", "y")], W, "random"),
    "random numbers in an If": (
        [
            CONV,
            node(
                "If",
                ["yes"],
                ["i"],
                then_branch=subgraph("then", node("RandomNormalLike", ["c"], ["r"])),
                else_branch=subgraph("else", node("Relu", ["c"], ["e"])),
            ),
            *average("i", "y"),
        ],
        {**W, **YES},
        "random",
    ),
    "Dropout in training mode": (
        [CONV, node("Dropout", ["c", "ratio", "yes"], ["d"]), *average("d", "y")],
        {**W, **YES, "ratio": np.float32(0.5)},
        "training mode",
    ),
    "BatchNormalization in training mode": (
        [
            CONV,
            node("BatchNormalization", ["c", "s", "s", "s", "v"], ["n", "mean", "variance"], training_mode=1),
            *average("n", "y"),
        ],
        {**W, "s": normal(4), "v": np.ones(4, np.float32)},
        "training mode",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, tmp_path: Path) -> None:
    nodes, weights, reason = REFUSED[name]
    onnx.save(small_net(nodes, weights), tmp_path / "net.onnx")
    with pytest.raises(kx.KryptonError, match=reason):
        kx.compile(tmp_path / "net.onnx", patch=2)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
