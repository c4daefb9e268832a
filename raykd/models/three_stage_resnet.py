"""The three-stage ResNets of the CIFAR papers (He et al. 2015, section 4.2, arXiv:1512.03385).

    cifar_resnet20    6n + 2 layers: a stem of 16 channels, stages of n blocks with 16, 32 and 64 channels
    cifar_resnet8x4   stages of 64, 128 and 256 channels, and a stem of 32, as in the tables of distillation papers

`resnet18` and `resnet8` in four_stage_resnet.py are other networks: they have four stages, from 64 channels.

Modules have the names of RepDistiller's models/resnet.py, so its checkpoints load unchanged.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from raykd.config import Interval
from raykd.models.four_stage_resnet import Channels, ResNetNetwork
from raykd.models.model import MAX_DEPTH, BuiltInModel, Construction

MAX_LAYERS = 6 * MAX_DEPTH + 2


@dataclass(frozen=True)
class CifarResNet(BuiltInModel):
    """Three stages of blocks with two 3x3 convolutions."""

    kind: ClassVar[str] = "cifar_resnet"
    has_preactivations: ClassVar[bool] = True
    depth: Annotated[int, Interval(f"[8, {MAX_LAYERS}]")] = 20  # layers, 6n + 2
    width: Channels = 16  # channels of the first stage, doubled at each stage
    stem: Channels = 16  # channels before the first stage
    weights: str = ""  # a file to start from; empty for random weights

    def check(self) -> None:
        self.require(self.depth % 6 == 2, "depth", "must be 6n + 2, such as 8, 20, 56 or 110")

    @property
    def label(self) -> str:
        widths = {(16, 16): "", (64, 32): "x4"}.get((self.width, self.stem), f"-w{self.width}-s{self.stem}")
        return f"cifar_resnet{self.depth}{widths}"

    def construction(self, num_classes: int) -> Construction:
        blocks = ((self.depth - 2) // 6,) * 3
        sizes = {"blocks": blocks, "width": self.width, "stem": self.stem}
        return ResNetNetwork, sizes | {"num_classes": num_classes}
