"""Make the fixtures that Keras exports (`Model.export(format="onnx")`, TensorFlow backend: channels last).

    PYTHONPATH=tests python tests/exports/make_keras.py [NAME …]

Made with Keras 3.15.1, TensorFlow 2.21.0, tf2onnx 1.17.0. Weights are dropped, so that random ones do.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import onnx
from exports import save_stripped

Made = Callable[[], keras.Model]

MODELS: dict[str, tuple[Made, int | None]] = {
    "mobilenet_v2_keras": (lambda: keras.applications.MobileNetV2(weights=None), None),
    "resnet50_keras": (lambda: keras.applications.ResNet50(weights=None), 15),
    "xception_keras": (lambda: keras.applications.Xception(weights=None), 18),
    "efficientnet_b0_keras": (lambda: keras.applications.EfficientNetB0(weights=None), 17),
}
"""The model and the opset asked for; None for the exporter's own choice."""


def exported(make: Made, opset: int | None) -> onnx.ModelProto:
    """What Keras writes."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        settings = {} if opset is None else {"opset_version": opset}
        model = make()
        model(keras.ops.zeros((1, *model.input_shape[1:])))  # one that was never called is refused
        model.set_weights([w + 0.05 * rng.random(w.shape) for w in model.get_weights()])  # equal ones are written once
        model.export(str(file), format="onnx", verbose=False, **settings)
        return onnx.load(file)


def main() -> None:
    """Make the fixtures named on the command line, or all."""
    for name in sys.argv[1:] or MODELS:
        keras.utils.set_random_seed(0)
        save_stripped(exported(*MODELS[name]), name, "Keras")


if __name__ == "__main__":
    main()
