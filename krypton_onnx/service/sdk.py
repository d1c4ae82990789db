"""KServe's Python SDK, in as far as it is used here; the only module that imports it."""

import sys

_arguments = sys.argv
sys.argv = sys.argv[:1]  # importing KServe parses them, as if they were its own
try:
    from kserve import InferInput, InferRequest, Model, ModelRepository
    from kserve.errors import InvalidInput, ModelNotFound
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.infer_type import RequestedOutput, serialize_byte_tensor
    from kserve.protocol.rest.server import metrics_handler
    from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
    from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
    from kserve.utils.numpy_codec import from_np_dtype, to_np_dtype
finally:
    sys.argv = _arguments

__all__ = [
    "DataPlane",
    "InferInput",
    "InferRequest",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelRepository",
    "RequestedOutput",
    "from_np_dtype",
    "metrics_handler",
    "register_v1_endpoints",
    "register_v2_endpoints",
    "serialize_byte_tensor",
    "to_np_dtype",
]
