"""What is known of a request while it is answered, for its log line and the metrics."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Trace:
    """One request.

    Attributes:
        request_id: the client's, or one made for it.
        method, path: of HTTP.
        model: that is asked; empty if there is none of that name.
        started: by `time.perf_counter`.
        waited: seconds until the computing began.
        images: how many it holds.
        known: of them, those whose base was there already.
        queries: answered so far.
        status: of the response; 0 before there is one.
    """

    request_id: str
    method: str
    path: str
    model: str = ""
    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    images: int = 0
    known: int = 0
    queries: int = 0
    status: int = 0

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return time.perf_counter() - self.started


current: ContextVar[Trace] = ContextVar("current")
"""The request that the running task answers."""
