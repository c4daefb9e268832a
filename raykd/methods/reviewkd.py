"""Knowledge review (Chen et al. 2021, "Distilling Knowledge via Knowledge Review", arXiv:2104.09044).

    loss  = ce_weight * CE + kd_weight * KD + warm * weight * sum over levels l of HCL(F_l, t_l)
    warm  = min(epoch / warmup_epochs, 1)
    x_l   = z * conv1x1(s_l) + z' * x_(l+1),   z, z' = sigmoid(conv1x1([conv1x1(s_l), x_(l+1)]))       "ABF"
    F_l   = conv3x3(x_l)
    HCL   = (d_0 + d_4 / 2 + d_2 / 4 + d_1 / 8) / (1 + 1/2 + 1/4 + 1/8),  d_p = mean pool_p(F - t)^2

s_l and t_l are the feature maps of student and teacher at level l. The levels are the chosen stages and, as the deepest
one, the embeddings as feature maps of 1x1. From the deepest level to the first, the student's map is fused with that of
all deeper levels and predicts the teacher's: so the teacher's early stages train the student's late ones. At the
deepest level x = conv1x1(s). d_0 compares the maps at full size, d_p their averages over a grid of p x p regions. Sizes
p that are not below the map's height and width are left out, and the next ones get their weights: 1/2 for p = 2 at 4x4.

Shapes: maps [B, K_s, H_s, W_s] and [B, K_t, H_t, W_t], z and z' [B, 1, H_s, W_s]; the x have
min(max_mid_channels, width of the student's embedding) channels. x_(l+1) is resized to the size of s_l and, after the
fusion, x_l to that of t_l (nearest neighbor). Each convolution but that of z is followed by batch norm.

Defaults: weight 5 and 20 epochs of warm-up, as the authors use for most pairs on CIFAR-100; max_mid_channels 512. They
set other weights for some pairs, see spec/published_cifar100.json. The method requires the teacher's features and its
embedding. As in the authors' code, the teacher's maps are those before each stage's last ReLU, where its network has
them (`Method.teacher_preactivations`), and the student's are those after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Interval, NonNegative
from raykd.methods.feature_method import StageMethod, embeddings
from raykd.methods.method import Adapter, LinearWarmup, Need
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

POOLED_SIZES = (4, 2, 1)  # regions per side; each size has half the weight of the one before


@dataclass(frozen=True)
class ReviewKD(LinearWarmup, StageMethod):
    """The student's stages, fused with all deeper ones, predict the teacher's."""

    kind: ClassVar[str] = "reviewkd"
    paper: ClassVar[str] = "arXiv:2104.09044"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "embedding", "features"})
    teacher_preactivations: ClassVar[bool] = True
    weight: NonNegative = 5.0  # weight of the term
    warmup_epochs: NonNegative = 20.0  # epochs over which the term's weight rises linearly; 0 for no warm-up
    max_mid_channels: Annotated[int, Interval("[1, 4096]")] = 512  # of the maps that are fused

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"reviewkd": self.warmup(epoch) * self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        levels = self.pairs(student, teacher)
        student_channels, teacher_channels = ([maps.shape[1] for maps in side] for side in zip(*levels, strict=True))
        return Review(student_channels, teacher_channels, self.max_mid_channels)

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert isinstance(adapter, Review)
        student_maps, teacher_maps = zip(*self.pairs(student, teacher), strict=True)
        predicted = adapter(student_maps, [maps.shape[2:] for maps in teacher_maps])
        levels = [hcl_loss(*pair) for pair in zip(predicted, teacher_maps, strict=True)]
        return super().terms(student, teacher, targets, adapter) | {"reviewkd": torch.stack(levels).sum()}

    def pairs(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Return (student's map, teacher's map) of each level, from the first stage to the embedding."""
        pairs = super().pairs(student, teacher)
        positions = [stage % len(student.features) for stage in self.stages or range(len(pairs))]
        ordered = [pair for _, pair in sorted(zip(positions, pairs, strict=True), key=lambda item: item[0])]
        student_vectors, teacher_vectors = embeddings(student, teacher)
        return [*ordered, (student_vectors[:, :, None, None], teacher_vectors[:, :, None, None])]


class Review(nn.Module):
    """The fusions of all levels, in the order of the levels."""

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int], max_mid_channels: int) -> None:
        super().__init__()
        mid_channels, deepest = min(max_mid_channels, student_channels[-1]), len(student_channels) - 1
        channels = enumerate(zip(student_channels, teacher_channels, strict=True))
        self.fusions = nn.ModuleList(
            Fusion(ours, mid_channels, theirs, is_deepest=level == deepest) for level, (ours, theirs) in channels
        )

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[torch.Size]) -> list[Tensor]:
        """Return a prediction of the teacher's map at each level. maps: of the student. sizes: (H_t, W_t)."""
        predictions: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, features, size in zip(reversed(self.fusions), reversed(maps), reversed(sizes), strict=True):
            prediction, deeper = fusion(features, deeper, size)
            predictions.append(prediction)
        return predictions[::-1]


class Fusion(nn.Module):
    """Fuse a map of the student with that of the deeper levels, and predict the teacher's map from the result."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, is_deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        self.enter_norm = nn.BatchNorm2d(mid_channels)
        self.attention = None if is_deepest else nn.Conv2d(2 * mid_channels, 2, 1)
        self.predict = nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False)
        self.predict_norm = nn.BatchNorm2d(out_channels)
        for convolution in (self.enter, self.predict):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, features: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the prediction [B, K_t, *size] and the fused map [B, mid_channels, *size].

        deeper: the fused map of the next deeper level, of any size; None at the deepest level.
        """
        fused = self.enter_norm(self.enter(features))
        if self.attention is not None:
            assert deeper is not None
            deeper = _resized(deeper, fused.shape[2:])
            shares = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        fused = _resized(fused, size)
        return self.predict_norm(self.predict(fused)), fused


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size)  # nearest neighbor


@in_float32
def hcl_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the weighted mean of the squared differences at full size and of the pooled maps, [].

    Shapes: [B, K, H, W] both. Pooling is linear, so the difference is pooled instead of both maps.
    """
    difference = student_map - teacher_map
    total, weight, sum_of_weights = difference.square().mean(), 1.0, 1.0
    for size in POOLED_SIZES:
        if size < min(difference.shape[2:]):
            weight /= 2
            sum_of_weights += weight
            total = total + weight * F.adaptive_avg_pool2d(difference, size).square().mean()
    return total / sum_of_weights
