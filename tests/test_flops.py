"""Operations counted by hand."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from krypton_onnx.passes.flops import flops

# operator, attributes, shapes of its inputs, shape of its output, operations
CASES: dict[str, tuple[str, dict[str, Any], list[list[int]], list[int], int]] = {
    "Conv": ("Conv", {}, [[1, 3, 8, 8], [4, 3, 5, 5]], [1, 4, 4, 4], 2 * 64 * 75),
    "Conv of groups": ("Conv", {"group": 4}, [[1, 4, 8, 8], [4, 1, 3, 3]], [1, 4, 6, 6], 2 * 144 * 9),
    "ConvInteger": ("ConvInteger", {}, [[1, 3, 8, 8], [4, 3, 5, 5], []], [1, 4, 4, 4], 2 * 64 * 75),
    "QLinearConv": ("QLinearConv", {}, [[1, 3, 8, 8], [], [], [4, 3, 5, 5], [4]], [1, 4, 4, 4], 2 * 64 * 75),
    "ConvTranspose": ("ConvTranspose", {}, [[1, 3, 4, 4], [3, 2, 2, 2]], [1, 2, 8, 8], 2 * 48 * 8),
    "Gemm": ("Gemm", {}, [[7, 5], [5, 3]], [7, 3], 2 * 21 * 5),
    "Gemm, turned": ("Gemm", {"transA": 1}, [[5, 7], [5, 3]], [7, 3], 2 * 21 * 5),
    "QGemm": ("QGemm", {"transB": 1}, [[7, 5], [], [], [3, 5], [], []], [7, 3], 2 * 21 * 5),
    "MatMul": ("MatMul", {}, [[2, 4, 5], [5, 3]], [2, 4, 3], 2 * 24 * 5),
    "MatMulInteger": ("MatMulInteger", {}, [[2, 4, 5], [5, 3], []], [2, 4, 3], 2 * 24 * 5),
    "QLinearMatMul": ("QLinearMatMul", {}, [[2, 4, 5], [], [], [5, 3], [], []], [2, 4, 3], 2 * 24 * 5),
    "Einsum": ("Einsum", {"equation": "bhd, bkd -> bhk"}, [[2, 4, 5], [2, 3, 5]], [2, 4, 3], 2 * 24 * 5),
    "Einsum that only turns": ("Einsum", {"equation": "ab->ba"}, [[2, 4]], [4, 2], 0),
    "Einsum that only multiplies": ("Einsum", {"equation": "ab,b->ab"}, [[2, 4], [4]], [2, 4], 0),
    "elementwise": ("Mul", {}, [[2, 4], [2, 4]], [2, 4], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_counted_by_hand(name: str) -> None:
    op, attrs, inputs, output, expected = CASES[name]
    node = made(op, attrs, inputs, output)
    assert flops(node) == expected


def test_operations_of_unknown_shapes() -> None:
    conv = made("Conv", {}, [[1, 3, 8, 8], [4, 3, 5, 5]], [1, 4, 4, 4])
    conv.outputs[0].shape = [1, 4, None, 4]
    assert flops(conv) == 0


def made(op: str, attrs: dict[str, Any], inputs: list[list[int]], output: list[int]) -> gs.Node:
    variables = [gs.Variable(f"x{i}", np.dtype(np.float32), shape) for i, shape in enumerate(inputs)]
    return gs.Node(op, "n", attrs, variables, [gs.Variable("y", np.dtype(np.float32), output)])
