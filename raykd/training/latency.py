"""How long images take a model: one alone in its batch, and many at once. Percentiles of passes, after a warm-up."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from raykd.models import ImageModel
from raykd.training.compute import Compute

WARM_UP = 5
PASSES = 50
THROUGHPUT_BATCH = 256
THROUGHPUT_WARM_UP = 2
THROUGHPUT_PASSES = 20
FEWEST_PASSES = 3
THROUGHPUT_LIMIT_S = 3.0  # a CPU takes seconds for 256 images of a ResNet-18: then fewer passes have to do


@dataclass(frozen=True)
class Timing:
    """Median, 10th and 90th percentile over `passes` of so many images each."""

    median: float
    p10: float
    p90: float
    passes: int
    batch_size: int


def latency_ms(model: ImageModel, image_size: int, compute: Compute) -> float:
    """Median milliseconds for an image of `image_size` pixels on a side, its way to the device not counted."""
    return latency(model, image_size, compute).median


def latency(model: ImageModel, image_size: int, compute: Compute) -> Timing:
    """Milliseconds a pass of one image."""
    seconds = _passes(model, image_size, 1, compute, WARM_UP, PASSES)
    return _timing([1000 * pass_s for pass_s in seconds], 1)


def throughput(model: ImageModel, image_size: int, compute: Compute) -> Timing:
    """Images a second in batches of THROUGHPUT_BATCH; p10 is of the slow passes."""
    seconds = _passes(
        model, image_size, THROUGHPUT_BATCH, compute, THROUGHPUT_WARM_UP, THROUGHPUT_PASSES, THROUGHPUT_LIMIT_S
    )
    return _timing([THROUGHPUT_BATCH / pass_s for pass_s in seconds], THROUGHPUT_BATCH)


@torch.no_grad()
def _passes(
    model: ImageModel,
    image_size: int,
    batch_size: int,
    compute: Compute,
    warm_up: int,
    passes: int,
    limit_s: float = float("inf"),
) -> list[float]:
    """Seconds of each pass, at most `passes` and those that begin within `limit_s`, but FEWEST_PASSES at least."""
    model = model.to(compute.device).eval()
    images = torch.zeros(batch_size, 3, image_size, image_size, dtype=torch.uint8, device=compute.device)
    seconds: list[float] = []
    for _ in range(warm_up + passes):
        began = time.perf_counter()
        with compute.autocast():
            model(images)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
        seconds.append(time.perf_counter() - began)
        counted = seconds[warm_up:]
        if len(counted) >= FEWEST_PASSES and sum(counted) >= limit_s:
            break
    return seconds[warm_up:]


def _timing(values: Sequence[float], batch_size: int) -> Timing:
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(statistics.median(values), tenths[0], tenths[-1], len(values), batch_size)
