"""The service: models behind KServe's endpoints, on a socket."""

import socket
from collections.abc import Mapping

import uvicorn

from krypton_onnx.runtime.base_cache import BaseCache
from krypton_onnx.runtime.session import Session
from krypton_onnx.service import metrics
from krypton_onnx.service.endpoints import application
from krypton_onnx.service.explainer import Explainer
from krypton_onnx.service.gate import Gate, Limits
from krypton_onnx.service.model import HeatmapModel
from krypton_onnx.service.work import Workers

CONNECTIONS = 500
"""That may be open, asked through or not; more are answered with 503."""


def serve(
    sessions: Mapping[str, Session],
    bound: socket.socket,
    limits: Limits,
    base_bytes: int,
    grace: int,
) -> None:
    """Answer requests until the process is told to end.

    Args:
        sessions: the models, by the names that requests call them by.
        bound: from `address.bound_to`.
        limits: to keep.
        base_bytes: that the base runs of the pictures that were asked about last may take.
        grace: seconds that open requests have when the process is told to end.
    """
    bases, workers = BaseCache(base_bytes), Workers(limits.running)
    metrics.BASE_BYTES.set_function(lambda: bases.nbytes)
    models = [
        HeatmapModel(Explainer(name, session, bases, limits.most_bytes), workers) for name, session in sessions.items()
    ]
    config = uvicorn.Config(
        Gate(application(models), limits, sessions.keys()),
        log_config=None,
        access_log=False,
        server_header=False,
        http="h11",  # which alone limits what a request's head may take
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=grace,
    )
    try:
        uvicorn.Server(config).run([bound])
    finally:
        workers.close()
