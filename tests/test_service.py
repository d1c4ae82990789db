"""`krypton-onnx serve`: a service in a process of its own, asked over the loopback by KServe's own client."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from twin import normal

import krypton_onnx as kx

pytest.importorskip("kserve", reason="KServe's SDK is not for this Python")

import httpx
from serving import InferenceRESTClient, InferResponse, RESTConfig, Service, arrays, asked, started, tensor, until

from krypton_onnx.service.sdk import InferRequest, RequestedOutput

SHIPPED = Path(str(resources.files("krypton_onnx.models")))
NINE = SHIPPED / "pictures" / "nine.png"
SIX = SHIPPED / "pictures" / "six.png"
STRIDE = 24
JSON = {"content-type": "application/json"}
BINARY = {"content-type": "application/octet-stream"}


def two_inputs_net() -> onnx.ModelProto:
    """An image and what is added to its outputs; one output is a map that has no name of a heatmap's."""
    weight = normal(4, 3, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Add", ["flat", "shift"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 20, 24]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 4, 20, 24]),
        ],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def small_net(
    image: str, shape: list[int], *, channels_last: bool = False, other: str | None = None
) -> onnx.ModelProto:
    """A convolution and its means, of an image of any name and order of axes, and times another input."""
    nodes = [helper.make_node("Transpose", [image], ["first"], perm=[0, 3, 1, 2])] if channels_last else []
    nodes += [
        helper.make_node("Conv", ["first" if channels_last else image, "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["m"]),
        helper.make_node("Flatten", ["m"], ["flat" if other else "y"]),
        *([helper.make_node("Mul", ["flat", other], ["y"])] if other else []),
    ]
    ports = [helper.make_tensor_value_info(image, TensorProto.FLOAT, shape)]
    ports += [helper.make_tensor_value_info(other, TensorProto.FLOAT, [1, 4])] if other else []
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    weights = [onnx.numpy_helper.from_array(normal(4, 3, 3, 3), "w")]
    graph = helper.make_graph(nodes, "net", ports, [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, compiled."""
    folder = tmp_path_factory.mktemp("service")
    labels = [f"digit {digit}" for digit in range(10)]
    preprocess = SHIPPED / "demo_preprocess.json"
    kx.compile(SHIPPED / "demo.onnx", folder / "demo.krypton", patch=16, preprocess=preprocess, labels=labels)
    onnx.save(two_inputs_net(), folder / "two.onnx")
    kx.compile(folder / "two.onnx", folder / "two.krypton", patch=(4, 6))
    onnx.save(small_net("x", [1, 16, 20, 3], channels_last=True), folder / "last.onnx")
    kx.compile(folder / "last.onnx", folder / "last.krypton", patch=5)
    onnx.save(small_net("picture", [1, 3, 16, 20], other="image"), folder / "named.onnx")
    kx.compile(folder / "named.onnx", folder / "named.krypton", patch=5)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    models = ("demo.krypton", "two=two.krypton", "last.krypton", "named.krypton")
    with started(folder, *models, "--max-size", "2MB") as service:
        yield service


@pytest.fixture(scope="module")
def demo(folder: Path) -> kx.Session:
    return kx.Session(folder / "demo.krypton")


@pytest.fixture(scope="module")
def two(folder: Path) -> kx.Session:
    return kx.Session(folder / "two.krypton")


def prepared(picture: Path) -> tuple[Any, Any]:
    """A picture as the demo's model sees it: pixels, and the tensor."""
    preprocess = kx.Preprocess.from_json(SHIPPED / "demo_preprocess.json")
    pixels = preprocess.picture(kx.open_picture(picture))
    return pixels, preprocess.tensor(pixels)


def infer(service: Service, model: str, request: InferRequest, **headers: str) -> InferResponse:
    async def ask() -> InferResponse:
        async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=60)) as client:
            return await client.infer(service.url, request, model_name=model, headers=headers)

    return asyncio.run(ask())


def explain(service: Service, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async def ask() -> dict[str, Any]:
        async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=60)) as client:
            return await client.explain(service.url, model, body)

    return list(asyncio.run(ask())["explanations"])


def in_base64(file: Path) -> dict[str, str]:
    return {"b64": base64.b64encode(file.read_bytes()).decode()}


def metric(service: Service, name: str, **labels: str) -> float:
    """A number of Prometheus's; 0 for one that is not there yet."""
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == wanted), 0.0)


def logged(service: Service) -> list[dict[str, Any]]:
    """The log's lines about requests."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    return [line for line in lines if line["message"] == "request"]


# ------------------------------------------------------------------------------------- the driver's answers


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("form", ["tensor", "pixels", "file"])
def test_v2_gives_the_drivers_heatmap_of_every_form_of_image(
    service: Service, demo: kx.Session, form: str, binary: bool
) -> None:
    pixels, image = prepared(NINE)
    given = {"tensor": image[None], "pixels": pixels[None], "file": np.array([NINE.read_bytes()], np.object_)}[form]
    if form == "file" and not binary:
        given = np.array([in_base64(NINE)["b64"]], np.object_)
    request = asked([tensor("image", given, binary=binary)], binary=binary, stride=STRIDE, fill="mean")
    found = arrays(infer(service, "demo", request).outputs)
    expected = demo.explain(image, stride=STRIDE, fill="mean", progress=False)
    assert list(found) == ["heatmap", "base_score", "target_index", "record"]
    np.testing.assert_array_equal(found["heatmap"], expected.scores[None])
    np.testing.assert_array_equal(found["base_score"], np.float32([expected.base_score]))
    assert found["target_index"].tolist() == [9]
    record = json.loads(found["record"][0])
    assert record["stride"] == [STRIDE, STRIDE]
    assert record["image_sha256"] == expected.record["image_sha256"]


def test_v1_explains_files_and_tensors(service: Service, demo: kx.Session) -> None:
    image = prepared(SIX)[1]
    for instance in (in_base64(SIX), image.tolist()):
        (found,) = explain(
            service, "demo", {"instances": [instance], "parameters": {"stride": STRIDE, "patch": [20, 12]}}
        )
        expected = demo.explain(image, stride=STRIDE, patch=(20, 12), progress=False)
        np.testing.assert_array_equal(np.float32(found["scores"]), expected.scores)
        assert np.float32(found["base_score"]) == np.float32(expected.base_score)
        assert (found["target"], found["label"], found["patch"]) == (6, "digit 6", [20, 12])
        assert found["rows"] == expected.origins[:, 0, 0].tolist()
        assert found["cols"] == expected.origins[0, :, 1].tolist()
        y, x, drop = expected.most_important()
        assert found["most_important"] == {"y": y, "x": x, "drop": pytest.approx(drop, rel=1e-6)}


def test_several_images_and_targets_are_answered_in_one_request(service: Service, demo: kx.Session) -> None:
    images = [prepared(NINE)[1], prepared(SIX)[1]]
    request = asked([tensor("image", np.stack(images)), tensor("target", np.array([6, 9]))], stride=STRIDE)
    found = arrays(infer(service, "demo", request).outputs)
    expected = [demo.explain(image, [6, 9], stride=STRIDE, progress=False) for image in images]
    np.testing.assert_array_equal(found["heatmap"], np.stack([heatmap.scores for heatmap in expected]))
    np.testing.assert_array_equal(found["base_score"], np.stack([heatmap.base_score for heatmap in expected]))
    assert found["target_index"].tolist() == [[6, 9], [6, 9]]
    body = {"instances": [in_base64(NINE), in_base64(SIX)], "parameters": {"stride": STRIDE, "target": [6, 9]}}
    for one, heatmap in zip(explain(service, "demo", body), expected, strict=True):
        np.testing.assert_array_equal(np.float32(one["scores"]), heatmap.scores)
        assert one["label"] == ["digit 6", "digit 9"]
        assert [place["y"] for place in one["most_important"]] == [heatmap.most_important(i)[0] for i in (0, 1)]


QUESTIONS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"target": 3, "edge": "stop"}, {}, {"target": 3, "edge": "stop"}),
    ({"target": -1, "output": "probabilities"}, {}, {"output": "probabilities"}),
    ({"fill": "blur:3"}, {"region": np.array([0, 8, 64, 96])}, {"fill": "blur:3", "region": (0, 8, 64, 96)}),
    ({}, {"fill": np.float32([9, 0, 255]), "patch": np.array([9, 30])}, {"fill": (9, 0, 255), "patch": (9, 30)}),
    ({"target": "-1"}, {}, {}),
    ({}, {"target": np.array([-1])}, {}),
    ({"target": "4,5"}, {"stride": np.array([30, 40])}, {"target": [4, 5], "stride": (30, 40)}),
    ({"target": "cosine"}, {}, {"target": kx.Cosine()}),
    ({"ssim": 0.8, "seed": 3, "stride": 8}, {}, {"mode": kx.Approximate(ssim=0.8, seed=3), "stride": 8}),
    ({"approximate": True, "stride": 8}, {}, {"mode": kx.Approximate(), "stride": 8}),
    (
        {"tau": 0.5},
        {"drill_down": np.array([0.25, 40.0])},
        {"mode": kx.Approximate(tau=0.5, drill_down=kx.DrillDown(0.25, 40))},
    ),
]


@pytest.mark.parametrize(("parameters", "tensors", "question"), QUESTIONS)
def test_questions_are_the_drivers(
    service: Service, demo: kx.Session, parameters: dict[str, Any], tensors: dict[str, Any], question: dict[str, Any]
) -> None:
    image = prepared(NINE)[1]
    strides = {} if "stride" in parameters or "stride" in tensors else {"stride": STRIDE}
    inputs = [tensor("image", image[None]), *(tensor(name, array) for name, array in tensors.items())]
    found = arrays(infer(service, "demo", asked(inputs, **parameters, **strides)).outputs)["heatmap"]
    expected = demo.explain(image, **{"stride": STRIDE, **question}, progress=False)
    np.testing.assert_array_equal(found[0], expected.scores)


def test_the_pages_client_works(service: Service, demo: kx.Session) -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    (snippet, *_) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    found = asyncio.run(names["heatmap"](service.url, "demo", NINE.read_bytes()))
    expected = demo.explain(prepared(NINE)[1], stride=16, fill="mean", progress=False)
    np.testing.assert_array_equal(found, expected.drop)


def test_an_image_can_fill_patches(service: Service, demo: kx.Session) -> None:
    image, other = prepared(NINE)[1], prepared(SIX)[1]
    expected = demo.explain(image, stride=STRIDE, fill=other, progress=False).scores
    found = infer(service, "demo", asked([tensor("image", image[None]), tensor("fill", other)], stride=STRIDE))
    np.testing.assert_array_equal(arrays(found.outputs)["heatmap"][0], expected)
    body = {"instances": [in_base64(NINE)], "parameters": {"stride": STRIDE, "fill": other.tolist()}}
    np.testing.assert_array_equal(np.float32(explain(service, "demo", body)[0]["scores"]), expected)


def test_other_inputs_and_the_models_own_outputs(service: Service, two: kx.Session) -> None:
    image, shift = normal(3, 20, 24), np.float32([[3, 0, 1, 2]])
    base = two.materialize(image, {"shift": shift})
    expected = two.explain(base, 2, stride=8, patch=(4, 6), progress=False)
    inputs = [tensor("x", image[None]), tensor("shift", shift)]  # by the model's own name
    request = asked(inputs, stride=8, target=2)
    request.request_outputs = [RequestedOutput(name) for name in ("map", "heatmap", "logits")]
    response = infer(service, "two", request)
    found = arrays(response.outputs)
    assert list(found) == ["map", "heatmap", "logits"]
    np.testing.assert_array_equal(found["heatmap"][0], expected.scores)
    np.testing.assert_array_equal(found["map"], base.outputs["map"])
    np.testing.assert_array_equal(found["logits"], base.outputs["logits"])
    body = {"instances": [image.tolist()], "inputs": {"shift": shift.tolist()}}
    (explained,) = explain(service, "two", {**body, "parameters": {"stride": 8, "target": 2}})
    np.testing.assert_array_equal(np.float32(explained["scores"]), expected.scores)
    predicted = httpx.post(f"{service.url}/v1/models/two:predict", json=body).json()["predictions"]
    np.testing.assert_array_equal(np.float32(predicted[0]["logits"]), base.outputs["logits"][0])


def test_outputs_alone_cost_no_queries(service: Service) -> None:
    before = metric(service, "krypton_onnx_queries_total", model_name="demo")
    request = asked([tensor("image", prepared(NINE)[1][None])])
    request.request_outputs = [RequestedOutput("probabilities")]
    assert arrays(infer(service, "demo", request).outputs)["probabilities"].shape == (1, 10)
    prediction = httpx.post(f"{service.url}/v1/models/demo:predict", json={"instances": [in_base64(NINE)]}).json()
    assert np.argmax(prediction["predictions"][0]) == 9
    assert metric(service, "krypton_onnx_queries_total", model_name="demo") == before


def test_channels_may_come_last(service: Service, folder: Path) -> None:
    image, content = normal(16, 20, 3), np.float32([1, 2, 3])
    expected = kx.Session(folder / "last.krypton").explain(image, patch=5, stride=6, fill=content, progress=False)
    request = asked([tensor("image", image), tensor("fill", content)], stride=6)  # one image needs no N
    found = arrays(infer(service, "last", request).outputs)["heatmap"]
    np.testing.assert_array_equal(found[0], expected.scores)
    assert httpx.get(f"{service.url}/v2/models/last").json()["inputs"][0]["shape"] == [-1, 16, 20, 3]


def test_an_input_of_the_images_usual_name_is_the_models(service: Service, folder: Path) -> None:
    picture, gain = normal(3, 16, 20), np.float32([[1, 2, 3, 4]])
    session = kx.Session(folder / "named.krypton")
    expected = session.explain(session.materialize(picture, {"image": gain}), 3, patch=5, stride=6, progress=False)
    request = asked([tensor("picture", picture[None]), tensor("image", gain)], stride=6, target=3)
    found = arrays(infer(service, "named", request).outputs)["heatmap"]
    np.testing.assert_array_equal(found[0], expected.scores)
    names = [one["name"] for one in httpx.get(f"{service.url}/v2/models/named").json()["inputs"]]
    assert names == ["picture", "image"]


def test_a_parameter_may_be_a_tensor_without_axes(service: Service) -> None:
    stride = {"name": "stride", "shape": [], "datatype": "INT64", "data": [64]}
    sent = {"inputs": [file([in_base64(NINE)["b64"]]), stride]}
    response = httpx.post(f"{service.url}/{INFER}", json=sent).json()
    assert next(one for one in response["outputs"] if one["name"] == "heatmap")["shape"] == [1, 3, 3]


def test_a_whole_number_model_takes_nested_lists(tmp_path: Path) -> None:
    """JSON knows no types, so that whole numbers become the input's."""
    net = small_net("f", [1, 3, 12, 12])
    net.graph.node.insert(0, helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT))
    net.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 12, 12]))
    onnx.save(net, tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", tmp_path / "net.krypton", patch=4)
    image = np.random.default_rng(0).integers(0, 256, (3, 12, 12)).astype(np.uint8)
    expected = kx.Session(artifact).explain(image, patch=4, progress=False).scores
    with started(tmp_path, "net.krypton") as service:
        (found,) = explain(service, "net", {"instances": [image.tolist()]})
        np.testing.assert_array_equal(np.float32(found["scores"]), expected)
        too_large = {"instances": [(image.astype(int) + 256).tolist()]}
        refused = httpx.post(f"{service.url}/v1/models/net:explain", json=too_large)
    assert refused.status_code == 400
    assert refused.json() == {"error": "Lists hold numbers that are none of uint8."}


# --------------------------------------------------------------------------------------- about the service


def test_health_and_metadata(service: Service) -> None:
    async def ask() -> list[bool]:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return [
                await client.is_server_live(service.url),
                await client.is_server_ready(service.url),
                await client.is_model_ready(service.url, "demo"),
                await client.is_model_ready(service.url, "none"),
            ]

    assert asyncio.run(ask()) == [True, True, True, False]
    assert httpx.get(f"{service.url}/").json() == {"status": "alive"}
    about = httpx.get(f"{service.url}/v2").json()
    assert (about["name"], about["extensions"]) == ("krypton-onnx", ["binary_tensor_data"])
    assert httpx.get(f"{service.url}/v2/models").json() == {"models": ["demo", "two", "last", "named"]}
    model = httpx.get(f"{service.url}/v2/models/two").json()
    assert model["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 3, 20, 24]},
        {"name": "shift", "datatype": "FP32", "shape": [1, 4]},
    ]
    assert [output["name"] for output in model["outputs"]] == [
        "heatmap", "base_score", "target_index", "record", "logits", "map",
    ]  # fmt: skip
    (image,) = httpx.get(f"{service.url}/v2/models/demo").json()["inputs"]
    assert image == {"name": "image", "datatype": "UINT8", "shape": [-1, 128, 128, 3]}


def test_requests_are_logged_and_counted(service: Service) -> None:
    labels = {"model_name": "demo"}
    names = ("queries_total", "base_cache_hits_total", "base_cache_misses_total")
    names += ("request_seconds_count", "queue_seconds_count")
    before = {name: metric(service, f"krypton_onnx_{name}", **labels) for name in names}
    image = np.random.default_rng(os.getpid()).random((1, 3, 128, 128), np.float32)
    for number in range(2):
        request = asked([tensor("image", image)], stride=STRIDE)
        infer(service, "demo", request, **{"x-request-id": f"mine-{number}"})
    after = {name: metric(service, f"krypton_onnx_{name}", **labels) for name in names}
    queries = 6 * 6
    assert {name: after[name] - before[name] for name in names} == {
        "queries_total": 2 * queries,
        "base_cache_hits_total": 1,
        "base_cache_misses_total": 1,
        "request_seconds_count": 2,
        "queue_seconds_count": 2,
    }
    assert metric(service, "krypton_onnx_base_cache_bytes") > 0
    assert metric(service, "krypton_onnx_requests_open") == 0
    first, second = (line for line in logged(service) if line["request_id"].startswith("mine-"))
    assert (first["model"], first["status"], first["queries"]) == ("demo", 200, queries)
    assert [line["known_images"] for line in (first, second)] == [0, 1]
    assert first["seconds"] >= first["queue_seconds"] > 0


def test_the_request_id_comes_back_if_it_is_one(service: Service) -> None:
    url = f"{service.url}/v2/health/live"
    assert httpx.get(url, headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"
    made = httpx.get(url, headers={"x-request-id": 'a "1'}).headers["x-request-id"]
    assert len(made) == 32
    # KServe would send all of the request's headers back.
    answered = httpx.post(f"{service.url}/v1/models/demo:explain", json={"instances": [in_base64(NINE)],
                          "parameters": {"stride": 64}}, headers={"x-own": "1"})  # fmt: skip
    assert answered.status_code == 200
    assert "x-own" not in answered.headers


# ------------------------------------------------------------------------------------------- bad requests

INFER, TWO, EXPLAIN = "v2/models/demo/infer", "v2/models/two/infer", "v1/models/demo:explain"


def image(**fields: Any) -> dict[str, Any]:
    """A V2 tensor, without data unless told."""
    return {"name": "image", "shape": [1, 3, 128, 128], "datatype": "FP32", **fields}


def file(data: list[str]) -> dict[str, Any]:
    return image(shape=[len(data)], datatype="BYTES", data=data)


def v2(*tensors: dict[str, Any]) -> str:
    return json.dumps({"inputs": tensors})


def binary(length: int) -> dict[str, str]:
    return {**BINARY, "inference-header-content-length": str(length)}


def sized(size: int) -> dict[str, Any]:
    return image(parameters={"binary_data_size": size})


MALFORMED: list[tuple[str, dict[str, str], str, int, str]] = [
    ("nothing", JSON, "{}", 404, "Not Found"),
    ("v2/models/none/infer", JSON, v2(), 404, "none does not exist"),
    ("v1/models/none:explain", JSON, "{}", 404, "none does not exist"),
    ("v2/models/demo/versions/2/infer", JSON, v2(), 501, "versioning"),
    ("v2/repository/models/demo/unload", JSON, "", 501, "those that the service was started with"),
    ("v2/repository/models/demo/load", JSON, "", 501, "those that the service was started with"),
    (INFER, JSON, "", 400, "Field required"),
    (INFER, JSON, "{", 400, "JSON decode error"),
    (INFER, JSON, "[" * 100_000, 400, "error parsing"),
    (INFER, JSON, "[]", 400, "valid dictionary"),
    (INFER, JSON, v2(image(data="x")), 400, "inputs.0.data: Input should be a valid list."),
    (INFER, JSON, v2(), 400, "no tensor 'image'"),
    (INFER, JSON, v2(image(data=[1])), 400, "is not FP32"),
    (INFER, JSON, v2(image(shape=[1, 1, 1, 1], datatype="UINT8", data=[0.9])), 400, "none of uint8"),
    (INFER, JSON, v2(image(shape=[1, 1, 1, 1], datatype="BOOL", data=[2])), 400, "none of bool"),
    (INFER, JSON, v2(image(), {"name": "stride", "shape": [1], "datatype": "INT64", "data": ["3"]}), 400, "malformed"),
    (INFER, JSON, v2(image(data=["a"])), 400, "is not FP32"),
    (INFER, JSON, v2(image(datatype="FP9", data=[1])), 400, "is not FP9"),
    (INFER, JSON, v2(image(shape=[0, 3, 128, 128], data=[])), 400, "from one on"),
    (INFER, JSON, v2(image(shape=[1], data=[1])), 400, "must be [N, …]"),
    (INFER, JSON, v2(image(shape=[1, 1, 1, 1], data=[1])), 400, "must have the shape [3, 128, 128]"),
    (INFER, JSON, v2(*[image(shape=[1, 1, 1, 1], data=[1])] * 2), 400, "given twice"),
    (INFER, JSON, v2(file(["%"])), 400, "no base64"),
    (INFER, JSON, v2(file([])), 400, "no picture"),
    (INFER, JSON, v2(file(["aGFs"])), 400, "not a picture"),
    (TWO, JSON, v2(file(["aGFs"])), 400, "without preprocessing"),
    (TWO, JSON, v2(image(name="x", shape=[1, 3, 20, 24], data=[0.5] * 1440)), 400, "missing: shift"),
    (INFER, BINARY, "[]", 400, "Expected `object`"),
    (INFER, binary(-1), "{}", 400, "-1 bytes"),
    (INFER, binary(9), "{}", 400, "its body has 2"),
    (INFER, binary(13), v2() + "!!", 400, "malformed"),
    (INFER, binary(len(v2())), v2() + "!!", 400, "2 bytes that belong to no tensor"),
    (INFER, BINARY, v2(image()), 400, "needs either data"),
    (INFER, BINARY, v2(sized(8)), 400, "claims 8 bytes"),
    (INFER, BINARY, v2(sized(-8)), 400, "claims -8 bytes"),
    (EXPLAIN, JSON, "{", 400, "Unrecognized request format"),
    (EXPLAIN, JSON, "[" * 100_000, 400, "Unrecognized request format"),
    (EXPLAIN, JSON, "7", 400, "Expected `object`"),
    (EXPLAIN, {"content-type": "text/plain"}, "7", 400, "send the header 'content-type: application/json'"),
    (EXPLAIN, JSON, "{}", 400, "required field `instances`"),
    (EXPLAIN, JSON, '{"instances": []}', 400, "no picture"),
    (EXPLAIN, JSON, '{"instances": [[1, [2]]]}', 400, "no array of numbers"),
    (EXPLAIN, JSON, '{"instances": ["a"]}', 400, "something else than numbers, where float32 is wanted"),
    (EXPLAIN, JSON, '{"instances": [{"b64": 1}]}', 400, "no picture"),
    (EXPLAIN, JSON, '{"instances": [[[[0]]], {"b64": ""}]}', 400, "one kind a request"),
    (EXPLAIN, JSON, '{"instances": [[[[0]]]], "inputs": {"a": 1}}', 400, "must have the shape"),
    ("v1/models/demo:predict", JSON, '{"instances": [{"b64": ""}]}', 400, "not a picture"),
]


@pytest.mark.parametrize(("path", "headers", "body", "status", "message"), MALFORMED)
def test_a_malformed_request_gets_a_sentence(
    service: Service, path: str, headers: dict[str, str], body: str, status: int, message: str
) -> None:
    response = httpx.post(f"{service.url}/{path}", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]
    assert httpx.get(f"{service.url}/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pach": 3}, "unknown field `pach`"),
        ({"patch": 1.5}, "at `$.patch`"),
        ({"patch": 0}, "patch must be a whole number"),
        ({"patch": 500}, "does not fit"),
        ({"stride": [1, 2, 3]}, "at `$.stride`"),
        ({"edge": "wrap"}, "Invalid enum value"),
        ({"region": [0, 0, 9, 999]}, "is no part"),
        ({"target": 10}, "out of range"),
        ({"target": []}, "is none of"),
        ({"target": "all"}, "is no target"),
        ({"target": "mask:1:secret.png"}, "cannot be named in a request"),
        ({"target": "box:1"}, "needs box_head"),
        ({"target": "box:1", "box_head": "yolo9"}, "yolo9"),
        ({"output": "none"}, "no output 'none'"),
        ({"fill": "pink"}, "pink"),
        ({"fill": [1, 2]}, "fill"),
        ({"ssim": 1.5}, "between 0 and 1"),
        ({"ssim": 0.9, "tau": 0.5}, "one of ssim"),
        ({"drill_down": [2.0, 8]}, "fraction"),
        ({"drill_down": [0.2, 8.5]}, "stride of its coarse grid"),
        ({"drill_down": [0.2, 1e300]}, "drill_down is not a number below"),
        ({"patch": 2**40}, "patch is not a number below"),
        ({"seed": 3}, "seed goes with an approximate heatmap"),
        ({"approximate": False, "ssim": 0.9}, "approximate is false"),
        ({"box_min_iou": 0.5}, "box_min_iou goes with a target box"),
        ({"target": "box:1", "box_head": "yolov8", "output": "none"}, "no output"),
        ({"x" * 100_000: 1}, "unknown field"),
    ],
)
def test_a_question_that_does_not_fit_gets_a_sentence(
    service: Service, parameters: dict[str, Any], message: str
) -> None:
    body = {"instances": [in_base64(NINE)], "parameters": parameters}
    response = httpx.post(f"{service.url}/v1/models/demo:explain", json=body)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]
    assert len(response.json()["error"]) <= 1001


def test_an_unknown_output_or_a_parameter_twice_is_refused(service: Service) -> None:
    request = asked([tensor("image", prepared(NINE)[1][None]), tensor("stride", np.array([40]))], stride=40)
    with pytest.raises(httpx.HTTPStatusError, match=r"both as a tensor and as a parameter.*400"):
        infer(service, "demo", request)
    request = asked([tensor("image", prepared(NINE)[1][None])])
    request.request_outputs = [RequestedOutput("heat")]
    with pytest.raises(httpx.HTTPStatusError, match=r"no output 'heat'; there are base_score.*probabilities.*400"):
        infer(service, "demo", request)


def test_files_of_other_formats_are_not_opened(service: Service) -> None:
    """For EPS Pillow would start Ghostscript."""
    eps = io.BytesIO()
    Image.new("RGB", (9, 9)).save(eps, "EPS")
    body = {"instances": [{"b64": base64.b64encode(eps.getvalue()).decode()}]}
    response = httpx.post(f"{service.url}/v1/models/demo:explain", json=body)
    assert (response.status_code, "what was sent is not a picture" in response.text) == (400, True)


def test_what_is_too_large_is_refused(service: Service, tmp_path: Path) -> None:
    url = f"{service.url}/v1/models/demo:explain"
    claimed = httpx.post(url, content=b" " * 2_000_001, headers=JSON)
    assert (claimed.status_code, claimed.json()["error"]) == (413, "The request's body has more than 2000000 bytes.")
    streamed = httpx.post(url, content=iter([b" " * 1_000_000] * 3), headers=JSON)
    assert streamed.status_code == 413
    Image.new("L", (10_000, 6_000)).save(tmp_path / "large.png")  # 60 kB
    bomb = httpx.post(url, json={"instances": [in_base64(tmp_path / "large.png")]})
    assert bomb.status_code == 413
    assert "has 60000000 pixels; the limit is 50000000" in bomb.json()["error"]
    everything = {"stride": 1, "patch": 1, "target": list(range(10)) * 4}
    answer = httpx.post(url, json={"instances": [in_base64(NINE)], "parameters": everything})
    assert answer.status_code == 413
    assert "2625536 bytes, 655360 scores and 0 bytes of outputs for each of 1 images" in answer.json()["error"]


def test_many_small_pictures_are_counted_before_they_are_made(service: Service, tmp_path: Path) -> None:
    """Each becomes a tensor of 200 kB, whatever its file has."""
    Image.new("L", (1, 1)).save(tmp_path / "small.gif")
    body = {"instances": [in_base64(tmp_path / "small.gif")] * 600, "parameters": {"stride": 64}}
    began = time.monotonic()
    refused = httpx.post(f"{service.url}/{EXPLAIN}", json=body)
    assert time.monotonic() - began < 5
    assert (refused.status_code, "for each of 600 images" in refused.text) == (413, True)
    maps = {"instances": [np.zeros((3, 20, 24), int).tolist()] * 200, "inputs": {"shift": [[0] * 4]}}
    refused = httpx.post(f"{service.url}/v1/models/two:predict", json=maps)
    assert (refused.status_code, "0 scores and 7696 bytes of outputs for each of 200" in refused.text) == (413, True)


def test_a_head_that_does_not_end_is_refused(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{service.url}/v2/health/ready").status_code == 200


# ---------------------------------------------------------------------------------- many, slow, and aborted


def long_request(seconds: float = 60.0) -> dict[str, Any]:
    """What takes some seconds: every position of the grid, for several images."""
    return {"json": {"instances": [in_base64(NINE)] * 8, "parameters": {"stride": 1}}, "timeout": seconds}


def test_answers_are_right_with_many_at_once(service: Service, demo: kx.Session) -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.random((3, 128, 128), np.float32) for _ in range(4)]
    questions = [(which, fill) for which in range(4) for fill in ("mean", "black", "noise:1")] * 2
    expected = {
        (which, fill): demo.explain(pictures[which], stride=STRIDE, fill=fill, progress=False).scores
        for which, fill in questions
    }

    def ask(question: tuple[int, str]) -> bool:
        which, fill = question
        request = asked([tensor("image", pictures[which][None])], stride=STRIDE, fill=fill)
        return np.array_equal(arrays(infer(service, "demo", request).outputs)["heatmap"][0], expected[question])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, questions))


def test_who_comes_when_the_queue_is_full_is_told_so(folder: Path, tmp_path: Path) -> None:
    with started(tmp_path, folder / "demo.krypton", "--running", 1, "--waiting", 1) as service:
        url = f"{service.url}/v1/models/demo:explain"
        with ThreadPoolExecutor(2) as pool:
            open_ = [pool.submit(httpx.post, url, **long_request()) for _ in range(2)]
            until(lambda: metric(service, "krypton_onnx_requests_open") == 2)
            refused = httpx.post(url, json={"instances": [in_base64(NINE)]})
            assert httpx.get(f"{service.url}/v2/health/ready").status_code == 200
            service.process.kill()
            for one in open_:
                with pytest.raises(httpx.HTTPError):
                    one.result()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"] == "2 requests are being answered or wait already; try again later."


def test_an_answer_that_takes_too_long_ends_and_so_does_its_computing(folder: Path, tmp_path: Path) -> None:
    with started(tmp_path, folder / "demo.krypton", "--timeout", 0.5, "--base-cache", "1B") as service:
        began = time.monotonic()
        late = httpx.post(f"{service.url}/v1/models/demo:explain", **long_request())
        assert late.status_code == 504
        assert late.json()["error"].startswith("There was no answer within 0.5 seconds, and its computing was ended")
        assert time.monotonic() - began < 20
        assert_idle(service)
        small = {"instances": [in_base64(NINE)], "parameters": {"stride": 64}}
        assert httpx.post(f"{service.url}/v1/models/demo:explain", json=small).status_code == 200
        assert metric(service, "krypton_onnx_base_cache_hits_total", model_name="demo") == 0  # there is no room
        (line,) = (line for line in logged(service) if line["status"] == 504)
        assert line["queries"] < 8 * 113 * 113


def test_who_hangs_up_is_computed_for_no_longer(folder: Path, tmp_path: Path) -> None:
    with started(tmp_path, folder / "demo.krypton", "--running", 1) as service:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/v1/models/demo:explain", **long_request(0.7))
        until(lambda: any(line["status"] == 499 for line in logged(service)))
        assert_idle(service)
        (line,) = logged(service)
        assert 0 < line["queries"] < 8 * 113 * 113
        assert metric(service, "krypton_onnx_requests_total", model_name="demo", status="499") == 1


def assert_idle(service: Service) -> None:
    """Nothing is computed: the process takes no time."""
    time.sleep(0.5)  # for the batch that ran
    before = _processor_seconds(service)
    time.sleep(0.5)
    assert _processor_seconds(service) - before < 0.2


def _processor_seconds(service: Service) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_connection_that_ends_within_a_body_harms_nobody(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    head = b"POST /v1/models/demo:explain HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + b'{"insta')
    until(lambda: metric(service, "krypton_onnx_requests_open") == 0)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{service.url}/v2/health/ready").status_code == 200


# ------------------------------------------------------------------------------------------ begin and end


def test_told_to_end_it_answers_first(folder: Path, tmp_path: Path) -> None:
    with started(tmp_path, folder / "demo.krypton") as service:
        body = {"instances": [in_base64(NINE)], "parameters": {"stride": 2}}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx.post, f"{service.url}/v1/models/demo:explain", json=body, timeout=60)
            until(lambda: metric(service, "krypton_onnx_requests_open") == 1)
            service.process.send_signal(signal.SIGTERM)
            assert answer.result().status_code == 200
        assert service.process.wait(20) == 0


def test_told_to_end_it_does_not_wait_forever(folder: Path, tmp_path: Path) -> None:
    with started(tmp_path, folder / "demo.krypton", "--grace", 1) as service:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx.post, f"{service.url}/v1/models/demo:explain", **long_request())
            until(lambda: metric(service, "krypton_onnx_requests_open") == 1)
            service.process.send_signal(signal.SIGTERM)
            response = answer.result()
        assert service.process.wait(20) == 0
    assert (response.status_code, response.json()) == (503, {"error": "The service is shutting down; ask again."})
    assert "Traceback" not in service.log.read_text()


def test_killed_in_mid_request_it_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    places = {"TMPDIR": tmp_path / "tmp", "KRYPTON_ONNX_CACHE": tmp_path / "cache", "HOME": tmp_path / "home"}
    for place in places.values():
        place.mkdir()
    environment = {name: str(place) for name, place in places.items()}
    with started(tmp_path, SHIPPED / "demo.onnx", environment=environment) as service:
        port = service.url.rpartition(":")[2]
        before = sorted(tmp_path.rglob("*"))
        with ThreadPoolExecutor(1) as pool:
            image = np.zeros((3, 128, 128)).tolist()
            body = {"instances": [image] * 4, "parameters": {"stride": 1}}
            answer = pool.submit(httpx.post, f"{service.url}/v1/models/demo:explain", json=body, timeout=60)
            until(lambda: metric(service, "krypton_onnx_requests_open") == 1)
            time.sleep(0.3)
            assert not _children(service.process.pid)
            service.process.kill()
            with pytest.raises(httpx.HTTPError):
                answer.result()
        service.process.wait(20)
        assert sorted(tmp_path.rglob("*")) == before
    # The same port, and the model that was compiled, are there for the next.
    options = (
        "--port",
        port,
        "--preprocess",
        SHIPPED / "demo_preprocess.json",
        "--labels",
        SHIPPED / "demo_labels.txt",
    )
    with started(tmp_path, SHIPPED / "demo.onnx", *options, environment=environment) as service:
        assert service.url.endswith(port)
        assert len(list((tmp_path / "cache").iterdir())) == 1
        body = {"instances": [in_base64(NINE)], "parameters": {"stride": 64}}
        assert explain(service, "demo", body)[0]["label"] == "digit 9"


def _children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def test_a_token_can_be_required(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with started(tmp_path, folder / "demo.krypton", "--token-file", "token") as service:
        for path in ("", "v2/health/ready", "v2/health/live"):
            assert httpx.get(f"{service.url}/{path}").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "s3cret"},
            {"authorization": "Bearer é"},
        ):
            refused = httpx.get(f"{service.url}/v2/models", headers=[(k, v.encode()) for k, v in headers.items()])
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "token" in refused.json()["error"]
        assert httpx.get(f"{service.url}/metrics").status_code == 401
        assert httpx.post(f"{service.url}/v1/models/demo:explain", json={}).status_code == 401
        headers = {"authorization": "Bearer s3cret"}
        assert httpx.get(f"{service.url}/v2/models", headers=headers).status_code == 200
        found = infer(service, "demo", asked([tensor("image", prepared(NINE)[1][None])], stride=64), **headers)
        assert arrays(found.outputs)["target_index"].tolist() == [9]
    assert "s3cret" not in service.log.read_text()


def run(*arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "krypton_onnx.cli", "serve", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "no model file at none.onnx"),
        (["a=demo.krypton", "a=two.krypton"], "Two models are called 'a'"),
        (["a b=demo.krypton"], "'a b=demo.krypton' names no model"),
        (["demo.krypton", "--patch", "8"], "compiled already, for a patch of its own"),
        (["demo.krypton", "--labels", "short.txt"], "demo.krypton: There are 1 labels"),
        (["demo.krypton", "--memory-budget", "1kB", "--timeout", "1"], "needs"),
        (["demo.krypton", "--timeout", "nan"], "'nan' is no time"),
        (["demo.krypton", "--grace", "inf"], "'inf' is not a valid integer"),
        (["demo.krypton", "--model_name", "a/b"], "--model_name 'a/b' is no name"),
        (["demo.krypton", "--token-file", "none"], "token file none cannot be read"),
        (["demo.krypton", "--token-file", "empty.txt"], "holds no token"),
        (["demo.krypton", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["demo.krypton", "--max-size", "much"], "no amount of memory"),
    ],
)
def test_a_service_that_cannot_begin_says_why(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "short.txt").write_text("one\n")
    (folder / "empty.txt").write_text("\n")
    done = run(*arguments, "--port", "0", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_it_takes_what_kserves_controller_appends(folder: Path, tmp_path: Path) -> None:
    appended = ["--model_name", "digits", "--predictor_host", "digits-predictor.default", "--workers", "2"]
    with started(tmp_path, folder / "demo.krypton", *appended) as service:
        body = {"instances": [in_base64(NINE)], "parameters": {"stride": 64}}
        assert explain(service, "digits", body)[0]["target"] == 9
    done = run(folder / "demo.krypton", folder / "two.krypton", *appended, "--http_port", 0, cwd=folder)
    assert (done.returncode, "--model_name digits is for one model" in done.stderr) == (2, True)


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("demo.krypton", "--port", port, cwd=folder)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in done.stderr


@pytest.mark.parametrize("missing", [["kserve", "starlette", "uvicorn", "prometheus_client"], ["pythonjsonlogger"]])
def test_without_the_extra_it_says_what_to_install(folder: Path, missing: list[str]) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}));"
        "from krypton_onnx.cli import main; main(['serve', 'demo.krypton', '--port', '0'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "pip install 'krypton-onnx[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert any(f"({name}" in done.stderr for name in missing)


def test_the_sdk_does_not_read_our_command_line() -> None:
    """It would end the process at --timeout 0.5, taken for its own --timeout-keep-alive."""
    code = "import sys; sys.argv = ['x', '--timeout', '0.5']; import krypton_onnx.service.sdk; print(sys.argv)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['x', '--timeout', '0.5']\n", done.stderr


def test_threads_share_the_service(service: Service) -> None:
    """Health is answered while heatmaps are computed."""
    body = {"instances": [in_base64(NINE)], "parameters": {"stride": 2}}
    answer: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answer.append(httpx.post(f"{service.url}/v1/models/demo:explain", json=body, timeout=60))
    )
    thread.start()
    until(lambda: metric(service, "krypton_onnx_requests_open") >= 1)
    assert httpx.get(f"{service.url}/v2/health/live", timeout=2).json() == {"live": True}
    thread.join()
    assert answer[0].status_code == 200
