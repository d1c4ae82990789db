"""Requests and answers in KServe's protocol V2 (the Open Inference Protocol): named tensors, JSON or binary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import orjson

from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.plan import Plan, TensorInfo
from krypton_onnx.runtime.engine import Array
from krypton_onnx.service.arrays import array_of
from krypton_onnx.service.asked import TOP, Asked, Options
from krypton_onnx.service.explainer import Answer
from krypton_onnx.service.images import from_array, from_base64, from_files
from krypton_onnx.service.sdk import (
    InferInput,
    InferRequest,
    RequestedOutput,
    from_np_dtype,
    serialize_byte_tensor,
    to_np_dtype,
)

IMAGE = "image"
HEATMAP, BASE_SCORE, TARGET_INDEX, RECORD = "heatmap", "base_score", "target_index", "record"

_SIZE = "binary_data_size"
_BINARY = "binary_data_output"
"""The parameter that asks for binary tensors; not one of the question's."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back; it is written on a worker's thread, since KServe's own way takes seconds for a large map.

    Attributes:
        body: JSON, and behind it the bytes of binary tensors.
        json_length: of the JSON, if there are any.
    """

    body: bytes
    json_length: int | None


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] | None = None


class _Head(msgspec.Struct, frozen=True):
    """The JSON in front of binary tensors."""

    inputs: list[_Tensor]
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None


def decoded(body: bytes, json_length: str | None, name: str) -> InferRequest:
    """A request with binary tensors.

    Args:
        body: JSON, and behind it the tensors' bytes.
        json_length: the header that says how long the JSON is; None for all of it.
        name: of the model.

    Raises:
        KryptonError: the body is malformed.
    """
    text = str(len(body)) if json_length is None else json_length
    length = int(text) if text.isdecimal() else -1
    if not 0 < length <= len(body):
        raise KryptonError(f"The header says that the request's JSON has {text} bytes, and its body has {len(body)}.")
    try:
        head = msgspec.json.decode(body[:length], type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KryptonError(f"The request's JSON is malformed: {error}.") from error
    raw, rest = [], memoryview(body)[length:]
    for tensor in head.inputs:
        size = (tensor.parameters or {}).get(_SIZE)
        if (size is None) == (tensor.data is None):
            raise KryptonError(f"The tensor '{tensor.name}' needs either data or the parameter {_SIZE}.")
        if size is not None and (not isinstance(size, int) or not 0 <= size <= len(rest)):
            raise KryptonError(f"The tensor '{tensor.name}' claims {size} bytes, and the body has {len(rest)} more.")
        raw.append(None if size is None else bytes(rest[:size]))
        rest = rest[size or 0 :]
    if len(rest):
        raise KryptonError(f"The request has {len(rest)} bytes that belong to no tensor.")
    outputs = [RequestedOutput(output.name, output.parameters or {}) for output in head.outputs or ()]
    return InferRequest(
        model_name=name,
        infer_inputs=[InferInput(one.name, one.shape, one.datatype, one.data, one.parameters) for one in head.inputs],
        request_id=head.id,
        raw_inputs=raw,
        parameters=head.parameters,
        request_outputs=outputs or None,
    )


def read(request: InferRequest, plan: Plan) -> Asked:
    """What a request asks.

    Args:
        request: as KServe decodes it. The image is called `image`, or as the model calls it; tensors that the model
            does not know are parameters.
        plan: of the model that is asked.

    Raises:
        KryptonError: the request is malformed.
    """
    tensors: dict[str, Array] = {}
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise KryptonError(f"The tensor '{tensor.name}' is given twice; give it once.")
        tensors[tensor.name] = _array(tensor)
    inputs = {info.name: tensors.pop(info.name) for info in plan.other_inputs if info.name in tensors}
    name = _image_name(plan)
    image = tensors.pop(name) if name in tensors else tensors.pop(plan.image.name, None)
    if image is None:
        raise KryptonError(f"There is no tensor '{name}' in the request; the images are sent by that name.")
    given = {name: value for name, value in (request.parameters or {}).items() if name != _BINARY}
    for name, array in tensors.items():
        if name in given:
            raise KryptonError(f"'{name}' is given both as a tensor and as a parameter; give it once.")
        given[name] = _value(array)
    images = from_files(_files(image), plan) if image.dtype == object else from_array(image, plan)
    heatmap, outputs = _wanted(request, plan)
    return Asked(images, inputs, Options.of(given), heatmap, outputs)


def _image_name(plan: Plan) -> str:
    """What the images are called: as the model calls them, if it has another input of the usual name."""
    return plan.image.name if IMAGE in {info.name for info in plan.other_inputs} else IMAGE


def _array(tensor: InferInput) -> Array:
    """The values of a tensor; objects, bytes or text, of one of type BYTES."""
    try:
        dtype = to_np_dtype(tensor.datatype)
        if tensor.data is None or dtype in (None, np.object_):
            return np.asarray(tensor.as_numpy())
        return array_of(tensor.data, np.dtype(dtype)).reshape(tensor.shape)
    except Exception as error:  # of numpy and struct, of many kinds
        raise KryptonError(
            f"The tensor '{tensor.name}' is malformed: its data is not {tensor.datatype} {tensor.shape} ({error})."
        ) from error


def _value(array: Array) -> Any:
    """A parameter that came as a tensor: a number, text, a list; an array where it has several axes."""
    if array.ndim > 1:
        return array
    values = array.reshape(-1).tolist()
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    return texts[0] if len(texts) == 1 else texts


def _files(array: Array) -> list[bytes]:
    """Pictures' files: as bytes where the tensor is binary, else, in JSON, in base64."""
    values = array.reshape(-1).tolist()
    return [value if isinstance(value, bytes) else from_base64(str(value)) for value in values]


# ----------------------------------------------------------------------------------------------- outputs


def _own(plan: Plan) -> list[TensorInfo]:
    """The model's outputs, but for those whose names the heatmap's have."""
    return [info for info in plan.outputs if info.name not in (HEATMAP, BASE_SCORE, TARGET_INDEX, RECORD)]


def _wanted(request: InferRequest, plan: Plan) -> tuple[bool, tuple[TensorInfo, ...]]:
    """Whether heatmaps are wanted, and which of the model's outputs; where none is named, all but the model's.

    Raises:
        KryptonError: there is no output of a name.
    """
    if not request.request_outputs:
        return True, ()
    made, own = {HEATMAP, BASE_SCORE, TARGET_INDEX, RECORD}, {info.name: info for info in _own(plan)}
    wanted = {output.name for output in request.request_outputs}
    if unknown := sorted(wanted - made - own.keys()):
        raise KryptonError(
            f"There is no output '{unknown[0]}'; there are {', '.join(sorted(made))}, and the model's own: "
            f"{', '.join(sorted(own))}."
        )
    return bool(wanted & made), tuple(info for name, info in own.items() if name in wanted)


def answered(request: InferRequest, answers: Sequence[Answer], name: str) -> Response:
    """The response.

    Args:
        request: that is answered.
        answers: for each of its images.
        name: that the model is called by.

    Raises:
        KryptonError: an output differs in its extents from image to image.
    """
    heatmaps = [answer.heatmap for answer in answers if answer.heatmap is not None]
    found: dict[str, Array] = _heatmap_tensors(heatmaps) if heatmaps else {}
    for own in answers[0].outputs:
        found[own] = _joined(own, [answer.outputs for answer in answers])
    whether = bool(request.use_binary_outputs)
    binary = {
        output.name: whether if output.binary_data is None else bool(output.binary_data)
        for output in request.request_outputs or ()
    } or dict.fromkeys(found, whether)
    parts = [_tensor(key, found[key], as_bytes) for key, as_bytes in binary.items()]
    head = {"model_name": name, "id": request.id or uuid4().hex, "outputs": [described for described, _ in parts]}
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(text + b"".join(raw for _, raw in parts), len(text) if any(binary.values()) else None)


def _heatmap_tensors(heatmaps: Sequence[Heatmap]) -> dict[str, Array]:
    """[N, …] each."""
    targets = [TOP if heatmap.target is None else heatmap.target for heatmap in heatmaps]
    return {
        HEATMAP: np.stack([heatmap.scores for heatmap in heatmaps]),
        BASE_SCORE: np.array([heatmap.base_score for heatmap in heatmaps], np.float32),
        TARGET_INDEX: np.array(targets, np.int64),
        RECORD: np.array([orjson.dumps(heatmap.record) for heatmap in heatmaps], np.object_),
    }


def _joined(name: str, outputs: Sequence[Mapping[str, Any]]) -> Array:
    """One of the model's outputs for all images: [N, …]."""
    values = [np.asarray(of_image[name][0]) for of_image in outputs]
    if len({value.shape for value in values}) > 1:
        raise KryptonError(f"The output '{name}' has other extents for each image: send one image a request.")
    return np.stack(values)


def _tensor(name: str, array: Array, binary: bool) -> tuple[dict[str, Any], bytes]:
    """A tensor in the response's JSON, and its bytes behind that."""
    if from_np_dtype(array.dtype) is None:  # of bfloat16 there is none
        array = array.astype(np.float32)
    described: dict[str, Any] = {"name": name, "datatype": from_np_dtype(array.dtype), "shape": list(array.shape)}
    if binary:
        raw = serialize_byte_tensor(array).item() if array.dtype == object and array.size else array.tobytes()
        return {**described, "parameters": {_SIZE: len(raw)}}, raw
    if array.dtype == object:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in array.reshape(-1)]
        return {**described, "data": texts}, b""
    return {**described, "data": np.ascontiguousarray(array).reshape(-1)}, b""


# ---------------------------------------------------------------------------------------------- metadata


def inputs_of(plan: Plan) -> list[dict[str, Any]]:
    """What the model takes, for its metadata; parameters may be tensors beside these."""
    name, (channels, height, width) = _image_name(plan), plan.image.shape
    if plan.preprocess is None:
        image = TensorInfo(name, plan.image.dtype, plan.model_shape)
    else:
        image = TensorInfo(name, "uint8", (height, width, channels))
    others = [{"name": info.name, "datatype": _datatype(info), "shape": _extents(info)} for info in plan.other_inputs]
    return [{"name": name, "datatype": _datatype(image), "shape": [-1, *_extents(image)]}, *others]


def outputs_of(plan: Plan) -> list[dict[str, Any]]:
    """What it gives."""
    made = [
        {"name": HEATMAP, "datatype": "FP32", "shape": [-1, -1, -1]},
        {"name": BASE_SCORE, "datatype": "FP32", "shape": [-1]},
        {"name": TARGET_INDEX, "datatype": "INT64", "shape": [-1]},
        {"name": RECORD, "datatype": "BYTES", "shape": [-1]},
    ]
    own = [{"name": info.name, "datatype": _datatype(info), "shape": [-1, *_extents(info)]} for info in _own(plan)]
    return [*made, *own]


def _datatype(info: TensorInfo) -> str:
    return from_np_dtype(np.dtype(info.dtype)) or "FP32"


def _extents(info: TensorInfo) -> list[int]:
    return [-1 if extent is None else extent for extent in info.shape]
