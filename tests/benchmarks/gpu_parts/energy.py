"""Joules per 1,000 images by NVML's counter of the whole GPU, over several seconds of epochs."""

import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_parts.report import Part
from gpu_parts.setting import Setting, subject_named
from gpu_parts.timed_loop import TimedLoop, free
from raykd.bench.implementations import now
from raykd.training.usage import energy_counter

FEWEST_S, IDLE_S = 5.0, 1.5


def measure(part: Part, setting: Setting) -> None:
    part.figure("idle", lambda: _idle(setting), cuda=True)
    for subject in ("resnet8 baseline", "resnet8 cache"):
        for way in ("eager", "graph"):
            name = f"{subject}, {way}"
            part.figure(name, lambda s=subject, w=way: _joules(setting, s, w), needs_s=FEWEST_S + 1.0, cuda=True)
            free()


def _idle(setting: Setting) -> dict[str, float]:
    """Return the watts while this process is idle."""
    counter = energy_counter(setting.device, 1.0)
    start_s, joules = now(setting.device), counter()
    time.sleep(IDLE_S)
    return {"watts": (counter() - joules) / (now(setting.device) - start_s)}


def _joules(setting: Setting, name: str, way: str) -> dict[str, Any]:
    """Train whole epochs with validation for at least FEWEST_S, and return their energy and speed."""
    device, subject = setting.device, subject_named(setting, name)
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        loop = TimedLoop(subject, way, subject.family.dataset(), device, Path(folder))
        loop.epoch()
        counter = energy_counter(device, 1.0)
        start_s, before, images = now(device), counter(), 0
        while now(device) - start_s < FEWEST_S:
            loop.epoch()
            images += loop.steps * loop.batch_size
        seconds, joules = now(device) - start_s, counter() - before
    return {
        "joules_per_1000_images": 1000 * joules / images,
        "watts": joules / seconds,
        "images_per_s": images / seconds,
        "seconds": seconds,
    }
