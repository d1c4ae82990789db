"""Compiling long models takes work in proportion to their length: inferences of the whole graph are counted."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from twin import average, normal, small_net

import krypton_onnx as kx
from krypton_onnx.passes import network

node = helper.make_node
WEIGHTS = {"w": normal(4, 3, 3, 3), "one": np.ones(1, np.float32)}


def computed_shapes(link: int) -> list[onnx.NodeProto]:
    """A Reshape to a shape that is computed in floats from that of its input."""
    x = f"x{link}"
    return [
        node("Shape", [x], [f"{x}/s"]),
        node("Cast", [f"{x}/s"], [f"{x}/f"], to=TensorProto.FLOAT),
        node("Div", [f"{x}/f", "one"], [f"{x}/d"]),
        node("Floor", [f"{x}/d"], [f"{x}/g"]),
        node("Cast", [f"{x}/g"], [f"{x}/k"], to=TensorProto.INT64),
        node("Reshape", [x, f"{x}/k"], [f"x{link + 1}"]),
    ]


def average_pools(link: int) -> list[onnx.NodeProto]:
    return [node("AveragePool", [f"x{link}"], [f"x{link + 1}"], kernel_shape=[3, 3], auto_pad="SAME_UPPER")]


def ceil_mode_pools(link: int) -> list[onnx.NodeProto]:
    attributes = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [1, 1, 0, 0], "ceil_mode": 1}
    return [node("MaxPool", [f"x{link}"], [f"x{link + 1}"], **attributes)]


@pytest.mark.parametrize("links", [computed_shapes, average_pools, ceil_mode_pools])
def test_inferences_do_not_grow_with_length(links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    infer = network.infer_shapes

    def counted(*args, **options):
        counts[-1] += 1
        return infer(*args, **options)

    monkeypatch.setattr(network, "infer_shapes", counted)
    for length in (2, 40):
        nodes = [node("Conv", ["image", "w"], ["x0"], pads=[1, 1, 1, 1])]
        nodes += [new for link in range(length) for new in links(link)]
        nodes += average(f"x{length}", "y")
        onnx.save(small_net(nodes, WEIGHTS), tmp_path / "net.onnx")
        counts.append(0)
        kx.compile(tmp_path / "net.onnx", patch=2, input_size=16)
    assert counts[0] == counts[1]
