"""ShuffleNet V1 (Zhang et al. 2017, arXiv:1707.01083) and V2 (Ma et al. 2018, arXiv:1807.11164) in CIFAR form.

A 1x1 stem without pooling, and three stages that halve the resolution. `shufflenet_v1` has 3 groups and 240 channels
in its first stage, `shufflenet_v2` is the size 1x. Modules have the names of RepDistiller's models/ShuffleNetv1.py and
ShuffleNetv2.py, so its checkpoints load unchanged.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Interval
from raykd.models.model import MAX_WIDTH, BuiltInModel, Construction
from raykd.outputs import Outputs

STEM = 24  # channels before the first stage
BLOCKS = (4, 8, 4)  # per stage, in both versions
V2_CHANNELS = {  # channels of the three stages and of the embedding, by size
    "0.5x": (48, 96, 192, 1024),
    "1x": (116, 232, 464, 1024),
    "1.5x": (176, 352, 704, 1024),
    "2x": (224, 488, 976, 2048),  # as published; torchvision has 244 in the first stage
}


@dataclass(frozen=True)
class ShuffleNetV1(BuiltInModel):
    """Grouped 1x1 convolutions, with a shuffle of the channels between them."""

    kind: ClassVar[str] = "shufflenet_v1"
    # channels of the first stage, doubled at each stage
    width: Annotated[int, Interval(f"[{STEM + 4}, {MAX_WIDTH}]")] = 240
    groups: Annotated[int, Interval("[1, 6]")] = 3  # groups of each 1x1 convolution
    weights: str = ""  # a file to start from; empty for random weights

    def check(self) -> None:
        divide = f"must be 1, 2, 3 or 6, which divide a quarter of the stem's {STEM} channels"
        self.require(6 % self.groups == 0, "groups", divide)
        step = 4 * self.groups  # a block has a quarter of its output channels inside, divided into groups
        self.require(self.width % step == 0, "width", f"must be a multiple of 4 * groups = {step}")

    @property
    def label(self) -> str:
        is_published = self.width == 240 and self.groups == 3
        return "shufflenet_v1" if is_published else f"shufflenet_v1-w{self.width}-g{self.groups}"

    def construction(self, num_classes: int) -> Construction:
        return ShuffleNetV1Network, {"width": self.width, "groups": self.groups, "num_classes": num_classes}


@dataclass(frozen=True)
class ShuffleNetV2(BuiltInModel):
    """Each block convolves half of the channels, keeps the other half, and shuffles both.

    The first block of a stage convolves all channels.
    """

    kind: ClassVar[str] = "shufflenet_v2"
    size: Literal["0.5x", "1x", "1.5x", "2x"] = "1x"  # a published size, which sets the channels of each stage
    weights: str = ""  # a file to start from; empty for random weights

    @property
    def label(self) -> str:
        return "shufflenet_v2" if self.size == "1x" else f"shufflenet_v2-{self.size}"

    def construction(self, num_classes: int) -> Construction:
        return ShuffleNetV2Network, {"channels": V2_CHANNELS[self.size], "num_classes": num_classes}


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the groups of channels of [B, C, H, W]: the first channel of each group, then the second, ..."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class BlockV1(nn.Module):
    """1x1 convolution, shuffle, 3x3 depthwise and 1x1 convolution; at stride 2 the pooled input is concatenated."""

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        hidden = channels // 4
        self.stride = stride
        self.in_groups = 1 if in_channels == STEM else groups
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=self.in_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = shuffle(F.relu(self.bn1(self.conv1(x))), self.in_groups)
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        if self.stride == 2:
            return F.relu(torch.cat([hidden, F.avg_pool2d(x, 3, 2, 1)], 1))
        return F.relu(hidden + x)


class ShuffleNetV1Network(nn.Module):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, 4 * width].

    `features` are the feature maps of the three stages.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, width: int, groups: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        in_channels = STEM
        for stage, num_blocks in enumerate(BLOCKS):
            channels = width * 2**stage
            first = BlockV1(in_channels, channels - in_channels, 2, groups)  # the pooled input has the other channels
            others = (BlockV1(channels, channels, 1, groups) for _ in range(num_blocks - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *others))
            in_channels = channels
        self.linear = nn.Linear(in_channels, num_classes)

    def get_classifier(self) -> nn.Linear:
        """Return the head. The method has the name of timm's."""
        return self.linear

    def forward(self, pixels: Tensor) -> Outputs:
        x = F.relu(self.bn1(self.conv1(pixels)))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            features.append(x)
        embedding = x.mean((2, 3))
        return Outputs(self.linear(embedding), embedding, tuple(features))


class BlockV2(nn.Module):
    """Half of the channels pass through three convolutions, the other half through none; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        unchanged, hidden = x.chunk(2, dim=1)
        hidden = F.relu(self.bn1(self.conv1(hidden)))
        hidden = self.bn2(self.conv2(hidden))
        hidden = F.relu(self.bn3(self.conv3(hidden)))
        return shuffle(torch.cat([unchanged, hidden], 1), 2)


class DownBlockV2(nn.Module):
    """Both branches receive all channels and halve the resolution; their outputs are concatenated and shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return shuffle(torch.cat([left, right], 1), 2)


class ShuffleNetV2Network(nn.Module):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, channels[3]].

    `features` are the feature maps of the three stages.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        in_channels = STEM
        for stage, (size, num_blocks) in enumerate(zip(channels[:3], BLOCKS, strict=True)):
            blocks = (BlockV2(size) for _ in range(num_blocks - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(DownBlockV2(in_channels, size), *blocks))
            in_channels = size
        self.conv2 = nn.Conv2d(in_channels, channels[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels[3])
        self.linear = nn.Linear(channels[3], num_classes)

    def get_classifier(self) -> nn.Linear:
        """Return the head. The method has the name of timm's."""
        return self.linear

    def forward(self, pixels: Tensor) -> Outputs:
        x = F.relu(self.bn1(self.conv1(pixels)))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            features.append(x)
        embedding = F.relu(self.bn2(self.conv2(x))).mean((2, 3))
        return Outputs(self.linear(embedding), embedding, tuple(features))
