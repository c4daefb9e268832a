"""Milliseconds of a training step of each subject, launched in each of the WAYS; profiles; arithmetic.

The most important figures come first, since the time may end before the last.
"""

import tempfile
from pathlib import Path
from typing import Any

from gpu_parts import profile
from gpu_parts.report import Part
from gpu_parts.setting import ONE_BY_ONE, Setting, Subject, subjects
from gpu_parts.timed_loop import free, step_figures
from gpu_parts.workers import Worker, WorkerFailed
from raykd.bench.arithmetic import step_flops
from raykd.training.compute import choose_compute

ROUNDS, ROUNDS_S = 5, 2.5  # fewer if these take longer
FIRST = 5  # subjects with the most figures
COMPILE_S = 12.0  # the least time for compilation and steps
COMPILE_LIMIT_S = 150.0
WORKER_START_S, PROFILE_S, PROFILE_LIMIT_S = 60.0, 30.0, 120.0
FEWEST_S = 0.5


def measure(part: Part, setting: Setting) -> None:
    chosen = subjects(setting, 100 if part.left() < 90 else 200)
    first, rest = chosen[:FIRST], chosen[FIRST:]
    _all_timed(part, setting, chosen, "graph")
    _all_timed(part, setting, first, "eager")
    _all_timed(part, setting, first, ONE_BY_ONE)
    _profiles(part, setting, chosen[:2] if setting.toy else chosen, "graph")
    _all_timed(part, setting, first, "graph+compile")
    _arithmetic(part, setting, chosen)
    _all_timed(part, setting, rest, "eager")
    _profiles(part, setting, first[:2], "eager")
    _all_timed(part, setting, rest, "graph+compile")
    _all_timed(part, setting, chosen, "compile")
    _busy(part, chosen)


def _all_timed(part: Part, setting: Setting, chosen: list[Subject], way: str) -> None:
    for subject in chosen:
        if _timed(part, setting, subject, way) is not None:
            free(was_compiled="compile" in way)


def _timed(part: Part, setting: Setting, subject: Subject, way: str) -> Any:
    is_compiled = "compile" in way
    rounds, rounds_s = (1, FEWEST_S) if setting.toy else (ROUNDS, ROUNDS_S)

    def figures() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
            return step_figures(subject, way, setting.device, Path(folder), rounds, rounds_s)

    needs_s, limit_s = (COMPILE_S, COMPILE_LIMIT_S) if is_compiled else (1.0, 60.0)
    return part.figure(f"{subject.name}, {way}", figures, needs_s, limit_s, cuda=is_compiled)


def _profiles(part: Part, setting: Setting, chosen: list[Subject], way: str) -> None:
    """Profile in a separate process: a profiler that was once active slows all later launches."""
    worker: Worker | None = None
    try:
        for subject in chosen:

            def profile_figures(name: str = subject.name) -> dict[str, Any]:
                nonlocal worker
                is_new = worker is None
                worker = worker or Worker()
                try:
                    if is_new:
                        worker.call(WORKER_START_S, profile.warm_up, setting)
                    return worker.call(PROFILE_S, profile.profile_steps, setting, name, way)
                except WorkerFailed:
                    worker.end()
                    worker = None
                    raise

            part.figure(f"profile {subject.name}, {way}", profile_figures, 2.0, PROFILE_LIMIT_S)
    finally:
        if worker is not None:
            worker.end()


def _arithmetic(part: Part, setting: Setting, chosen: list[Subject]) -> None:
    """Report the FLOPs of one step, and FLOP/s compared with a large matrix product in the same precision."""
    for subject in chosen:

        def figures(subject: Subject = subject) -> dict[str, Any]:
            device = setting.device
            dataset = subject.family.dataset()
            flops = step_flops(subject.launched("eager"), dataset, subject.teacher(dataset, device), device)
            precision = choose_compute(device, subject.run.recipe.precision).precision
            ceiling = part.report.figure("ceilings", precision)
            values: dict[str, Any] = {"GFLOP_per_step": flops / 1e9, "precision": precision}
            for way in ("eager", "graph"):
                step_times = part.report.figure("steps", f"{subject.name}, {way}")
                if step_times:
                    values[f"{way}_TFLOP_per_s"] = flops / step_times["ms_per_step"] / 1e9
                    if ceiling:
                        share = values[f"{way}_TFLOP_per_s"] / ceiling["TFLOP_per_s"]
                        values[f"{way}_share_of_product"] = share
            return values

        part.figure(f"arithmetic {subject.name}", figures)


def _busy(part: Part, chosen: list[Subject]) -> None:
    """Report the kernels' time divided by the time of an unprofiled step: how much of the time the GPU computes."""

    def figures() -> dict[str, Any]:
        values = {}
        for subject in chosen:
            for way in ("eager", "graph"):
                profile_figures = part.report.figure("steps", f"profile {subject.name}, {way}")
                step_times = part.report.figure("steps", f"{subject.name}, {way}")
                if profile_figures and step_times:
                    values[f"{subject.name}, {way}"] = profile_figures["busy_ms_per_step"] / step_times["ms_per_step"]
        return values

    part.figure("GPU time of kernels over step time", figures, needs_s=-60.0)
