"""Achieved FLOP/s of a training step, compared with a matrix product."""

import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from raykd.bench.families import TimedPair
from raykd.bench.implementations import now
from raykd.data.types import Dataset
from raykd.spec.plan import Run
from raykd.training.compute import Compute, choose_compute
from raykd.training.teacher.sources import Teacher, no_teacher
from raykd.training.training_step import make_train_state

SIDE = {"cpu": 2048, "cuda": 8192}  # side of the square matrices
REPEATS = 7


def achieved_flops_per_s(pair: TimedPair, device: torch.device, step_s: float) -> dict[str, float]:
    """Return FLOP/s of a 'step' and a 'matrix_product' in the student's precision, and their quotient as 'share'.

    step_s: seconds of one training step of the baseline.
    """
    compute = choose_compute(device, pair.student.precision)
    step = step_flops(pair.baseline(), pair.dataset(), no_teacher, device) / step_s
    product = matrix_product_flops_per_s(compute)
    return {"step": step, "matrix_product": product, "share": step / product}


def matrix_product_flops_per_s(compute: Compute) -> float:
    """Return the median FLOP/s of a large square matrix product."""
    side, dtype = SIDE[compute.device.type], compute.half or torch.float32
    a, b = (torch.randn(side, side, device=compute.device).to(dtype) for _ in range(2))
    times = []
    for _ in range(REPEATS + 1):  # the first one warms up
        start = now(compute.device)
        torch.mm(a, b)
        times.append(now(compute.device) - start)
    return 2 * side**3 / statistics.median(times[1:])


def step_flops(run: Run, dataset: Dataset, teacher: Teacher, device: torch.device) -> float:
    """Return the FLOPs of one step of `run`, forward and backward, including its teacher's, as torch counts them."""
    training = make_train_state(run, dataset, choose_compute(device, "fp32"), teacher)
    batch = next(training.loader.epoch(0))
    with FlopCounterMode(display=False) as counter:
        training.step(batch, run.method.weights(0))
    return float(counter.get_total_flops())
