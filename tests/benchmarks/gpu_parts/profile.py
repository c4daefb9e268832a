"""The GPU's work in a step: number of kernels, their time, the most expensive ones. Runs in a worker process."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

from gpu_parts.setting import Setting, subject_named
from gpu_parts.timed_loop import free
from raykd.bench.implementations import now
from raykd.errors import Interrupted
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute, configure_process
from raykd.training.hooks import Hooks
from raykd.training.loop import train_epochs
from raykd.training.training_step import make_train_state

WARM_UP, PROFILED, STEPS = 15, 20, 40
MOST_EXPENSIVE = 15
NAME_CHARACTERS = 90


def warm_up(setting: Setting) -> None:
    """Start CUDA and the profiler."""
    # torch sets this too if its compiler uses CUDA graphs. The profiler's library then starts only once.
    os.environ["DISABLE_CUPTI_LAZY_REINIT"], os.environ["TEARDOWN_CUPTI"] = "1", "0"
    profiler = _profiler(setting.device)
    profiler.start()
    torch.ones(8, device=setting.device).sum().item()
    profiler.stop()


def profile_steps(setting: Setting, name: str, way: str) -> dict[str, Any]:
    """Return figures of PROFILED steps of the loop for the subject `name`. The profiler itself slows them."""
    device = setting.device
    subject = subject_named(setting, name, STEPS)
    warm, steps = (1, 1) if setting.toy else (WARM_UP, PROFILED)
    dataset, run = subject.family.dataset(), subject.launched(way)
    configure_process(device)
    teacher = subject.teacher(dataset, device)
    training = make_train_state(run, dataset, choose_compute(device, run.recipe.precision), teacher)
    profiler, times, done = _profiler(device), [], 0

    def should_stop() -> bool:
        nonlocal done
        done += 1
        if done == warm:
            times.append(now(device))
            profiler.start()
        if done == warm + steps:
            times.append(now(device))
            profiler.stop()
        return done >= warm + steps

    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        hooks = Hooks(should_stop=should_stop, checkpoint_every_s=float("inf"))
        try:
            for _ in train_epochs(training, RunFolder(Path(folder)), hooks):
                pass
        except Interrupted:
            pass
    figures = kernels(profiler.events(), steps, DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU)
    del training, teacher
    free()
    return {"profiled_ms_per_step": 1e3 * (times[1] - times[0]) / steps, **figures}


def kernels(events: Iterable[Any], steps: int, kind: DeviceType) -> dict[str, Any]:
    """Return kernels and copies of `steps` steps, from the profiler's events on devices of `kind`.

    busy_ms is the time in which at least one of them runs; kernel_ms is their sum, so concurrent kernels count twice.
    """
    device_events = [
        event for event in events if event.device_type == kind and not getattr(event, "is_user_annotation", False)
    ]
    if not device_events:
        raise RuntimeError("the profiler recorded no kernel; check that this process may read the GPU's counters")
    micros, counts = defaultdict[str, float](float), defaultdict[str, int](int)
    for event in device_events:
        micros[event.name] += event.time_range.elapsed_us()
        counts[event.name] += 1
    total = sum(micros.values())
    copies = {name for name in micros if name.startswith(("Memcpy", "Memset"))}
    top = sorted(micros, key=lambda name: -micros[name])[:MOST_EXPENSIVE]
    return {
        "kernels_per_step": sum(count for name, count in counts.items() if name not in copies) / steps,
        "copies_per_step": sum(counts[name] for name in copies) / steps,
        "kernel_ms_per_step": total / 1e3 / steps,
        "busy_ms_per_step": _union([(e.time_range.start, e.time_range.end) for e in device_events]) / 1e3 / steps,
        "most_expensive": [
            {
                "share": micros[name] / max(total, 1e-9),
                "us_per_step": micros[name] / steps,
                "per_step": counts[name] / steps,
                "kernel": name[:NAME_CHARACTERS],
            }
            for name in top
        ],
    }


def _union(spans: list[tuple[float, float]]) -> float:
    """Return the microseconds that at least one span covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _profiler(device: torch.device) -> Any:
    activity = torch.profiler.ProfilerActivity
    return torch.profiler.profile(activities=[activity.CUDA if device.type == "cuda" else activity.CPU])
