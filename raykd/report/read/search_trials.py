"""The trials of a search, from its study and from the run folder of each trial."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any

from raykd.config.codec import is_number
from raykd.report.read.search_results import TrialSummary
from raykd.spec.search import Search
from raykd.store.records import RunRecord

if TYPE_CHECKING:
    from raykd.store.study import SearchFolder, SearchTrial


def summarize_trials(
    folder: "SearchFolder", trials: Iterable["SearchTrial"], search: Search, max_epochs: int
) -> tuple[TrialSummary, ...]:
    """Return a summary of each of `trials`, all started.

    max_epochs: epochs of the longest trial. Missing seconds are estimated at the median pace of the other trials.
    """
    summaries = [_summarize(folder, trial, search, max_epochs) for trial in trials]
    paces = [t.seconds / t.epochs_trained for t in summaries if t.seconds is not None and t.epochs_trained]
    return tuple(
        replace(trial, seconds=median(paces) * trial.epochs_trained, is_estimated=True)
        if paces and trial.seconds is None and trial.epochs_trained
        else trial
        for trial in summaries
    )


def _summarize(folder: "SearchFolder", trial: "SearchTrial", search: Search, max_epochs: int) -> TrialSummary:
    run_folder = folder.run(trial.number)
    run = run_folder.record()
    rows = run_folder.history() if run else []
    history = [row for row in rows if all(is_number(row.get(name)) for name in ("epoch", "val_top1", "seconds"))]
    epochs = (run.configuration.recipe.epochs if run else None) or max_epochs  # may be a searched field
    if run and run.stopped_early:
        epochs = len(history)
    if len(search.metrics) == 1 and search.metrics[0].startswith("val_"):
        curve = tuple(trial.intermediate_values.items())
    else:
        tops = [row["val_top1"] for row in history]
        tops = tops if run and run.configuration.recipe.keep == "last" else accumulate(tops, max)
        curve = tuple((row["epoch"] + 1, top) for row, top in zip(history, tops, strict=True))
    is_done = trial.state == "done"
    epochs_trained = max([epoch for epoch, _ in curve] + [len(history)] + [epochs] * is_done, default=0)
    seconds, is_estimated = _seconds(trial, run, history, epochs_trained)
    return TrialSummary(
        trial.number,
        trial.state,
        dict(trial.configuration),
        trial.values,
        tuple((epoch, value) for epoch, value in curve if math.isfinite(value)),
        epochs_trained,
        epochs,
        seconds,
        is_estimated,
        trial.reason.encode("utf-8", "replace").decode(),  # an error may name a file whose name is not UTF-8
        run_folder.path.relative_to(folder.path).as_posix() if run else "",
        run,
    )


def _seconds(
    trial: "SearchTrial", run: RunRecord | None, history: Sequence[Mapping[str, Any]], epochs_trained: int
) -> tuple[float | None, bool]:
    """Return the seconds of training, and whether they are an estimate.

    They come from the study for an ended trial, or from run.json for a trained run. Otherwise they come from the
    history, up to the last checkpoint; later epochs are estimated at the same pace.
    """
    if trial.seconds is not None:
        return trial.seconds, False
    if run is not None and run.seconds > 0:
        return run.seconds, False
    if not history:
        return None, False
    last = history[-1]
    num_recorded = int(last["epoch"]) + 1
    seconds = last["seconds"] * max(epochs_trained, num_recorded) / num_recorded
    return seconds, epochs_trained > num_recorded
