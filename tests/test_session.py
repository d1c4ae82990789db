"""The driver: memory, threads, batches, and what it refuses."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.classes import WindowTable, mean_seconds, window_tables
from krypton_onnx.plan import Plan
from krypton_onnx.runtime import memory
from krypton_onnx.runtime.batches import plan_batches
from krypton_onnx.runtime.engine import Engine
from krypton_onnx.runtime.memory import LARGEST_BATCH, OVERHEAD, Lanes, lanes
from krypton_onnx.runtime.questions import grid


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "squeezenet.onnx"
    onnx.save(models.build("squeezenet1_1", input_size=160), path)
    return kx.compile(path, patch=16, verify=False)


@pytest.fixture(scope="module")
def image(artifact):
    return np.random.default_rng(0).standard_normal(artifact.plan.image.shape).astype(np.float32)


def queries_a_run(plan: Plan, patch: tuple[int, int], budget: int | None) -> int:
    return lanes(plan, patch, tables(plan, patch), budget, 1).batch


def test_a_budget_chooses_the_batch(artifact):
    plan = artifact.plan
    whole = queries_a_run(plan, plan.patch, None)
    sizes = [queries_a_run(plan, plan.patch, budget) for budget in (27_000_000, 30_000_000, 10**10)]
    assert 1 <= sizes[0] < sizes[1] < sizes[2] == whole
    # a larger patch needs larger windows
    assert queries_a_run(plan, (48, 48), 30_000_000) < sizes[1]


def test_too_small_a_budget_says_what_is_needed(artifact):
    with pytest.raises(kx.KryptonError, match=r"needs (\d+(\.\d+)?) MB") as refusal:
        kx.Session(artifact, memory_budget=1_000_000)
    needed = float(str(refusal.value).split("needs ")[1].split(" MB")[0])
    assert queries_a_run(artifact.plan, artifact.plan.patch, int(needed * 1.01e6)) == 1


PEAK = """
import sys, threading, time
import numpy as np
import krypton_onnx as kx

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

session = kx.Session(sys.argv[1], memory_budget=int(sys.argv[2]))
image = np.random.default_rng(0).standard_normal(session.plan.image.shape).astype(np.float32)
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
session.explain(image, stride=16, progress=False)
done = True
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("budget", [30_000_000, 60_000_000])
def test_memory_stays_within_the_budget(artifact, budget):
    command = [sys.executable, "-c", PEAK, str(artifact.folder), str(budget)]
    # from elsewhere: the root's folder krypton_onnx/ is not the installed package
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=artifact.folder)
    used = int(run.stdout)
    # a tenth at least, or the measurement saw nothing
    assert budget / 10 < used <= budget


def test_threads_share_a_session(artifact, image):
    session = kx.Session(artifact)
    base = session.materialize(image)
    origins = np.stack(np.meshgrid(np.arange(0, 145, 48), np.arange(0, 145, 48)), axis=-1).reshape(-1, 2)
    contents = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    alone = [session.infer(base, origins, content)["logits"] for content in contents]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda content: session.infer(base, origins, content)["logits"], contents))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(alone[0], alone[1])


def test_no_queries_give_empty_outputs(artifact, image):
    outputs = kx.Session(artifact).infer(image, np.empty((0, 2), np.int64), np.zeros((3, 4, 4), np.float32))
    assert outputs["logits"].shape == (0, 1000)


def tables(plan: Plan, patch: tuple[int, int]) -> tuple[WindowTable, WindowTable]:
    return window_tables(plan.program, plan.windows, patch)


def test_batches_hold_every_query_once_and_one_class_each(artifact):
    plan = artifact.plan
    origins = np.stack(np.meshgrid(np.arange(0, 145, 4), np.arange(0, 145, 4), indexing="ij"), axis=-1).reshape(-1, 2)
    batches = list(plan_batches(plan, tables(plan, (16, 16)), origins, (16, 16), Lanes(1, 16, 16)))
    assert sorted(np.concatenate([b.queries for b in batches]).tolist()) == list(range(len(origins)))
    assert max(len(b.queries) for b in batches) == 16
    assert len({b.window_sizes.tobytes() for b in batches}) > 4
    for batch in batches:
        np.testing.assert_array_equal(batch.origins, origins[batch.queries])
        for view, (first, stop) in zip(plan.views, batch.bands, strict=True):
            assert 0 <= first < stop <= view.rows
    # neighbours are together, so that early views are fed in narrow bands
    image_view = [v.window for v in plan.views].index(None)
    assert (
        np.median([stop - first for first, stop in (b.bands[image_view] for b in batches)])
        < plan.views[image_view].rows / 2
    )


@pytest.mark.parametrize(
    ("origins", "content", "message"),
    [
        ([[0.5, 1]], (3, 4, 4), "integers"),
        ([[0, 0, 0]], (3, 4, 4), "integers"),
        ([[157, 0]], (3, 4, 4), "leaves"),
        ([[0, -1]], (3, 4, 4), "leaves"),
        ([[0, 0]], (1, 4, 4), "patch_content"),
        ([[0, 0]], (3, 161, 4), "does not fit"),
        ([[0, 0], [1, 1]], (3, 3, 4, 4), "3 queries"),
        ([[0, 0]], (3, 0, 4), "patch_content"),
    ],
)
def test_refuses_queries_that_do_not_fit(artifact, image, origins, content, message):
    with pytest.raises(kx.KryptonError, match=message):
        kx.Session(artifact).infer(image, np.array(origins), np.zeros(content, np.float32))


def test_refuses_images_that_do_not_fit(artifact, image):
    session = kx.Session(artifact)
    for wrong, message in [
        (image[:2], "shape"),
        (image.astype(np.complex64), "type"),
        (np.where(image > 3, np.nan, image), "finite"),
    ]:
        with pytest.raises(kx.KryptonError, match=message):
            session.materialize(wrong)
    with pytest.raises(kx.KryptonError, match="unknown: mask"):
        session.materialize(image, {"mask": image})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": 1.7}, "target"),
        ({"target": True}, "target"),
        ({"target": [[1]]}, "target"),
        ({"target": None}, "target"),
        ({"region": (0.5, 0, 40, 40)}, "region"),
        ({"region": (0, 0, 40)}, "region"),
        ({"fill": float("nan")}, "fill"),
        ({"fill": None}, "fill"),
        ({"fill": 1e60}, "fill"),
        ({"fill": "black"}, "preprocess"),
        ({"fill": [1, 2]}, "fill"),
        ({"edge": "wrap"}, "edge"),
        ({"patch": 2.5}, "patch"),
        ({"stride": (0, 1)}, "stride"),
        ({"output": "none"}, "output"),
    ],
)
def test_refuses_questions_that_mean_nothing(artifact, image, asked, message):
    session = kx.Session(artifact)
    with pytest.raises(kx.KryptonError, match=message):
        session.explain(image, **{"stride": 64, **asked})


def test_numpy_numbers_are_numbers(artifact, image, tmp_path):
    heatmap = kx.Session(artifact).explain(
        image, np.int64(3), patch=np.int32(16), stride=64, region=np.array([0, 0, 96, 96]), fill=np.float32(0.5)
    )
    assert heatmap.target == 3
    heatmap.save(tmp_path / "map.npz")


def test_a_larger_patch_runs_in_smaller_batches(artifact):
    plan = artifact.plan
    assert queries_a_run(plan, (128, 128), None) < queries_a_run(plan, plan.patch, None) == plan.batch
    assert queries_a_run(plan, (1, 1), None) == plan.batch


def test_progress_is_silent_unless_wanted(artifact, image, capfd):
    session = kx.Session(artifact)
    session.explain(image, stride=48)
    assert capfd.readouterr() == ("", "")
    session.explain(image, stride=48, progress=True)
    assert "query" in capfd.readouterr().err


def test_progress_is_told_to_a_function(artifact, image):
    session, told = kx.Session(artifact), []
    heatmap = session.explain(image, stride=24, progress=lambda *counts: told.append(counts))
    assert len(told) > 1
    assert [answered for answered, _ in told] == sorted({answered for answered, _ in told})
    assert told[-1] == (heatmap.scores.size, heatmap.scores.size)
    told.clear()
    mode = kx.Approximate(ssim=0.9)  # which does not know beforehand
    heatmap = session.explain(image, stride=8, mode=mode, progress=lambda *counts: told.append(counts))
    asked = sum(level["queries"] for level in heatmap.record["approximation"]["queries"])
    assert told[-1] == (asked, None)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_progress_raises_ends_the_computing(artifact, image, monkeypatch, threads):
    session, runs, run = kx.Session(artifact, threads=threads), [], Engine.run

    def counted(*arguments):
        runs.append(arguments)
        return run(*arguments)

    base = session.materialize(image)
    batches = len(
        list(session.exact.batches(grid((160, 160), (16, 16), (4, 4), "cover", None).reshape(-1, 2), (16, 16)))
    )
    base.outputs  # noqa: B018  so that this run is not counted
    monkeypatch.setattr(Engine, "run", counted)

    def stop(answered, _):
        raise InterruptedError(answered)

    with pytest.raises(InterruptedError):
        session.explain(base, stride=4, progress=stop)
    begun = len(runs)
    assert begun <= 2 * threads + 2 < batches  # each worker's, the one that waits behind them, and a tail's
    time.sleep(0.2)
    assert len(runs) == begun


def test_unknown_provider(artifact):
    with pytest.raises(kx.KryptonError, match="NoSuchProvider"):
        kx.Session(artifact, providers=["NoSuchProvider"])


def test_session_takes_a_path(artifact, image):
    heatmap = kx.Session(Path(artifact.folder)).explain(image, target=[1, 2], patch=(8, 32), stride=(40, 60))
    assert heatmap.scores.shape == (2, *heatmap.origins.shape[:2])
    assert heatmap.record["patch"] == [8, 32]
    assert heatmap.drop.dtype == np.float32


@pytest.mark.parametrize("tau", [0.3, 0.5, 1.0])
def test_what_a_run_costs_once_is_shared_by_enough_queries(artifact, tau):
    plan = artifact.plan.int8
    tables_ = window_tables(plan.program, plan.windows, (16, 16), tau)
    batch = lanes(plan, (16, 16), tables_, None, 1).batch
    query = mean_seconds(plan.windows, tables_) + plan.query_seconds
    assert batch == LARGEST_BATCH or plan.run_seconds / (batch + 1) <= OVERHEAD * query
    assert batch <= LARGEST_BATCH


def test_larger_batches_cost_no_worker(artifact, monkeypatch):
    plan = artifact.plan.int8
    tables_ = window_tables(plan.program, plan.windows, (16, 16), 1.0)
    budgets = np.linspace(20e6, 120e6, 60).astype(int)

    def found():
        return [lanes(plan, (16, 16), tables_, int(budget), 4) for budget in (*budgets, 10**12)]

    larger = found()
    monkeypatch.setattr(memory, "OVERHEAD", 1e9)
    planned = found()
    assert larger[-1].batch > planned[-1].batch
    assert [lane.workers for lane in larger] == [lane.workers for lane in planned]
    assert {lane.workers for lane in planned} > {4}
