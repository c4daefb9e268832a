"""The ResNet-50 of the CIFAR-100 tables of distillation papers: bottleneck blocks, a 3x3 stem, no max-pool.

Four stages (He et al. 2015, arXiv:1512.03385) at full, half, quarter and eighth resolution. Modules have the names of
RepDistiller's models/resnetv2.py, which are kuangliu/pytorch-cifar's, so checkpoints of both load unchanged.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.models.four_stage_resnet import FourStages, ResNetNetwork
from raykd.models.model import Construction


@dataclass(frozen=True)
class BottleneckResNet(FourStages):
    """Bottleneck blocks: `width` counts the channels of the 3x3 convolutions, and a block returns 4 times as many."""

    kind: ClassVar[str] = "bottleneck_resnet"
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @property
    def label(self) -> str:
        return f"cifar_resnet{3 * sum(self.blocks) + 2}{'' if self.width == 64 else f'-w{self.width}'}"

    def construction(self, num_classes: int) -> Construction:
        return BottleneckResNetNetwork, {"blocks": self.blocks, "width": self.width, "num_classes": num_classes}


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, and a shortcut, with a projection if the shape changes."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x), inplace=True)

    def preactivation(self, x: Tensor) -> Tensor:
        """Return the block's output before its last ReLU."""
        shortcut = self.shortcut(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.bn3(self.conv3(x)) + shortcut


class BottleneckResNetNetwork(ResNetNetwork):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, 32 * width]."""

    block = BottleneckBlock
    head = "linear"
    other_names = ()
