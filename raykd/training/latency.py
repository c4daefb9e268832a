"""Latency (batch size 1) and throughput (large batches) of a model, as percentiles over passes after a warm-up.

torch.utils.benchmark's blocked_autorange has no minimum number of passes, and averages fast passes in blocks. Slow
models would then have no percentiles, and those of fast models would be of block means.

In bf16 and fp16 the weights are stored in float32, as in training and evaluation. Autocast casts them in every pass,
which is part of the time: 2 to 5 % for one image of 32x32 on a CPU. A model deployed with 16-bit weights is faster.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from raykd.models import ImageModel
from raykd.store.records import Timing
from raykd.training.compute import Compute
from raykd.training.inference_batch import with_largest_batch_size

WARM_UP_S = {"cpu": 0.0, "cuda": 0.5}  # a GPU raises its clock within tenths of a second, and cuDNN autotunes


@dataclass(frozen=True)
class Passes:
    """The passes to time: `most` of them, or at least `fewest` if they take more than limit_s seconds in all.

    batch_size: in images. warm_up: least number of passes before those that are timed; see WARM_UP_S.
    """

    batch_size: int
    warm_up: int
    most: int
    fewest: int
    limit_s: float


LATENCY = Passes(batch_size=1, warm_up=5, most=50, fewest=10, limit_s=5.0)
# A batch of 256 images of a ResNet-18 takes seconds on two CPU cores, milliseconds on a GPU.
THROUGHPUT = Passes(batch_size=256, warm_up=1, most=20, fewest=3, limit_s=3.0)


def latency(model: ImageModel, image_size: int, compute: Compute) -> Timing:
    """Return the milliseconds of a pass of one image, `image_size` pixels on a side, that is already on the device.

    model: in the memory format of its training. Raises RunFailed if the device has no memory for one image.
    """
    seconds = with_largest_batch_size(model, 1, lambda _: _seconds(model, image_size, compute, LATENCY))
    return _timing([1000 * pass_s for pass_s in seconds], LATENCY)


def throughput(model: ImageModel, image_size: int, compute: Compute) -> Timing:
    """Return images per second in batches of 256, or as many as fit; p10 is the slow end. Raises as `latency` does."""

    def attempt(size: int) -> Timing:
        passes = replace(THROUGHPUT, batch_size=size)
        seconds = _seconds(model, image_size, compute, passes)
        return _timing([size / pass_s for pass_s in seconds], passes)

    return with_largest_batch_size(model, THROUGHPUT.batch_size, attempt)


@torch.no_grad()
def _seconds(model: ImageModel, image_size: int, compute: Compute, passes: Passes) -> list[float]:
    """Return the seconds of each pass after the warm-up. The images are channels-last, as from a loader."""
    model, device = model.to(compute.device).eval(), compute.device
    pixels = torch.zeros(passes.batch_size, 3, image_size, image_size, dtype=torch.uint8, device=device)
    images = pixels.contiguous(memory_format=torch.channels_last)
    warm_up: list[float] = []
    seconds: list[float] = []
    while len(seconds) < passes.most and not (len(seconds) >= passes.fewest and sum(seconds) >= passes.limit_s):
        start = time.perf_counter()
        with compute.autocast():
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        is_warm = len(warm_up) >= passes.warm_up and sum(warm_up) >= WARM_UP_S[device.type]
        (seconds if is_warm else warm_up).append(time.perf_counter() - start)
    return seconds


def _timing(values: Sequence[float], passes: Passes) -> Timing:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(statistics.median(values), deciles[0], deciles[-1], len(values), passes.batch_size)
