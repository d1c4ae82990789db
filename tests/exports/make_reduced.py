"""Make the fixtures of fewer bits, from float32 ones of this folder.

    PYTHONPATH=tests python tests/exports/make_reduced.py

Made with ONNX Runtime 1.31.1's static quantization, calibrated on random images, and with onnxconverter-common 1.16.0.
The scales and zero points stay in the files; weights in eight bits are dropped as the others are.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from exports import load_export, save_stripped
from onnxconverter_common.float16 import convert_float_to_float16
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
    shape_inference,
)

SOURCE = "resnet18_ts17"


class RandomImages(CalibrationDataReader):
    """Random images to calibrate on."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(1)
        self._images: Iterator[np.ndarray] = iter(rng.standard_normal((count, 1, 3, 224, 224), np.float32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """One image, or None at the end."""
        image = next(self._images, None)
        return None if image is None else {"image": image}


def quantized(source: Path, form: QuantFormat, per_channel: bool) -> onnx.ModelProto:
    """The model in eight bits, statically."""
    prepared, result = source.with_name("prepared.onnx"), source.with_name("quantized.onnx")
    shape_inference.quant_pre_process(source, prepared)
    quantize_static(
        prepared,
        result,
        RandomImages(8),
        quant_format=form,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(result)


def dynamic(source: Path) -> onnx.ModelProto:
    """The model in eight bits, its activations quantized as they come."""
    result = source.with_name("dynamic.onnx")
    quantize_dynamic(source, result, weight_type=QuantType.QUInt8)
    return onnx.load(result)


def stored_in_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with weights in bfloat16, each behind a Cast: ONNX Runtime's CPU provider convolves no bfloat16."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims:
            name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(ml_dtypes.bfloat16), f"{name}_bfloat16"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.onnx"
        onnx.save(load_export(SOURCE), source)
        save_stripped(quantized(source, QuantFormat.QDQ, True), "resnet18_qdq_ts17", "TorchScript, int8 QDQ")
        save_stripped(
            quantized(source, QuantFormat.QOperator, False), "resnet18_qoperator_ts17", "TorchScript, int8 QOperator"
        )
        save_stripped(dynamic(source), "resnet18_qdynamic_ts17", "TorchScript, int8 dynamic")
    half = convert_float_to_float16(load_export(SOURCE))
    save_stripped(half, "resnet18_fp16_ts17", "TorchScript, cast to fp16")
    half = convert_float_to_float16(load_export("mobilenet_v2_ts17"), keep_io_types=True)
    save_stripped(half, "mobilenet_v2_fp16_ts17", "TorchScript, cast to fp16, float32 input and output")
    stored = stored_in_bfloat16(load_export(SOURCE))
    save_stripped(stored, "resnet18_bf16_ts17", "TorchScript, weights stored in bfloat16")


if __name__ == "__main__":
    main()
