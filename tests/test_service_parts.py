"""The service's parts by themselves: what a client cannot cause, or not at will."""

import asyncio
import threading
import time
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import krypton_onnx as kx
from krypton_onnx.plan import TensorInfo
from krypton_onnx.runtime.base_cache import BaseCache
from krypton_onnx.runtime.engine import Engine
from krypton_onnx.runtime.failures import FailedRunError, OutOfMemoryError

pytest.importorskip("kserve", reason="KServe's SDK is not for this Python")

import httpx
import orjson

from krypton_onnx.service import v2
from krypton_onnx.service.asked import Asked, Options
from krypton_onnx.service.endpoints import application
from krypton_onnx.service.explainer import Answer, Explainer, StoppedError, warm_up
from krypton_onnx.service.gate import Gate, Limits
from krypton_onnx.service.model import HeatmapModel
from krypton_onnx.service.sdk import InferRequest, RequestedOutput
from krypton_onnx.service.trace import Trace
from krypton_onnx.service.work import Workers

DEMO = Path(str(resources.files("krypton_onnx.models"))) / "demo.onnx"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> kx.Session:
    return kx.Session(kx.compile(DEMO, tmp_path_factory.mktemp("demo") / "demo.krypton", verify=False))


def test_what_is_stopped_makes_no_further_image(session: kx.Session) -> None:
    stop = threading.Event()

    def first() -> Any:
        stop.set()
        return np.zeros((3, 128, 128), np.float32)

    def second() -> Any:
        raise AssertionError

    trace, explainer = Trace("", "", ""), Explainer("demo", session, BaseCache(10**9), 10**9)
    with pytest.raises(StoppedError):
        explainer.answer(Asked((first, second), {}, Options(), False, ()), trace, stop)
    assert (trace.images, trace.queries) == (1, 0)


def test_answers_keep_no_output_that_nobody_asked_for(session: kx.Session) -> None:
    image, own = np.zeros((3, 128, 128), np.float32), session.plan.outputs
    explainer, trace = Explainer("demo", session, BaseCache(10**9), 10**9), Trace("", "", "")

    def answer(outputs: tuple[TensorInfo, ...]) -> Answer:
        asked = Asked((lambda: image,), {}, Options(stride=64), not outputs, outputs)
        return explainer.answer(asked, trace, threading.Event())[0]

    assert (list(answer(()).outputs), answer(()).heatmap is None) == ([], False)
    assert (list(answer(own).outputs), answer(own).heatmap) == ([info.name for info in own], None)


def test_warming_up_leaves_nothing_to_load(session: kx.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.capped is not None
    assert session.int8 is not None
    warm_up(session)
    monkeypatch.setattr(Engine, "__init__", None)  # nothing can be loaded any more
    image = np.zeros((3, 128, 128), np.float32)
    for mode in (kx.Exact(), kx.Approximate(tau=0.5), kx.Approximate(ssim=0.9)):
        session.explain(image, stride=8, mode=mode, progress=False)


def heatmap(scores: Any, target: Any = None) -> kx.Heatmap:
    origins = np.zeros((*np.shape(scores), 2), np.int64)
    return kx.Heatmap(np.float32(scores), float("nan"), origins, (1, 1), (4, 4), target, {"bound": float("nan")})


def written(request: InferRequest, *answers: Answer) -> tuple[dict[str, Any], bytes]:
    """A response's JSON, and what is behind it."""
    response = v2.answered(request, answers, "net")
    length = len(response.body) if response.json_length is None else response.json_length
    return orjson.loads(response.body[:length]), response.body[length:]


def test_what_is_not_finite_is_null_in_json() -> None:
    head, rest = written(InferRequest("net", []), Answer({}, heatmap([[np.nan, 1.5]])))
    values = {output["name"]: output["data"] for output in head["outputs"]}
    assert values["heatmap"] == [None, 1.5]
    assert values["base_score"] == [None]
    assert values["target_index"] == [-1]  # of no class
    assert values["record"] == ['{"bound":null}']
    assert rest == b""


def test_each_output_is_binary_as_it_was_asked_for() -> None:
    outputs = [
        RequestedOutput("record", {}),
        RequestedOutput("heatmap", {"binary_data": False}),
        RequestedOutput("y", {}),
    ]
    request = InferRequest("net", [], parameters={"binary_data_output": True}, request_outputs=outputs, request_id="7")
    own = {"y": np.array([[1, 2]], ml_dtypes.bfloat16)}
    head, rest = written(request, Answer(own, heatmap([[2.0]], 1)), Answer(own, heatmap([[3.0]], 1)))
    record, scores, y = head["outputs"]
    assert (head["id"], head["model_name"]) == ("7", "net")
    assert scores == {"name": "heatmap", "datatype": "FP32", "shape": [2, 1, 1], "data": [2.0, 3.0]}
    assert (y["datatype"], y["shape"], y["parameters"]) == ("FP32", [2, 2], {"binary_data_size": 16})
    text = b'{"bound":null}'
    assert rest == 2 * (len(text).to_bytes(4, "little") + text) + np.float32([1, 2, 1, 2]).tobytes()
    assert record["parameters"] == {"binary_data_size": 36}


def test_outputs_that_differ_in_extents_are_not_joined() -> None:
    request = InferRequest("net", [], request_outputs=[RequestedOutput("y", {})])
    answers = [Answer({"y": [np.zeros((count, 4))]}, None) for count in (1, 2)]
    assert written(request, answers[1])[0]["outputs"][0]["shape"] == [1, 2, 4]
    with pytest.raises(kx.KryptonError, match="send one image a request"):
        written(request, *answers)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OutOfMemoryError("There is no memory for this: a."), 503, "There is no memory for this: a."),
        (FailedRunError("ONNX Runtime failed: a."), 500, "ONNX Runtime failed: a."),
        (kx.KryptonError("No."), 400, "No."),
        (MemoryError(), 503, "There is not enough memory."),
        (RuntimeError("secret"), 500, "The service failed; its log says why, under the request id mine."),
    ],
)
def test_failures_are_told_from_mistakes(session: kx.Session, error: Exception, status: int, message: str) -> None:
    def answer(*_: Any) -> Any:
        raise error

    explainer: Any = SimpleNamespace(name="net", session=session, answer=answer)
    workers = Workers(1)
    app = Gate(application([HeatmapModel(explainer, workers)]), Limits(), ["net"])

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://net") as client:
            body = {"instances": [[[[0]]]]}
            return await client.post("/v1/models/net:explain", json=body, headers={"x-request-id": "mine"})

    response = asyncio.run(ask())
    workers.close()
    assert (response.status_code, response.json()) == (status, {"error": message})


def test_closing_waits_for_what_runs_and_begins_nothing_more() -> None:
    workers, log = Workers(1), list[str]()

    def work(name: str, stop: threading.Event) -> None:
        stop.wait()
        time.sleep(0.1)
        log.append(name)

    async def two() -> None:
        tasks = [asyncio.create_task(workers.run(lambda stop, name=name: work(name, stop))) for name in ("a", "b")]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(two())
    assert log == []
    workers.close()
    assert log == ["a"]
