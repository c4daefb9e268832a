"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146): `wrn_40_2` has depth 40 and factor 2.

Blocks are pre-activation: batch norm and ReLU come before each convolution, so the stages' feature maps have negative
values. Modules have the names of RepDistiller's models/wrn.py, so its checkpoints load unchanged.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Interval
from raykd.models.model import MAX_DEPTH, BuiltInModel, Construction
from raykd.outputs import Outputs

STEM = 16  # channels before the first stage


@dataclass(frozen=True)
class WideResNet(BuiltInModel):
    """Three stages of wide blocks with batch normalization before each convolution."""

    kind: ClassVar[str] = "wide_resnet"
    has_preactivations: ClassVar[bool] = True
    depth: Annotated[int, Interval(f"[10, {6 * MAX_DEPTH + 4}]")] = 16  # layers, 6n + 4
    factor: Annotated[int, Interval("[1, 64]")] = 2  # stage s has 16 * factor * 2**s channels
    dropout: Annotated[float, Interval("[0, 1)")] = 0.0  # probability inside each block
    weights: str = ""  # a file to start from; empty for random weights

    def check(self) -> None:
        self.require(self.depth % 6 == 4, "depth", "must be 6n + 4, such as 10, 16, 28 or 40")

    @property
    def label(self) -> str:
        return f"wrn_{self.depth}_{self.factor}"

    def construction(self, num_classes: int) -> Construction:
        sizes = {"depth": self.depth, "factor": self.factor, "dropout": self.dropout}
        return WideResNetNetwork, sizes | {"num_classes": num_classes}


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a shortcut, projected if the channels change."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.dropout = dropout
        self.convShortcut: nn.Conv2d | None = None  # the published name
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        hidden = F.relu(self.bn2(self.conv1(active)), inplace=True)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return shortcut + self.conv2(hidden)


class Stage(nn.Module):
    """The blocks of a stage; the first one has the stride. The published names require a separate module."""

    def __init__(self, num_blocks: int, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        first = PreActivationBlock(in_channels, channels, stride, dropout)
        others = (PreActivationBlock(channels, channels, 1, dropout) for _ in range(num_blocks - 1))
        self.layer = nn.Sequential(first, *others)

    @property
    def first_norm(self) -> nn.BatchNorm2d:
        """The batch norm of the stage's input."""
        return cast(PreActivationBlock, self.layer[0]).bn1

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNetNetwork(nn.Module):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, 64 * factor].

    `features` are the feature maps of the three stages.
    """

    def __init__(self, depth: int, factor: int, dropout: float, num_classes: int) -> None:
        super().__init__()
        num_blocks, channels = (depth - 4) // 6, [STEM * factor * 2**stage for stage in range(3)]
        self.conv1 = nn.Conv2d(3, STEM, 3, 1, 1, bias=False)
        self.block1 = Stage(num_blocks, STEM, channels[0], 1, dropout)
        self.block2 = Stage(num_blocks, channels[0], channels[1], 2, dropout)
        self.block3 = Stage(num_blocks, channels[1], channels[2], 2, dropout)
        self.bn1 = nn.BatchNorm2d(channels[2])
        self.fc = nn.Linear(channels[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def get_classifier(self) -> nn.Linear:
        """Return the head. The method has the name of timm's."""
        return self.fc

    def forward(self, pixels: Tensor, preactivations: bool = False) -> Outputs:
        """preactivations: whether the feature maps are those after the batch norm that follows each stage."""
        x = self.conv1(pixels)
        features = []
        norms = (self.block2.first_norm, self.block3.first_norm, self.bn1)
        for stage, norm in zip((self.block1, self.block2, self.block3), norms, strict=True):
            x = stage(x)
            features.append(norm(x) if preactivations else x)
        embedding = F.relu(self.bn1(x), inplace=True).mean((2, 3))
        return Outputs(self.fc(embedding), embedding, tuple(features))
