"""What a search cost, and what early stopping and the logit cache saved.

    device seconds   seconds of training x GPUs of a trial, or its CPUs without a GPU
    stopped early    (epochs - epochs trained) x seconds per epoch, over the stopped trials
    passes           of the teacher over each image: one per epoch if it is live, one per cached view

A number that cannot be read from the disk is None.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raykd.report.read.search_records import Cost, TeacherCost, TrialSummary
from raykd.store.codec import Fields

CACHES = ".logit_caches"  # the folder of logit caches, below the results
CHECKSUM_BYTES = 4  # as in raykd/training/teacher/cache.py, which imports torch


def cost_of(record: Fields, trials: Sequence[TrialSummary], runs: Sequence[Mapping[str, Any]], results: Path) -> Cost:
    """Return the cost of a search. record: search.json. runs: run.json of each trial, {} if it was not started."""
    gpus = record.optional("gpus", record.number) or 0.0
    cpus = record.optional("cpus", record.number)
    timed = [trial for trial in trials if trial.seconds is not None]
    is_timed = cpus is not None and bool(timed)
    per_trial = gpus or cpus or 0.0
    stopped = [trial for trial in trials if trial.state == "stopped"]
    saved = [pace * (trial.epochs - trial.epochs_trained) for trial in stopped if (pace := _pace(trial)) is not None]
    epochs_trained = sum(trial.epochs_trained for trial in trials)
    return Cost(
        device=None if cpus is None else "GPU" if gpus else "CPU",
        devices_of_trial=per_trial,
        epochs_trained=epochs_trained,
        device_seconds=sum(trial.seconds or 0.0 for trial in timed) * per_trial if is_timed else None,
        num_timed=len(timed),
        num_estimated=sum(trial.is_estimated for trial in timed),
        saved_epochs=sum(trial.epochs - trial.epochs_trained for trial in stopped),
        saved_device_seconds=sum(saved) * per_trial if is_timed and len(saved) == len(stopped) else None,
        teacher=_teacher_cost(record, epochs_trained, [run for run in runs if run], results),
    )


def _pace(trial: TrialSummary) -> float | None:
    """Return seconds per epoch."""
    return trial.seconds / trial.epochs_trained if trial.seconds is not None and trial.epochs_trained else None


def _teacher_cost(record: Fields, passes: int, runs: Sequence[Mapping[str, Any]], results: Path) -> TeacherCost:
    sources = {_teacher_of(run) for run in runs} - {None}
    source = "cache" if "cache" in sources else "live" if "live" in sources else None
    views = _mean_views(record, results) if source == "cache" else None
    return TeacherCost(source, passes, views, record.optional("fill_seconds", record.number) or 0.0)


def _teacher_of(run: Mapping[str, Any]) -> Any:
    """Return 'cache', 'live' or None, from a trial's run.json."""
    compute = run.get("compute")
    return compute.get("teacher") if isinstance(compute, Mapping) else None


def _mean_views(record: Fields, results: Path) -> float | None:
    """Return the mean number of cached views per image, over images with any; None without the cache.

    search.json has the cache's name, because only the search that reads the cache can build its key.
    """
    name = record.optional("cache", record.text)
    if name is None:
        return None
    if Path(name).name != name:
        record.refuse(f"cache is '{name}', not the name of a folder")
    cache = Fields.read_if_exists(results / CACHES / name / "cache.json")
    return None if cache is None else _mean_of_bits(cache.path.with_name("filled.bits"), cache.count("num_images"))


def _mean_of_bits(path: Path, num_images: int) -> float | None:
    """Return the mean number of set bits per row, over rows with any; each row of the file ends with a checksum."""
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        return None
    if not num_images or content.size % num_images:
        return None
    counts = np.unpackbits(content.reshape(num_images, -1)[:, :-CHECKSUM_BYTES], axis=1).sum(axis=1)
    return float(counts[counts > 0].mean()) if counts.any() else None
