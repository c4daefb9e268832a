"""VGG in CIFAR form (Simonyan and Zisserman 2014, arXiv:1409.1556): batch norm, and one linear layer after pooling.

`vgg13` has 10 convolutions in five blocks of 64 to 512 channels; `vgg8` has one convolution in each. Modules have the
names of RepDistiller's models/vgg.py, so its checkpoints load unchanged. As there, images of 32x32 are not pooled
before the last block, and images of 64x64 are.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.models.model import BuiltInModel, Construction
from raykd.outputs import Outputs

CHANNELS = (64, 128, 256, 512, 512)
Depth = Literal[8, 11, 13, 16, 19]
CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
POOLED_AT = 64  # pixels per side from which the last block's input is pooled too


@dataclass(frozen=True)
class VGG(BuiltInModel):
    """3x3 convolutions with batch normalization, and one linear layer."""

    kind: ClassVar[str] = "vgg"
    has_preactivations: ClassVar[bool] = True
    depth: Depth = 8  # the name's number of layers, which counts two linear layers that this form does not have
    weights: str = ""  # a file to start from; empty for random weights

    @property
    def label(self) -> str:
        return f"vgg{self.depth}"

    def construction(self, num_classes: int) -> Construction:
        return VGGNetwork, {"convolutions": CONVOLUTIONS[self.depth], "num_classes": num_classes}


class VGGNetwork(nn.Module):
    """Map normalized pixels [B, 3, H, W] to Outputs with an embedding [B, 512].

    `features` are the feature maps of blocks 1 to 4.
    """

    block0: nn.Sequential
    block1: nn.Sequential
    block2: nn.Sequential
    block3: nn.Sequential
    block4: nn.Sequential

    def __init__(self, convolutions: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        in_channels = 3
        for block, (channels, count) in enumerate(zip(CHANNELS, convolutions, strict=True)):
            self.add_module(f"block{block}", _block(in_channels, channels, count))
            in_channels = channels
        self.classifier = nn.Linear(in_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def get_classifier(self) -> nn.Linear:
        """Return the head. The method has the name of timm's."""
        return self.classifier

    def forward(self, pixels: Tensor, preactivations: bool = False) -> Outputs:
        """preactivations: whether the feature maps are those before each block's last ReLU."""
        x = F.relu(self.block0(pixels), inplace=True)
        features = []
        for block in (self.block1, self.block2, self.block3, self.block4):
            if block is not self.block4 or pixels.shape[-1] >= POOLED_AT:
                x = F.max_pool2d(x, 2)
            before = block(x)
            x = F.relu(before, inplace=not preactivations)
            features.append(before if preactivations else x)
        embedding = x.mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, tuple(features))


def _block(in_channels: int, channels: int, count: int) -> nn.Sequential:
    """Return `count` convolutions with batch norm. ReLU follows each but the last, after which `forward` applies it."""
    layers: list[nn.Module] = []
    for size in [in_channels] + [channels] * (count - 1):
        layers += [nn.Conv2d(size, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
