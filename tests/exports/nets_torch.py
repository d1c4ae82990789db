"""Families that neither torchvision nor timm has in a size that fits here, as torch modules."""

from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead

IMAGE_NET_LAYERS = {"layer2": "0", "layer3": "1", "layer4": "2"}


def conv(given: int, made: int, kernel: int = 3, stride: int = 1, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    layer = nn.Conv2d(given, made, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(made), act())


def double(given: int, made: int) -> nn.Sequential:
    """Two 3 × 3 convolutions, as every level of a U-Net has them."""
    return nn.Sequential(conv(given, made, act=nn.ReLU), conv(made, made, act=nn.ReLU))


class UNet(nn.Module):
    """U-Net of 32 to 512 channels; goes up by transposed convolutions or bilinearly."""

    def __init__(self, bilinear: bool) -> None:
        super().__init__()
        widths = [32, 64, 128, 256, 512]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        if bilinear:
            self.up = nn.ModuleList(
                nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(a, b, 1))
                for a, b in pairs
            )
        else:
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, 4, H, W]."""
        kept = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


class FCN(nn.Module):
    """FCN-8s on a ResNet-18: scores of three strides added, upsampled to the image."""

    def __init__(self) -> None:
        super().__init__()
        trunk = torchvision.models.resnet18(weights=None)
        self.body = torchvision.models._utils.IntermediateLayerGetter(trunk, IMAGE_NET_LAYERS)
        self.score = nn.ModuleList(nn.Conv2d(width, 21, 1) for width in (128, 256, 512))
        self.up = nn.ModuleList(nn.ConvTranspose2d(21, 21, 4, 2, 1, bias=False) for _ in range(2))
        self.last = nn.ConvTranspose2d(21, 21, 16, 8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, 21, H, W]."""
        fine, middle, coarse = (score(f) for score, f in zip(self.score, self.body(x).values(), strict=True))
        middle = middle + self.up[0](coarse)
        return self.last(fine + self.up[1](middle))


class RetinaNet(nn.Module):
    """RetinaNet's outputs before post-processing, on a ResNet-18 with a feature pyramid."""

    def __init__(self) -> None:
        super().__init__()
        trunk = torchvision.models.resnet18(weights=None)
        self.body = BackboneWithFPN(trunk, IMAGE_NET_LAYERS, [128, 256, 512], 128)
        self.head = RetinaNetHead(128, 3, 20)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] → class scores [N, A, 20], boxes [N, A, 4]."""
        found = self.head(list(self.body(x).values()))
        return found["cls_logits"].sigmoid(), found["bbox_regression"]


class SSDLite(nn.Module):
    """SSDLite320 on a MobileNetV3: scores and boxes of every anchor, the boxes decoded if asked for."""

    def __init__(self, decode: bool) -> None:
        super().__init__()
        whole = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        self.body, self.head = whole.backbone, whole.head
        self.decode = decode
        maps = [20, 10, 5, 3, 2, 1]
        sizes = torch.linspace(0.2, 0.95, 6)
        ratios = torch.tensor([1.0, 1.0, 2.0, 0.5, 3.0, 1 / 3]).sqrt()
        anchors = []
        for extent, size in zip(maps, sizes, strict=True):
            centre = (torch.arange(extent) + 0.5) / extent
            y, x = torch.meshgrid(centre, centre, indexing="ij")
            places = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, 6, -1)
            shape = torch.stack([size * ratios, size / ratios], -1).expand(extent * extent, -1, -1)
            anchors.append(torch.cat([places, shape], -1).reshape(-1, 4))
        self.register_buffer("anchors", torch.cat(anchors))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 320, 320] → class scores [N, A, 91], boxes [N, A, 4]."""
        found = self.head(list(self.body(x).values()))
        scores, boxes = found["cls_logits"].softmax(-1), found["bbox_regression"]
        if self.decode:
            centre = self.anchors[:, :2] + 0.1 * boxes[..., :2] * self.anchors[:, 2:]
            half = 0.5 * self.anchors[:, 2:] * torch.exp(0.2 * boxes[..., 2:])
            boxes = torch.cat([centre - half, centre + half], -1)
        return scores, boxes


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, and a shortcut."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width, 1), conv(width, width))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], unchanged in shape."""
        return x + self.body(x) if self.shortcut else self.body(x)


class C3(nn.Module):
    """Cross-stage block of three convolutions."""

    def __init__(self, given: int, made: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        half = made // 2
        self.left = nn.Sequential(conv(given, half, 1), *(Bottleneck(half, shortcut) for _ in range(depth)))
        self.right, self.last = conv(given, half, 1), conv(made, made, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, given, H, W] → [N, made, H, W]."""
        return self.last(torch.cat([self.left(x), self.right(x)], 1))


class SPPF(nn.Module):
    """Three poolings one after the other, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = conv(width, width // 2, 1), conv(2 * width, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], unchanged in shape."""
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class YOLO(nn.Module):
    """A YOLOv5-like detector: Focus slices, C3, SPPF, a path down and up, three heads decoded with their grids."""

    anchors = torch.tensor([[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]])

    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        self.focus = conv(12, 32)
        self.stage2 = nn.Sequential(conv(32, 64, stride=2), C3(64, 64, 1))
        self.stage3 = nn.Sequential(conv(64, 128, stride=2), C3(128, 128, 2))
        self.stage4 = nn.Sequential(conv(128, 256, stride=2), C3(256, 256, 3))
        self.stage5 = nn.Sequential(conv(256, 512, stride=2), C3(512, 512, 1), SPPF(512))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral5, self.lateral4 = conv(512, 256, 1), conv(256, 128, 1)
        self.top4, self.top3 = C3(512, 256, 1, False), C3(256, 128, 1, False)
        self.down3, self.down4 = conv(128, 128, stride=2), conv(256, 256, stride=2)
        self.out4, self.out5 = C3(256, 256, 1, False), C3(512, 512, 1, False)
        self.width = classes + 5
        self.heads = nn.ModuleList(nn.Conv2d(width, 3 * self.width, 1) for width in (128, 256, 512))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, boxes, 5 + classes]."""
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        fine = self.stage3(self.stage2(self.focus(x)))
        middle = self.stage4(fine)
        coarse = self.lateral5(self.stage5(middle))
        middle = self.lateral4(self.top4(torch.cat([self.up(coarse), middle], 1)))
        fine = self.top3(torch.cat([self.up(middle), fine], 1))
        middle = self.out4(torch.cat([self.down3(fine), middle], 1))
        coarse = self.out5(torch.cat([self.down4(middle), coarse], 1))
        maps = (fine, middle, coarse)
        return torch.cat([self.decoded(number, head(m)) for number, (head, m) in enumerate(zip(self.heads, maps))], 1)  # noqa: B905

    def decoded(self, level: int, x: Tensor) -> Tensor:
        """[N, 3·width, H, W] → [N, 3·H·W, width], centres and sizes in pixels."""
        count, _, height, width = x.shape
        x = x.view(count, 3, self.width, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([cols, rows], -1).view(1, 1, height, width, 2).float()
        sides = self.anchors[level].view(1, 3, 1, 1, 2).float()
        centre = (x[..., :2] * 2 - 0.5 + grid) * (8 * 2**level)
        size = (x[..., 2:4] * 2) ** 2 * sides
        return torch.cat([centre, size, x[..., 4:]], -1).view(count, -1, self.width)


class SuperResolution(nn.Module):
    """Sub-pixel convolution: four convolutions and a PixelShuffle."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.body = nn.Sequential(
            nn.Conv2d(1, 64, 5, 1, 2), relu, nn.Conv2d(64, 64, 3, 1, 1), relu, nn.Conv2d(64, 32, 3, 1, 1), relu
        )
        self.last = nn.Sequential(nn.Conv2d(32, 9, 3, 1, 1), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] → [N, 1, 3H, 3W]."""
        return self.last(self.body(x))


class Reflected(nn.Sequential):
    """Reflection pad, convolution, instance norm."""

    def __init__(self, given: int, made: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReflectionPad2d(kernel // 2),
            nn.Conv2d(given, made, kernel, stride),
            nn.InstanceNorm2d(made, affine=True),
        )


class StyleTransfer(nn.Module):
    """Fast style transfer: down by strides, five residual blocks, up by nearest neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Reflected(3, 32, 9), Reflected(32, 64, 3, 2), Reflected(64, 128, 3, 2)])
        self.blocks = nn.ModuleList(nn.ModuleList([Reflected(128, 128, 3), Reflected(128, 128, 3)]) for _ in range(5))
        self.up = nn.ModuleList([Reflected(128, 64, 3), Reflected(64, 32, 3)])
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.last = nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(32, 3, 9))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], unchanged in shape."""
        for block in self.down:
            x = block(x).relu()
        for first, second in self.blocks:
            x = x + second(first(x).relu())
        for block in self.up:
            x = block(self.grow(x)).relu()
        return self.last(x)


class Hybrid(nn.Module):
    """A convolutional stem and transformer blocks over its map."""

    def __init__(self, width: int = 192, depth: int = 4) -> None:
        super().__init__()
        widths = [3, width // 8, width // 4, width // 2, width]
        self.stem = nn.Sequential(*(conv(a, b, stride=2, act=nn.GELU) for a, b in pairwise(widths)))
        self.place = nn.Parameter(torch.zeros(1, 197, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 3, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 224, 224] → [N, 1000]."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))
