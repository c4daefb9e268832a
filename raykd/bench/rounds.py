"""Run one pair's implementations alternately. Ratios are computed within a round, and their medians are reported."""

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from raykd.bench.families import TimedPair
from raykd.bench.implementations import Implementation, Loop, PrecomputedTeacher, StandardEpochs, StepsWithoutLoop, now
from raykd.bench.standard_pipeline import NUM_WORKERS, StandardPipeline
from raykd.data.types import Dataset
from raykd.training.compute import Compute, choose_compute, configure_process
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import num_visited
from raykd.training.teacher.fill import BATCH_SIZE, Filler
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher, Teacher, no_teacher

STEPS_ON_A_GPU = 200
KINDS = ("baseline", "cache", "live")  # runs without a teacher, with cached logits, and with a live teacher
# teacher forward passes of one round, which fills one part of a cache
PASSES_PER_ROUND = {"cpu": 1024, "cuda": 20 * BATCH_SIZE["cuda"]}
ValuesByName = dict[str, list[float]]  # one value per round: seconds, or views/s for the fill


def run_rounds(pair: TimedPair, device: torch.device, num_rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Return all results of `pair`, ready for JSON. The first round is a warm-up and is discarded."""
    configure_process(device)
    if device.type == "cuda":  # a round of a few steps would take milliseconds
        pair = replace(pair, steps=STEPS_ON_A_GPU)
    rounds, compute = ValuesByName(), choose_compute(device, pair.student.precision)
    with tempfile.TemporaryDirectory() as folder:
        num_workers = len(os.sched_getaffinity(0)) if device.type == "cuda" else NUM_WORKERS
        makers = implementation_makers(pair, device, Path(folder), num_workers)
        implementations = {name: make() for name, make in makers.items()}
        fill = make_fill_function(pair, pair.dataset(), Path(folder), compute, num_rounds + 1)
        for number in range(num_rounds + 1):
            log(f"{pair.name}: round {number} of {num_rounds}" + ("" if number else " (warm-up)"))
            measured = {name: implementation.round() for name, implementation in implementations.items()}
            rate = fill()
            if number:
                steps = {f"{name}, steps": measurement.steps_s for name, measurement in measured.items()}
                epochs = {
                    f"{name}, epoch": measurement.epoch_s
                    for name, measurement in measured.items()
                    if not name.startswith("step without")
                }
                for name, value in {**steps, **epochs, "fill, views/s": rate}.items():
                    rounds.setdefault(name, []).append(value)
    return summarize(pair, rounds) | {"precision": compute.precision}


def summarize(pair: TimedPair, rounds: ValuesByName) -> dict[str, Any]:
    """Return the medians of the ratios, step times and rates in `rounds`.

    The quartiles of the ratios are under 'spread'.
    """

    def ratio(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rounds[one], rounds[other], strict=True)]

    ratios = {
        "loop_efficiency": {
            kind: ratio(f"step without the loop, {kind}, steps", f"loop, {kind}, steps") for kind in KINDS
        },
        "cache_over_baseline": ratio("loop, cache, steps", "loop, baseline, steps"),
        "standard_over_raykd": {
            "full_cache": ratio("standard pipeline, epoch", "loop, cache, epoch"),
            "with_fill": _with_fill(pair, rounds),
        },
    }
    times = {name.removesuffix(", steps"): statistics.median(rounds[name]) for name in rounds if name.endswith("steps")}
    return {
        **_map_ratios(statistics.median, ratios),
        "ms_per_step": {name: seconds / pair.steps * 1e3 for name, seconds in times.items()},
        "images_per_s": {name: pair.student.batch_size * pair.steps / seconds for name, seconds in times.items()},
        "fill_views_per_s": statistics.median(rounds["fill, views/s"]),
        "spread": _map_ratios(_quartiles, ratios),
        "rounds": rounds,
    }


def _map_ratios(statistic: Callable[[list[float]], Any], ratios: Any) -> Any:
    """Return nested `ratios` with each list replaced by `statistic` of it."""
    if isinstance(ratios, list):
        return statistic(ratios)
    return {name: _map_ratios(statistic, values) for name, values in ratios.items()}


def _with_fill(pair: TimedPair, rounds: ValuesByName) -> list[float]:
    """Return for each round the ratio of the standard pipeline's time to raykd's, including the fill.

    Both times are those of the pair's distilled runs.
    """
    images_per_benchmark_epoch = pair.steps * pair.student.batch_size
    num_benchmark_epochs = pair.seeds * pair.epochs * pair.num_images / images_per_benchmark_epoch
    passes = pair.num_images * num_visited(pair.num_views, pair.seeds * pair.epochs)
    columns = zip(
        rounds["standard pipeline, epoch"], rounds["loop, cache, epoch"], rounds["fill, views/s"], strict=True
    )
    return [
        pipeline * num_benchmark_epochs / (raykd * num_benchmark_epochs + passes / rate)
        for pipeline, raykd, rate in columns
    ]


def implementation_makers(
    pair: TimedPair, device: torch.device, folder: Path, num_workers: int
) -> dict[str, Callable[[], Implementation]]:
    """Return functions that make the implementations, by name.

    The implementations are the step without the loop and the loop, each for every kind in KINDS, and the standard
    pipeline.

    num_workers: DataLoader processes of the standard pipeline.
    """
    dataset, compute = pair.dataset(), choose_compute(device, pair.student.precision)
    teacher = pair.teacher_model(channels_last=True).to(device)
    cache = _random_cache(pair, dataset, folder)
    logits = cache.logits().to(device)
    teachers: dict[str, Teacher] = {
        "baseline": no_teacher,
        "cache": CachedTeacher(logits, cache.key.num_views, ""),
        "live": LiveTeacher(teacher),
    }
    makers: dict[str, Callable[[], Implementation]] = {}
    for kind, source in teachers.items():
        run = pair.distilled() if kind != "baseline" else pair.baseline()
        step_source = PrecomputedTeacher(logits[: pair.student.batch_size].float()) if kind == "cache" else source
        makers[f"step without the loop, {kind}"] = partial(StepsWithoutLoop, run, dataset, step_source, compute)
        makers[f"loop, {kind}"] = partial(Loop, run, dataset, source, compute, folder / kind)

    def standard_pipeline() -> Implementation:
        teacher = pair.teacher_model(channels_last=False)
        return StandardEpochs(StandardPipeline(pair.distilled(), dataset, teacher, device, num_workers), device)

    return makers | {"standard pipeline": standard_pipeline}


def make_fill_function(
    pair: TimedPair, dataset: Dataset, folder: Path, compute: Compute, num_fills: int
) -> Callable[[], float]:
    """Return a function that fills the next part of a logit cache in `folder` and returns views per second.

    num_fills: the returned function can be called at least this often.
    """
    views = pair.num_views
    passes = pair.steps * pair.student.batch_size * views
    num_parts = max(num_fills, passes // PASSES_PER_ROUND[compute.device.type])
    planned = pair.cache(num_parts)
    cache = LogitCache(folder, planned.key(dataset, "benchmark-fill"))
    filler = Filler(planned, dataset, cache, pair.teacher_model(channels_last=True).to(compute.device), compute)
    parts = count()

    def fill() -> float:
        start = now(compute.device)
        return filler.fill(next(parts)) / (now(compute.device) - start)

    return fill


def _random_cache(pair: TimedPair, dataset: Dataset, folder: Path) -> LogitCache:
    """Return a full logit cache of random logits."""
    cache = LogitCache(folder, pair.cache().key(dataset, "benchmark-runs"))
    shape = (cache.key.num_images, cache.key.num_views)
    cache.write(0, torch.randn(*shape, cache.key.num_classes).half(), torch.ones(shape, dtype=torch.bool))
    return cache


def _quartiles(values: list[float]) -> list[float]:
    """Return the lower and the upper quartile. A single value is returned as both."""
    if len(values) < 2:
        return values * 2
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return [lower, upper]
