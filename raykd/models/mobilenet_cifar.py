"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) as in the CIFAR-100 tables of distillation papers.

`mobilenet_v2` has half of the published channels and a stem of stride 2, so 32x32 images end as 2x2 feature maps.
Modules have the names of RepDistiller's models/mobilenetv2.py, so its checkpoints load unchanged.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from raykd.config import Interval
from raykd.models.model import BuiltInModel, Construction
from raykd.outputs import Outputs

# Channels at width 1, number of blocks, and stride of the first block. All groups but the first expand their input.
GROUPS = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
STAGES = (1, 2, 4, 6)  # the groups whose outputs are feature maps
STEM, EMBEDDING = 32, 1280  # channels at width 1


@dataclass(frozen=True)
class MobileNetV2(BuiltInModel):
    """Inverted residual blocks with depthwise convolutions."""

    kind: ClassVar[str] = "mobilenet_v2"
    # multiplies all channels; the embedding never has fewer than 1280
    width: Annotated[float, Interval("[0.0625, 16]", "below 1/16 a layer would have no channel")] = 0.5
    expansion: Annotated[int, Interval("[1, 64]")] = 6  # factor of the channels inside a block
    weights: str = ""  # a file to start from; empty for random weights

    @property
    def label(self) -> str:
        width = "" if self.width == 0.5 else f"-w{self.width:g}"
        return f"mobilenet_v2{width}{'' if self.expansion == 6 else f'-e{self.expansion}'}"

    def construction(self, num_classes: int) -> Construction:
        sizes = {"width": self.width, "expansion": self.expansion}
        return MobileNetV2Network, sizes | {"num_classes": num_classes}


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and 1x1 projection without an activation; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_convolution(in_channels, hidden, 1),
            *_convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2Network(nn.Module):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, 1280 or more].

    `features` are the feature maps of four groups of blocks.
    """

    def __init__(self, width: float, expansion: int, num_classes: int) -> None:
        super().__init__()
        in_channels = int(STEM * width)
        self.conv1 = _convolution(3, in_channels, 3, stride=2)
        groups = []
        for group, (base, num_blocks, stride) in enumerate(GROUPS):
            channels, factor = int(base * width), 1 if group == 0 else expansion
            blocks = [InvertedResidual(in_channels, channels, stride, factor)]
            blocks += [InvertedResidual(channels, channels, 1, factor) for _ in range(num_blocks - 1)]
            groups.append(nn.Sequential(*blocks))
            in_channels = channels
        self.blocks = nn.ModuleList(groups)
        size = int(EMBEDDING * max(1.0, width))
        self.conv2 = _convolution(in_channels, size, 1)
        self.classifier = nn.Sequential(nn.Linear(size, num_classes))  # a Sequential because of the published names
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def get_classifier(self) -> nn.Module:
        """Return the head. The method has the name of timm's."""
        return self.classifier[0]

    def forward(self, pixels: Tensor) -> Outputs:
        x = self.conv1(pixels)
        features = []
        for group, blocks in enumerate(self.blocks):
            x = blocks(x)
            if group in STAGES:
                features.append(x)
        embedding = self.conv2(x).mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, tuple(features))


def _convolution(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
