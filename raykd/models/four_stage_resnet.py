"""ResNets in CIFAR form: a 3x3 stem, no max-pool, four stages (He et al. 2015, arXiv:1512.03385).

`resnet18` is [2, 2, 2, 2]. `resnet8` is [1, 1, 1, 1], which is its usual name although it has 10 layers
with weights (the stem, 4 blocks of 2, the head). At width 64 and 32x32 they have 555 M and 253 M multiply-adds
and 11.17 M and 4.90 M parameters.

Modules have torchvision's names, so a state dict of its ResNet-18, or timm's, with these shapes loads unchanged.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Interval
from raykd.models.model import MAX_DEPTH, MAX_WIDTH, BuiltInModel, Construction
from raykd.outputs import Outputs

# With fewer channels, oneDNN's AVX2 kernel for the weight gradient of a 1x1 channels-last convolution with stride 2
# writes out of bounds and crashes (uxlfoundation/oneDNN 6035; seen with torch 2.15).
MIN_WIDTH = 8
Channels = Annotated[int, Interval(f"[{MIN_WIDTH}, {MAX_WIDTH}]")]


@dataclass(frozen=True)
class FourStages(BuiltInModel):
    """Base of networks of four stages."""

    has_preactivations: ClassVar[bool] = True
    blocks: Annotated[tuple[int, ...], Interval(f"[1, {MAX_DEPTH}]")] = (2, 2, 2, 2)  # number per stage
    width: Channels = 64  # channels of the first stage; stage s has width * 2**s
    weights: str = ""  # a file to start from; empty for random weights

    def check(self) -> None:
        self.require(len(self.blocks) == 4, "blocks", "must be four stages of at least 1 block")


@dataclass(frozen=True)
class ResNet(FourStages):
    """Two 3x3 convolutions in each block."""

    kind: ClassVar[str] = "resnet"

    @property
    def label(self) -> str:
        layers = 8 if self.blocks == (1, 1, 1, 1) else 2 * sum(self.blocks) + 2
        return f"resnet{layers}" if self.width == 64 else f"resnet{layers}-w{self.width}"

    def construction(self, num_classes: int) -> Construction:
        return ResNetNetwork, {"blocks": self.blocks, "width": self.width, "num_classes": num_classes}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with a 1x1 projection if the shape changes."""

    expansion: ClassVar[int] = 1  # output channels, as a multiple of those of the 3x3 convolutions

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x), inplace=True)

    def preactivation(self, x: Tensor) -> Tensor:
        """Return the block's output before its last ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x)) + shortcut


class ResNetNetwork(nn.Module):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, channels of the last stage].

    `features` are the feature maps of the stages.

    blocks: number per stage, for three or four stages. stem: channels before the first stage, by default as many as in
    it. block: the class of the blocks. head: the name of the classifier. other_names: regular expressions for the names
    of the same layers in kuangliu/pytorch-cifar and in weiaicunzai/pytorch-cifar100, and their replacements; see
    state_dict.py.
    """

    block: ClassVar[Any] = BasicBlock
    head: ClassVar[str] = "fc"
    other_names: ClassVar[tuple[tuple[str, str], ...]] = (
        ("linear", "fc"),
        ("shortcut", "downsample"),
        (r"conv1\.0", "conv1"),
        (r"conv1\.1", "bn1"),
        *((rf"conv{stage + 1}_x", f"layer{stage}") for stage in (1, 2, 3, 4)),
        *((rf"residual_function\.{at}", name) for at, name in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"))),
    )

    def __init__(self, blocks: tuple[int, ...], width: int, num_classes: int, stem: int | None = None) -> None:
        super().__init__()
        in_channels = stem or width
        self.conv1 = nn.Conv2d(3, in_channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.stage_names = [f"layer{stage + 1}" for stage in range(len(blocks))]
        for stage, (name, num_blocks) in enumerate(zip(self.stage_names, blocks, strict=True)):
            channels = width * 2**stage
            self.add_module(name, self._stage(in_channels, channels, num_blocks, stride=1 if stage == 0 else 2))
            in_channels = self.block.expansion * channels
        self.add_module(self.head, nn.Linear(in_channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
        first, between = self.block(in_channels, channels, stride), self.block.expansion * channels
        return nn.Sequential(first, *(self.block(between, channels, 1) for _ in range(num_blocks - 1)))

    def get_classifier(self) -> nn.Linear:
        """Return the head. The method has the name of timm's."""
        return cast(nn.Linear, self.get_submodule(self.head))

    def forward(self, pixels: Tensor, preactivations: bool = False) -> Outputs:
        """preactivations: whether the feature maps are those before each stage's last ReLU."""
        x = F.relu(self.bn1(self.conv1(pixels)), inplace=True)
        features = []
        for name in self.stage_names:
            stage = cast(nn.Sequential, self.get_submodule(name))
            if preactivations:
                before = _run_to_last_relu(stage, x)
                x = F.relu(before)
                features.append(before)
            else:
                x = stage(x)
                features.append(x)
        embedding = x.mean((2, 3))
        return Outputs(self.get_classifier()(embedding), embedding, tuple(features))


def _run_to_last_relu(stage: nn.Sequential, x: Tensor) -> Tensor:
    """Return the output of a stage's blocks before the last one's last ReLU."""
    *blocks, last = cast(Any, stage)
    for block in blocks:
        x = block(x)
    return last.preactivation(x)
