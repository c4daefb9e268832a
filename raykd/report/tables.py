"""The report's numbers for other programs: a row a run (Parquet, CSV), and the summary as JSON."""

import io
import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from raykd.report.comparison import Comparison
from raykd.report.provenance import flatten
from raykd.report.records import RunResult
from raykd.report.statistics import PairedGain
from raykd.report.summary import FamilySummary, headline

# top1 in percent, seconds of training over all resumes, best_epoch from 0; null where not known yet.
RUN_COLUMNS: dict[str, pa.DataType] = {
    "family": pa.string(),
    "stage": pa.string(),
    "name": pa.string(),
    "model": pa.string(),
    "method": pa.string(),
    "seed": pa.int64(),
    "fingerprint": pa.string(),
    "state": pa.string(),
    "reason": pa.string(),
    "num_epochs": pa.int64(),
    "best_epoch": pa.int64(),
    "best_val_top1": pa.float64(),
    "test_top1": pa.float64(),
    "test_nll": pa.float64(),
    "test_num_images": pa.int64(),
    "parameters": pa.int64(),
    "seconds": pa.float64(),
    "started": pa.string(),
    "ended": pa.string(),
    "git_revision": pa.string(),
}
COPIED = ("model", "method", "seed", "fingerprint", "reason", "parameters", "seconds", "started", "ended")


def report_json(summaries: tuple[FamilySummary, ...]) -> bytes:
    """report.json, the headline."""
    return json_bytes(headline(summaries))


def summary_json(summaries: tuple[FamilySummary, ...]) -> bytes:
    """report/summary.json: spreads, paired gains, what is missing. top1 in percent, gains in points."""
    return json_bytes({summary.name: _summary_of(summary) for summary in summaries})


def runs_table(summaries: tuple[FamilySummary, ...]) -> pa.Table:
    """A row a run of the plans. Further measures of test.json are columns test_<name> at the end."""
    rows = [_row(summary.name, run) for summary in summaries for run in summary.family.all_runs]
    measures = sorted({name for row in rows for name in row} - RUN_COLUMNS.keys())
    schema = pa.schema(RUN_COLUMNS | dict.fromkeys(measures, pa.float64()))
    return pa.Table.from_pylist(rows, schema=schema)


def parquet_bytes(table: pa.Table) -> bytes:
    """`table` as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def csv_bytes(table: pa.Table) -> bytes:
    """`table` as CSV with a header; null is an empty field."""
    buffer = io.BytesIO()
    pa_csv.write_csv(table, buffer)
    return buffer.getvalue()


def _row(family: str, run: RunResult) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family, "stage": run.stage, "name": run.name, "state": run.state}
    if run.record:
        row |= {name: getattr(run.record, name) for name in COPIED}
        row["git_revision"] = flatten(run.record.git or {}).get("revision")
        if run.record.best:
            row |= {"best_epoch": run.record.best.epoch, "best_val_top1": run.record.best.val_top1}
    if run.history:
        row["num_epochs"] = len(run.history.epochs)
    if run.score:
        row |= {f"test_{name}": value for name, value in run.score.measures.items()}
        row |= {f"test_{name}": getattr(run.score, name) for name in ("top1", "nll", "num_images")}
    return row


def _summary_of(summary: FamilySummary) -> dict[str, Any]:
    return {
        "stages": {stage.stage: asdict(stage) for stage in summary.stages},
        "gain": None if summary.gain is None else _gain_of(summary.gain),
        "comparison": None if summary.comparison is None else _comparison_of(summary.comparison),
        "missing": summary.missing,
        "cautions": summary.cautions,
    }


def _comparison_of(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "method": method.name,
            "rank": method.rank,
            "top1": None if method.top1 is None else asdict(method.top1),
            "gain": None if method.gain is None else _gain_of(method.gain),
            "time": method.time,
            "memory": method.memory,
        }
        for method in comparison.methods
    ]


def _gain_of(gain: PairedGain) -> dict[str, Any]:
    return {
        "pairs": [{"seed": pair.seed, "baseline": pair.reference, "distilled": pair.value} for pair in gain.pairs],
        "spread": asdict(gain.spread),
        "interval": gain.interval,
        "num_in_favour": gain.num_in_favour,
        "is_distinguishable": gain.is_distinguishable,
        "verdict": gain.verdict,
    }


def json_bytes(values: Any) -> bytes:
    """`values` as indented JSON. Raises ValueError for NaN, which JSON does not have."""
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
