"""Contrastive representation distillation (Tian, Krishnan, Isola 2019, arXiv:1910.10699).

    loss = ce_weight * CE + kd_weight * KD + weight * (nce(t, bank_s) + nce(s, bank_t))
    nce  = mean over images i of -log D(u_i . bank[i]) - sum over negatives j of log (1 - D(u_i . bank[j]))
    D(x) = P / (P + negatives / n),  P = exp(x / contrast_temperature) / Z

s and t are the embeddings of student and teacher. Each is projected to `dimensions` by a linear layer, which is trained
with the student, and normalized to length 1. The memory banks bank_s and bank_t [n, dimensions] hold s and t of each of
the n training images as a moving average with `momentum`. Negatives are drawn with replacement from the images of other
classes. Each bank has its Z. It is set in the first pass, so that the mean of P is 1/n, and then stays constant.

Shapes: embeddings [B, D_s] and [B, D_t], labels and index [B]; K: number of negatives. Defaults are the authors' for
CIFAR-100 (RepDistiller): ce_weight 1, weight 0.8, 128 dimensions, 16384 negatives, contrast_temperature 0.07, momentum
0.5; set kd_weight=1 for the authors' CRD + KD. The method requires the teacher's embedding. Similarities with the whole
bank, [B, n], are computed and then indexed, which is cheaper than gathering vectors of [B, K, dimensions].

The banks and Z are buffers and part of the checkpoint. The loss compares an image with the banks, not with the other
images of its batch, so the loss of a worker does not depend on the other workers' images. Each worker draws negatives
for the images of its part of the batch, and computes the first Z from them. After a pass all workers store the
embeddings of all workers, and the mean of Z.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Interval, NonNegative
from raykd.errors import ConfigError
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.method import Adapter, Memory
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

_EPSILON = 1e-7  # the authors' value, added to P + negatives / n


@dataclass(frozen=True)
class CRD(FeatureMethod):
    """The student's embedding of an image is closer to the teacher's of the same image than to those of others."""

    kind: ClassVar[str] = "crd"
    paper: ClassVar[str] = "arXiv:1910.10699"
    drawn_per_worker: ClassVar[str] = "negatives for CRD"
    weight: NonNegative = 0.8  # weight of the CRD term
    dimensions: Annotated[int, Interval("[1, 4096]")] = 128  # of the space that both embeddings are projected to
    # embeddings of other images that each image is compared with
    negatives: Annotated[int, Interval("[1, 1000000]")] = 16_384
    # temperature of the similarities
    contrast_temperature: Annotated[float, Interval("[0.02, inf)", "exp overflows below it")] = 0.07
    momentum: Annotated[float, Interval("[0, 1)")] = 0.5  # of the stored embeddings

    reads_labels: ClassVar[bool] = True  # negatives are images of other classes

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"crd": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        if len(images.labels.unique()) < 2:
            raise ConfigError("method = CRD: requires training images of at least 2 classes to draw negatives")
        student_width, teacher_width = (embedding.shape[1] for embedding in embeddings(student, teacher))
        return Contrast(self, student_width, teacher_width, images)

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert isinstance(adapter, Contrast)
        loss = adapter(*embeddings(student, teacher), targets)
        return super().terms(student, teacher, targets, adapter) | {"crd": loss}


class Contrast(Memory):
    """The projections and the memory banks of student and teacher, in this order.

    images: labels and indices of the n training images, in ascending order of index.
    """

    banks: Tensor
    scales: Tensor
    index: Tensor
    positions_by_class: Tensor
    class_starts: Tensor

    def __init__(self, method: CRD, student_width: int, teacher_width: int, images: Targets) -> None:
        super().__init__()
        self.num_negatives, self.temperature = method.negatives, method.contrast_temperature
        self.momentum, num_images = method.momentum, len(images.index)
        self.layers = nn.ModuleList([nn.Linear(width, method.dimensions) for width in (student_width, teacher_width)])
        bound = (3 / method.dimensions) ** 0.5
        self.register_buffer("banks", torch.empty(2, num_images, method.dimensions).uniform_(-bound, bound))
        self.register_buffer("scales", torch.full((2,), -1.0))  # Z of each direction; below 0 until the first pass
        self.register_buffer("index", images.index.cpu(), persistent=False)
        positions = images.labels.cpu().argsort(stable=True)
        self.register_buffer("positions_by_class", positions, persistent=False)  # [n], of the images in the banks
        counts = images.labels.cpu().bincount()
        starts = F.pad(counts.cumsum(0), (1, 0))
        self.register_buffer("class_starts", starts, persistent=False)  # [C + 1], into positions_by_class
        self._last_pass: tuple[Tensor, ...] = ()

    def forward(self, student: Tensor, teacher: Tensor, targets: Targets) -> Tensor:
        """Return the loss []. `remember` then stores the embeddings of this pass in the banks."""
        projected = (layer(vectors) for layer, vectors in zip(self.layers, (student, teacher), strict=True))
        units = [F.normalize(vectors.to(self.banks.dtype)) for vectors in projected]
        position = torch.searchsorted(self.index, targets.index)
        chosen = torch.cat([position[:, None], self._negatives(targets.labels)], dim=1)
        pairs = zip(reversed(units), self.banks, strict=True)  # each model's anchors against the other's bank
        scores = torch.stack([score(unit, bank, chosen, self.temperature) for unit, bank in pairs])
        scales = self.scales.where(self.scales > 0, scores.detach().exp().mean((1, 2)) * len(self.index))
        self._last_pass = position, scales, *(unit.detach() for unit in units)
        return nce_loss(scores - scales.log()[:, None, None], len(self.index))

    def _negatives(self, labels: Tensor) -> Tensor:
        """Draw images of other classes than `labels` with replacement: positions int64 [B, K]."""
        start, end = self.class_starts[labels], self.class_starts[labels + 1]
        num_candidates = (len(self.index) - (end - start))[:, None]
        drawn = torch.rand(len(labels), self.num_negatives, device=labels.device) * num_candidates
        place = drawn.long().minimum(num_candidates - 1)
        return self.positions_by_class[place + (place >= start[:, None]) * (end - start)[:, None]]

    @torch.no_grad()
    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Store the last pass's embeddings of all workers in the banks."""
        position, scales, *units = (gather(tensor) for tensor in self._last_pass)
        position = position.flatten()
        # An image may be in the batch twice (balanced sampling). All of its rows then get the same value, the last one.
        last = (position[:, None] == position).long().mul(torch.arange(len(position), device=position.device)).argmax(1)
        for bank, unit in zip(self.banks, units, strict=True):
            bank[position] = F.normalize(
                self.momentum * bank[position] + (1 - self.momentum) * unit.flatten(0, 1)[last]
            )
        self.scales.copy_(scales.mean(0))
        self._last_pass = ()


@in_float32
def score(unit: Tensor, bank: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """Return unit . bank / temperature, [B, 1 + K], for unit [B, D], bank [n, D] and chosen positions [B, 1 + K]."""
    return (unit @ bank.T).gather(1, chosen) / temperature


def nce_loss(log_p: Tensor, num_images: int) -> Tensor:
    """Return the loss [] for log P [2, B, 1 + K], positive first: summed over directions and 1 + K, averaged over B."""
    noise = (log_p.shape[2] - 1) / num_images
    bound = log(noise + _EPSILON)
    positive = F.softplus(bound - log_p[:, :, 0]).sum()
    negative = (F.softplus(log_p[:, :, 1:] - bound) + (bound - log(noise))).sum()
    return (positive + negative) / log_p.shape[1]
