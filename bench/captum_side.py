"""Captum's Occlusion in PyTorch on the CPU, on the twin of the ONNX model: the way that most people go.

What is timed is 4 x 4 large patches side by side: Captum multiplies the whole image by a mask and evaluates the whole
network, whatever the patch's size and place, so that seconds divide by the number of evaluations. (It allows no gaps
between small ones.)
"""

import math

import torch
from captum.attr import Occlusion
from torch import nn

from krypton_onnx.plain_model import timed
from krypton_onnx.runtime.engine import Array

SIZES = (1, 2, 4, 8, 16)
"""Values of perturbations_per_eval that are tried."""

SIDE = 4
"""Patches along each axis; their number is a multiple of every size."""

EVALUATIONS = SIDE**2 + 1
"""Of the network: one a patch, and one of the image itself."""


def attribute(network: nn.Module, image: Array, perturbations_per_eval: int) -> torch.Tensor:
    """Captum's answer for an image [C, H, W]; its own is [1, C, H, W]."""
    channels, *extents = image.shape
    patch = (channels, *(math.ceil(extent / SIDE) for extent in extents))
    return Occlusion(network).attribute(
        torch.from_numpy(image)[None],
        sliding_window_shapes=patch,
        strides=patch,
        baselines=0,
        target=0,
        perturbations_per_eval=perturbations_per_eval,
    )


def best_size(network: nn.Module, image: Array) -> int:
    """The fastest perturbations_per_eval, tried for as long as more are not slower; warms up, too."""
    attribute(network, image, SIZES[0])
    seconds: dict[int, float] = {}
    for size in SIZES:
        seconds[size] = timed(lambda size=size: attribute(network, image, size))
        if seconds[size] > min(seconds.values()):
            break  # larger ones of a large image would not even fit into the memory
    return min(seconds, key=lambda size: seconds[size])
