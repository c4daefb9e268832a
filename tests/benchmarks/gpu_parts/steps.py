"""Milliseconds of a training step of each subject, launched in each of the WAYS; then profiles and arithmetic.

Eager and graph of all subjects first, then profiles, then torch.compile while time is left.
"""

import tempfile
from pathlib import Path
from typing import Any

from gpu_parts import profile
from gpu_parts.report import Part
from gpu_parts.setting import Setting, Subject, subjects
from gpu_parts.timed_loop import free, step_figures
from gpu_parts.workers import Worker, WorkerFailed
from raykd.bench.arithmetic import step_flops
from raykd.training.compute import choose

ROUNDS = 5
FIRST_SHARE, PROFILE_SHARE = 0.45, 0.25  # of the part's time, for eager and graph, and for profiles
COMPILE_S = 12.0  # at least, and with the steps
COMPILE_LIMIT_S = 150.0
WORKER_START_S, PROFILE_S, PROFILE_LIMIT_S = 60.0, 30.0, 120.0
FEWEST_S = 0.5


def measure(part: Part, setting: Setting) -> None:
    chosen, total_s = subjects(setting, 100 if part.left() < 90 else 200), part.left()
    names = [(subject, way) for subject in chosen for way in ("eager", "graph")]
    for number, (subject, way) in enumerate(names):
        share_s = (part.left() - total_s * (1 - FIRST_SHARE)) / (len(names) - number)
        _timed(part, setting, subject, way, share_s)
        free()
    _arithmetic(part, setting, chosen)
    profiles_until = part.left() - PROFILE_SHARE * total_s
    _profiles(part, setting, chosen[:2] if setting.toy else chosen, ("eager", "graph"), profiles_until)
    for way in ("compile", "graph+compile"):
        for subject in chosen:
            if _timed(part, setting, subject, way, 3.0) is not None:
                free(was_compiled=True)
    _busy(part, chosen)


def _timed(part: Part, setting: Setting, subject: Subject, way: str, share_s: float) -> Any:
    is_compiled = "compile" in way
    rounds, rounds_s = (1, FEWEST_S) if setting.toy else (ROUNDS, max(FEWEST_S, min(5.0, 0.6 * share_s)))

    def figures() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
            return step_figures(subject, way, setting.device, Path(folder), rounds, rounds_s)

    needs_s, limit_s = (COMPILE_S, COMPILE_LIMIT_S) if is_compiled else (1.0, 60.0)
    return part.figure(f"{subject.name}, {way}", figures, needs_s, limit_s, cuda=is_compiled)


def _profiles(part: Part, setting: Setting, chosen: list[Subject], ways: tuple[str, ...], until_left_s: float) -> None:
    """In a process of its own: a profiler that was once switched on slows the launches that follow."""
    worker: Worker | None = None
    try:
        for subject in chosen:
            for way in ways:
                name = f"profile {subject.name}, {way}"
                if part.left() < until_left_s:
                    part.leave_out(name, "no time left for profiles")
                    continue

                def profiled(name: str = subject.name, way: str = way) -> dict[str, Any]:
                    nonlocal worker
                    if worker is None:
                        worker = Worker()
                        worker.call(WORKER_START_S, profile.warm_up, setting)
                    try:
                        return worker.call(PROFILE_S, profile.profiled, setting, name, way)
                    except WorkerFailed:
                        worker.end()
                        worker = None
                        raise

                part.figure(name, profiled, 2.0, PROFILE_LIMIT_S)
    finally:
        if worker is not None:
            worker.end()


def _arithmetic(part: Part, setting: Setting, chosen: list[Subject]) -> None:
    """Operations of one step, and their rate beside that of a large matrix product in the same precision."""
    for subject in chosen:

        def figures(subject: Subject = subject) -> dict[str, Any]:
            device = setting.device
            dataset = subject.family.dataset()
            flops = step_flops(subject.launched("eager"), dataset, subject.teacher(dataset, device), device)
            precision = choose(device, subject.run.recipe.precision).precision
            ceiling = part.report.figure("ceilings", precision)
            found: dict[str, Any] = {"GFLOP_per_step": flops / 1e9, "precision": precision}
            for way in ("eager", "graph"):
                timed = part.report.figure("steps", f"{subject.name}, {way}")
                if timed:
                    found[f"{way}_TFLOP_per_s"] = flops / timed["ms_per_step"] / 1e9
                    if ceiling:
                        share = found[f"{way}_TFLOP_per_s"] / ceiling["TFLOP_per_s"]
                        found[f"{way}_share_of_product"] = share
            return found

        part.figure(f"arithmetic {subject.name}", figures)


def _busy(part: Part, chosen: list[Subject]) -> None:
    """Time of kernels over the time of a step that is not profiled: the share of time that the GPU computes."""

    def figures() -> dict[str, Any]:
        found = {}
        for subject in chosen:
            for way in ("eager", "graph"):
                profiled = part.report.figure("steps", f"profile {subject.name}, {way}")
                timed = part.report.figure("steps", f"{subject.name}, {way}")
                if profiled and timed:
                    found[f"{subject.name}, {way}"] = profiled["busy_ms_per_step"] / timed["ms_per_step"]
        return found

    part.figure("GPU time of kernels over step time", figures, needs_s=-60.0)
