"""Metrics of a trained model on one split: accuracy, calibration, distance to its teacher.

    p = softmax(logits), y the label, q = softmax(teacher's logits), c = max_k p_k        over N images
    top1   100/N sum [argmax p = y]             nll    -1/N sum log p_y
    top5   100/N sum [y among the 5 largest p]  brier  1/N sum_images sum_k (p_k - [k = y])^2
    ece    sum_b |sum_{c in bin b} ([argmax p = y] - c)| / N
    agreement  100/N sum [argmax p = argmax q]  teacher_kl  1/N sum sum_k q_k (log q_k - log p_k)

Brier 1950 (the sum over classes, in [0, 2]); ECE of Guo et al. 2017, arXiv:1706.04599, with 15 bins ((b-1)/15, b/15].
All are computed in float64 from the logits: in float32 a confidence of 1 - 1e-8 is 1. The tests compare confusion
matrix, top 5, divergence and calibration error with torchmetrics. Importing torchmetrics would cost each worker 3 s and
270 MB. Its calibration error differs in one respect: bins are closed on the left, with an extra bin for c = 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.data.types import Split
from raykd.store.records import Metrics, Reliability
from raykd.training.compute import Compute
from raykd.training.evaluate import predictions

NUM_BINS = 15
TOP = 5


def compute_metrics(
    model: nn.Module, split: Split, compute: Compute, num_classes: int, teacher: nn.Module | None = None
) -> Metrics:
    """Return the metrics of `model`, compared with `teacher` on the same images in the same precision."""
    sums = _Sums(num_classes, compute.device, teacher is not None)
    for labels, logits in predictions([model] if teacher is None else [model, teacher], split, compute):
        sums.add(labels, *(part.double() for part in logits))
    return sums.metrics()


class _Sums:
    """Sums over images, kept on the device and read once at the end."""

    def __init__(self, num_classes: int, device: torch.device, has_teacher: bool) -> None:
        self._num_classes, self._has_teacher = num_classes, has_teacher
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self._top, self._agreement = torch.zeros(2, dtype=torch.int64, device=device)
        self._nll, self._brier, self._kl = torch.zeros(3, dtype=torch.float64, device=device)
        self._bins = torch.zeros(NUM_BINS, 3, dtype=torch.float64, device=device)
        self._edges = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64, device=device)[1:-1]

    def add(self, labels: Tensor, logits: Tensor, target: Tensor | None = None) -> None:
        """Add a batch: labels int64 [B], logits and the teacher's logits `target` float64 [B, C]."""
        log_p = logits.log_softmax(1)
        p, predicted = log_p.exp(), logits.argmax(1)
        p_label = p.gather(1, labels[:, None])[:, 0]
        cells = torch.bincount(labels * self._num_classes + predicted, minlength=self._num_classes**2)
        self._confusion += cells.view(self._num_classes, self._num_classes)
        self._top += (logits.topk(min(TOP, self._num_classes)).indices == labels[:, None]).sum()
        self._nll -= log_p.gather(1, labels[:, None]).sum()
        self._brier += (p.square().sum(1) - 2 * p_label + 1).sum()
        confidence = p.gather(1, predicted[:, None])[:, 0]
        columns = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).double()], 1)
        bins = torch.bucketize(confidence, self._edges)
        self._bins += F.one_hot(bins, NUM_BINS).double().T @ columns
        if target is not None:
            self._kl += F.kl_div(log_p, target.log_softmax(1), reduction="sum", log_target=True)
            self._agreement += (predicted == target.argmax(1)).sum()

    def metrics(self) -> Metrics:
        """Return the metrics over all images that were added."""
        confusion = self._confusion
        correct, per_class, num_images = confusion.diagonal(), confusion.sum(1), int(confusion.sum())
        bins = self._bins.tolist()
        return Metrics(
            top1=100 * int(correct.sum()) / num_images,
            nll=float(self._nll) / num_images,
            num_images=num_images,
            top5=100 * int(self._top) / num_images if self._num_classes > TOP else None,
            ece=sum(abs(right - confidence) for _, confidence, right in bins) / num_images,
            brier=float(self._brier) / num_images,
            agreement=100 * int(self._agreement) / num_images if self._has_teacher else None,
            teacher_kl=float(self._kl) / num_images if self._has_teacher else None,
            class_top1=tuple(
                100 * part / total if total else None
                for part, total in zip(correct.tolist(), per_class.tolist(), strict=True)
            ),
            confusion=tuple(tuple(row) for row in confusion.tolist()),
            reliability=Reliability(
                tuple(int(count) for count, _, _ in bins),
                tuple(confidence / count if count else None for count, confidence, _ in bins),
                tuple(right / count if count else None for count, _, right in bins),
            ),
        )
