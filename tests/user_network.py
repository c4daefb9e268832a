"""A network as a user would write it, for tests: plain PyTorch, with a stem, two stages, pooling and a linear head."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UserNet(nn.Module):
    def __init__(
        self,
        num_classes: int,
        width: int = 8,
        depths: list[int] = [1, 1],  # noqa: B006 - as users write it
        act: Literal["relu", "silu"] = "relu",
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.stage1 = nn.Sequential(*(self.layer(width, width, 1) for _ in range(depths[0])))
        self.stage2 = nn.Sequential(
            self.layer(width, 2 * width, 2), *(self.layer(2 * width, 2 * width, 1) for _ in range(depths[1] - 1))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, num_classes)
        self.activation = {"relu": F.relu, "silu": F.silu}[act]

    def layer(self, in_channels: int, channels: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.stem(x))
        x = self.activation(self.stage1(x))
        x = self.activation(self.stage2(x))
        return self.classifier(self.pool(x).flatten(1))


class UserTower(nn.Module):
    """A network that returns its embedding, and has no number of classes."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).amax((2, 3))


class NoiseTower(nn.Module):
    """A network whose embedding is different for each image, and says nothing about it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.linspace(1, 2, width))

    def forward(self, x: Tensor) -> Tensor:
        digest = (x.flatten(1) * torch.arange(1, 1 + x[0].numel())).sum(1, keepdim=True)
        return torch.sin(1e5 * digest.double() * self.direction.double()).float()
