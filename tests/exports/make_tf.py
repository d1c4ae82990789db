"""Make the fixtures that tf2onnx converts from a TensorFlow function: channels last.

    PYTHONPATH=tests python tests/exports/make_tf.py [NAME …]

Made with TensorFlow 2.21.0, Keras 3.15.1, tf2onnx 1.17.0. Weights are dropped, so that random ones do.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from exports import save_stripped
from keras import applications, layers

if not hasattr(np, "object"):
    np.object = object  # numpy 2 dropped what tf2onnx 1.17 still asks for


def upsampler() -> keras.Model:
    """An encoder and decoder: strided and dilated convolutions, a transposed one, bilinear and nearest resizes."""
    image = layers.Input((224, 224, 3))
    x = layers.Conv2D(32, 3, 2, "same", activation="relu")(image)
    fine = layers.BatchNormalization()(x)
    x = layers.Conv2D(64, 3, 2, "same", activation="relu")(fine)
    x = layers.Conv2D(64, 3, 1, "same", dilation_rate=2, activation="relu")(x)
    x = layers.Conv2D(128, 3, 2, "same", activation="relu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(64, 1, activation="relu")(x))
    x = layers.Concatenate()([layers.Conv2DTranspose(32, 3, 2, "same", activation="relu")(x), fine])
    x = layers.UpSampling2D(2, interpolation="nearest")(layers.SeparableConv2D(32, 3, 1, "same")(x))
    return keras.Model(image, layers.Conv2D(4, 1, activation="softmax")(x))


MODELS = {
    "mobilenet_v1_tf13": (lambda: applications.MobileNet(weights=None, classifier_activation=None), 13),
    "segmenter_tf15": (upsampler, 15),
}
"""The model and the opset asked for."""


def exported(model: keras.Model, opset: int) -> onnx.ModelProto:
    """What tf2onnx writes."""
    rng = np.random.default_rng(0)
    # equal weights, as untrained nets have them, would be written once
    model.set_weights([weight + 0.05 * rng.random(weight.shape) for weight in model.get_weights()])
    image = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="image")
    converted, _ = tf2onnx.convert.from_function(
        tf.function(lambda image: model(image, training=False)), [image], opset=opset
    )
    return converted


def main() -> None:
    """Make the fixtures named on the command line, or all."""
    for name in sys.argv[1:] or MODELS:
        make, opset = MODELS[name]
        save_stripped(exported(make(), opset), name, "tf2onnx")


if __name__ == "__main__":
    main()
