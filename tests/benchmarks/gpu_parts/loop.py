"""Ratios of the loop to its step without the loop, and of the standard pipeline to raykd, within alternating rounds."""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_parts.report import Part
from gpu_parts.setting import Setting
from gpu_parts.timed_loop import free
from raykd.bench.families import TimedPair
from raykd.bench.implementations import Implementation, Round
from raykd.bench.rounds import KINDS, implementation_makers
from raykd.training.compute import configure_process

ROUNDS = 5
SHARED_BYTES = 256 << 20  # of /dev/shm, below which the standard pipeline has FEW_WORKERS
FEW_WORKERS = 4


def measure(part: Part, setting: Setting) -> None:
    total_s = part.left()
    for name, family, share in (("cnn", setting.cnn(200), 0.55), ("vit", setting.vit(50), 0.4)):
        part.figure(name, lambda f=family, s=share * total_s: _rounds(f, setting, s), needs_s=3.0, limit_s=240.0)
        free()


def num_workers() -> int:
    """Return the DataLoader workers of the standard pipeline: one per CPU, fewer if their shared memory is small."""
    cpus = len(os.sched_getaffinity(0))
    is_small = Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free < SHARED_BYTES
    return min(cpus, FEW_WORKERS) if is_small else cpus


def _rounds(family: TimedPair, setting: Setting, most_s: float) -> dict[str, Any]:
    """Return medians over rounds. An implementation that fails is left out, and its error recorded."""
    configure_process(setting.device)
    until, workers = time.perf_counter() + most_s, 1 if setting.toy else num_workers()
    errors: dict[str, str] = {}
    rounds_by_name: dict[str, list[Round]] = {}
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        implementations: dict[str, Implementation] = {}
        for name, make in implementation_makers(family, setting.device, Path(folder), workers).items():
            _record_error(name, errors, lambda n=name, m=make: implementations.update({n: m()}))
        for number in range((1 if setting.toy else ROUNDS) + 1):
            start_s = time.perf_counter()
            for name, implementation in implementations.items():
                if name not in errors:
                    _record_error(
                        name,
                        errors,
                        lambda n=name, c=implementation: rounds_by_name.setdefault(n, []).append(c.round()),
                    )
            if number and time.perf_counter() + (time.perf_counter() - start_s) > until:
                break
        implementations.clear()
    counted_rounds = {
        name: rounds[1:] for name, rounds in rounds_by_name.items() if name not in errors and len(rounds) > 1
    }
    figures = _figures(family, counted_rounds)
    return {"workers_of_standard_pipeline": workers, "steps": family.steps, **figures, "errors": errors}


def _figures(family: TimedPair, rounds_by_name: dict[str, list[Round]]) -> dict[str, Any]:
    """Return medians: ratios within each round, milliseconds of steps and seconds of epochs."""
    figures: dict[str, Any] = {"rounds": min((len(rounds) for rounds in rounds_by_name.values()), default=0)}
    figures["ms_per_step"] = {
        name: 1e3 * statistics.median(each.steps_s for each in rounds) / family.steps
        for name, rounds in rounds_by_name.items()
    }
    figures["epoch_s"] = {
        name: statistics.median(each.epoch_s for each in rounds) for name, rounds in rounds_by_name.items()
    }
    ratios: dict[str, float] = {}
    for kind in KINDS:
        alone, loop = rounds_by_name.get(f"step without the loop, {kind}"), rounds_by_name.get(f"loop, {kind}")
        if alone and loop:
            times = [a.steps_s / b.steps_s for a, b in zip(loop, alone, strict=False)]
            ratios[f"loop over step without the loop, {kind}"] = statistics.median(times)
    for name, pipeline in ((name, rounds) for name, rounds in rounds_by_name.items() if name.startswith("standard")):
        for kind in ("cache", "live"):
            if loop := rounds_by_name.get(f"loop, {kind}"):
                pairs = list(zip(pipeline, loop, strict=False))
                ratios[f"{name} over loop {kind}, steps"] = statistics.median(a.steps_s / b.steps_s for a, b in pairs)
                ratios[f"{name} over loop {kind}, epoch"] = statistics.median(a.epoch_s / b.epoch_s for a, b in pairs)
    return figures | {"ratios": ratios}


def _record_error(name: str, errors: dict[str, str], act: Any) -> None:
    try:
        act()
    except Exception as error:  # noqa: BLE001  # the other implementations are measured all the same
        errors[name] = f"{type(error).__name__}: {error}"[:1000]
