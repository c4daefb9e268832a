"""The cost of a search, and the savings of early stopping and the logit cache.

    device seconds   seconds of training x GPUs of a trial, or its CPUs without a GPU
    stopped early    (epochs - epochs trained) x seconds per epoch, over the pruned trials
    passes           of the teacher over each image: one per epoch if it is live, one per cached view

A number that cannot be read from the disk is None.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raykd.config.codec import read_record
from raykd.report.read.search_results import Cost, TeacherCost, TrialSummary
from raykd.store.records import CACHE_CHECKSUM_BYTES, CacheRecord, RunRecord, SearchRecord
from raykd.store.results_folder import LOGIT_CACHES


def cost_of(record: SearchRecord, trials: Sequence[TrialSummary], results: Path) -> Cost:
    """Return the cost of a search."""
    gpus, cpus = record.gpus or 0.0, record.cpus
    timed = [trial for trial in trials if trial.seconds is not None]
    is_timed = cpus is not None and bool(timed)
    per_trial = gpus or cpus or 0.0
    pruned = [trial for trial in trials if trial.state == "pruned"]
    saved = [
        trial.seconds / trial.epochs_trained * (trial.epochs - trial.epochs_trained)
        for trial in pruned
        if trial.seconds is not None and trial.epochs_trained
    ]
    epochs_trained = sum(trial.epochs_trained for trial in trials)
    return Cost(
        device=None if cpus is None else "GPU" if gpus else "CPU",
        devices_of_trial=per_trial,
        epochs_trained=epochs_trained,
        device_seconds=sum(trial.seconds or 0.0 for trial in timed) * per_trial if is_timed else None,
        num_timed=len(timed),
        num_estimated=sum(trial.is_estimated for trial in timed),
        saved_epochs=sum(trial.epochs - trial.epochs_trained for trial in pruned),
        saved_device_seconds=sum(saved) * per_trial if is_timed and len(saved) == len(pruned) else None,
        teacher=_teacher_cost(record, epochs_trained, [trial.run for trial in trials if trial.run], results),
    )


def _teacher_cost(record: SearchRecord, passes: int, runs: Sequence[RunRecord], results: Path) -> TeacherCost:
    sources = {run.compute.teacher for run in runs}
    source = "cache" if "cache" in sources else "live" if "live" in sources else None
    views = _mean_views(results / LOGIT_CACHES / record.cache) if source == "cache" and record.cache else None
    top_classes = next((run.compute.top_classes for run in runs if run.compute.top_classes), None)
    return TeacherCost(source, passes, views, record.fill_seconds, top_classes)


def _mean_views(folder: Path) -> float | None:
    """Return the mean number of cached views per image, over images with any; None without a cache in `folder`."""
    cache = read_record(CacheRecord, folder / "cache.json")
    try:
        content = np.fromfile(folder / "filled.bits", np.uint8)
    except FileNotFoundError:
        return None
    if cache is None or not cache.num_images or content.size % cache.num_images:
        return None
    bits = content.reshape(cache.num_images, -1)[:, :-CACHE_CHECKSUM_BYTES]  # a row per image, a bit per view
    counts = np.unpackbits(bits, axis=1).sum(axis=1)
    return float(counts[counts > 0].mean()) if counts.any() else None
