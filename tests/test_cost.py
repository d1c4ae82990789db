"""Predictions counted by hand, and the batch that follows from bytes."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import onnx
import pytest
from onnx import helper
from twin import average, normal, small_net

from krypton_onnx.geometry import Sliding
from krypton_onnx.passes import cost
from krypton_onnx.passes.machines import CPU
from krypton_onnx.passes.network import Network
from krypton_onnx.passes.pipeline import normalized
from krypton_onnx.passes.plan_runs import dense_batch_for
from krypton_onnx.passes.regions import Regions
from krypton_onnx.plan import Read

node = helper.make_node


IMAGE, WIDE = 3 * 256 * 4, 4 * 256 * 4
"""Bytes of the image and of the other maps."""


@pytest.fixture
def small(tmp_path: Path) -> tuple[Network, Regions]:
    """A convolution on 16 × 16, a depthwise one, an activation that is computed with it, a mean, and a product."""
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Conv", ["c", "d"], ["e"], pads=[1, 1, 1, 1], group=4),
        node("Relu", ["e"], ["r"]),
        *average("r", "f"),
        node("Gemm", ["f", "m"], ["y"]),
    ]
    weights = {"w": normal(4, 3, 3, 3), "d": normal(4, 1, 3, 3), "m": normal(4, 5)}
    onnx.save(small_net(nodes, weights), tmp_path / "net.onnx")
    return normalized(tmp_path / "net.onnx")


FIRST, SECOND, LAST = 2 * 256 * 4 * 27, 2 * 256 * 4 * 9, 2 * 4 * 5
"""Floating-point operations of the convolutions and of the product."""


def test_seconds_of_full_inference(small: tuple[Network, Regions]) -> None:
    moved, streamed = (WIDE + 16) + (16 + 16) + (16 + 20), 4 * 5 * 4 * CPU.stream / CPU.full_batch
    streamed += len(small[0].graph.nodes) * CPU.node / CPU.full_batch
    full = streamed + (FIRST + LAST) * CPU.flop + SECOND * CPU.depthwise_flop + moved * CPU.byte
    found = cost.Costs(*small, {"c": 0.5, "e": 0.25}, {}, frozenset(), ()).predict(CPU.full_batch)
    assert found.full == pytest.approx(full)
    assert found.incremental == pytest.approx(full)
    assert found.bound == pytest.approx((FIRST + SECOND + LAST) / (FIRST / 2 + SECOND / 4 + LAST))
    assert [cost.streamed_bytes(n) for n in small[0].graph.nodes if n.op in ("Conv", "Gemm")] == [0, 0, 4 * 5 * 4]
    assert [(s.extents, s.windowed) for s in found.segments] == [((16, 16), False), (None, False)]


def test_seconds_of_a_window_and_of_its_reads(small: tuple[Network, Regions]) -> None:
    net, regions = small
    conv, second = net.graph.nodes[:2]
    kernel = Sliding(3, 1, 1, 1)
    readings = (
        cost.Reading("image", Read(0, kernel, kernel), conv),
        cost.Reading("c", Read(None, kernel, kernel), second),
    )
    full = cost.Costs(net, regions, {}, {}, frozenset(), ()).predict(CPU.full_batch).full
    found = cost.Costs(net, regions, {}, {"c": (8.0, 6.0)}, frozenset(), readings).predict(8)
    windowed = FIRST * 48 / 256 * CPU.flop * (1 + CPU.narrow / 6) + CPU.node / 8
    overhead = cost.READ_NODES * CPU.node / 8
    first_read = 10 * 8 * (12 * (CPU.gather + CPU.load) + CPU.index_cell) + overhead
    second_read = 18 * 18 * (16 * (CPU.gather + CPU.load) + CPU.index_cell) + overhead
    pool = 16 * (48 * (CPU.pool + CPU.store) + 16 * 16 / 8 * CPU.pool)
    index = cost.INDEX_NODES * CPU.node / 8 + 2 * CPU.index_read
    expected = full - FIRST * CPU.flop - CPU.node / 8 + index + windowed + first_read + second_read + pool
    assert found.incremental == pytest.approx(expected)
    where, windows = found.segments[:2]
    assert (where.extents, where.windowed, where.tensors) == (None, True, ())
    assert where.seconds == pytest.approx(index)
    assert windows.tensors == ("c",)
    assert windows.seconds == pytest.approx(windowed + first_read + pool)


def test_a_batch_is_what_a_run_costs_once_and_what_each_query_costs(small: tuple[Network, Regions]) -> None:
    net, regions = small
    reading = cost.Reading("image", Read(0, Sliding(3, 1, 1, 1), Sliding(3, 1, 1, 1)), net.graph.nodes[0])
    costs = cost.Costs(net, regions, {}, {"c": (8.0, 6.0)}, frozenset(), (reading,))
    for batch in (1, 3, 16):
        together = costs.run_seconds / batch + costs.query_seconds + 48 * costs.cell_seconds(["c"])
        assert costs.predict(batch).incremental == pytest.approx(together)
    streamed = 4 * 5 * 4 * CPU.stream
    assert costs.run_seconds > streamed
    apart = replace(costs, tail_batch=10)
    assert apart.run_seconds == pytest.approx(costs.run_seconds - streamed)
    assert apart.query_seconds == pytest.approx(costs.query_seconds + streamed / 10)


def test_a_batch_shares_what_a_run_costs_and_fits_the_caches(small: tuple[Network, Regions]) -> None:
    def batch(activations: float, run: float) -> int:
        costs = cost.Costs(*small, {}, {}, frozenset(), ())
        costs.__dict__["run_seconds"] = run
        with mock.patch.object(cost, "ALIVE", activations / (2 * WIDE)):  # the depthwise convolution reads and writes
            return costs.batch

    assert batch(1e6, 1e-3) == 16  # the root of 1e-3 / (SPILL · 1e12) is 17.7
    assert batch(1e6, 4e-3) == 32
    assert batch(2e6, 1e-3) == 8
    assert batch(8e7, 1e-3) == 2
    assert batch(0, 1e-3) == 64


def test_a_batch_of_full_inference_comes_nearest_to_a_size() -> None:
    assert dense_batch_for(80_000_000) == 2
    assert dense_batch_for(1_250_000) == 16
    assert dense_batch_for(0) == 32
