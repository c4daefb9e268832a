"""How long one image takes a model: the median of some passes, alone in its batch."""

import statistics
import time

import torch

from raykd.models import ImageModel
from raykd.training.compute import Compute

WARM_UP = 5
PASSES = 50


@torch.no_grad()
def latency_ms(model: ImageModel, image_size: int, compute: Compute) -> float:
    """Milliseconds for an image of `image_size` pixels on a side, its way to the device not counted."""
    model = model.to(compute.device).eval()
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=compute.device)
    seconds = []
    for _ in range(WARM_UP + PASSES):
        began = time.perf_counter()
        with compute.autocast():
            model(image)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[WARM_UP:])
