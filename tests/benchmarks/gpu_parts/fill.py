"""Views per second of filling a logit cache and images per second of evaluation, for the recipes' sizes."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_parts.report import Part
from gpu_parts.setting import Setting
from raykd.bench.families import TimedPair, noise
from raykd.bench.implementations import now
from raykd.bench.rounds import make_fill_function
from raykd.models import ImageModel
from raykd.training.compute import choose_compute, configure_process
from raykd.training.evaluate import evaluate
from raykd.training.training_step import make_model

STEPS = 351  # of an epoch of CIFAR-10 without 5,000 images for validation
MOST_PARTS, FEWEST_PARTS = 12, 2


def measure(part: Part, setting: Setting) -> None:
    teachers = [("resnet18", setting.cnn(STEPS)), ("vit_tiny", setting.vit(STEPS))]
    total_s = part.left()
    for number, (name, family) in enumerate(teachers):
        share_s = 0.7 * total_s / len(teachers)
        part.figure(f"fill, {name}", lambda f=family, s=share_s: _fill_rates(f, setting, s))
        if number == 0:
            student = make_model(family.baseline(), family.dataset())
            part.figure("evaluate, resnet8", lambda m=student, f=family: _evaluation_rates(m, f, setting))
        part.figure(f"evaluate, {name}", lambda f=family: _evaluation_rates(f.teacher_model(True), f, setting))


def _fill_rates(family: TimedPair, setting: Setting, most_s: float) -> dict[str, Any]:
    """Fill parts of a cache one after another, and return views per second without the first. Includes writing."""
    compute = choose_compute(setting.device, family.student.precision)
    start_s, rates = time.perf_counter(), []
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        fill = make_fill_function(family, family.dataset(), Path(folder), compute, MOST_PARTS)
        ready_s = time.perf_counter() - start_s
        while len(rates) <= (1 if setting.toy else MOST_PARTS - 1):
            if len(rates) > FEWEST_PARTS and time.perf_counter() - start_s > most_s:
                break
            rates.append(fill())
    return {
        "views_per_s": statistics.median(rates[1:]),
        "slowest": min(rates[1:]),
        "fastest": max(rates[1:]),
        "first": rates[0],
        "parts": len(rates) - 1,
        "set_up_s": ready_s,
    }


def _evaluation_rates(model: ImageModel, family: TimedPair, setting: Setting) -> dict[str, Any]:
    """Evaluate 10,000 images, like CIFAR-10's test split, from the CPU's memory and from the device's."""
    device = setting.device
    configure_process(device)
    compute = choose_compute(device, family.student.precision)
    network = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    split = noise(64 if setting.toy else 10_000).train
    on_device = type(split)(split.images.to(device), split.labels.to(device))
    rates_by_memory = {}
    for name, images in (("from_cpu", split), ("from_device", on_device)):
        evaluate(network, images, compute)
        seconds = []
        for _ in range(3):
            start_s = now(device)
            evaluate(network, images, compute)
            seconds.append(now(device) - start_s)
        rates_by_memory[f"images_per_s_{name}"] = len(images) / statistics.median(seconds)
    return rates_by_memory
