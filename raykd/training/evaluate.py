"""Accuracy and loss of a model on a split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.data.types import Split
from raykd.models import ImageModel
from raykd.training.compute import EVALUATION_BATCH, Compute
from raykd.training.float32_head import float32_heads
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.inference_batch import batches_that_fit


@dataclass(frozen=True)
class Evaluation:
    """The result over `num_images` images: top1 in percent, nll in nats per image."""

    top1: float
    nll: float
    num_images: int


def evaluate(model: ImageModel, split: Split, compute: Compute, group: Group = SINGLE_WORKER) -> Evaluation:
    """Evaluate `model`. split: this worker's images; the result covers the images of all workers."""
    correct, nll, num_images = torch.zeros(3, dtype=torch.float64, device=compute.device)
    for labels, (logits,) in predictions([model], split, compute):
        correct += (logits.argmax(1) == labels).sum()
        nll += F.cross_entropy(logits.float(), labels, reduction="sum")
        num_images += len(labels)
    correct, nll, num_images = group.gather(torch.stack([correct, nll, num_images])).sum(0).tolist()
    return Evaluation(100 * correct / num_images, nll / num_images, int(num_images))


@torch.no_grad()
def predictions(
    models: Sequence[nn.Module], split: Split, compute: Compute
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Yield the labels [B] of each batch of `split`, and the logits [B, C] of each of `models` in evaluation mode.

    Heads compute in float32 (float32_head.py), because logits rounded to bfloat16 often tie, and argmax then takes the
    first class. Raises RunFailed if the device has no memory for a single image.
    """

    def predict(part: slice) -> tuple[Tensor, ...]:
        images = split.images[part].to(compute.device)
        with compute.autocast():
            return tuple(model(images).logits for model in models)

    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        with float32_heads(*models):
            for part, logits in batches_that_fit(models[0], len(split), EVALUATION_BATCH[compute.device.type], predict):
                yield split.labels[part].to(compute.device), logits
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
