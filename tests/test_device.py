"""Answers that are computed on a device: with the processor as one, everywhere; on CUDA where there is one."""

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from twin import average, normal, small_net

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.artifact import EXACT_FILES
from krypton_onnx.models.digits import digit_scene
from krypton_onnx.runtime import captured_driver, device_driver, providers, resident, session
from krypton_onnx.runtime.captured_driver import CapturedDriver
from krypton_onnx.runtime.device_driver import DeviceDriver
from krypton_onnx.runtime.driver import Driver
from krypton_onnx.runtime.engine import NOT_CAPTURED, Engine
from krypton_onnx.runtime.failures import FailedRunError, OutOfMemoryError, failure
from krypton_onnx.runtime.providers import CPU, CUDA, why_not_cuda
from krypton_onnx.runtime.resident import Device, Resident
from krypton_onnx.runtime.staging import page_locked, staging

AUTOMATIC = providers.automatic
"""Before conftest takes the CPU for granted."""

FILES = resources.files("krypton_onnx.models")
node = helper.make_node
SIZE, PATCH = 32, 5
PROCESSOR = Device("cpu")


def net(channels: int = 8, outputs: int = 3) -> onnx.ModelProto:
    """Windows, a wide head that becomes a tail, and a map beside it."""
    nodes = [
        node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["ra"]),
        node("Conv", ["ra", "w2"], ["b"], pads=[1, 1, 1, 1]),
        node("Relu", ["b"], ["maps"]),
        node("MaxPool", ["maps"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w3"], ["c"], pads=[1, 1, 1, 1]),
        node("Flatten", ["c"], ["flat"]),
        node("Gemm", ["flat", "w4"], ["g"]),
        node("Relu", ["g"], ["rg"]),
        node("Gemm", ["rg", "w5"], ["y"]),
    ]
    weights = {
        "w1": normal(channels, 3, 3, 3),
        "w2": normal(channels, channels, 3, 3),
        "w3": normal(channels, channels, 3, 3),
        "w4": normal(channels * SIZE * SIZE // 4, 512),
        "w5": normal(512, outputs),
    }
    model = small_net(nodes, weights, inputs={"image": ["N", 3, SIZE, SIZE]})
    model.graph.output.append(
        helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, ["N", channels, SIZE, SIZE])
    )
    return model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> kx.Artifact:
    path = tmp_path_factory.mktemp("device") / "net.onnx"
    onnx.save(net(), path)
    made = kx.compile(path, patch=PATCH)
    assert made.plan.tail is not None
    return made


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions take the processor for a device with a memory of its own."""
    for module in (session, device_driver):
        monkeypatch.setattr(module, "device_of", lambda _: PROCESSOR)


def queries(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.integers(0, SIZE - PATCH + 1, (count, 2)), rng.standard_normal((count, 3, PATCH, PATCH), np.float32)


def same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("shared", [False, True])
def test_answers_are_those_of_the_host(
    artifact: kx.Artifact, image: np.ndarray, request: pytest.FixtureRequest, shared: bool
) -> None:
    origins, content = queries(60)
    content = content[:1] if shared else content
    expected = kx.Session(artifact).infer(image, origins, content)
    request.getfixturevalue("on_device")
    there = kx.Session(artifact, threads=1)
    base = there.materialize(image)
    assert there.int8 is None
    assert isinstance(there.exact, DeviceDriver)
    assert all(isinstance(view, Resident) for view in base.views.values())
    same(there.infer(base, origins, content), expected)
    same(there.infer(base, origins[:1], content[:1]), {name: values[:1] for name, values in expected.items()})


def test_regions_are_those_of_the_host(
    artifact: kx.Artifact, image: np.ndarray, request: pytest.FixtureRequest
) -> None:
    origins, content = queries(20)
    expected: Any = kx.Session(artifact).infer(image, origins, content, regions=True)["maps"]
    request.getfixturevalue("on_device")
    found: Any = kx.Session(artifact).infer(image, origins, content, regions=True)["maps"]
    np.testing.assert_array_equal(found.starts, expected.starts)
    for ours, theirs in zip(found.windows, expected.windows, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[kx.Artifact, np.ndarray]:
    """The demo model, with all variants, and a scene."""
    preprocess = kx.Preprocess.from_json(str(FILES / "demo_preprocess.json"))
    artifact = kx.compile(
        str(FILES / "demo.onnx"), tmp_path_factory.mktemp("demo") / "demo.krypton", preprocess=preprocess
    )
    return artifact, preprocess.tensor(digit_scene(np.random.default_rng(11), "test").picture)


MODES = [
    kx.Exact(),
    kx.Approximate(tau=0.4),
    kx.Approximate(tau=0.5, drill_down=kx.DrillDown(0.1, 8)),
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_heatmaps_are_those_of_the_host(demo: Any, request: pytest.FixtureRequest, mode: Any) -> None:
    artifact, picture = demo
    expected = kx.Session(artifact, threads=1).explain(picture, [1, 2], mode=mode, fill="blur", progress=False)
    request.getfixturevalue("on_device")
    found = kx.Session(artifact).explain(picture, [1, 2], mode=mode, fill="blur", progress=False)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert np.ptp(found.drop) > 0.05


@pytest.mark.usefixtures("on_device")
def test_data_crosses_once_each_way(artifact: kx.Artifact, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    crossed, put, fetched = Counter(), resident._update, Resident.fetched
    monkeypatch.setattr(resident, "_update", lambda *a: (crossed.update(["put"]), put(*a))[1])
    monkeypatch.setattr(Resident, "fetched", lambda *a: (crossed.update(["fetched"]), fetched(*a))[1])
    there = kx.Session(artifact, threads=1)
    base = there.materialize(image)
    batches = list(there.exact.batches(queries(500)[0], (PATCH, PATCH)))
    assert len(batches) > 3
    crossed.clear()
    there.infer(base, *queries(500))
    assert crossed == {"put": len(batches), "fetched": 2}  # what a batch's queries differ in; an output each


@pytest.mark.usefixtures("on_device")
def test_other_inputs_cross_with_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        node("Conv", ["image", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Mul", ["a", "gain"], ["m"]),
        *average("m", "y"),
    ]
    inputs = {"image": ["N", 3, 24, 24], "gain": [1, 4, 1, 1]}
    onnx.save(small_net(nodes, {"w": normal(4, 3, 3, 3)}, inputs=inputs), tmp_path / "net.onnx")
    made = kx.compile(tmp_path / "net.onnx", patch=4, device="cuda", image_input="image")
    there = kx.Session(made)
    gain = np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1)
    base = there.materialize(np.zeros((3, 24, 24), np.float32), {"gain": gain})
    sent, together = [], Device.put_together
    monkeypatch.setattr(Device, "put_together", lambda self, given: (sent.append(set(given)), together(self, given))[1])
    found = there.infer(base, [[3, 4]], np.ones((3, 4, 4)))["y"]
    assert sent
    assert not any("gain" in names for names in sent)
    plain = there.materialize(np.zeros((3, 24, 24), np.float32), {"gain": np.ones_like(gain)})
    once = there.infer(plain, [[3, 4]], np.ones((3, 4, 4)))["y"]
    np.testing.assert_allclose(found, once * gain.reshape(1, 4), rtol=1e-5)


@pytest.mark.usefixtures("on_device")
def test_what_is_planned_for_a_device_sends_back_scores_alone(
    for_cuda: kx.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = kx.Session(for_cuda, threads=1)
    base = there.materialize(np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32))
    _ = base.outputs
    shapes, fetched = [], Resident.fetched
    monkeypatch.setattr(Resident, "fetched", lambda self: (shapes.append(self.shape), fetched(self))[1])
    found = there.explain(base, [7, 0, 999], progress=False)
    assert shapes == [(found.scores[0].size, 3)]
    monkeypatch.undo()
    expected = kx.Session(for_cuda, [CPU]).explain(base.image, [7, 0, 999], progress=False)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5 * np.abs(expected.scores).max())


@pytest.mark.parametrize("to", [onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16])
def test_scores_of_other_types_are_picked_on_the_host(tmp_path: Path, request: pytest.FixtureRequest, to: int) -> None:
    nodes = [
        node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2"], ["b"], pads=[1, 1, 1, 1]),
        *average("b", "flat"),
        node("Cast", ["flat"], ["y"], to=to),
    ]
    model = small_net(nodes, {"w1": normal(4, 3, 3, 3), "w2": normal(5, 4, 3, 3)}, inputs={"image": [1, 3, 24, 24]})
    model.graph.output[0].type.tensor_type.elem_type = to
    onnx.save(model, tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4, device="cuda", verify=False)
    picture = np.random.default_rng(0).standard_normal((3, 24, 24)).astype(np.float32)
    expected = kx.Session(artifact, [CPU]).explain(picture, [3, 1], patch=4, progress=False)
    request.getfixturevalue("on_device")
    found = kx.Session(artifact).explain(picture, [3, 1], patch=4, progress=False)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert np.ptp(found.drop) > 1e-3


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("limits", [{"WAITING_BYTES": 3_000_000}, {"WAITING_QUERIES": 64}])
def test_many_outputs_come_back_in_several_pieces(
    artifact: kx.Artifact, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    origins, content = queries(300)
    expected = kx.Session(artifact, threads=1).infer(image, origins, content)
    for name, value in limits.items():
        monkeypatch.setattr(f"krypton_onnx.runtime.memory.{name}", value)
    there = kx.Session(artifact, threads=1)
    groups = Counter(batch.group for batch in there.exact.batches(origins, (PATCH, PATCH)))
    assert len(groups) > 3
    same(there.infer(image, origins, content), expected)


@pytest.mark.usefixtures("on_device")
def test_what_waits_is_part_of_a_budget(artifact: kx.Artifact) -> None:
    budget = 60_000_000
    there = kx.Session(artifact, threads=1, memory_budget=budget)
    sizes = Counter()
    for batch in there.exact.batches(np.random.default_rng(0).integers(0, 5, (2000, 2)), (28, 28)):
        sizes[batch.group] += len(batch.queries)
    each = 4 * (8 * SIZE * SIZE + 3 + 3 * 28 * 28)  # outputs and content
    assert budget / 40 < max(sizes.values()) * each <= budget / 4
    with pytest.raises(kx.KryptonError, match=r"needs [\d.]+ MB") as refused:
        kx.Session(artifact, memory_budget=1000)
    least = float(str(refused.value).split("needs ")[1].split(" MB")[0])
    tight = kx.Session(artifact, threads=1, memory_budget=int(1.01e6 * least))  # as much as it says suffices
    assert {len(batch.queries) for batch in tight.exact.batches(queries(9)[0], (PATCH, PATCH))} == {1}


@pytest.fixture
def small(on_device: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device with room for 7 queries a run; gives the sizes of all runs."""
    sizes: list[int] = []
    run_on = Engine.run_on

    def cramped(engine: Engine, device: Device, feed: Any, results: Any, number: int | None = None) -> Any:
        if "origins" in feed:
            sizes.append(feed["origins"].shape[0])
            if sizes[-1] > 7:
                raise OutOfMemoryError("There is no memory for this.")
        return run_on(engine, device, feed, results, number)

    monkeypatch.setattr(Engine, "run_on", cramped)
    return sizes


def test_without_room_batches_are_halved(artifact: kx.Artifact, image: np.ndarray, small: list[int]) -> None:
    origins, content = queries(100)
    there = kx.Session(artifact, threads=1)
    largest = max(len(batch.queries) for batch in there.exact.batches(origins, (PATCH, PATCH)))
    base = there.materialize(image)
    small.clear()
    found = there.infer(base, origins, content)
    assert there.exact._room[PATCH, PATCH] in {largest >> times for times in range(1, 6)}
    assert there.exact._room[PATCH, PATCH] <= 7 < largest
    assert sum(size for size in small if size <= 7) == 100
    small.clear()
    same(there.infer(base, origins, content), found)
    assert max(small) <= 7  # what has been learned is kept
    there.infer(base, origins, content[:, :, :3, :3])
    assert max(small) > 7  # of this patch
    regions: Any = there.infer(base, origins, content, regions=True)["maps"]
    assert len(regions.windows) == 100
    plain = Driver(artifact.folder, EXACT_FILES, artifact.plan, there._resources)
    same(found, plain.outputs(plain.materialize(image, {}), origins, content))


def test_batches_that_are_told_where_windows_begin_are_halved_too(demo: Any, small: list[int]) -> None:
    artifact, picture = demo
    found = kx.Session(artifact, threads=1).explain(picture, 1, mode=kx.Approximate(tau=0.4), progress=False)
    assert max(small) > 7 >= min(small)
    small.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "device_of", lambda _: None)
        expected = kx.Session(artifact, threads=1).explain(picture, 1, mode=kx.Approximate(tau=0.4), progress=False)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert not small


@pytest.mark.parametrize("when", ["put", "empty"])
def test_no_room_for_what_waits_is_told(artifact: kx.Artifact, image: np.ndarray, on_device: None, when: str) -> None:
    there = kx.Session(artifact, threads=1)
    base = there.materialize(image)
    expected, calls = there.infer(base, *queries(60)), []

    def full(self: Device, *given: Any) -> Any:
        calls.append(when)
        if len(calls) == 1:
            raise OutOfMemoryError("There is no memory for this.")
        return method(self, *given)

    method = getattr(Device, when)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, when, full)
        same(there.infer(base, *queries(60)), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", lambda *_: 1 / 0)
        with pytest.raises(kx.KryptonError, match="ONNX Runtime failed"):
            there.infer(base, *queries(60))


def test_extents_that_depend_on_the_data(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    nodes = [
        node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("NonZero", ["r"], ["found"]),
        node("Gather", ["found", "which"], ["y"], axis=0),
    ]
    model = small_net(nodes, {"w1": normal(2, 3, 3, 3)}, inputs={"image": [1, 3, 12, 12]})
    model.graph.input.append(helper.make_tensor_value_info("which", onnx.TensorProto.INT64, []))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4, verify=False)
    image, inputs = np.random.default_rng(0).standard_normal((3, 12, 12)).astype(np.float32), {"which": np.array(2)}
    origins, content = np.array([[0, 0], [3, 4], [8, 8]]), np.zeros((3, 4, 4), np.float32)
    here = kx.Session(artifact)
    expected = here.infer(here.materialize(image, inputs), origins, content)["y"]
    request.getfixturevalue("on_device")
    there = kx.Session(artifact)
    found = there.infer(there.materialize(image, inputs), origins, content)["y"]
    assert [one.shape for one in found] == [one.shape for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_room_for_a_single_query_is_an_error(artifact: kx.Artifact, image: np.ndarray, small: Any) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OutOfMemoryError("There is no memory for this.")

    there = kx.Session(artifact, threads=1)
    base = there.materialize(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "run_on", full)
        with pytest.raises(OutOfMemoryError, match="no memory"):
            there.infer(base, *queries(9))
    there.infer(base, *queries(9))


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        (
            "BFCArena::AllocateRawInternal Available memory of 3 is smaller than requested bytes of 9",
            OutOfMemoryError,
            "no m",
        ),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError, "no memory for this: CUDA failure 2"),
        ("CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED", OutOfMemoryError, "no memory"),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", FailedRunError, "start another"),
        ("CUDA failure 719: unspecified launch failure", FailedRunError, "The device stopped working"),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got 3 dimensions", FailedRunError, "failed: Got 3 dimensions"),
        (
            "/onnxruntime_src/core/info.cc:63 static A::From(const Options&) [ONNXRuntimeError] : 1 : FAIL : "
            'utils.h:182 Parse Unknown provider option: "x".',
            FailedRunError,
            'failed: Unknown provider option: "x".',
        ),
    ],
)
def test_failures_are_told_apart(said: str, kind: type, told: str) -> None:
    found = failure(RuntimeError(said))
    assert type(found) is kind
    assert told in str(found)


def test_pieces_are_put_together_in_memory_that_is_kept() -> None:
    with staging(100, None) as first, staging(3 << 20, None) as second:
        first[:], second[:] = 1, 2
        assert (len(first), len(second)) == (100, 3 << 20)
        assert not np.shares_memory(first, second)
    with staging(2 << 20, None) as again:
        assert np.shares_memory(again, first) or np.shares_memory(again, second)
    assert page_locked(100, 0) is None or not why_not_cuda()


def test_arrays_stay_what_they_are_on_a_device() -> None:
    values = np.arange(24, dtype=np.int64).reshape(6, 4)
    there = PROCESSOR.put(values)
    np.testing.assert_array_equal(there.fetched(), values)
    np.testing.assert_array_equal(there.rows(2, 5).fetched(), values[2:5])
    np.testing.assert_array_equal(
        there.rows(2, 6).rows(1, 3).reshaped((2, 2, 2)).fetched(), values[3:5].reshape(2, 2, 2)
    )
    assert PROCESSOR.empty((0, 3), "float32").fetched().shape == (0, 3)
    for name in ("float16", "float32", "float64", "uint8", "int8", "int32", "bool"):
        np.testing.assert_array_equal(PROCESSOR.put(np.ones(3, name)).rows(1, 3).fetched(), np.ones(2, name))


# ------------------------------------------------------------------------------------------------- plans


@pytest.fixture(scope="module")
def for_cuda(tmp_path_factory: pytest.TempPathFactory) -> kx.Artifact:
    path = tmp_path_factory.mktemp("plan") / "squeezenet.onnx"
    onnx.save(models.build("squeezenet1_1", input_size=128), path)
    return kx.compile(path, device="cuda", verify=False)


def test_plans_for_cuda_have_larger_batches_and_fewer_classes(for_cuda: kx.Artifact) -> None:
    there = for_cuda.plan
    here = kx.compile(
        for_cuda.folder.with_name("squeezenet.onnx"), for_cuda.folder.with_name("here.krypton"), verify=False
    ).plan
    assert (there.device, here.device) == ("cuda", "cpu")
    assert there.batch > here.batch
    assert there.run_seconds / there.query_seconds > here.run_seconds / here.query_seconds
    assert there.int8 is None
    assert here.int8 is not None
    origins = np.stack(np.meshgrid(np.arange(0, 113, 4), np.arange(0, 113, 4)), axis=-1).reshape(-1, 2)
    sizes = [
        {batch.window_sizes.tobytes() for batch in kx.Session(folder, [CPU]).exact.batches(origins, (16, 16))}
        for folder in (for_cuda, kx.open_artifact(for_cuda.folder.with_name("here.krypton")))
    ]
    assert len(sizes[0]) < len(sizes[1])


def test_a_plan_for_cuda_is_exact_on_the_cpu(for_cuda: kx.Artifact) -> None:
    checks = kx.verify(for_cuda.folder.with_name("squeezenet.onnx"), for_cuda, queries=8, providers=[CPU])
    assert all(check.exact for check in checks)


def test_an_unknown_device_is_refused(tmp_path: Any) -> None:
    unknown: Any = "gpu"
    with pytest.raises(kx.KryptonError, match="device must be 'cpu' or 'cuda', not 'gpu'"):
        kx.compile(tmp_path / "any.onnx", device=unknown)


# -------------------------------------------------------------------------------------------------- weights


@pytest.mark.usefixtures("on_device")
def test_weights_are_lent_to_the_graphs(for_cuda: kx.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not read by them: what is lent decides."""
    image = np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32)
    right = kx.Session(for_cuda).materialize(image).outputs
    read = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *given: read(*given) * 0)
    wrong = kx.Session(for_cuda).materialize(image).outputs
    own = kx.Session(for_cuda, session_options=ort.SessionOptions()).materialize(image).outputs
    for name, values in right.items():
        assert np.abs(wrong[name] - values).max() > 0.01 * np.abs(values).max()
    same(own, right)


# --------------------------------------------------------------------------------------------- CUDA graphs


@pytest.fixture
def captured(on_device: None, monkeypatch: pytest.MonkeyPatch) -> Counter[int | None]:
    """Sessions capture what they run; gives how often each number ran."""
    monkeypatch.setattr(session, "captures", lambda _: True)
    ran: Counter[int | None] = Counter()
    run_on = Engine.run_on

    def counting(engine: Engine, device: Device, feed: Any, results: Any, number: int | None = None) -> Any:
        ran[number] += 1
        return run_on(engine, device, feed, results)

    monkeypatch.setattr(Engine, "run_on", counting)
    return ran


def test_what_is_captured_answers_for_the_image_that_is_asked(
    for_cuda: kx.Artifact, request: pytest.FixtureRequest
) -> None:
    """Two images in turn, of which one's views lie where the other's were."""
    images = np.random.default_rng(0).standard_normal((2, 3, 128, 128)).astype(np.float32)
    here = kx.Session(for_cuda, [CPU])
    expected = [here.explain(image, [7, 0, 999], stride=8, progress=False).scores for image in images]
    ran = request.getfixturevalue("captured")
    there = kx.Session(for_cuda)
    assert isinstance(there.exact, CapturedDriver)
    bases = [there.materialize(image) for image in images]
    known: set[int] = set()
    for base, scores in zip(bases * 2, expected * 2, strict=True):
        before = known | ran.keys()
        ran.clear()
        found = there.explain(base, [7, 0, 999], stride=8, progress=False)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max())
        known = before | ran.keys()
    assert known == before  # all of it has been captured
    batches = len(list(there.exact.batches(grid(8), (16, 16))))
    assert sum(ran.values()) == 1 + batches + 1  # the base run, and at last the scores are picked
    assert len(known) > 3
    assert ran[None] == 1


def grid(stride: int) -> np.ndarray:
    along = np.arange(0, 128 - 15, stride)
    return np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)


def test_a_shape_is_replayed_within_a_question(for_cuda: kx.Artifact, request: pytest.FixtureRequest) -> None:
    """What is fetched stays what it was."""
    image, rng = np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32), np.random.default_rng(1)
    origins, content = np.full((1200, 2), 40), rng.standard_normal((1200, 3, 4, 4)).astype(np.float32)
    expected = kx.Session(for_cuda, [CPU]).infer(image, origins, content)
    ran = request.getfixturevalue("captured")
    there = kx.Session(for_cuda)
    same(there.infer(image, origins, content), expected)
    assert max(ran.values()) > 1


def test_of_more_shapes_the_last_stay_captured(
    for_cuda: kx.Artifact, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32)
    expected = kx.Session(for_cuda, [CPU]).infer(image, grid(4), np.ones((3, 16, 16)))
    ran, forgotten = request.getfixturevalue("captured"), []
    monkeypatch.setattr(captured_driver, "MOST", 1)
    monkeypatch.setattr(Engine, "forget", lambda _, number: forgotten.append(number))
    there = kx.Session(for_cuda)
    same(there.infer(image, grid(4), np.ones((3, 16, 16))), expected)
    _, *shapes = sorted(ran)  # and the base run
    assert len(shapes) > 1
    assert forgotten == shapes[:-1]


@pytest.mark.usefixtures("captured")
def test_places_of_what_is_captured_are_part_of_a_budget(
    for_cuda: kx.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_driver, "waiting_bytes", lambda _: 8_000_000)
    there = kx.Session(for_cuda)
    base = there.materialize(np.zeros((3, 128, 128), np.float32))
    for side in range(2, 30, 2):
        there.infer(base, grid(8)[:100] // 2, np.ones((100, 3, side, side)))
    assert isinstance(there.exact, CapturedDriver)
    runs = list(there.exact._runs.values())
    assert 1 < len(runs) < 14
    assert 0 < sum(run.nbytes for run in runs) <= 8_000_000


def test_without_room_nothing_stays_captured(for_cuda: kx.Artifact, request: pytest.FixtureRequest) -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 128, 128)).astype(np.float32)
    here = kx.Session(for_cuda, [CPU])
    expected = [here.infer(one, grid(8), np.ones((3, 16, 16))) for one in image]
    request.getfixturevalue("captured")
    there = kx.Session(for_cuda)
    bases = [there.materialize(one) for one in image]
    same(there.infer(bases[0], grid(8), np.ones((3, 16, 16))), expected[0])
    run_on, failed = Engine.run_on, []

    def full(engine: Engine, device: Device, feed: Any, results: Any, number: int | None = None) -> Any:
        if engine is there.exact.open().base and not failed:
            failed.append(number)
            raise OutOfMemoryError("There is no memory for this.")
        return run_on(engine, device, feed, results, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "run_on", full)
        same(there.infer(bases[1], grid(8), np.ones((3, 16, 16))), expected[1])
        same(there.infer(bases[0], grid(8), np.ones((3, 16, 16))), expected[0])
    assert failed


def test_outputs_of_unknown_extents_run_uncaptured(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    nodes = [
        node("Conv", ["image", "w1"], ["r"], pads=[1, 1, 1, 1]),
        node("Relu", ["r"], ["maps"]),
        *average("maps", "flat"),
        node("Gemm", ["flat", "w2"], ["y"]),
        node("NonZero", ["flat"], ["where"]),
    ]
    model = small_net(nodes, {"w1": normal(4, 3, 3, 3), "w2": normal(4, 5)}, inputs={"image": [1, 3, 24, 24]})
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("where", onnx.TensorProto.INT64, [2, None]),
            helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, [1, 4, 24, 24]),
        ]
    )
    del model.graph.output[0]
    model.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5]))
    onnx.save(model, tmp_path / "net.onnx")
    made = kx.compile(tmp_path / "net.onnx", patch=4, device="cuda", verify=False)
    image = np.random.default_rng(0).standard_normal((3, 24, 24)).astype(np.float32)
    asked = ([[0, 0], [5, 7]], np.ones((3, 4, 4)))
    here = kx.Session(made, [CPU])
    windows: Any = here.infer(image, *asked, regions=True)
    expected = here.infer(image, *asked)
    scores = here.explain(image, 3, output="y", patch=4, progress=False).scores
    ran = request.getfixturevalue("captured")
    there = kx.Session(made)
    regions: Any = there.infer(image, *asked, regions=True)
    found = there.infer(image, *asked)
    assert set(ran) > {NOT_CAPTURED}
    for one, other in zip(found.pop("where"), expected.pop("where"), strict=True):
        np.testing.assert_array_equal(one, other)
    same(found, expected)
    maps, theirs = regions["maps"], windows["maps"]
    for query in range(2):
        np.testing.assert_allclose(maps.windows[query], theirs.windows[query], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there.explain(image, 3, output="y", patch=4, progress=False).scores, scores, rtol=1e-5)


def test_a_tail_is_captured_for_every_number_of_queries(tmp_path: Path, image: np.ndarray, request: Any) -> None:
    onnx.save(net(), tmp_path / "net.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("krypton_onnx.passes.plan_tail.LEAST_SHARE", 0.0)
        made = kx.compile(tmp_path / "net.onnx", patch=PATCH, device="cuda")
    assert made.plan.tail is not None
    origins, content = queries(60)
    expected = kx.Session(made, [CPU]).infer(image, origins, content)
    ran = request.getfixturevalue("captured")
    there = kx.Session(made)
    same(there.infer(image, origins, content), expected)
    assert len(ran) == 3
    few = {name: values[:7] for name, values in expected.items()}
    same(there.infer(image, origins[:7], content[:7]), few)
    assert len(ran) == 5
    known = set(ran)
    ran.clear()
    same(kx.Session(made).infer(image, origins[:7], content[:7]), few)
    assert known.isdisjoint(ran)  # drivers can share a tail


def test_approximate_heatmaps_are_captured_too(for_cuda: kx.Artifact, request: pytest.FixtureRequest) -> None:
    image, mode = np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32), kx.Approximate(tau=0.5)
    expected = kx.Session(for_cuda, [CPU]).explain(image, 5, mode=mode, progress=False)
    ran = request.getfixturevalue("captured")
    found = kx.Session(for_cuda).explain(image, 5, mode=mode, progress=False)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5 * np.abs(expected.scores).max())
    assert len(ran) > 2


@pytest.mark.usefixtures("captured")
def test_what_cannot_be_captured_is_told(artifact: kx.Artifact) -> None:
    with pytest.raises(kx.KryptonError, match="compile the model again with device='cuda', or leave out enable_cuda_"):
        kx.Session(artifact)


# ------------------------------------------------------------------------------------------------- on CUDA


@pytest.fixture
def cuda() -> list[Any]:
    if reason := why_not_cuda():
        pytest.skip(f"CUDA does not work here: {reason}")
    return [CUDA, CPU]


@pytest.mark.gpu
def test_answers_on_cuda_are_exact(artifact: kx.Artifact, for_cuda: kx.Artifact, cuda: list[Any]) -> None:
    for one, name in ((artifact, "net.onnx"), (for_cuda, "squeezenet.onnx")):
        assert all(check.exact for check in kx.verify(one.folder.with_name(name), one, providers=cuda))


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_heatmaps_on_cuda_are_those_of_the_cpu(demo: Any, cuda: list[Any], mode: Any) -> None:
    artifact, picture = demo
    there, here = (
        kx.Session(artifact, given).explain(picture, [1, 2], mode=mode, fill="blur", progress=False)
        for given in (cuda, [CPU])
    )
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-5)


@pytest.mark.gpu
def test_cuda_is_chosen_by_itself(cuda: list[Any]) -> None:
    assert AUTOMATIC()[0][0] == CUDA
