"""The gate of the service: what needs clocks and clients of its own, on an application that is none."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("kserve", reason="KServe's SDK is not for this Python")

import orjson

from krypton_onnx.service import gate
from krypton_onnx.service.gate import Gate, Limits

PATH = "/v2/models/net/infer"


class Client:
    """One request, as an ASGI server hands it over.

    Args:
        parts: of its body.
        ends: whether the body comes to its end.
    """

    def __init__(self, *parts: bytes, ends: bool = True, path: str = PATH, length: int | None = None) -> None:
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        self._messages = [*messages, {"type": "http.request"}] if ends else messages
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": headers}

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def error(self) -> str:
        return str(orjson.loads(self.sent[1]["body"])["error"])


async def quick(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def waiting(log: list[str]) -> Callable[..., Any]:
    """Answers never, and notes how it ends."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        log.append("begun")
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    return app


def answered(app: Any, client: Client, **limits: Any) -> Gate:
    made = Gate(app, Limits(**limits), ["net"])
    asyncio.run(asyncio.wait_for(made(client.scope, client.receive, client.send), 5))
    return made


def test_a_body_arrives_whole() -> None:
    client = Client(b"ab", b"", b"cd")
    answered(quick, client)
    assert [client.status, client.sent[1]["body"]] == [200, b"abcd"]


@pytest.mark.parametrize("client", [Client(b"abc", b"def"), Client(length=6), Client(b"abc", b"def", length=1)])
def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    answered(quick, client, most_bytes=5)
    assert (client.status, client.error) == (413, "The request's body has more than 5 bytes.")


def test_a_body_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "READING", 0.05)
    client = Client(b"ab", ends=False)
    answered(quick, client)
    assert (client.status, client.error) == (408, "The request's body did not arrive within 0.05 seconds.")


def test_what_takes_too_long_is_cancelled() -> None:
    client, log = Client(b""), list[str]()
    answered(waiting(log), client, timeout=0.05)
    assert (client.status, log) == (504, ["begun", "cancelled"])
    assert (b"connection", b"close") in client.sent[0]["headers"]


def test_what_nobody_waits_for_is_cancelled() -> None:
    client, log = Client(b""), list[str]()

    async def hang_up() -> None:
        made = Gate(waiting(log), Limits(), ["net"])
        task = asyncio.create_task(made(client.scope, client.receive, client.send))
        await asyncio.sleep(0.05)
        client.gone.set()
        await asyncio.wait_for(task, 5)

    asyncio.run(hang_up())
    assert (client.sent, log) == ([], ["begun", "cancelled"])


def test_what_hangs_up_within_its_body_never_begins() -> None:
    client, log = Client(b"a", ends=False), list[str]()
    client.gone.set()
    answered(waiting(log), client)
    assert (client.sent, log) == ([], [])


def test_places_are_counted_and_given_back() -> None:
    log = list[str]()

    async def three() -> list[Client]:
        made = Gate(waiting(log), Limits(running=1, waiting=1), ["net"])
        clients = [Client(b"") for _ in range(4)]

        def begin(client: Client) -> "asyncio.Task[None]":
            return asyncio.create_task(made(client.scope, client.receive, client.send))

        tasks = [begin(client) for client in clients[:3]]
        await asyncio.wait_for(tasks[2], 5)  # there is no place for the third
        clients[0].gone.set()
        await asyncio.wait_for(tasks[0], 5)
        tasks.append(begin(clients[3]))  # which has the first one's
        await asyncio.sleep(0.05)
        for client in clients:
            client.gone.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        return clients

    clients = asyncio.run(three())
    assert [len(client.sent) for client in clients] == [0, 0, 2, 0]
    assert clients[2].status == 429
    assert log.count("begun") == log.count("cancelled") == 3


def test_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise RuntimeError("secret")

    client = Client(b"")
    answered(failing, client)
    assert [message["type"] for message in client.sent] == ["http.response.start"]
    (record,) = (record for record in caplog.records if record.message == "failed")
    assert record.exc_info
    assert (b"x-request-id", record.request_id.encode()) in client.sent[0]["headers"]  # type: ignore[attr-defined]


def test_long_answers_are_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server holds back the next until the client has taken what was sent: a place is kept for so long."""
    monkeypatch.setattr(gate, "_PIECE", 4)
    client = Client(b"0123456789")
    answered(quick, client)
    _, *bodies = client.sent
    assert [message["body"] for message in bodies] == [b"0123", b"4567", b"89"]
    assert [message["more_body"] for message in bodies] == [True, True, False]


def test_only_models_that_are_there_have_a_name_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for ever new names would fill the memory with their counts."""
    counted: list[str] = []
    monkeypatch.setattr(gate.metrics, "count", lambda trace: counted.append(trace.model))
    for path in (PATH, "/v1/models/net:explain", "/v2/models/none/infer", "/else"):
        answered(quick, Client(b"", path=path))
    assert counted == ["net", "net"]
