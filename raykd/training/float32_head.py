"""Compute a network's head, from embedding to logits, in float32 while the rest runs under autocast.

Autocast computes a linear layer in bfloat16, which has 8 significant bits: two logits between 8 and 16 are equal or at
least 1/16 apart. With 10 classes the two largest logits tie for 0.5 % of the images, with 100 classes for 1.7 %, and
argmax takes the first class. Soft targets are rounded in the same way. The head is a small part of the network, so
float32 costs little: with 1,000 classes it has 0.1 % of a ResNet-18's multiply-adds on 32x32.

Evaluation and teachers (live or cached) use it. A student in training does not: its steps stay in the precision of its
recipe. Without autocast it changes no bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn

from raykd.models import ImageModel


def keep_head_in_float32(model: nn.Module) -> None:
    """Make the heads of all ImageModels in `model` compute in float32 from now on, also under autocast."""
    for head in _heads(model):
        head.forward = MethodType(_forward_in_float32, head)  # a bound method, so that a copied layer uses its weights


@contextmanager
def float32_heads(*models: nn.Module) -> Iterator[None]:
    """Make the heads of all ImageModels in `models` compute in float32 inside the context."""
    heads = [head for model in models for head in _heads(model) if "forward" not in vars(head)]
    for head in heads:
        head.forward = MethodType(_forward_in_float32, head)
    try:
        yield
    finally:
        for head in heads:
            del head.forward


def _heads(model: nn.Module) -> list[nn.Module]:
    """Return all layers that compute logits."""
    parts = [part for part in model.modules() if isinstance(part, ImageModel)]
    return list(dict.fromkeys(head for part in parts for head in part.heads()))


def _forward_in_float32(self: nn.Module, embedding: Tensor) -> Tensor:
    """Return the logits of `embedding`, [B, D] or [B, D, 1, 1]; under autocast they are computed in float32."""
    device = embedding.device.type
    if not torch.is_autocast_enabled(device):
        return type(self).forward(self, embedding)
    with torch.autocast(device, enabled=False):
        return type(self).forward(self, embedding.float())
