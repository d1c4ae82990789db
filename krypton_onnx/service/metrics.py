"""What Prometheus reads at `/metrics`, beside the SDK's own."""

from prometheus_client import Counter, Gauge, Histogram

from krypton_onnx.service.trace import Trace

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)

_REQUESTS = Counter("krypton_onnx_requests", "Requests that asked a model, by HTTP status", ["model_name", "status"])
_SECONDS = Histogram(
    "krypton_onnx_request_seconds", "From a request's arrival to its answer", ["model_name"], buckets=_BUCKETS
)
_WAITED = Histogram(
    "krypton_onnx_queue_seconds", "From a request's arrival to the begin of its computing", ["model_name"],
    buckets=_BUCKETS,
)  # fmt: skip
_QUERIES = Counter("krypton_onnx_queries", "Occlusions answered", ["model_name"])
_HITS = Counter("krypton_onnx_base_cache_hits", "Images whose base run was kept", ["model_name"])
_MISSES = Counter("krypton_onnx_base_cache_misses", "Images that had to be run", ["model_name"])

BASE_BYTES = Gauge("krypton_onnx_base_cache_bytes", "Memory that the kept base runs take")
OPEN = Gauge("krypton_onnx_requests_open", "Requests that are read, wait, compute or are answered")


def count(trace: Trace) -> None:
    """Count a request that has come to its end."""
    _REQUESTS.labels(trace.model, trace.status).inc()
    _SECONDS.labels(trace.model).observe(trace.seconds)
    if trace.waited:
        _WAITED.labels(trace.model).observe(trace.waited)
    _QUERIES.labels(trace.model).inc(trace.queries)
    _HITS.labels(trace.model).inc(trace.known)
    _MISSES.labels(trace.model).inc(trace.images - trace.known)
