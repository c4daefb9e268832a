"""Several runs side by side on one device: images/s of all, in processes that train ResNet-8 from a logit cache.

    without MPS    the processes take turns on the GPU
    with MPS       their kernels run side by side, by a daemon that this part starts and ends

The figure 'recommendation' has the values of workers.gpus and RAYKD_MPS with the most images/s. Streams of several runs
in one process are not measured, see docs/log.md.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpu_parts.report import Part
from gpu_parts.setting import Setting, subject_named
from gpu_parts.timed_loop import TimedLoop
from gpu_parts.workers import Worker, WorkerFailed
from raykd.cluster import mps

SUBJECT = "resnet8 cache"
COUNTS = (1, 2, 4)
START_S = 90.0
SETTLE_S = 0.5  # after the common start, before steps are counted
WORTH_IT = 1.05  # the least gain of more runs, or of MPS, over the simpler choice
MPS = ", MPS"
_loops: dict[str, TimedLoop] = {}  # of a worker process, by way


def measure(part: Part, setting: Setting) -> None:
    counts, window_s = (COUNTS[:2], 0.3) if setting.toy else (COUNTS, max(1.5, min(4.0, part.left() / 14)))
    with _processes(part, setting, counts[-1], "start") as workers:
        _measure_counts(part, setting, workers, "graph", counts, window_s)
        if shutil.which(mps.PROGRAM) is None:
            part.leave_out(f"graph{MPS}", f"{mps.PROGRAM} is not on PATH")
        elif setting.has_cuda:
            with _own_mps(part, setting.folder) as is_up:
                if is_up:
                    with _processes(part, setting, counts[-1], f"start{MPS}") as clients:
                        _measure_counts(part, setting, clients, "graph", counts[1:], window_s, MPS)
        part.figure("recommendation", lambda: recommendation(part.report.parts["packing"]["figures"]), needs_s=-60.0)
        _measure_counts(part, setting, workers, "eager", counts, window_s)


@contextmanager
def _own_mps(part: Part, folder: Path) -> Iterator[bool]:
    """Run an MPS whose sockets are below `folder`. Processes that start inside are its clients.

    Yields whether it started; if not, the figure of its start has failed.
    """
    before, clients = dict(os.environ), dict[str, str]()

    def start_mps() -> dict[str, float]:
        start_s = time.perf_counter()
        clients.update(mps.start(folder, torch.cuda.device_count(), os.environ))
        return {"seconds": time.perf_counter() - start_s}

    try:
        _figure_of_start(part, "start the MPS daemon", start_mps)
        os.environ.update(clients)
        yield bool(clients)
    finally:
        os.environ.clear()
        os.environ.update(before)
        if clients:
            mps.end(clients, os.environ)


@contextmanager
def _processes(part: Part, setting: Setting, count: int, figure: str) -> Iterator[list[Worker]]:
    """Start `count` processes, which end with the block; fewer if they cannot use the device."""
    workers: list[Worker] = []
    try:
        _figure_of_start(part, figure, lambda: _start_workers(workers, count, setting))
        yield workers
    finally:
        for worker in workers:
            worker.end()


def _figure_of_start(part: Part, name: str, start: Callable[[], dict[str, float]]) -> None:
    """Measure the figure, or, in a process that replaces a killed one, start again what that had started."""
    if part.report.figure("packing", name) is None:
        part.figure(name, start, 3.0, limit_s=START_S + 30)
    else:
        start()


def _measure_counts(
    part: Part,
    setting: Setting,
    workers: list[Worker],
    way: str,
    counts: tuple[int, ...],
    window_s: float,
    suffix: str = "",
) -> None:
    """Measure each number of processes in `counts`."""
    for count in counts:

        def figures(count: int = count) -> dict[str, Any]:
            if len(workers) < count:
                raise WorkerFailed("the processes did not start")
            rates = _side_by_side(workers[:count], setting, way, window_s)
            alone = part.report.figure("packing", f"{way}, 1")
            return rates | ({"over_one": rates["images_per_s"] / alone["images_per_s"]} if alone else {})

        part.figure(f"{way}, {count}{suffix}", figures, window_s + 2.0)


def recommendation(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the most images/s in all runs together, from the figures of CUDA graphs.

    More runs, and MPS, are recommended only for a gain of WORTH_IT over the simpler choice.
    """
    chosen: dict[str, Any] = {}
    one = figures["graph, 1"]["images_per_s"]
    for suffix in ("", MPS):
        for count in COUNTS:
            figure = figures.get(f"graph, {count}{suffix}")
            if figure and figure["images_per_s"] >= WORTH_IT * chosen.get("images_per_s", 0.0):
                gpus, rate = 1 / count, figure["images_per_s"]
                words = f"--set workers.gpus={gpus:g} with RAYKD_MPS={int(bool(suffix))}"
                chosen = {"settings": words, "images_per_s": rate, "over_one": rate / one}
    return chosen


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
