"""Accuracy and loss of a model on a split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.data.types import Split
from raykd.models import ImageModel
from raykd.training.compute import EVALUATION_BATCH, Compute
from raykd.training.fitting_batch import batches_that_fit
from raykd.training.float32_head import float32_heads
from raykd.training.group import SINGLE_WORKER, Group


@dataclass(frozen=True)
class Evaluation:
    """top1 in percent, nll in nats per image, over `num_images`."""

    top1: float
    nll: float
    num_images: int


@torch.no_grad()
def evaluate(model: ImageModel, split: Split, compute: Compute, group: Group = SINGLE_WORKER) -> Evaluation:
    """Evaluate `model` in evaluation mode and restore its mode.

    split: this worker's images; the result covers the images of all workers. The head computes in float32
    (float32_head.py), because logits rounded to bfloat16 often tie, and argmax then takes the first class.

    Raises RunFailed if the device has no memory for a single image.
    """
    was_training = model.training
    model.eval()
    correct, nll, num_images = torch.zeros(3, dtype=torch.float64, device=compute.device)

    def logits_of(part: slice) -> Tensor:
        with compute.autocast():
            return model(split.images[part].to(compute.device)).logits.float()

    with float32_heads(model):
        for part, logits in batches_that_fit(model, len(split), EVALUATION_BATCH[compute.device.type], logits_of):
            labels = split.labels[part].to(compute.device)
            correct += (logits.argmax(1) == labels).sum()
            nll += F.cross_entropy(logits, labels, reduction="sum")
            num_images += len(labels)
    model.train(was_training)
    correct, nll, num_images = group.gather(torch.stack([correct, nll, num_images])).sum(0).tolist()
    return Evaluation(100 * correct / num_images, nll / num_images, int(num_images))
