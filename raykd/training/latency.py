"""How long images take a model: one alone in its batch, and many at once. Percentiles of passes, after a warm-up."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from raykd.models import ImageModel
from raykd.timing import Timing
from raykd.training.compute import Compute
from raykd.training.fitting_batch import largest_that_fits


@dataclass(frozen=True)
class Passes:
    """`most` passes of batch_size images after warm_up others; once limit_s are spent, `fewest` have to do."""

    batch_size: int
    warm_up: int
    most: int
    fewest: int
    limit_s: float


LATENCY = Passes(batch_size=1, warm_up=5, most=50, fewest=10, limit_s=5.0)
# Two CPU cores take seconds for 256 images of a ResNet-18, a GPU milliseconds.
THROUGHPUT = Passes(batch_size=256, warm_up=1, most=20, fewest=3, limit_s=3.0)


def latency_ms(model: ImageModel, image_size: int, compute: Compute) -> float:
    """Median milliseconds for an image of `image_size` pixels on a side, its way to the device not counted."""
    return latency(model, image_size, compute).median


def latency(model: ImageModel, image_size: int, compute: Compute) -> Timing:
    """Milliseconds a pass of one image."""
    seconds = _seconds(model, image_size, compute, LATENCY)
    return _timing([1000 * pass_s for pass_s in seconds], LATENCY)


def throughput(model: ImageModel, image_size: int, compute: Compute) -> Timing:
    """Return images a second in batches of 256, or as many of them as fit; p10 is of the slow passes.

    Raises RunFailed where the device has no memory for a single image.
    """

    def attempt(size: int) -> Timing:
        passes = replace(THROUGHPUT, batch_size=size)
        seconds = _seconds(model, image_size, compute, passes)
        return _timing([size / pass_s for pass_s in seconds], passes)

    return largest_that_fits(model, THROUGHPUT.batch_size, attempt)


@torch.no_grad()
def _seconds(model: ImageModel, image_size: int, compute: Compute, passes: Passes) -> list[float]:
    """Of each pass that counts."""
    model = model.to(compute.device).eval()
    images = torch.zeros(passes.batch_size, 3, image_size, image_size, dtype=torch.uint8, device=compute.device)
    seconds: list[float] = []
    for _ in range(passes.warm_up + passes.most):
        began = time.perf_counter()
        with compute.autocast():
            model(images)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
        seconds.append(time.perf_counter() - began)
        counted = seconds[passes.warm_up :]
        if len(counted) >= passes.fewest and sum(counted) >= passes.limit_s:
            break
    return seconds[passes.warm_up :]


def _timing(values: Sequence[float], passes: Passes) -> Timing:
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(statistics.median(values), tenths[0], tenths[-1], len(values), passes.batch_size)
