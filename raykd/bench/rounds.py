"""Run one family's contenders in turns. Ratios are computed within a round; the median over rounds is reported."""

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

from raykd.bench.contenders import BareSteps, Contender, Loop, PrecomputedTeacher, Round, Usual, now
from raykd.bench.families import Family
from raykd.bench.usual import NUM_WORKERS, UsualWay
from raykd.data.types import Dataset
from raykd.training.compute import Compute, choose_compute, configure_process
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache, num_visited
from raykd.training.teacher.fill import BATCH_SIZE, Filler
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher, Teacher, no_teacher

STEPS_ON_A_GPU = 200
KINDS = ("baseline", "cache", "live")
PASSES = {"cpu": 1024, "cuda": 20 * BATCH_SIZE["cuda"]}  # that a round fills
Rounds = dict[str, list[float]]


def run_rounds(family: Family, device: torch.device, num_rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Return all results of `family`, ready for JSON. A first round warms up and is discarded."""
    configure_process(device)
    if device.type == "cuda":  # a round of a few steps would take milliseconds
        family = replace(family, steps=STEPS_ON_A_GPU)
    rounds: Rounds = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders, fill = _contenders(family, device, Path(folder), num_rounds)
        for number in range(num_rounds + 1):
            log(f"{family.name}: round {number} of {num_rounds}" + ("" if number else " (warm-up)"))
            taken = {name: contender.round() for name, contender in contenders.items()}
            rate = fill()
            if number:
                for name, value in _flat(taken, rate).items():
                    rounds.setdefault(name, []).append(value)
    return figures(family, rounds) | {"precision": choose_compute(device, family.student.precision).precision}


def figures(family: Family, rounds: Rounds) -> dict[str, Any]:
    """Return median ratios, step times and rates of raw `rounds` in seconds, with quartiles under 'spread'."""

    def ratio(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rounds[one], rounds[other], strict=True)]

    efficiency = {kind: ratio(f"bare {kind}, steps", f"loop {kind}, steps") for kind in KINDS}
    over = ratio("loop cache, steps", "loop baseline, steps")
    usual = {"full_cache": ratio("usual, epoch", "loop cache, epoch"), "with_fill": _with_fill(family, rounds)}
    batch, steps = family.student.batch_size, family.steps
    names = [name for name in rounds if name.endswith(", steps")]
    step_s = {name.removesuffix(", steps"): [seconds / steps for seconds in rounds[name]] for name in names}
    results: dict[str, Any] = {
        "loop_efficiency": {kind: _median(values) for kind, values in efficiency.items()},
        "cache_over_baseline": _median(over),
        "usual_over_raykd": {name: _median(values) for name, values in usual.items()},
        "ms_per_step": {name: _median(values) * 1e3 for name, values in step_s.items()},
        "images_per_s": {name: batch / _median(values) for name, values in step_s.items()},
        "fill_images_per_s": _median(rounds["fill, images/s"]),
    }
    results["spread"] = {
        "loop_efficiency": {kind: _quartiles(values) for kind, values in efficiency.items()},
        "cache_over_baseline": _quartiles(over),
        "usual_over_raykd": {name: _quartiles(values) for name, values in usual.items()},
    }
    return results | {"rounds": rounds}


def _with_fill(family: Family, rounds: Rounds) -> list[float]:
    """The usual way's time over raykd's, the logit cache's filling counted: `seeds` distilled runs of `epochs`."""
    epochs = family.seeds * family.epochs * family.num_images / (family.steps * family.student.batch_size)
    passes = family.num_images * num_visited(family.data.views.count, family.seeds * family.epochs)
    columns = zip(rounds["usual, epoch"], rounds["loop cache, epoch"], rounds["fill, images/s"], strict=True)
    return [usual * epochs / (raykd * epochs + passes / rate) for usual, raykd, rate in columns]


def _contenders(
    family: Family, device: torch.device, folder: Path, num_rounds: int
) -> tuple[dict[str, Contender], Callable[[], float]]:
    """Return the contenders by name, and a function that fills a part of a cache and returns images per second."""
    workers = len(os.sched_getaffinity(0)) if device.type == "cuda" else NUM_WORKERS
    contenders = {name: make() for name, make in contender_makers(family, device, folder, workers).items()}
    compute = choose_compute(device, family.student.precision)
    return contenders, filling(family, family.dataset(), folder, compute, num_rounds + 1)


def contender_makers(
    family: Family, device: torch.device, folder: Path, num_workers: int
) -> dict[str, Callable[[], Contender]]:
    """Return functions that make the contenders, by name: bare step and loop for each of KINDS, and the usual way.

    num_workers: DataLoader processes of the usual way.
    """
    dataset, compute = family.dataset(), choose_compute(device, family.student.precision)
    teacher = family.teacher_model(channels_last=True).to(device)
    cache = _some_cache(family, dataset, folder)
    logits = cache.logits().to(device)
    teachers: dict[str, Teacher] = {
        "baseline": no_teacher,
        "cache": CachedTeacher(logits, cache.key.num_views, ""),
        "live": LiveTeacher(teacher),
    }
    makers: dict[str, Callable[[], Contender]] = {}
    for kind, source in teachers.items():
        run = family.distilled() if kind != "baseline" else family.baseline()
        precomputed = PrecomputedTeacher(logits[: family.student.batch_size].float()) if kind == "cache" else source
        makers[f"bare {kind}"] = partial(BareSteps, run, dataset, precomputed, compute)
        makers[f"loop {kind}"] = partial(Loop, run, dataset, source, compute, folder / kind)

    def usual() -> Contender:
        teacher = family.teacher_model(channels_last=False)
        return Usual(UsualWay(family.distilled(), dataset, teacher, device, num_workers), device)

    return makers | {"usual": usual}


def filling(family: Family, dataset: Dataset, folder: Path, compute: Compute, num_fills: int) -> Callable[[], float]:
    """Return a function that fills the next part of a logit cache in `folder` and returns images per second.

    num_fills: the minimum number of times that it can be called.
    """
    views = family.data.views.count
    passes = family.steps * family.student.batch_size * views
    num_parts = max(num_fills, passes // PASSES[compute.device.type])
    planned = PlannedCache((family.teacher_run(),), family.data, family.student.precision, (), True, num_parts)
    cache = LogitCache(folder, planned.key(dataset, "of the filling"))
    filler = Filler(planned, dataset, cache, family.teacher_model(channels_last=True).to(compute.device), compute)
    parts = count()

    def fill() -> float:
        start = now(compute.device)
        return filler.fill(next(parts)) / (now(compute.device) - start)

    return fill


def _some_cache(family: Family, dataset: Dataset, folder: Path) -> LogitCache:
    """Return a full logit cache of random logits."""
    planned = PlannedCache((family.teacher_run(),), family.data, family.student.precision, (), True, 1)
    cache = LogitCache(folder, planned.key(dataset, "of the runs"))
    shape = (cache.key.num_images, cache.key.num_views)
    cache.write(0, torch.randn(*shape, cache.key.num_classes).half(), torch.ones(shape, dtype=torch.bool))
    return cache


def _flat(taken: dict[str, Round], rate: float) -> dict[str, float]:
    steps = {f"{name}, steps": one.steps_s for name, one in taken.items()}
    epochs = {f"{name}, epoch": one.epoch_s for name, one in taken.items() if not name.startswith("bare")}
    return steps | epochs | {"fill, images/s": rate}


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _quartiles(values: list[float]) -> list[float]:
    """Return the lower and upper quartile; a single value twice."""
    if len(values) < 2:
        return values * 2
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return [lower, upper]
