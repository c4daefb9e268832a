"""A search's numbers for other programs: its trials (Parquet, CSV) and a summary (JSON)."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from raykd.config import to_dict
from raykd.report import search_wording
from raykd.report.read.search_records import SearchSummary
from raykd.report.render.files import json_bytes
from raykd.report.stats.confirmation import winner_gains
from raykd.report.stats.importances import Importances
from raykd.report.stats.statistics import PairedGain
from raykd.spec.search import Integer, Space, Uniform
from raykd.store.records import ConfirmationRecord


def trials_table(summary: SearchSummary) -> pa.Table:
    """Return one row per trial that was started: its setting by dotted path, and its metrics, null if it is not done.

    seconds: of training, estimated where the trial recorded none. device_seconds: times its GPUs, or its CPUs without
    a GPU. top1 is in percent.
    """
    search = summary.search
    schema = pa.schema(
        {
            "number": pa.int64(),
            "state": pa.string(),
            **{path: _type_of(space) for path, space in search.space.items()},
            **dict.fromkeys(search.metrics, pa.float64()),
            "epochs_trained": pa.int64(),
            "epochs": pa.int64(),
            "seconds": pa.float64(),
            "is_estimated": pa.bool_(),
            "device_seconds": pa.float64(),
            "reason": pa.string(),
        }
    )
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            **{path: _cell(schema.field(path).type, trial.setting.get(path)) for path in search.space},
            **dict(zip(search.metrics, trial.values, strict=False)),
            "epochs_trained": trial.epochs_trained,
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            "is_estimated": trial.is_estimated,
            "device_seconds": summary.cost.seconds_of(trial),
            "reason": trial.reason or None,
        }
        for trial in summary.trials
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def summary_json(summary: SearchSummary, importances: Importances | None) -> bytes:
    """Return summary.json of a search: its state, the winner, the confirmation, the cost."""
    winner = summary.winner
    confirmation = summary.confirmation
    return json_bytes(
        {
            "family": summary.family,
            "name": summary.name,
            "state": summary.state,
            "search": to_dict(summary.search),
            "trials": {state: summary.count(state) for state in ("done", "pruned", "failed", "running")},
            "default_setting": dict(summary.default_setting),
            "winner": None if winner is None else {"trial": winner.trial, "setting": dict(winner.setting)},
            "flags": None if winner is None else search_wording.flags(winner.setting),
            "best_trials": list(summary.best),
            "confirmation": None if confirmation is None else _confirmation_of(confirmation),
            "importances": None if importances is None else asdict(importances),
            "cost": asdict(summary.cost),
        }
    )


def _confirmation_of(confirmation: ConfirmationRecord) -> dict[str, Any]:
    gains = winner_gains(confirmation)
    return {
        "metric": confirmation.metric,
        "seeds": confirmation.seeds,
        "candidates": [asdict(candidate) for candidate in confirmation.candidates],
        "baseline": asdict(confirmation.baseline),
        "winner_minus_default": _gain_of(gains.over_default),
        "winner_minus_baseline": _gain_of(gains.over_baseline),
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


def _type_of(space: Space) -> pa.DataType:
    """Return the column type of a field; values of several types become text."""
    if isinstance(space, Uniform):
        return pa.float64()
    if isinstance(space, Integer):
        return pa.int64()
    kinds = {type(value) for value in space.points or ()}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


def _cell(kind: pa.DataType, value: Any) -> Any:
    if value is None:
        return None
    return str(value) if pa.types.is_string(kind) else value
