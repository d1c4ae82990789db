"""Published CNN architectures as ONNX models with seeded random weights, built without a training framework."""

from krypton_onnx.models.architectures import NAMES, build

__all__ = ["NAMES", "build"]
