"""Batch rules: what a rule lets pass is run in ONNX Runtime on three images at once and one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from twin import Array, normal

from krypton_onnx.passes import network
from krypton_onnx.passes.batch_axes import BatchAxes, batch_axes
from krypton_onnx.passes.free_batch import free_batch
from krypton_onnx.passes.network import Network
from krypton_onnx.passes.pipeline import normalized

Case = tuple[list[onnx.NodeProto], dict[str, Any]]


def n(op: str, inputs: str, outputs: str = "y", /, **attrs: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are separated by blanks, a dash is an omitted input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attrs)


def ms(op: str, inputs: str, outputs: str = "y", /, **attrs: Any) -> onnx.NodeProto:
    return n(op, inputs, outputs, domain="com.microsoft", **attrs)


def model(case: Case, opset: int) -> onnx.ModelProto:
    """x [N, 3, 6, 8] → Conv → c [N, 4, 6, 8] → the case's nodes → y."""
    nodes, weights = case
    graph = helper.make_graph(
        [n("Conv", "x w", "c", pads=[1, 1, 1, 1]), *nodes],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in {"w": normal(4, 3, 3, 3), **weights}.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def analysed(case: Case, folder: Path, opset: int = 17) -> tuple[Network, BatchAxes]:
    onnx.save(model(case, opset), folder / "net.onnx")
    net, regions = normalized(folder / "net.onnx")
    return net, batch_axes(net, frozenset(regions.states), frozenset())


def freed(net: Network, axes: dict[str, int]) -> ort.InferenceSession:
    """The model for any number of images."""
    exported = network.to_model(free_batch(net, axes, frozenset()).graph)
    for info in (*exported.graph.input, *exported.graph.output):
        info.type.tensor_type.shape.dim[0].dim_param = f"{info.name}_rows"
    del exported.graph.value_info[:]
    onnx.checker.check_model(exported, full_check=True)
    return ort.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])


def images() -> Array:
    return np.random.default_rng(7).standard_normal((3, 3, 6, 8)).astype(np.float32)


POOLED = n("GlobalAveragePool", "c", "g")
ROWS = n("Flatten", "g", "f")
TOKENS = [n("Reshape", "c to_tokens", "r"), n("Transpose", "r", "t", perm=[0, 2, 1])]  # [1, 48, 4]
TO_TOKENS = {"to_tokens": np.array([1, 4, 48])}
QUANTIZED = [n("QuantizeLinear", "c qs qz", "q")]
SCALES = {"qs": np.float32(0.05), "qz": np.uint8(128)}
FLOATED = [n("DequantizeLinear", "z qs qz")]
Q3 = {"qw": normal(5, 4, 3, 3, scale=30).astype(np.int8), "ws": np.float32(0.02), "wz": np.int8(0)}

KEPT: dict[str, Case] = {
    "pooling": ([n("GlobalMaxPool", "c")], {}),
    "softmax over channels": ([n("Softmax", "c", axis=1)], {}),
    "Flatten": ([n("Flatten", "c")], {}),
    "Flatten from axis -3": ([n("Flatten", "c", axis=-3)], {}),
    "Flatten from axis 0": ([n("Flatten", "c", axis=0)], {}),
    "Flatten from axis 2 and back": (
        [n("Flatten", "c", "z", axis=2), n("Reshape", "z s")],
        {"s": np.array([1, 4, 48])},
    ),
    "Reshape to 1": ([n("Reshape", "c s")], {"s": np.array([1, -1])}),
    "Reshape by 0": ([n("Reshape", "c s")], {"s": np.array([0, 4, -1])}),
    "Reshape that groups channels": ([n("Reshape", "c s")], {"s": np.array([1, 2, 2, 6, 8])}),
    "rows of a query": (
        [n("Reshape", "c s", "z"), n("Softmax", "z", "a", axis=1), n("Reshape", "a back")],
        {"s": np.array([8, 24]), "back": np.array([1, 4, 6, 8])},
    ),
    "rows of a query, added to themselves": (
        [n("Reshape", "c s", "z"), n("Relu", "z", "a"), n("Add", "a z", "b"), n("Reshape", "b back")],
        {"s": np.array([-1, 6]), "back": np.array([1, 4, 48])},
    ),
    "rows of a query through a product": (
        [n("Reshape", "c s", "z"), n("Gemm", "z m b", "a"), n("Reshape", "a back")],
        {"s": np.array([48, 4]), "m": normal(4, 5), "b": normal(5), "back": np.array([1, 48, 5])},
    ),
    "rows of a query, a mean and an axis more": (
        [n("Reshape", "c s", "z"), n("ReduceMean", "z", "a", axes=[1], keepdims=0), n("Unsqueeze", "a zero")],
        {"s": np.array([4, 48]), "zero": np.array([0])},
    ),
    "windows of a map": (
        [
            n("Transpose", "c", "l", perm=[0, 2, 3, 1]),
            n("Reshape", "l six", "a"),
            n("Transpose", "a", "b", perm=[0, 1, 3, 2, 4, 5]),
            n("Reshape", "b windows", "d"),
            n("MatMul", "d m", "e"),
            n("Softmax", "e", "f", axis=-1),
            n("Reshape", "f blocks", "h"),
            n("Transpose", "h", "i", perm=[0, 1, 3, 2, 4, 5]),
            n("Reshape", "i map"),
        ],
        {
            "six": np.array([1, 3, 2, 4, 2, 4]),
            "windows": np.array([-1, 4, 4]),
            "m": normal(4, 5),
            "blocks": np.array([1, 3, 4, 2, 2, 5]),
            "map": np.array([1, 6, 8, 5]),
        },
    ),
    "attention, its three parts in front": (
        [
            *TOKENS,
            n("MatMul", "t m", "qkv"),
            n("Reshape", "qkv split", "a"),
            n("Transpose", "a", "b", perm=[2, 0, 3, 1, 4]),
            n("Gather", "b i0", "q", axis=0),
            n("Gather", "b i1", "k", axis=0),
            n("Gather", "b i2", "v", axis=0),
            n("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
            n("MatMul", "q kt", "s"),
            n("Softmax", "s", "p", axis=-1),
            n("MatMul", "p v", "o"),
            n("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
            n("Reshape", "ot back"),
        ],
        {
            **TO_TOKENS,
            "m": normal(4, 12),
            "split": np.array([1, 48, 3, 2, 2]),
            **{f"i{i}": np.array(i) for i in range(3)},
            "back": np.array([1, 48, 4]),
        },
    ),
    "attention, tokens first and heads in the batch": (
        [
            *TOKENS,
            n("Transpose", "t", "a", perm=[1, 0, 2]),
            n("Reshape", "a heads", "b"),
            n("Transpose", "b", "q", perm=[1, 0, 2]),
            n("Transpose", "b", "k", perm=[1, 2, 0]),
            n("MatMul", "q k", "s"),
            n("MatMul", "s q", "o"),
            n("Transpose", "o", "d", perm=[1, 0, 2]),
            n("Reshape", "d whole", "e"),
            n("Transpose", "e", perm=[1, 0, 2]),
        ],
        {**TO_TOKENS, "heads": np.array([48, 2, 2]), "whole": np.array([48, 1, 4])},
    ),
    "a token in front": ([*TOKENS, n("Concat", "token t", axis=1)], {**TO_TOKENS, "token": normal(1, 1, 4)}),
    "Transpose of the rest": ([n("Transpose", "c", perm=[0, 2, 3, 1])], {}),
    "Transpose there and back": (
        [n("Transpose", "c", "a", perm=[1, 2, 0, 3]), n("Relu", "a", "b"), n("Transpose", "b", perm=[2, 0, 1, 3])],
        {},
    ),
    "Squeeze of the rest": ([POOLED, n("Squeeze", "g a")], {"a": np.array([2, -1])}),
    "Squeeze of the first, and back": (
        [POOLED, n("Squeeze", "g a", "s"), n("Unsqueeze", "s b")],
        {"a": np.array([0, 2, 3]), "b": np.array([0])},
    ),
    "Squeeze of everything, and back": ([POOLED, n("Squeeze", "g", "s"), n("Reshape", "s b")], {"b": np.array([1, 4])}),
    "Unsqueeze in front, and back": (
        [n("Unsqueeze", "c a", "u"), n("Relu", "u", "v"), n("Squeeze", "v a")],
        {"a": np.array([0])},
    ),
    "reduction of the rest": ([n("ReduceMean", "c", axes=[-1, 2], keepdims=0)], {}),
    "reduction before the batch": (
        [n("Transpose", "c", "a", perm=[1, 2, 0, 3]), n("ReduceMax", "a", axes=[0, 1], keepdims=0)],
        {},
    ),
    "LayerNormalization": ([*TOKENS, n("LayerNormalization", "t s b")], {**TO_TOKENS, "s": normal(4), "b": normal(4)}),
    "LayerNormalization over all but the first": (
        [n("LayerNormalization", "c s", axis=1)],
        {"s": normal(4, 6, 8)},
    ),
    "MeanVarianceNormalization": ([n("MeanVarianceNormalization", "c", axes=[2, 3])], {}),
    "LpNormalization": ([n("LpNormalization", "c", axis=1)], {}),
    "InstanceNormalization": ([n("InstanceNormalization", "c s b")], {"s": normal(4), "b": normal(4)}),
    "Gemm": ([POOLED, ROWS, n("Gemm", "f m b")], {"m": normal(4, 5), "b": normal(5)}),
    "Gemm of columns": (
        [POOLED, ROWS, n("Transpose", "f", "t", perm=[1, 0]), n("Gemm", "t m", transA=1)],
        {"m": normal(4, 5)},
    ),
    "MatMul": ([POOLED, ROWS, n("MatMul", "f m")], {"m": normal(4, 5)}),
    "MatMul by several matrices": ([n("MatMul", "c m")], {"m": normal(1, 4, 8, 5)}),
    "MatMul from the left": (
        [n("Reshape", "c s", "r"), n("MatMul", "m r")],
        {"s": np.array([1, 4, 48]), "m": normal(5, 4)},
    ),
    "MatMul of columns": (
        [
            POOLED,
            ROWS,
            n("Transpose", "f", "t", perm=[1, 0]),
            n("MatMul", "m t", "z"),
            n("Transpose", "z", perm=[1, 0]),
        ],
        {"m": normal(5, 4)},
    ),
    "batched product": (
        [n("Reshape", "c s", "q"), n("Transpose", "q", "k", perm=[0, 2, 1]), n("MatMul", "q k")],
        {"s": np.array([1, 4, -1])},
    ),
    "Einsum": ([n("Einsum", "c m", equation="nchw,cd->nhwd")], {"m": normal(4, 5)}),
    "Einsum of two maps": ([n("Einsum", "c c", equation="nchw, ndhw -> ncd")], {}),
    "Einsum that moves the batch": (
        [n("Einsum", "c m", "e", equation="nchw,cd->hndw"), n("Transpose", "e", perm=[1, 0, 2, 3])],
        {"m": normal(4, 5)},
    ),
    "Add of a row": ([POOLED, ROWS, n("Add", "f b")], {"b": normal(1, 4)}),
    "Where": (
        [n("Where", "m c k")],
        {"m": np.arange(48).reshape(1, 1, 6, 8) % 3 == 0, "k": np.float32(-1)},
    ),
    "Pad of the rest": ([n("Pad", "c p", mode="edge")], {"p": np.array([0, 1, 0, 0, 0, 0, 2, 0])}),
    "Concat of features": ([POOLED, ROWS, n("Concat", "f f", axis=-1)], {}),
    "Concat with a constant": ([POOLED, ROWS, n("Concat", "f k", axis=1)], {"k": normal(1, 2)}),
    "ArgMax over classes": ([POOLED, ROWS, n("ArgMax", "f", "a", axis=1), n("Cast", "a", to=TensorProto.FLOAT)], {}),
    "TopK": ([POOLED, ROWS, n("TopK", "f k", "y i")], {"k": np.array([2])}),
    "CumSum": ([n("CumSum", "c a", exclusive=1)], {"a": np.array(-1)}),
    "Resize by scales": ([n("Resize", "c - s", mode="linear")], {"s": np.array([1, 1, 2, 1.5], np.float32)}),
    "Resize to sizes": ([n("Resize", "c - - s", mode="nearest")], {"s": np.array([1, 4, 9, 11])}),
    "Resize to sizes, corners aligned": (
        [n("Resize", "c - - s", mode="linear", coordinate_transformation_mode="align_corners")],
        {"s": np.array([1, 4, 12, 16])},
    ),
    "Slice of the rest": (
        [n("Slice", "c s e a t")],
        {"s": np.array([1, 7]), "e": np.array([3, 0]), "a": np.array([1, -1]), "t": np.array([1, -2])},
    ),
    "Slice of all axes": ([n("Slice", "c s e")], {"s": np.array([0, 1, 2]), "e": np.array([1, 4, 5])}),
    "Slice of all axes of three": (
        [n("Reshape", "c r", "t"), n("Slice", "t s e")],
        {"r": np.array([1, 4, 48]), "s": np.array([0, 1, 2]), "e": np.array([1, 4, 5])},
    ),
    "Slice of three in 32 bits": (
        [n("Reshape", "c r", "t"), n("Slice", "t s e a")],
        {
            "r": np.array([1, 4, 48]),
            "s": np.array([0, 2], np.int32),
            "e": np.array([1, 4], np.int32),
            "a": np.array([-3, 2], np.int32),
        },
    ),
    "Slice in 32 bits": (
        [n("Slice", "c s e a")],
        {"s": np.array([0, 2], np.int32), "e": np.array([1, 4], np.int32), "a": np.array([0, 2], np.int32)},
    ),
    "Split": ([n("Split", "c s", "a b", axis=1), n("Concat", "b a", axis=1)], {"s": np.array([1, 3])}),
    "Expand of channels": ([POOLED, n("Expand", "g s")], {"s": np.array([1, 4, 2, 3])}),
    "Expand by leading axes": (
        [POOLED, n("Expand", "g s", "e"), n("Transpose", "e", perm=[1, 0, 2, 3, 4])],
        {"s": np.array([2, 1, 4, 1, 3])},
    ),
    "Tile": ([n("Tile", "c s")], {"s": np.array([1, 2, 1, 3])}),
    "Trilu": ([n("Trilu", "c k", upper=0)], {"k": np.array(1)}),
    "Gather of channels": ([n("Gather", "c i", axis=1)], {"i": np.array([[3, 0], [1, 1]])}),
    "Gather from a table": (
        [POOLED, ROWS, n("ArgMax", "f", "a", axis=1, keepdims=0), n("Gather", "m a", axis=0)],
        {"m": normal(4, 5)},
    ),
    "GatherElements": (
        [POOLED, ROWS, n("TopK", "f k", "v i"), n("GatherElements", "f i", axis=1)],
        {"k": np.array([3])},
    ),
    "GatherND": (
        [POOLED, ROWS, n("ArgMax", "f", "i", axis=1), n("GatherND", "f i", batch_dims=1)],
        {},
    ),
    "OneHot": (
        [POOLED, ROWS, n("ArgMax", "f", "i", axis=1), n("OneHot", "i d v")],
        {"d": np.array([4]), "v": np.array([-1, 2], np.float32)},
    ),
    "OneHot in front": (
        [
            POOLED,
            ROWS,
            n("ArgMax", "f", "i", axis=1),
            n("OneHot", "i d v", "z", axis=0),
            n("Transpose", "z", perm=[1, 0, 2]),
        ],
        {"d": np.array([4]), "v": np.array([-1, 2], np.float32)},
    ),
    "GridSample": (
        [n("Transpose", "c", "l", perm=[0, 2, 3, 1]), n("Slice", "l s e a", "grid"), n("GridSample", "c grid")],
        {"s": np.array([0]), "e": np.array([2]), "a": np.array([3])},
    ),
    "quantized and back": ([*QUANTIZED, n("DequantizeLinear", "q qs qz")], SCALES),
    "quantized by channel": (
        [n("QuantizeLinear", "c s z", "q", axis=1), n("DequantizeLinear", "q s z", axis=1)],
        {"s": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "z": np.zeros(4, np.int8)},
    ),
    "ConvInteger": (
        [*QUANTIZED, n("ConvInteger", "q qw qz", "i", pads=[1, 1, 1, 1]), n("Cast", "i", to=TensorProto.FLOAT)],
        {**SCALES, **Q3},
    ),
    "QLinearConv": ([*QUANTIZED, n("QLinearConv", "q qs qz qw ws wz qs qz", "z"), *FLOATED], {**SCALES, **Q3}),
    "MatMulInteger": (
        [*QUANTIZED, n("MatMulInteger", "q m qz", "i"), n("Cast", "i", to=TensorProto.FLOAT)],
        {**SCALES, "m": np.arange(40).reshape(8, 5).astype(np.int8)},
    ),
    "QLinearMatMul": (
        [*QUANTIZED, n("QLinearMatMul", "q qs qz m ms mz qs qz", "z"), *FLOATED],
        {
            **SCALES,
            "m": np.arange(40).reshape(8, 5).astype(np.int8),
            "ms": np.linspace(0.01, 0.02, 5).astype(np.float32),
            "mz": np.zeros(5, np.int8),
        },
    ),
}

CONTRIB: dict[str, Case] = {
    "QLinearAdd": ([*QUANTIZED, ms("QLinearAdd", "q qs qz q qs qz qs qz", "z"), *FLOATED], SCALES),
    "QLinearMul": (
        [
            *QUANTIZED,
            n("GlobalMaxPool", "c", "g"),
            n("QuantizeLinear", "g qs qz", "qg"),
            ms("QLinearMul", "q qs qz qg qs qz qs qz", "z"),
            *FLOATED,
        ],
        SCALES,
    ),
    "QLinearGlobalAveragePool": (
        [*QUANTIZED, ms("QLinearGlobalAveragePool", "q qs qz qs qz", "z"), *FLOATED],
        SCALES,
    ),
    "QLinearAveragePool": (
        [
            *QUANTIZED,
            ms("QLinearAveragePool", "q qs qz qs qz", "z", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
            *FLOATED,
        ],
        SCALES,
    ),
    "QLinearConcat": ([*QUANTIZED, ms("QLinearConcat", "qs qz q qs qz q qs qz", "z", axis=1), *FLOATED], SCALES),
    "QLinearSigmoid": ([*QUANTIZED, ms("QLinearSigmoid", "q qs qz qs qz", "z"), *FLOATED], SCALES),
    "QLinearLeakyRelu": ([*QUANTIZED, ms("QLinearLeakyRelu", "q qs qz qs qz", "z", alpha=0.1), *FLOATED], SCALES),
    "QLinearSoftmax": (
        [*QUANTIZED, ms("QLinearSoftmax", "q qs qz ps pz", "z", axis=3, opset=13), n("DequantizeLinear", "z ps pz")],
        {**SCALES, "ps": np.float32(1 / 256), "pz": np.uint8(0)},
    ),
    "QGemm": (
        [*QUANTIZED, n("Flatten", "q", "f"), ms("QGemm", "f qs qz m ms mz b qs qz", "z"), *FLOATED],
        {
            **SCALES,
            "m": (np.arange(192 * 5) % 17 - 8).reshape(192, 5).astype(np.int8),
            "ms": np.float32(0.01),
            "mz": np.int8(0),
            "b": np.arange(5, dtype=np.int32) * 100,
        },
    ),
    "QuantizeLinear to 8 bits": ([ms("QuantizeLinear", "c qs qz", "q"), ms("DequantizeLinear", "q qs qz")], SCALES),
}

LOST: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "a row a channel": (
        [n("Reshape", "c s", "z"), n("Transpose", "z", perm=[1, 0])],
        {"s": np.array([4, -1])},
        "first axis",
    ),
    "Transpose of the first": ([n("Transpose", "c", perm=[1, 0, 2, 3])], {}, "first axis"),
    "Transpose of a pair of ones": ([POOLED, n("Transpose", "g", perm=[2, 1, 0, 3])], {}, "first axis"),
    "Reshape across the batch": (
        [n("Transpose", "c", "t", perm=[1, 0, 2, 3]), n("Reshape", "t s", "u"), n("Relu", "u")],
        {"s": np.array([1, 192])},
        "merges",
    ),
    "reduction of everything": ([n("ReduceSum", "c", keepdims=1)], {}, "reduces"),
    "reduction of the first": ([n("ReduceMax", "c", axes=[-4], keepdims=1)], {}, "reduces"),
    "softmax over the first": ([n("Softmax", "c", axis=-4)], {}, "along the batch"),
    "softmax over what was the first": (
        [
            n("Transpose", "c", "t", perm=[1, 0, 2, 3]),
            n("Softmax", "t", "s", axis=1),
            n("Transpose", "s", perm=[1, 0, 2, 3]),
        ],
        {},
        "along the batch",
    ),
    "ArgMax over the first": ([POOLED, n("ArgMax", "g", "a"), n("Cast", "a", to=TensorProto.FLOAT)], {}, "reduces"),
    "Concat along the first": (
        [POOLED, ROWS, n("Concat", "f f", "h", axis=0), n("ReduceMax", "h", axes=[0])],
        {},
        "along the batch",
    ),
    "batches at different places": (
        [POOLED, n("Transpose", "g", "t", perm=[1, 0, 2, 3]), n("Add", "g t")],
        {},
        "different axes",
    ),
    "one row beside four": (
        [n("Reshape", "c s", "r"), n("ReduceMean", "c", "a", axes=[1]), n("Flatten", "a", "u"), n("Mul", "r u")],
        {"s": np.array([4, 48])},
        "different axes",
    ),
    "a constant a row": (
        [n("Reshape", "c s", "r"), n("Mul", "r k", "m"), n("Reshape", "m b")],
        {"s": np.array([4, 48]), "k": normal(4, 1), "b": np.array([1, 4, 48])},
        "constant operand",
    ),
    "Gram matrix": (
        [n("Reshape", "c s", "r"), n("Transpose", "r", "t", perm=[1, 0]), n("MatMul", "r t")],
        {"s": np.array([4, 48])},
        "sums",
    ),
    "constant on the left": ([POOLED, ROWS, n("MatMul", "m f")], {"m": normal(5, 1)}, "sums"),
    "MaxPool's indices": (
        [n("MaxPool", "c", "p i", kernel_shape=[2, 2]), n("Cast", "i", to=TensorProto.FLOAT)],
        {},
        "indices",
    ),
    "Resize of the batch": (
        [n("Resize", "c - s", "r"), n("ReduceMax", "r", axes=[0])],
        {"s": np.array([2, 1, 1, 1], np.float32)},
        "resizes",
    ),
    "Resize of the batch to a size": (
        [n("Resize", "c - - s", "r"), n("ReduceMax", "r", axes=[0])],
        {"s": np.array([2, 4, 6, 8])},
        "resizes",
    ),
    "normalization across the batch": (
        [
            n("Transpose", "c", "t", perm=[1, 0, 2, 3]),
            n("LRN", "t", "l", size=3),
            n("Transpose", "l", perm=[1, 0, 2, 3]),
        ],
        {},
        "first axis is not the batch",
    ),
    "a scale a row": (
        [
            n("Reshape", "c s", "r"),
            n("QuantizeLinear", "r k", "q", axis=0),
            n("DequantizeLinear", "q k", "d", axis=0),
            n("Reshape", "d b"),
        ],
        {"s": np.array([4, 48]), "k": np.array([1, 2, 3, 4], np.float32), "b": np.array([1, 4, 48])},
        "along the batch",
    ),
    "Resize of some proportion": (
        [n("Resize", "c - - s", keep_aspect_ratio_policy="not_larger")],
        {"s": np.array([1, 4, 3, 8])},
        "computed",
    ),
    "Slice of the batch": ([n("Slice", "c s e")], {"s": np.array([-1]), "e": np.array([9])}, "along the batch"),
    "Slice against the batch": (
        [n("Slice", "c s e a t")],
        {"s": np.array([-1]), "e": np.array([-9]), "a": np.array([0]), "t": np.array([-1])},
        "along the batch",
    ),
    "Split of the batch": ([n("Split", "c s", "y", axis=0)], {"s": np.array([1])}, "along the batch"),
    "Expand of the batch": (
        [n("Expand", "c s", "e"), n("ReduceMax", "e", axes=[0])],
        {"s": np.array([3, 1, 1, 1])},
        "repeats",
    ),
    "Tile of the batch": (
        [n("Tile", "c s", "e"), n("ReduceMax", "e", axes=[0])],
        {"s": np.array([2, 1, 1, 1])},
        "along",
    ),
    "Pad of the batch": (
        [n("Pad", "c p", "e"), n("ReduceMax", "e", axes=[0])],
        {"p": np.array([1, 0, 0, 0] + [0] * 4)},
        "pads",
    ),
    "Trilu of the batch": ([POOLED, ROWS, n("Trilu", "f")], {}, "along the batch"),
    "Gather from the batch": ([n("Gather", "c i", axis=0)], {"i": np.array([0])}, "along the batch"),
    "GatherElements from the batch": (
        [n("ArgMax", "c", "i", axis=1), n("GatherElements", "c i", axis=0)],
        {},
        "along",
    ),
    "GatherND from the batch": ([n("GatherND", "c i")], {"i": np.array([[0]])}, "different axes"),
    "CumSum along the batch": ([n("CumSum", "c a")], {"a": np.array(0)}, "along the batch"),
    "LayerNormalization over everything": (
        [n("LayerNormalization", "c s", axis=0)],
        {"s": normal(1, 4, 6, 8)},
        "along the batch",
    ),
    "MeanVarianceNormalization over the batch": ([n("MeanVarianceNormalization", "c", axes=[0, 2, 3])], {}, "reduces"),
    "Einsum over the batch": (
        [n("Einsum", "c", "e", equation="nchw->chw"), n("Unsqueeze", "e z")],
        {"z": np.array([0])},
        "sums",
    ),
    "Einsum with the batch in a constant": (
        [n("Einsum", "c k", equation="nchw,n->nchw")],
        {"k": normal(1)},
        "constant",
    ),
    "a range of all": (
        [n("DynamicQuantizeLinear", "c", "q s z"), n("DequantizeLinear", "q s z")],
        {},
        "no batch rule",
    ),
    "computed scale": (
        [n("ReduceMax", "c", "s", keepdims=0), n("QuantizeLinear", "c s", "q"), n("DequantizeLinear", "q s")],
        {},
        "reduces",
    ),
    "unknown": (
        [n("NonZero", "c", "i"), n("Cast", "i", "f", to=TensorProto.FLOAT), n("ReduceSum", "f")],
        {},
        "no batch rule",
    ),
    "what follows": ([n("ReduceSum", "c", "z", keepdims=1), n("Relu", "z")], {}, "reduces"),
}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("name", KEPT | CONTRIB)
def test_three_images_at_once_are_three_images(name: str, opset: int, tmp_path: Path) -> None:
    case = (KEPT | CONTRIB)[name]
    net, batch = analysed(case if opset == 17 else modern(case), tmp_path, opset)
    assert batch.lost == {}
    assert batch.axes["y"] == 0
    session = freed(net, batch.axes)
    together = session.run(["y"], {"x": images()})[0]
    alone = np.concatenate([session.run(["y"], {"x": image[None]})[0] for image in images()])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)
    assert list(alone.shape[1:]) == net.graph.outputs[0].shape[1:]
    assert len({part.tobytes() for part in np.split(alone, 3)}) > 1, "all images give the same"


@pytest.mark.parametrize("name", LOST)
def test_the_axis_is_lost_and_why(name: str, tmp_path: Path) -> None:
    nodes, weights, reason = LOST[name]
    _, batch = analysed((nodes, weights), tmp_path, 18 if "proportion" in name else 17)
    assert reason in batch.lost["y"]


def modern(case: Case) -> Case:
    """Reductions take their axes as an input from opset 18 on."""
    nodes, weights = case
    converted, more = [], dict(weights)
    for number, node in enumerate(nodes):
        kept = [a for a in node.attribute if a.name != "axes" or not node.op_type.startswith("Reduce")]
        if len(kept) < len(node.attribute):
            more[f"axes{number}"] = np.array(next(a for a in node.attribute if a.name == "axes").ints)
            node = helper.make_node(node.op_type, [*node.input, f"axes{number}"], list(node.output))
            node.attribute.extend(kept)
        converted.append(node)
    return converted, more
