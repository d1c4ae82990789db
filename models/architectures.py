"""Published CNN architectures at full size, with random weights: the graphs that PyTorch exports, without PyTorch.

Layer for layer these are torchvision's versions, exported for inference before BatchNormalization is folded:
Conv and BatchNormalization stay separate nodes, Dropout is gone, InceptionV3 has no auxiliary classifier.
"""

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from krypton_onnx.errors import KryptonError
from krypton_onnx.models.inception import inception_v3
from krypton_onnx.models.layers import Net, Pair, Tensor


def vgg16(net: Net, classes: int) -> Tensor:
    """VGG16, configuration D of Simonyan and Zisserman 2014 (arXiv:1409.1556, table 1).

    The first fully connected layer fits a 7 x 7 map. A larger map is averaged down to it in equal windows, which
    is torchvision's AdaptiveAvgPool2d(7) wherever that exports to ONNX.

    Args:
        net: The empty graph, with its image [N, 3, size, size].
        classes: Number of logits.

    Returns:
        The logits [N, classes].

    Raises:
        KryptonError: size // 32 is no multiple of 7.
    """
    window, rest = divmod(net.size // 32, 7)
    if rest or not window:
        raise KryptonError(
            f"vgg16 cannot have input size {net.size}: its fully connected layers need a map that divides into "
            "7 x 7 equal windows; take a multiple of 224."
        )
    x = net.image
    for stage, (depth, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1):
        with net.scope(f"block{stage}"):
            for _ in range(depth):
                x = net.relu(net.conv(x, channels, 3, pad=1, bias=True))
            x = net.max_pool(x, 2, stride=2)
    if window > 1:
        x = net.avg_pool(x, window, stride=window)
    x = net.flatten(x, positions=7 * 7)
    x = net.relu(net.gemm(x, 4096))
    x = net.relu(net.gemm(x, 4096))
    return net.gemm(x, classes)


def resnet18(net: Net, classes: int) -> Tensor:
    """ResNet18 of He et al. 2015 (arXiv:1512.03385, table 1); [N, 3, size, size] into [N, classes]."""
    return _resnet(net, classes, _basic_block, depths=(2, 2, 2, 2))


def resnet50(net: Net, classes: int) -> Tensor:
    """ResNet50 v1.5: He et al. 2015 (arXiv:1512.03385, table 1) with the stride moved into the 3 x 3 convolution.

    [N, 3, size, size] into [N, classes].
    """
    return _resnet(net, classes, _bottleneck, depths=(3, 4, 6, 3))


def _resnet(
    net: Net, classes: int, block: Callable[[Net, Tensor, int, int], Tensor], depths: tuple[int, int, int, int]
) -> Tensor:
    x = net.relu(_conv_bn(net, net.image, 64, 7, stride=2, pad=3))
    x = net.max_pool(x, 3, stride=2, pad=1)
    for stage, depth in enumerate(depths, start=1):
        for index in range(depth):
            with net.scope(f"layer{stage}.{index}"):
                stride = 2 if stage > 1 and index == 0 else 1
                x = block(net, x, 32 * 2**stage, stride)
    return _pooled_gemm(net, x, classes)


def _basic_block(net: Net, x: Tensor, width: int, stride: int) -> Tensor:
    y = net.relu(_conv_bn(net, x, width, 3, stride=stride, pad=1))
    y = _conv_bn(net, y, width, 3, pad=1)
    return net.relu(net.add(y, _shortcut(net, x, width, stride)))


def _bottleneck(net: Net, x: Tensor, width: int, stride: int) -> Tensor:
    y = net.relu(_conv_bn(net, x, width, 1))
    y = net.relu(_conv_bn(net, y, width, 3, stride=stride, pad=1))
    y = _conv_bn(net, y, 4 * width, 1)
    return net.relu(net.add(y, _shortcut(net, x, 4 * width, stride)))


def _shortcut(net: Net, x: Tensor, channels: int, stride: int) -> Tensor:
    """The identity, or a projection where the shape changes (option B of the paper)."""
    if stride == 1 and x.channels == channels:
        return x
    with net.scope("downsample"):
        return _conv_bn(net, x, channels, 1, stride=stride)


def densenet121(net: Net, classes: int) -> Tensor:
    """DenseNet-BC 121, growth rate 32, of Huang et al. 2016 (arXiv:1608.06993, table 1).

    [N, 3, size, size] into [N, classes]. Like PyTorch's export, even the first layer of a block has its Concat,
    of a single input.
    """
    x = net.relu(_conv_bn(net, net.image, 64, 7, stride=2, pad=3))
    x = net.max_pool(x, 3, stride=2, pad=1)
    for stage, depth in enumerate((6, 12, 24, 16), start=1):
        if stage > 1:
            with net.scope(f"transition{stage - 1}"):
                x = net.conv(net.relu(net.batch_norm(x)), x.channels // 2, 1)
                x = net.avg_pool(x, 2, stride=2)
        features = [x]
        for index in range(1, depth + 1):
            with net.scope(f"denseblock{stage}.{index}"):
                y = net.concat(features)
                y = net.conv(net.relu(net.batch_norm(y)), 4 * 32, 1)
                y = net.conv(net.relu(net.batch_norm(y)), 32, 3, pad=1)
            features.append(y)
        x = net.concat(features)
    return _pooled_gemm(net, net.relu(net.batch_norm(x)), classes)


def mobilenet_v2(net: Net, classes: int) -> Tensor:
    """MobileNetV2 of Sandler et al. 2018 (arXiv:1801.04381, table 2); [N, 3, size, size] into [N, classes]."""
    x = net.relu6(_conv_bn(net, net.image, 32, 3, stride=2, pad=1))
    # The paper's t, c, n, s: expansion, channels, repeats, stride of the first repeat.
    table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    block = 1
    for expansion, channels, repeats, first_stride in table:
        for index in range(repeats):
            with net.scope(f"features.{block}"):
                x = _inverted_residual(net, x, expansion, channels, first_stride if index == 0 else 1)
            block += 1
    x = net.relu6(_conv_bn(net, x, 1280, 1))
    return _pooled_gemm(net, x, classes)


def _inverted_residual(net: Net, x: Tensor, expansion: int, channels: int, stride: int) -> Tensor:
    wide = x.channels * expansion
    y = net.relu6(_conv_bn(net, x, wide, 1)) if expansion > 1 else x
    y = net.relu6(_conv_bn(net, y, wide, 3, stride=stride, pad=1, groups=wide))
    y = _conv_bn(net, y, channels, 1)
    return net.add(x, y) if stride == 1 and x.channels == channels else y


def squeezenet1_1(net: Net, classes: int) -> Tensor:
    """SqueezeNet 1.1 of Iandola et al. 2016 (arXiv:1602.07360, with the authors' later, cheaper layout).

    [N, 3, size, size] into [N, classes]; the logits are rectified, hence never negative.
    """
    x = net.relu(net.conv(net.image, 64, 3, stride=2, bias=True))
    block = 2
    for squeezes in [(16, 16), (32, 32), (48, 48, 64, 64)]:
        x = net.max_pool(x, 3, stride=2, ceil=True)
        for squeeze in squeezes:
            with net.scope(f"fire{block}"):
                x = _fire(net, x, squeeze)
            block += 1
    with net.scope("classifier"):
        x = net.relu(net.conv(x, classes, 1, bias=True))
        return net.flatten(net.global_avg_pool(x))


def _fire(net: Net, x: Tensor, squeeze: int) -> Tensor:
    x = net.relu(net.conv(x, squeeze, 1, bias=True))
    narrow = net.relu(net.conv(x, 4 * squeeze, 1, bias=True))
    wide = net.relu(net.conv(x, 4 * squeeze, 3, pad=1, bias=True))
    return net.concat([narrow, wide])


def _conv_bn(
    net: Net, x: Tensor, channels: int, kernel: Pair, *, stride: int = 1, pad: Pair = 0, groups: int = 1
) -> Tensor:
    return net.batch_norm(net.conv(x, channels, kernel, stride=stride, pad=pad, groups=groups))


def _pooled_gemm(net: Net, x: Tensor, classes: int) -> Tensor:
    return net.gemm(net.flatten(net.global_avg_pool(x)), classes)


@dataclass(frozen=True, slots=True)
class _Architecture:
    """How to write one architecture, and the image sizes it was published for and can take."""

    write: Callable[[Net, int], Tensor]
    size: int = 224
    smallest: int = 32


_ARCHITECTURES = {
    "vgg16": _Architecture(vgg16),
    "resnet18": _Architecture(resnet18),
    "resnet50": _Architecture(resnet50),
    "inception_v3": _Architecture(inception_v3, size=299, smallest=75),
    "densenet121": _Architecture(densenet121),
    "mobilenet_v2": _Architecture(mobilenet_v2),
    "squeezenet1_1": _Architecture(squeezenet1_1),
}

NAMES: tuple[str, ...] = tuple(_ARCHITECTURES)
"""The architectures that `build` knows."""


def build(name: str, *, seed: int = 0, input_size: int | None = None, classes: int = 1000) -> ModelProto:
    """Builds a published architecture with random weights, ready for onnxruntime.

    Args:
        name: One of `NAMES`.
        seed: Decides every weight; the same seed gives the same bytes.
        input_size: Height and width of the image in pixels; the published size where None.
        classes: Number of logits.

    Returns:
        A model (opset 17, IR version 8) from "image", float32 [N, 3, input_size, input_size] of about zero mean
        and unit variance, to "logits", float32 [N, classes].

    Raises:
        KryptonError: The name is unknown, or the architecture cannot have this input size.
    """
    architecture = _ARCHITECTURES.get(name)
    if architecture is None:
        raise KryptonError(f"Unknown model {name!r}: choose one of {', '.join(NAMES)}.")
    size = architecture.size if input_size is None else input_size
    if size < architecture.smallest:
        raise KryptonError(f"{name} cannot have input size {size}: it needs at least {architecture.smallest}.")
    net = Net(name, size=size, seed=seed)
    return net.model(architecture.write(net, classes))
