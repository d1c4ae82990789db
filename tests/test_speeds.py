"""What of bench/speeds.py can be wrong without a word: its sides, its ratios, its file, its pages."""

import mmap
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.benchmark import Timing, in_turns, machine
from krypton_onnx.inspection import inspect_model
from krypton_onnx.sweep import Sweep, answered

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import memory  # noqa: E402
import operators  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import sides  # noqa: E402


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    case = results.Case("squeezenet1_1", 160, stride=8, growth=(5, 20))
    prepared = sides.Prepared(case, tmp_path_factory.mktemp("speeds"))
    prepared.prepare()
    return prepared


@pytest.fixture
def result():
    """Full inference 10 s a query, ours 2 s, Captum 20 s; the second turn was slower for all."""
    cost = (operators.OperatorCost("Conv", 1.5, 1e6, 3e9), operators.OperatorCost("Gather", 0.5, 1e6, 0))
    return results.Result(
        case=results.CASES[0],
        commit="abc",
        machine=machine(),
        grid=100,
        bound=8.0,
        batch=4,
        perturbations=2,
        difference=1e-6,
        sides={
            "plain": Timing(10, (100.0, 200.0, 90.0)),
            "incremental": Timing(100, (200.0, 320.0, 180.0)),
            "uniform": Timing(50, (200.0, 300.0, 190.0)),
            "captum": Timing(5, (100.0, 200.0, 90.0)),
        },
        growth=(Timing(16, (160.0,)), Timing(64, (256.0,)), Timing(256, (640.0,)), Timing(1024, (2560.0,))),
        base=Timing(8, (240.0,)),
        single=Timing(4, (40.0,)),
        memory={"plain": 10**8, "incremental": 2 * 10**8},
        operators={"incremental": cost, "plain": cost},
    )


# --------------------------------------------------------------------------------------------------- sides


def test_uniform_windows_cover_those_of_every_class(prepared):
    session = kx.Session(prepared.artifact)
    sweep = Sweep.random(session.plan, 16, 4, np.random.default_rng(0), {})
    own = sweep.batches(session, sweep.origins)
    with sides.uniform_windows():
        uniform = sweep.batches(session, sweep.origins)
    assert len({batch.window_sizes.tobytes() for batch in own}) > 1
    assert len({batch.window_sizes.tobytes() for batch in uniform}) == 1
    assert all((uniform[0].window_sizes >= batch.window_sizes).all() for batch in own)
    assert answered(uniform) == answered(own) == len(sweep.origins)
    assert set(np.concatenate([batch.queries for batch in uniform])) == set(range(len(sweep.origins)))


def test_every_side_is_timed(prepared, monkeypatch):
    monkeypatch.setattr("krypton_onnx.sweep.SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr("krypton_onnx.sweep.SAMPLE_BATCHES", 2)
    monkeypatch.setattr(sides, "HAS_CAPTUM", False)
    found = sides.times(prepared, 2)
    assert list(found.sides) == ["plain", "incremental", "uniform"]
    assert found.sides["incremental"].queries == found.grid == 19**2
    assert found.sides["uniform"].queries < found.grid
    assert [timing.queries for timing in found.growth] == [5, 20]
    assert all(len(t.seconds) == 2 for t in (*found.sides.values(), *found.growth, found.base, found.single))
    assert found.difference < 1e-5
    assert found.perturbations is None


def test_sides_take_turns():
    said = []

    def side(name, seconds):
        return lambda: said.append(name) or seconds

    assert in_turns({"a": side("a", 1.0), "b": side("b", 2.0)}, 3) == {"a": (1.0,) * 3, "b": (2.0,) * 3}
    assert said == ["a", "b"] * 3


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "densenet121"])
def test_the_twin_in_pytorch_is_the_same_network(name):
    torch = pytest.importorskip("torch")
    from torch_twin import torch_twin

    model = models.build(name, input_size=96)
    image = np.random.default_rng(0).standard_normal((2, 3, 96, 96), np.float32)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"image": image})
    with torch.no_grad():
        found = torch_twin(model)(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_captum_evaluates_as_often_as_its_time_is_divided_by():
    torch = pytest.importorskip("torch")
    pytest.importorskip("captum")
    from captum_side import EVALUATIONS, SIZES, attribute

    class Counting(torch.nn.Module):
        evaluations = 0

        def forward(self, images):
            self.evaluations += len(images)
            return images.sum((1, 2, 3))[:, None]

    for size in SIZES:
        network = Counting()
        attribute(network, np.ones((3, 299, 224), np.float32), size)
        assert network.evaluations == EVALUATIONS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's smaps_rollup")
def test_the_peak_is_seen_after_it_is_over():
    def run():
        with mmap.mmap(-1, 10**8) as pages:
            for start in range(0, len(pages), mmap.PAGESIZE):  # bytes to copy from would stay on the heap
                pages[start] = 1
            time.sleep(0.2)

    before = memory.private_bytes()
    assert memory.peak_private_bytes(run) - before > 9 * 10**7
    assert memory.private_bytes() - before < 5 * 10**7


# ------------------------------------------------------------------------------------------------ profiles


def event(name, operator, read, made, microseconds=1000):
    sizes = {"activation_size": "100", "parameter_size": "20", "output_size": "3"}
    shapes = {"input_type_shape": [{"float": shape} for shape in read], "output_type_shape": [{"float": made}]}
    return {"name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": operator, **sizes, **shapes}}


def test_costs_of_nodes_are_those_of_the_mean_query():
    convolution = event("c", "FusedConv", [[4, 8, 9, 9], [16, 2, 3, 3], [16]], [4, 16, 7, 7])
    product = event("g", "Gemm", [[4, 32], [10, 32], [10]], [4, 10])
    c, g, a = operators.node_costs([convolution, product, convolution, event("a", "Add", [[4], [4]], [4])], queries=8)
    # twice 4 x 16 x 7 x 7 cells, of 2 x 3 x 3 multiply-adds each
    assert c.cost == operators.OperatorCost("Conv", 2e-3 / 8, 2 * 123 / 8, 2 * 2 * 4 * 16 * 49 * 18 / 8)
    assert g.cost.flops == 2 * 4 * 10 * 32 / 8
    assert a.cost.flops == 0
    assert [cost.operator for cost in operators.costs([g, c])] == ["Conv", "Gemm"]


def test_both_graphs_are_profiled(prepared):
    found = sides.operator_costs(prepared, 4)
    ours, plain = (report.counted(found[side]) for side in ("incremental", "plain"))
    counted = inspect_model(prepared.model).flops
    assert counted * 0.99 < plain.flops < counted * 1.1  # kernels in blocks pad channels
    assert 0 < ours.flops < plain.flops
    assert "Gather" in {cost.operator for cost in found["incremental"]}


# ----------------------------------------------------------------------------------------- figures, files


def test_ratios_are_of_medians_per_query(result):
    assert result.speedup("incremental") == pytest.approx(10 / 2)
    assert result.speedup("captum") == pytest.approx(0.5)
    # turns: 5, 6.25, 5
    assert result.spread("incremental") == pytest.approx(1.25 / 5 / 2)
    assert result.base_cost == pytest.approx(30 / 10)
    expected = [(16, 1.0), (64, 2.5), (256, 4.0), (1024, 4.0), (100, 5.0)]
    np.testing.assert_allclose(result.growth_speedups, expected)


def test_a_case_that_is_measured_again_replaces_itself_alone(result, tmp_path):
    file = tmp_path / "results.json"
    assert results.read(file) == []
    last, first = replace(result, case=results.CASES[-1]), result
    gone = replace(result, case=results.Case("gone"))
    results.write(file, results.merge([gone, last], first))
    assert results.read(file) == [first, last]
    again = replace(last, commit="def")
    assert results.merge(results.read(file), again) == [first, again]


def test_pages_are_filled_between_their_markers(result, tmp_path, monkeypatch):
    for name in ("PAGE", "README"):
        copy = shutil.copy(getattr(report, name), tmp_path)
        monkeypatch.setattr(report, name, Path(copy))
    monkeypatch.setattr(report, "CHART", tmp_path / "chart.svg")
    two = {side: result.sides[side] for side in ("plain", "incremental", "uniform")}
    known = [result, replace(result, case=results.CASES[1], growth=(), perturbations=None, sides=two)]
    report.render(known)
    filled = {page: page.read_text() for page in (report.PAGE, report.README)}
    assert all("**5.00×** ±12%" in text for text in filled.values())
    assert "| 1.00× | 2.50× | 4.00× | 4.00× | 5.00× |" in filled[report.PAGE]
    assert "| 100 MB | 200 MB |" in filled[report.PAGE]
    assert "How it works" in filled[report.README]
    drawn = report.CHART.read_bytes()
    report.render(known)
    assert {page: page.read_text() for page in filled} == filled
    assert report.CHART.read_bytes() == drawn
    with pytest.raises(ValueError, match="no place for elsewhere"):
        report.fill(report.PAGE, "elsewhere", "")
