"""The models that heatmaps are compared on, each with the way from a picture to its input.

| name | weights | scores |
|---|---|---|
| squeezenet | trained on ImageNet; shared/models beside the checkout | 1000 probabilities |
| demo | trained on drawn scenes; comes with krypton-onnx | 10 probabilities |
| vgg16, resnet18, … | random, but for what `fitting` does | 5 probabilities: which calibration photograph it is |

The last kind is fitted to `VIEWS` views of each calibration crop; the statistics are taken from every
`STATISTICS_EVERY`th of them. What comes out depends on the versions of the installed packages, not on the day.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
from fitting import Floats, fit_head, normalise
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from pictures import CALIBRATION, views

import krypton_onnx as kx
from krypton_onnx import models

SQUEEZENET = Path(__file__).resolve().parents[3] / "shared" / "models" / "SqueezeNet_fp16.onnx"
SEEDED = ("vgg16", "resnet18", "resnet50", "inception_v3", "densenet121", "mobilenet_v2")
NAMES = ("squeezenet", "demo", *SEEDED)
"""The subjects that `subject` knows."""

# The mean colour and its spread over ImageNet, in pixels: what torchvision's models are fed with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_SPREAD = (58.395, 57.12, 57.375)

VIEWS = 12
STATISTICS_EVERY = 6


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and how it is asked.

    Attributes:
        name: one of `NAMES`.
        path: the ONNX file; its first output holds the scores, one class each.
        preprocess: from a picture to the tensor.
        size: height and width of the image in pixels.
        fill: what a patch shows, a value per channel in the tensor's units and order: the mean colour.
        trained: whether all weights are; otherwise the last layer is fitted to random features.
    """

    name: str
    path: Path
    preprocess: kx.Preprocess
    size: int
    fill: tuple[float, ...]
    trained: bool

    def tensor(self, picture: NDArray[np.uint8]) -> Floats:
        """The model's input, float32 [3, size, size], from uint8 [size, size, 3], RGB."""
        return self.preprocess.tensor(picture)


def subject(name: str, folder: Path) -> Subject:
    """Find a model, or make it, which takes up to two minutes on one core.

    Args:
        name: one of `NAMES`.
        folder: where the ONNX files are kept; one that is there is used again.

    Raises:
        FileNotFoundError: SqueezeNet's file is not beside the checkout.
        KeyError: there is no such subject.
    """
    if name == "demo":
        return _demo()
    if name == "squeezenet":
        preprocess = kx.Preprocess(scale=(1.0,), channel_order="BGR")
        path = _kept(folder, name, _squeezenet)
        return Subject(name, path, preprocess, 224, tuple(reversed(IMAGENET_MEAN)), trained=True)
    if name not in SEEDED:
        raise KeyError(f"no subject {name!r}: there are {', '.join(NAMES)}")
    preprocess = kx.Preprocess(mean=IMAGENET_MEAN, scale=tuple(1 / spread for spread in IMAGENET_SPREAD))
    size = 299 if name == "inception_v3" else 224
    path = _kept(folder, name, lambda: _fitted(name, preprocess, size))
    return Subject(name, path, preprocess, size, (0.0, 0.0, 0.0), trained=False)


def _kept(folder: Path, name: str, make: Callable[[], ModelProto]) -> Path:
    path = folder / f"{name}.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # under its own name only once it is whole
        part = path.with_suffix(".part")
        onnx.save(make(), part)
        part.replace(path)
    return path


def _demo() -> Subject:
    files = Path(str(resources.files("krypton_onnx.models")))
    preprocess = kx.Preprocess.from_json(files / "demo_preprocess.json")
    return Subject("demo", files / "demo.onnx", preprocess, 128, (0.0, 0.0, 0.0), trained=True)


def _squeezenet() -> ModelProto:
    """The same network in float32, weights and interface alike."""
    model = onnx.load(SQUEEZENET)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT16:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def _fitted(name: str, preprocess: kx.Preprocess, size: int) -> ModelProto:
    model = models.build(name, input_size=size, classes=len(CALIBRATION))
    seen = list(views(size, VIEWS))
    images = np.stack([preprocess.tensor(picture) for _, picture in seen])
    normalise(model, images[::STATISTICS_EVERY])
    fit_head(model, images, np.array([label for label, _ in seen]))
    onnx.checker.check_model(model)
    return model
