"""An ONNX model as a PyTorch module: node by node the function that it was exported from.

In eager mode, BatchNormalization left standing and ReLU in place, it is what torchvision's model of the same name runs.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import NodeProto, numpy_helper
from torch import fx, nn
from torch.nn import functional

Attributes = dict[str, Any]
Call = tuple[Callable[..., torch.Tensor], dict[str, Any]]


def torch_twin(model: onnx.ModelProto) -> nn.Module:
    """The module; it knows the operators of `krypton_onnx.models` and no others.

    Args:
        model: with one input, the image, its weights inside.

    Raises:
        ValueError: for an operator that it does not know.
    """
    root, graph = nn.Module(), fx.Graph()
    values: dict[str, Any] = {}  # weights and activations by name; numbers where a Constant holds one
    for number, weight in enumerate(model.graph.initializer):
        root.register_buffer(f"weight{number}", torch.from_numpy(numpy_helper.to_array(weight).copy()))
        values[weight.name] = graph.get_attr(f"weight{number}")
    values[model.graph.input[0].name] = graph.placeholder("image")
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(attributes["value"]).item()
        else:
            function, options = _call(node, attributes, inplace=readers[node.input[0]] == 1)
            inputs = [values[name] for name in node.input]
            arguments = (inputs,) if node.op_type == "Concat" else tuple(inputs)
            values[node.output[0]] = graph.call_function(function, arguments, options)
    graph.output(values[model.graph.output[0].name])
    return fx.GraphModule(root, graph).eval()  # which forgets each activation after its last reader


def _call(node: NodeProto, attributes: Attributes, *, inplace: bool) -> Call:
    """The function that stands for a node, and its arguments beside the node's inputs."""
    match node.op_type:
        case "Conv":
            options = {"stride": attributes["strides"], "padding": _padding(attributes), "groups": attributes["group"]}
            return functional.conv2d, options | {"dilation": attributes["dilations"]}
        case "BatchNormalization":
            return _batch_norm, {"eps": attributes["epsilon"]}
        case "Relu":
            return functional.relu, {"inplace": inplace}
        case "Clip":
            return functional.hardtanh, {"inplace": inplace}
        case "MaxPool":
            return functional.max_pool2d, _pooling(attributes)
        case "AveragePool":
            return functional.avg_pool2d, _pooling(attributes) | {
                "count_include_pad": bool(attributes["count_include_pad"])
            }
        case "GlobalAveragePool":
            return functional.adaptive_avg_pool2d, {"output_size": 1}
        case "Flatten":
            return torch.flatten, {"start_dim": attributes["axis"]}
        case "Concat":
            return torch.cat, {"dim": attributes["axis"]}
        case "Add":
            return torch.add, {}
        case "Gemm":
            return functional.linear, {}
        case unknown:
            raise ValueError(f"no function of PyTorch is known for {unknown}")


def _batch_norm(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, eps: float
) -> torch.Tensor:
    """ONNX's order of arguments."""
    return functional.batch_norm(x, mean, variance, scale, bias, eps=eps)


def _pooling(attributes: Attributes) -> dict[str, Any]:
    return {
        "kernel_size": attributes["kernel_shape"],
        "stride": attributes["strides"],
        "padding": _padding(attributes),
        "ceil_mode": bool(attributes["ceil_mode"]),
    }


def _padding(attributes: Attributes) -> list[int]:
    """Rows and columns before the map; the builders put as many behind it."""
    return list(attributes["pads"][:2])
