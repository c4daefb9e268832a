"""A search's numbers for other programs: its trials (Parquet, CSV) and a summary (JSON)."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from raykd.config import to_dict
from raykd.report import search_wording
from raykd.report.read.search_results import SearchSummary
from raykd.report.render.files import json_bytes
from raykd.report.stats.confirmation import gain_over_baseline, gain_over_default
from raykd.report.stats.importances import Importances
from raykd.report.stats.paired_interval import PairedGain
from raykd.spec.search import Integer, Space, Uniform
from raykd.store.records import END_STATES, ConfirmationRecord


def trials_table(summary: SearchSummary) -> pa.Table:
    """Return one row per trial that was started: its configuration by dotted path, and its metrics.

    The metrics are null if the trial is not done.
    seconds: training time, estimated if the trial recorded none. device_seconds: seconds times the trial's number of
    GPUs, or of CPUs if it has no GPU. val_top1 is in percent.
    """
    trials = summary.trials
    fields = {
        path: _field_column(space, [trial.configuration.get(path) for trial in trials])
        for path, space in summary.search.space.items()
    }
    metrics = {
        metric: pa.array([trial.values[place] if trial.values else None for trial in trials], pa.float64())
        for place, metric in enumerate(summary.search.metrics)
    }
    columns = {
        "number": pa.array([trial.number for trial in trials], pa.int64()),
        "state": pa.array([trial.state for trial in trials], pa.string()),
        **fields,
        **metrics,
        "epochs_trained": pa.array([trial.epochs_trained for trial in trials], pa.int64()),
        "epochs": pa.array([trial.epochs for trial in trials], pa.int64()),
        "seconds": pa.array([trial.seconds for trial in trials], pa.float64()),
        "is_estimated": pa.array([trial.is_estimated for trial in trials], pa.bool_()),
        "device_seconds": pa.array([summary.cost.seconds_of(trial) for trial in trials], pa.float64()),
        "reason": pa.array([trial.reason or None for trial in trials], pa.string()),
    }
    return pa.table(columns)


def search_summary_json(summary: SearchSummary, importances: Importances | None) -> bytes:
    """Return summary.json of a search: its state, the winner, the confirmation, the cost."""
    winner = summary.winner
    confirmation = summary.confirmation
    return json_bytes(
        {
            "family": summary.family,
            "name": summary.name,
            "state": summary.state,
            "search": to_dict(summary.search),
            "trials": {state: summary.count(state) for state in (*END_STATES, "running")},
            "default_configuration": dict(summary.record.default_configuration),
            "winner": None if winner is None else {"trial": winner.trial, "configuration": dict(winner.configuration)},
            "flags": None if winner is None else search_wording.flags(winner.configuration),
            "best_trials": list(summary.best),
            "confirmation": None if confirmation is None else _confirmation_of(confirmation),
            "importances": None if importances is None else asdict(importances),
            "cost": asdict(summary.cost),
        }
    )


def _confirmation_of(confirmation: ConfirmationRecord) -> dict[str, Any]:
    return {
        "metric": confirmation.metric,
        "seeds": confirmation.seeds,
        "candidates": [asdict(candidate) for candidate in confirmation.candidates],
        "baseline": asdict(confirmation.baseline),
        "winner_minus_default": _gain_of(gain_over_default(confirmation)),
        "winner_minus_baseline": _gain_of(gain_over_baseline(confirmation)),
    }


def _gain_of(gain: PairedGain | None) -> dict[str, Any] | None:
    if gain is None:
        return None
    return {
        "gains": {str(pair.seed): pair.gain for pair in gain.pairs},
        "mean": gain.spread.mean,
        "std": gain.spread.std,
        "interval": gain.interval,
        "comparisons": gain.comparisons,
        "is_distinguishable": gain.is_distinguishable,
        "verdict": gain.verdict,
    }


def _field_column(space: Space, values: Sequence[Any]) -> pa.Array:
    """Return the column of a searched field; values of several types become text."""
    if isinstance(space, Uniform):
        return pa.array(values, pa.float64())
    kinds = {int} if isinstance(space, Integer) else {type(value) for value in space.points or ()}
    if kinds in ({bool}, {int}):
        return pa.array(values, pa.bool_() if kinds == {bool} else pa.int64())
    if kinds <= {int, float}:
        return pa.array(values, pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
