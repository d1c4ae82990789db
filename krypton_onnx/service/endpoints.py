"""KServe's endpoints on a web application, with errors that say what is wrong."""

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.failures import FailedRunError, OutOfMemoryError
from krypton_onnx.service import v2
from krypton_onnx.service.images import TooLargeError
from krypton_onnx.service.model import HeatmapModel
from krypton_onnx.service.sdk import (
    DataPlane,
    InferRequest,
    InvalidInput,
    ModelNotFound,
    ModelRepository,
    metrics_handler,
    register_v1_endpoints,
    register_v2_endpoints,
)
from krypton_onnx.service.trace import current

_JSON_LENGTH = "inference-header-content-length"

_NO_PLACE = ("body", "bytes", "InferenceRequest")
"""Parts of what pydantic calls the place of an error."""

_LONGEST = 1000
"""Characters of a message, which may quote what was sent."""

_STATUS: Sequence[tuple[type[Exception], HTTPStatus]] = [
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (OutOfMemoryError, HTTPStatus.SERVICE_UNAVAILABLE),
    (FailedRunError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (KryptonError, HTTPStatus.BAD_REQUEST),
    (InvalidInput, HTTPStatus.BAD_REQUEST),
    (ModelNotFound, HTTPStatus.NOT_FOUND),
    (MemoryError, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotImplementedError, HTTPStatus.NOT_IMPLEMENTED),
]
"""What an error is answered with."""


class _Endpoints(DataPlane):  # type: ignore[misc]
    """What KServe's endpoints do, but for what it leaves open or does wrong."""

    def metadata(self) -> dict[str, Any]:
        """Of the server, in V2."""
        return {
            "name": "krypton-onnx",
            "version": version("krypton-onnx"),
            "extensions": ["binary_tensor_data"],
        }

    def decode_inference_request(self, body: Any, headers: dict[str, str], model_name: str) -> InferRequest:
        """A V2 request. KServe reads binary tensors as text, and fails at pictures."""
        if isinstance(body, bytes):
            return v2.decoded(body, headers.get(_JSON_LENGTH), model_name)
        return super().decode_inference_request(body, headers, model_name)

    def encode(
        self, model_name: str, response: Any, headers: dict[str, str], req_attributes: dict[str, Any]
    ) -> tuple[Any, dict[str, str]]:
        """A response; a V2 one has been written."""
        if not isinstance(response, v2.Response):
            encoded: tuple[Any, dict[str, str]] = super().encode(model_name, response, headers, req_attributes)
            return encoded
        if response.json_length is None:
            return response.body, {"Content-Type": "application/json"}  # in small letters KServe would take it away
        length = {_JSON_LENGTH: str(response.json_length)}
        return response.body, {"Content-Type": "application/octet-stream", **length}

    async def explain(
        self, model_name: str, request: Any, headers: dict[str, str] | None = None
    ) -> tuple[Any, dict[str, str]]:
        """V1 `:explain`. KServe sends the request's headers back with the response."""
        response, _ = await super().explain(model_name, request, dict(headers or {}))
        return response, {}


class _Fixed:
    """In place of KServe's repository, into which anyone could load models."""

    async def load(self, model_name: str) -> None:
        """Refuse.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("The models are those that the service was started with.")

    unload = load


def application(models: Sequence[HeatmapModel]) -> FastAPI:
    """KServe's endpoints for these models, and `/metrics`."""
    repository = ModelRepository()
    for model in models:
        repository.update(model)
    endpoints = _Endpoints(repository)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_api_route("/", endpoints.live)
    app.add_api_route("/metrics", metrics_handler)
    register_v1_endpoints(app, endpoints, _Fixed())
    register_v2_endpoints(app, endpoints, _Fixed())
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    return app


def complaint(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """An error as KServe's clients expect it."""
    text = " ".join(message.split())
    return JSONResponse({"error": text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"}, status, headers)


def _handler(status: HTTPStatus) -> Any:
    async def handler(_: Request, error: Exception) -> Response:
        return complaint(str(error) or "There is not enough memory.", status)

    return handler


async def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Of the two forms that KServe accepts, bytes are not what JSON was meant to be.
    own = [one for one in error.errors() if "bytes" not in one["loc"]] or error.errors()
    places = [(".".join(str(part) for part in one["loc"] if part not in _NO_PLACE), one["msg"]) for one in own]
    found = "; ".join(f"{place}: {text}" if place else text for place, text in places[:3])
    return complaint(f"The request is malformed: {found}.", HTTPStatus.BAD_REQUEST)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return complaint(f"{error.detail}.", error.status_code, dict(error.headers or {}))


async def _failed(_: Request, __: Exception) -> Response:
    """What nobody thought of; the gate logs it."""
    message = f"The service failed; its log says why, under the request id {current.get().request_id}."
    return complaint(message, HTTPStatus.INTERNAL_SERVER_ERROR)
