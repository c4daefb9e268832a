"""Several runs side by side on one device: images/s of all, in processes that train ResNet-8 from a logit cache.

Threads or streams within one process are not measured: the loop owns its process (its generator, its cuDNN settings).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_parts.report import Part
from gpu_parts.setting import Setting, subject_named
from gpu_parts.timed_loop import TimedLoop
from gpu_parts.workers import Worker, WorkerFailed

SUBJECT = "resnet8 cache"
MOST_RUNS = 4
START_S = 90.0
SETTLE_S = 0.5  # after the common start, before steps are counted
_loops: dict[str, TimedLoop] = {}  # of a worker process, by way


def measure(part: Part, setting: Setting) -> None:
    counts, window_s = ((1, 2), 0.3) if setting.toy else ((1, 2, 4), max(1.5, min(4.0, part.left() / 14)))
    workers: list[Worker] = []
    try:
        part.figure("start", lambda: _start_workers(workers, counts[-1], setting), limit_s=START_S + 30)
        for way in ("eager", "graph"):
            for count in counts:

                def figures(way: str = way, count: int = count) -> dict[str, Any]:
                    if len(workers) < count:
                        raise WorkerFailed("the processes did not start")
                    rates = _side_by_side(workers[:count], setting, way, window_s)
                    alone = part.report.figure("packing", f"{way}, 1")
                    return rates | ({"over_one": rates["images_per_s"] / alone["images_per_s"]} if alone else {})

                part.figure(f"{way}, {count}", figures, window_s + 2.0)
    finally:
        for worker in workers:
            worker.end()
    part.leave_out("threads or streams in one process", "the loop owns its process")


def _start_workers(workers: list[Worker], count: int, setting: Setting) -> dict[str, float]:
    """Start `count` processes, and return the seconds until all can use the device."""
    start_s = time.perf_counter()
    started = [Worker() for _ in range(count)]
    workers += started
    for worker in started:
        worker.send(start_device, setting)
    for worker in started:
        worker.result(START_S)
    return {"seconds": time.perf_counter() - start_s, "processes": count}


def _side_by_side(workers: list[Worker], setting: Setting, way: str, window_s: float) -> dict[str, Any]:
    """Return images/s of all workers, counted in a window in which all train."""
    for worker in workers:
        worker.send(prepare, setting, way)
    for worker in workers:
        worker.result(START_S)
    start = time.time() + 0.2
    end = start + SETTLE_S + window_s
    for worker in workers:
        worker.send(train, way, start, end)
    answers = [worker.result(START_S) for worker in workers]
    counted_from = start + SETTLE_S
    rates = [batch * sum(counted_from <= stamp < end for stamp in stamps) / window_s for stamps, batch in answers]
    return {"images_per_s": sum(rates), "slowest_run": min(rates), "fastest_run": max(rates), "window_s": window_s}


def start_device(setting: Setting) -> None:
    """Import torch and start CUDA. This runs in a worker."""
    torch.zeros(1, device=setting.device)


def prepare(setting: Setting, way: str) -> None:
    """Build the loop and train its first epoch, unless that was done before. This runs in a worker."""
    if way not in _loops:
        subject = subject_named(setting, SUBJECT)
        folder = Path(tempfile.mkdtemp(dir=setting.folder))
        _loops[way] = TimedLoop(subject, way, subject.family.dataset(), setting.device, folder)
        _loops[way].epoch()


def train(way: str, start: float, end: float) -> tuple[list[float], int]:
    """Train whole epochs from `start` until after `end`; this runs in a worker.

    Returns time.time() when the host queued each step, and the batch size. The host is ahead of the GPU by no more than
    the launch queue.
    """
    loop, stamps = _loops[way], []
    shift = time.time() - time.perf_counter()
    time.sleep(max(0.0, start - time.time()))
    while time.time() < end:
        loop.epoch()
        stamps += [stamp + shift for stamp in loop.stamps]
    return stamps, loop.batch_size
