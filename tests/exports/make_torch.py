"""Make the fixtures that torch exports, by the TorchScript exporter and by the one that traces (dynamo).

    PYTHONPATH=tests python tests/exports/make_torch.py [NAME …]

Made with torch 2.13.0, torchvision 0.28.0, timm 1.0.31, onnxscript 0.7.2. Weights are dropped, so that random ones do.
"""

import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import nets_torch as nets
import onnx
import timm
import torch
from exports import save_stripped
from torch import nn
from torchvision import models


@dataclass(frozen=True)
class Export:
    """How one fixture is made.

    Attributes:
        make: the module.
        opset: asked for.
        dynamo: by the tracing exporter.
        size: height and width of the image.
        free_batch: whether the batch axis is exported as symbolic.
        channels: of the image.
    """

    make: Callable[[], nn.Module]
    opset: int
    dynamo: bool = False
    size: int = 224
    free_batch: bool = True
    channels: int = 3


def vision(name: str, **settings: object) -> Callable[[], nn.Module]:
    """One of torchvision's classifiers."""
    return lambda: models.get_model(name, weights=None, **settings)


def from_timm(name: str) -> Callable[[], nn.Module]:
    """One of timm's classifiers."""
    return lambda: timm.create_model(name, pretrained=False, exportable=True)


def narrow_vgg() -> nn.Module:
    """VGG-11 with BatchNorm; 512 in place of 4096 in the head, which would be most of the file once filled."""
    model = models.vgg11_bn(weights=None)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 512), nn.ReLU(), nn.Linear(512, 1000))
    return model


class First(nn.Module):
    """The output called "out" of a segmentation net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] → [N, classes, H, W]."""
        return self.net(x)["out"]


def segmentation(name: str) -> Callable[[], nn.Module]:
    """One of torchvision's segmentation nets."""
    return lambda: First(models.get_model(name, weights=None, weights_backbone=None))


inception = vision("inception_v3", aux_logits=False, init_weights=False)
googlenet = vision("googlenet", aux_logits=False, init_weights=False)

EXPORTS = {
    "alexnet_ts11": Export(vision("alexnet"), 11),
    "vgg11_bn_ts11": Export(narrow_vgg, 11),
    "googlenet_ts11": Export(googlenet, 11, free_batch=False),
    "squeezenet1_0_ts11": Export(vision("squeezenet1_0"), 11),
    "mnasnet1_0_ts11": Export(vision("mnasnet1_0"), 11),
    "super_resolution_ts11": Export(nets.SuperResolution, 11, channels=1),
    "style_transfer_ts11": Export(nets.StyleTransfer, 11, free_batch=False),
    "resnet34_ts13": Export(vision("resnet34"), 13, free_batch=False),
    "densenet121_ts13": Export(vision("densenet121"), 13),
    "shufflenet_v2_ts13": Export(vision("shufflenet_v2_x1_0"), 13),
    "regnet_x_400mf_ts13": Export(vision("regnet_x_400mf"), 13),
    "unet_transposed_ts13": Export(lambda: nets.UNet(bilinear=False), 13),
    "yolo_ts13": Export(nets.YOLO, 13, size=320, free_batch=False),
    "fcn_ts13": Export(nets.FCN, 13),
    "resnet18_ts17": Export(vision("resnet18"), 17),
    "mobilenet_v2_ts17": Export(vision("mobilenet_v2"), 17),
    "mobilenet_v3_large_ts17": Export(vision("mobilenet_v3_large"), 17),
    "efficientnet_b0_ts17": Export(vision("efficientnet_b0"), 17),
    "convnext_tiny_ts17": Export(vision("convnext_tiny"), 17),
    "xception_ts17": Export(from_timm("legacy_xception"), 17, size=299),
    "mobilevit_xxs_ts17": Export(from_timm("mobilevit_xxs"), 17, size=256, free_batch=False),
    "deeplabv3_mobilenet_ts17": Export(segmentation("deeplabv3_mobilenet_v3_large"), 17),
    "ssdlite_ts17": Export(lambda: nets.SSDLite(decode=False), 17, size=320),
    "resnet50_dynamo18": Export(vision("resnet50"), 18, dynamo=True),
    "resnext50_dynamo18": Export(vision("resnext50_32x4d"), 18, dynamo=True, free_batch=False),
    "shufflenet_v2_dynamo18": Export(vision("shufflenet_v2_x1_0"), 18, dynamo=True),
    "mobilenet_v3_small_dynamo18": Export(vision("mobilenet_v3_small"), 18, dynamo=True),
    "inception_v3_dynamo18": Export(inception, 18, dynamo=True, size=299, free_batch=False),
    "unet_bilinear_dynamo18": Export(lambda: nets.UNet(bilinear=True), 18, dynamo=True, size=160),
    "yolo_dynamo18": Export(nets.YOLO, 18, dynamo=True, size=320),
    "lraspp_dynamo18": Export(segmentation("lraspp_mobilenet_v3_large"), 18, dynamo=True, free_batch=False),
    "efficientnet_b0_dynamo20": Export(vision("efficientnet_b0"), 20, dynamo=True, free_batch=False),
    "regnet_y_400mf_dynamo20": Export(vision("regnet_y_400mf"), 20, dynamo=True),
    "convnext_tiny_dynamo20": Export(vision("convnext_tiny"), 20, dynamo=True),
    "retinanet_dynamo20": Export(nets.RetinaNet, 20, dynamo=True),
    "style_transfer_dynamo20": Export(nets.StyleTransfer, 20, dynamo=True, size=128),
    "hybrid_dynamo20": Export(nets.Hybrid, 20, dynamo=True, free_batch=False),
    "densenet121_dynamo20": Export(vision("densenet121"), 20, dynamo=True),
    "resnet18_dynamo23": Export(vision("resnet18"), 23, dynamo=True),
}


def unequal(model: nn.Module) -> nn.Module:
    """Make weights differ, in place: equal ones, as untrained nets have them, would be exported once."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.rand_like(parameter)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 0.05 * torch.rand_like(module.running_mean)
                module.running_var += 0.05 * torch.rand_like(module.running_var)
    return model


def exported(export: Export) -> tuple[onnx.ModelProto, set[str]]:
    """What torch writes, and the names of the weights."""
    torch.manual_seed(0)
    model = unequal(export.make()).eval()
    learnt = {name for name, _ in model.named_parameters()}
    image = torch.randn(2 if export.free_batch and export.dynamo else 1, export.channels, export.size, export.size)
    if export.dynamo:
        shapes = ({0: torch.export.Dim("batch")},) if export.free_batch else None
        program = torch.onnx.export(model, (image,), dynamo=True, opset_version=export.opset, dynamic_shapes=shapes)
        return program.model_proto, learnt
    outputs = model(image)
    names = ["output"] if isinstance(outputs, torch.Tensor) else [f"output{n}" for n in range(len(outputs))]
    axes = {name: {0: "batch"} for name in ("image", *names)} if export.free_batch else None
    file = io.BytesIO()
    torch.onnx.export(
        model,
        (image,),
        file,
        dynamo=False,
        opset_version=export.opset,
        input_names=["image"],
        output_names=names,
        dynamic_axes=axes,
    )
    return onnx.load_from_string(file.getvalue()), learnt


def with_suppression(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put NonMaxSuppression behind scores [N, A, classes] and boxes [N, A, 4]; outputs are ragged."""
    scores, boxes = (output.name for output in model.graph.output)
    limits = {"most": (onnx.TensorProto.INT64, 20), "overlap": (onnx.TensorProto.FLOAT, 0.5)}
    limits["least"] = (onnx.TensorProto.FLOAT, 0.25)
    for name, (dtype, value) in limits.items():
        model.graph.initializer.append(onnx.helper.make_tensor(name, dtype, [1], [value]))
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    columns = onnx.helper.make_tensor("columns", onnx.TensorProto.INT64, [2], [0, 2])
    model.graph.initializer.extend([axes, columns])
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("Transpose", [scores], ["by_class"], perm=[0, 2, 1]),
            make("NonMaxSuppression", [boxes, "by_class", "most", "overlap", "least"], ["selected"]),
            make("Gather", ["selected", "columns"], ["places"], axis=1),
            make("GatherND", [boxes, "places"], ["selected_boxes"]),
        ]
    )
    del model.graph.output[:]
    model.graph.output.extend(
        [
            onnx.helper.make_tensor_value_info("selected", onnx.TensorProto.INT64, ["selections", 3]),
            onnx.helper.make_tensor_value_info("selected_boxes", onnx.TensorProto.FLOAT, ["selections", 4]),
        ]
    )
    return model


def main() -> None:
    """Make the fixtures named on the command line, or all."""
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or (*EXPORTS, "ssdlite_nms_ts17"):
        if name == "ssdlite_nms_ts17":
            decoded = Export(lambda: nets.SSDLite(decode=True), 17, size=320, free_batch=False)
            model, learnt = exported(decoded)
            save_stripped(with_suppression(model), name, "TorchScript, NonMaxSuppression appended", learnt)
            continue
        model, learnt = exported(EXPORTS[name])
        save_stripped(model, name, "dynamo" if EXPORTS[name].dynamo else "TorchScript", learnt)


if __name__ == "__main__":
    main()
