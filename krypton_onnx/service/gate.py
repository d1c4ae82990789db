"""What every request passes on its way in: token, admission, size, time, and whether anyone still waits for it."""

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers

from krypton_onnx.service import metrics
from krypton_onnx.service.endpoints import complaint
from krypton_onnx.service.trace import Trace, current

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

READING = 30.0
"""Seconds in which a request's body has to arrive."""

_GONE = 499
"""In logs and metrics, in place of a status: the client went before it was answered."""

_OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
"""For probes, which have no token."""

_PIECE = 1 << 16
"""Bytes of an answer that are sent at a time."""

_MODEL = re.compile(r"/v[12]/models/([^/:]+)")
_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service takes upon itself.

    Attributes:
        running: requests that compute at a time.
        waiting: requests beyond those that are read, or wait for their turn; more are refused.
        most_bytes: of a request's body, and of an answer.
        timeout: seconds from a request's arrival to its answer.
        token: that requests must carry; None for none.
    """

    running: int = 2
    waiting: int = 32
    most_bytes: int = 32_000_000
    timeout: float = 300.0
    token: str | None = None


class _RefusedError(Exception):
    """A request that goes no further."""

    def __init__(self, status: HTTPStatus, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class _GoneError(Exception):
    """The client closed the connection."""


class Gate:
    """ASGI middleware around the endpoints.

    Args:
        app: the endpoints.
        limits: to keep.
        models: names of those that may be asked.
    """

    def __init__(self, app: App, limits: Limits, models: Collection[str]) -> None:
        self._app, self._limits, self._models = app, limits, models
        self._open = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it; then tell how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = self._trace(scope, headers)
        current.set(trace)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", trace.request_id.encode())]
            for part in _parts(message):
                await send(part)

        try:
            self._check_token(scope["path"], headers)
            await self._admitted(scope, headers, receive, noted)
        except _RefusedError as refused:
            if not trace.status:
                await complaint(str(refused), refused.status, refused.headers)(scope, receive, noted)
        except _GoneError:
            trace.status = _GONE
        except asyncio.CancelledError:  # by the server, when the time for open requests is over; and that is its end
            if not trace.status:
                message = "The service is shutting down; ask again."
                await complaint(message, HTTPStatus.SERVICE_UNAVAILABLE)(scope, receive, noted)
        except Exception:  # which the endpoints have answered
            _log.exception("failed", extra={"request_id": trace.request_id})
        finally:
            _tell(trace)

    def _trace(self, scope: MutableMapping[str, Any], headers: Headers) -> Trace:
        given = headers.get("x-request-id", "")
        found = _MODEL.match(scope["path"])
        return Trace(
            request_id=given if _ID.fullmatch(given) else uuid4().hex,
            method=scope["method"],
            path=scope["path"],
            model=found[1] if found and found[1] in self._models else "",
        )

    def _check_token(self, path: str, headers: Headers) -> None:
        """Let those in who have the token, and probes.

        Raises:
            _RefusedError: it is missing, or another.
        """
        token = self._limits.token
        if token is None or path in _OPEN_PATHS:
            return
        if not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), f"Bearer {token}".encode()):
            message = "This service asks for a token: send the header 'Authorization: Bearer TOKEN'."
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, message, www_authenticate="Bearer")

    async def _admitted(self, scope: MutableMapping[str, Any], headers: Headers, receive: Receive, send: Send) -> None:
        """Find a place for what is more than a question about the service itself.

        Raises:
            _RefusedError: there is none.
        """
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._open >= self._limits.running + self._limits.waiting:
            message = f"{self._open} requests are being answered or wait already; try again later."
            raise _RefusedError(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after="1", connection="close")
        self._open += 1
        metrics.OPEN.set(self._open)
        try:
            await self._in_time(scope, headers, receive, send)
        finally:
            self._open -= 1
            metrics.OPEN.set(self._open)

    async def _in_time(self, scope: MutableMapping[str, Any], headers: Headers, receive: Receive, send: Send) -> None:
        """Read the body, and have the request answered.

        Raises:
            _RefusedError: that takes too long.
            _GoneError: nobody waits for it any more.
        """
        seconds = self._limits.timeout
        try:
            async with asyncio.timeout(seconds):
                body = await self._body(headers, receive)
                await self._while_awaited(scope, body, receive, send)
        except TimeoutError as error:
            message = f"There was no answer within {seconds:g} seconds, and its computing was ended: ask for less."
            raise _RefusedError(HTTPStatus.GATEWAY_TIMEOUT, message, connection="close") from error

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """A request's body, as far as it is not too large or too slow.

        Raises:
            _RefusedError: it is.
            _GoneError: it ended early.
        """
        most = self._limits.most_bytes
        too_large = _RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request's body has more than {most} bytes.", connection="close"
        )
        claimed = headers.get("content-length", "0")
        if claimed.isdecimal() and int(claimed) > most:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(READING):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > most:
                        raise too_large
        except TimeoutError as error:
            message_ = f"The request's body did not arrive within {READING:g} seconds."
            raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, message_, connection="close") from error
        return b"".join(parts)

    async def _while_awaited(self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        """Have a request answered for as long as its client is there.

        Raises:
            _GoneError: it went.
        """
        work = asyncio.create_task(_answered(self._app, scope, body, send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _GoneError
            work.result()
        finally:
            for task in (work, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


def _parts(message: Message) -> Iterator[Message]:
    """A message in pieces, of which the server sends no more than the client takes: a place is kept until the end."""
    body, more = message.get("body", b""), message.get("more_body", False)
    if message["type"] != "http.response.body" or len(body) <= _PIECE:
        yield message
        return
    for start in range(0, len(body), _PIECE):
        last = start + _PIECE >= len(body)
        yield {**message, "body": body[start : start + _PIECE], "more_body": more or not last}


async def _answered(app: App, scope: MutableMapping[str, Any], body: bytes, send: Send) -> None:
    """Run the endpoints on a body that has been read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    await app(scope, receive, send)


async def _disconnected(receive: Receive) -> None:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _tell(trace: Trace) -> None:
    """One line in the log, and the metrics."""
    asked = trace.method == "POST"
    known = {
        "request_id": trace.request_id,
        "method": trace.method,
        "path": trace.path,
        "status": trace.status,
        "seconds": round(trace.seconds, 4),
    }
    if asked:
        known |= {
            "model": trace.model,
            "queue_seconds": round(trace.waited, 4),
            "images": trace.images,
            "known_images": trace.known,
            "queries": trace.queries,
        }
    _log.log(logging.INFO if asked else logging.DEBUG, "request", extra=known)
    if asked and trace.model:
        metrics.count(trace)
