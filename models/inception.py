"""InceptionV3, the one architecture whose table needs a page of its own."""

from krypton_onnx.models.layers import Net, Pair, Tensor


def inception_v3(net: Net, classes: int) -> Tensor:
    """InceptionV3 of Szegedy et al. 2015 (arXiv:1512.00567, table 1), in torchvision's layout.

    [N, 3, size, size] into [N, classes]; no auxiliary classifier, which inference does not use.
    """
    x = _unit(net, net.image, 32, 3, stride=2)
    x = _unit(net, x, 32, 3)
    x = _unit(net, x, 64, 3, pad=1)
    x = net.max_pool(x, 3, stride=2)
    x = _unit(net, x, 80, 1)
    x = _unit(net, x, 192, 3)
    x = net.max_pool(x, 3, stride=2)
    for index, pooled in enumerate((32, 64, 64)):
        with net.scope(f"mixed_a.{index}"):
            x = _mixed_a(net, x, pooled)
    with net.scope("reduction_b"):
        x = _reduction_b(net, x)
    for index, width in enumerate((128, 160, 160, 192)):
        with net.scope(f"mixed_c.{index}"):
            x = _mixed_c(net, x, width)
    with net.scope("reduction_d"):
        x = _reduction_d(net, x)
    for index in range(2):
        with net.scope(f"mixed_e.{index}"):
            x = _mixed_e(net, x)
    return net.gemm(net.flatten(net.global_avg_pool(x)), classes)


def _mixed_a(net: Net, x: Tensor, pooled: int) -> Tensor:
    """Figure 5 of the paper, except that the middle branch keeps one 5 x 5."""
    one = _unit(net, x, 64, 1)
    five = _unit(net, x, 48, 1)
    five = _unit(net, five, 64, 5, pad=2)
    double = _unit(net, x, 64, 1)
    double = _unit(net, double, 96, 3, pad=1)
    double = _unit(net, double, 96, 3, pad=1)
    return net.concat([one, five, double, _pool_branch(net, x, pooled)])


def _reduction_b(net: Net, x: Tensor) -> Tensor:
    """Figure 10: halves the map by strides, so that no layer is a bottleneck."""
    three = _unit(net, x, 384, 3, stride=2)
    double = _unit(net, x, 64, 1)
    double = _unit(net, double, 96, 3, pad=1)
    double = _unit(net, double, 96, 3, stride=2)
    return net.concat([three, double, net.max_pool(x, 3, stride=2)])


def _mixed_c(net: Net, x: Tensor, width: int) -> Tensor:
    """Figure 6: 7 x 7 convolutions factorised into 1 x 7 and 7 x 1."""
    one = _unit(net, x, 192, 1)
    seven = _unit(net, x, width, 1)
    seven = _row(net, seven, width)
    seven = _column(net, seven, 192)
    double = _unit(net, x, width, 1)
    double = _column(net, double, width)
    double = _row(net, double, width)
    double = _column(net, double, width)
    double = _row(net, double, 192)
    return net.concat([one, seven, double, _pool_branch(net, x, 192)])


def _reduction_d(net: Net, x: Tensor) -> Tensor:
    """Like figure 10, with a factorised 7 x 7 before the second stride."""
    three = _unit(net, x, 192, 1)
    three = _unit(net, three, 320, 3, stride=2)
    seven = _unit(net, x, 192, 1)
    seven = _row(net, seven, 192)
    seven = _column(net, seven, 192)
    seven = _unit(net, seven, 192, 3, stride=2)
    return net.concat([three, seven, net.max_pool(x, 3, stride=2)])


def _mixed_e(net: Net, x: Tensor) -> Tensor:
    """Figure 7: 3 x 3 convolutions split into a 1 x 3 and a 3 x 1 side by side."""
    one = _unit(net, x, 320, 1)
    three = _unit(net, x, 384, 1)
    double = _unit(net, x, 448, 1)
    double = _unit(net, double, 384, 3, pad=1)
    split = [
        _unit(net, branch, 384, kernel, pad=pad)
        for branch in (three, double)
        for kernel, pad in [((1, 3), (0, 1)), ((3, 1), (1, 0))]
    ]
    return net.concat([one, *split, _pool_branch(net, x, 192)])


def _row(net: Net, x: Tensor, channels: int) -> Tensor:
    return _unit(net, x, channels, (1, 7), pad=(0, 3))


def _column(net: Net, x: Tensor, channels: int) -> Tensor:
    return _unit(net, x, channels, (7, 1), pad=(3, 0))


def _pool_branch(net: Net, x: Tensor, channels: int) -> Tensor:
    return _unit(net, net.avg_pool(x, 3, stride=1, pad=1), channels, 1)


def _unit(net: Net, x: Tensor, channels: int, kernel: Pair, *, stride: int = 1, pad: Pair = 0) -> Tensor:
    y = net.conv(x, channels, kernel, stride=stride, pad=pad)
    return net.relu(net.batch_norm(y, epsilon=1e-3))
