"""Requests and answers in KServe's protocol V1: JSON, images as nested lists or as files in base64."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np

from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.engine import Array
from krypton_onnx.service.arrays import array_of
from krypton_onnx.service.asked import Asked, Options
from krypton_onnx.service.explainer import Answer
from krypton_onnx.service.images import Image, from_base64, from_files


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request's body.

    Attributes:
        instances: images; each the model's input tensor in nested lists, or a picture's file, {"b64": "…"}.
        parameters: see `Options`.
        inputs: the model's inputs beside the image, in nested lists by name.
    """

    instances: list[Any]
    parameters: dict[str, Any] = {}
    inputs: dict[str, Any] = {}


def read(body: Any, plan: Plan, *, heatmap: bool) -> Asked:
    """What a request asks.

    Args:
        body: the decoded JSON.
        plan: of the model that is asked.
        heatmap: whether that is heatmaps, or the model's outputs alone.

    Raises:
        KryptonError: the body is malformed.
    """
    if isinstance(body, bytes):
        raise KryptonError("The body is of another type than JSON: send the header 'content-type: application/json'.")
    try:
        request = msgspec.convert(body, _Request)
    except msgspec.ValidationError as error:
        raise KryptonError(
            f'The request is malformed: {error}; send JSON, {{"instances": […], "parameters": {{…}}, "inputs": {{…}}}}.'
        ) from error
    dtypes = {info.name: info.dtype for info in plan.other_inputs}
    inputs = {name: array_of(values, np.dtype(dtypes.get(name, "f4"))) for name, values in request.inputs.items()}
    images, options = _images(request.instances, plan), Options.of(request.parameters)
    return Asked(images, inputs, options, heatmap, () if heatmap else plan.outputs)


def _images(instances: Sequence[Any], plan: Plan) -> tuple[Image, ...]:
    files = [instance for instance in instances if isinstance(instance, dict)]
    if not files and instances:
        return tuple(partial(array_of, instance, np.dtype(plan.image.dtype)) for instance in instances)
    if len(files) < len(instances):
        raise KryptonError("Some instances are files and some are tensors; send one kind a request.")
    if any(file.keys() != {"b64"} or not isinstance(file["b64"], str) for file in files):
        raise KryptonError('An instance is no picture: send {"b64": "…"}, its file in base64, or nested lists.')
    return from_files([from_base64(file["b64"]) for file in files], plan)


def explained(answers: Sequence[Answer], plan: Plan) -> dict[str, Any]:
    """The response to `:explain`: an explanation for each instance."""
    return {"explanations": [_explanation(answer.heatmap, plan) for answer in answers if answer.heatmap is not None]}


def _explanation(heatmap: Heatmap, plan: Plan) -> dict[str, Any]:
    targets = heatmap.target if isinstance(heatmap.target, list) else [heatmap.target]
    labels = plan.labels or ()
    names = [None if index is None or index >= len(labels) else labels[index] for index in targets]
    places = [heatmap.most_important(number) for number in range(len(targets))]
    important = [{"y": y, "x": x, "drop": drop} for y, x, drop in places]
    single = heatmap.scores.ndim == 2
    return {
        "scores": heatmap.scores,
        "base_score": heatmap.base_score,
        "target": heatmap.target,
        "label": names[0] if single else names,
        "most_important": important[0] if single else important,
        "rows": np.ascontiguousarray(heatmap.origins[:, 0, 0]),
        "cols": np.ascontiguousarray(heatmap.origins[0, :, 1]),
        "patch": list(heatmap.patch),
        "record": heatmap.record,
    }


def predicted(answers: Sequence[Answer]) -> dict[str, Any]:
    """The response to `:predict`: the model's outputs for each instance, by name if there are several."""
    return {"predictions": [_prediction(answer) for answer in answers]}


def _prediction(answer: Answer) -> Any:
    outputs = {name: _plain(np.asarray(values[0])) for name, values in answer.outputs.items()}
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _plain(array: Array) -> Any:
    """What orjson can write: arrays of common numbers as they are, which spares a list of millions."""
    return array if array.ndim and array.flags.c_contiguous and array.dtype.kind in "iufb" else array.tolist()
