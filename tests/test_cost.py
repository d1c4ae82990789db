"""Predictions counted by hand, and the batch that follows from bytes."""

from pathlib import Path

import onnx
import pytest
from onnx import helper
from twin import average, normal, small_net

from krypton_onnx.geometry import Sliding
from krypton_onnx.passes import cost
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.passes.queries_per_run import batch_for
from krypton_onnx.plan import Read, View

node = helper.make_node


def test_seconds_of_a_small_net(tmp_path: Path) -> None:
    """Two convolutions on 16 × 16, the second one depthwise, an activation that is computed with it, and a product."""
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Conv", ["c", "d"], ["e"], group=4),
        node("Relu", ["e"], ["r"]),
        *average("r", "f"),
        node("Gemm", ["f", "m"], ["y"]),
    ]
    weights = {"w": normal(4, 3, 3, 3), "d": normal(4, 1, 1, 1), "m": normal(4, 5)}
    onnx.save(small_net(nodes, weights), tmp_path / "net.onnx")
    net, regions = normalized(tmp_path / "net.onnx")
    image, wide = 3 * 256 * 4, 4 * 256 * 4  # bytes
    flops = 2 * (256 * 4 * 27 + 4 * 5)
    moved = (image + wide) + 2 * wide + (wide + 16) + (16 + 16) + (16 + 20)
    full = flops * cost._FLOP + 2 * 256 * 4 * cost._DEPTHWISE_FLOP + moved * cost._BYTE
    found = cost.predict(net, regions, {"c": 0.5, "e": 0.25}, {}, reads=1e-6)
    assert found.full == pytest.approx(full)
    assert found.incremental == pytest.approx(full + 1e-6)
    assert found.bound == pytest.approx((flops + 2048) / (256 * 4 * 27 + 2 * 4 * 5 + 512))
    first = 256 * 4 * 54 * cost._FLOP + (image + wide) * cost._BYTE
    quarter = 256 * 4 * 54 * 0.25 * cost._NARROW_FLOP / 8
    windowed = cost.predict(net, regions, {}, {"c": (8.0, 8.0)}, reads=0)
    assert windowed.incremental == pytest.approx(full - 0.75 * first + quarter)
    assert cost.streamed_bytes(net, regions) == 4 * 5 * 4


def test_seconds_of_reads() -> None:
    reads = (Read(0, Sliding(3, 2, 1, 1), Sliding()), Read(None, Sliding(), Sliding()))
    view = View("v", "t", None, 10, 12, 8, "float32", reads)
    cells = (4 * 2 + 3) * 6 + 10 * 12
    assert cost.read_seconds([view], [(5.0, 6.0)]) == pytest.approx(cells * (32 * cost._READ_BYTE + cost._READ_CELL))


def test_a_batch_fills_the_caches_and_uses_weights_that_it_reads_once() -> None:
    assert batch_for(2_500_000, 0, full_inference=False) == 8
    assert batch_for(1_250_000, 0, full_inference=False) == 16
    assert batch_for(1_250_000, 400_000_000, full_inference=False) == 64
    assert batch_for(80_000_000, 0, full_inference=False) == 8
    assert batch_for(80_000_000, 0, full_inference=True) == 2
    assert batch_for(1_250_000, 0, full_inference=True) == 16
    assert batch_for(0, 0, full_inference=True) == 32
