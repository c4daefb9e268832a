"""The report's numbers for other programs: runs (Parquet, CSV), confusion matrices (Parquet), a summary (JSON)."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from raykd.config import dotted
from raykd.config.codec import is_number
from raykd.errors import flattened
from raykd.report.content import ReportContent
from raykd.report.read.provenance import flatten
from raykd.report.read.run_results import RunResult
from raykd.report.read.search_results import SearchSummary
from raykd.report.stats.comparison import Comparison, Ratio, recorded_method
from raykd.report.stats.imbalance import Imbalance
from raykd.report.stats.over_families import FamiliesComparison, FamiliesGain
from raykd.report.stats.paired_interval import PairedGain, Spread
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import REPORT_KEYS

# top1 is in percent, seconds is the training time so far over all resumes, epochs count from 0; null: not known yet.
# Costs of the model on `device`: flops of one image's forward pass, where a multiply-add counts 2; latency at batch
# size 1; images_per_s at batch size 256.
RUN_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(("family", "stage", "name", "model", "method"), pa.string()),
    "seed": pa.int64(),
    **dict.fromkeys(("fingerprint", "state", "reason"), pa.string()),
    **dict.fromkeys(("num_epochs", "best_epoch"), pa.int64()),
    **dict.fromkeys(("best_val_top1", "test_top1", "test_nll"), pa.float64()),
    **dict.fromkeys(("test_num_images", "parameters", "flops"), pa.int64()),
    "device": pa.string(),
    **dict.fromkeys(("latency_ms", "latency_ms_p10", "latency_ms_p90"), pa.float64()),
    **dict.fromkeys(("images_per_s", "images_per_s_p10", "images_per_s_p90"), pa.float64()),
    **dict.fromkeys(("seconds", "gpu_seconds", "joules"), pa.float64()),
    **dict.fromkeys(("started", "ended", "git_revision"), pa.string()),
}
CONFUSION_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(("family", "stage"), pa.string()),
    **dict.fromkeys(("label", "predicted"), pa.int64()),
    **dict.fromkeys(("label_name", "predicted_name"), pa.string()),
    "images": pa.int64(),
}
RUN_FIELDS = ("model", "method", "fingerprint", "reason", "parameters", "started", "ended")
OVER_FAMILIES = "over families"  # a key of summary.json; no family has a space in its name
TESTS = ("t_test_p", "sign_test_p", "permutation_p", "smallest_p")  # two-sided


def report_json(report: ReportContent) -> bytes:
    """Return report.json: mean accuracies over the evaluated seeds as fractions, null without one."""
    accuracies = {
        summary.name: {
            REPORT_KEYS[stage.stage]: None if stage.top1 is None else round(stage.top1.mean / 100, 8)
            for stage in summary.stages
        }
        for summary in report.summaries
    }
    return json_bytes(accuracies)


def summary_json(report: ReportContent) -> bytes:
    """Return report/summary.json: spreads, paired gains, missing results. top1 is in percent, gains are in points.

    A spread is {"mean", "std", "num_runs", "interval"}; the interval is Student's 95 % interval of the mean. For one
    run, std and interval are null; for equal runs, the interval is null. "gain" repeats the gain in top-1. Confusion
    matrices are in confusion.parquet. A gain of one of several compared methods has their number in "num_methods", and
    is distinguishable only if "p_holm", the p-value corrected for all of them, is below 0.05. Its interval is not
    corrected. Where families compare methods in common, the key "over families" has these methods, see
    `_over_families`.
    """
    values = {summary.name: _summary_of(summary, report.searches) for summary in report.summaries}
    return json_bytes(values | ({OVER_FAMILIES: _over_families(report.over_families)} if report.over_families else {}))


def runs_table(report: ReportContent) -> pa.Table:
    """Return one row per planned run.

    Metrics of test.json and val.json are columns test_<name> and val_<name>, the hyperparameters of the method columns
    method.<field>. These are numbers, or text if a value of the field is not a number.
    """
    rows = [_row(family, run) for family, run in report.planned_runs]
    metrics = sorted({name for row in rows for name in row} - RUN_COLUMNS.keys())
    hyperparameters = _hyperparameters([run for _, run in report.planned_runs])
    schema = pa.schema(RUN_COLUMNS | dict.fromkeys(metrics, pa.float64()))
    table = pa.Table.from_pylist(rows, schema=schema)
    for name, values in hyperparameters.items():
        table = table.append_column(name, values)
    return table


def _hyperparameters(runs: Sequence[RunResult]) -> dict[str, pa.Array]:
    """Return the columns method.<field> with one value per run, null for a method without the field."""
    configs = [dict(dotted(recorded_method(run))) for run in runs]
    columns = {}
    for name in sorted({name for config in configs for name in config}):
        values = [config.get(name) for config in configs]
        if all(value is None or is_number(value) for value in values):
            columns[f"method.{flattened(name)}"] = pa.array(values, pa.float64())
        else:
            texts = [flatten(config).get(flattened(name)) for config in configs]
            columns[f"method.{flattened(name)}"] = pa.array(texts, pa.string())
    return columns


def confusion_table(report: ReportContent) -> pa.Table:
    """Return one row per stage, label and predicted class with at least one test image, over all runs of the stage."""
    rows = [
        {
            "family": summary.name,
            "stage": stage.stage,
            "label": label,
            "predicted": predicted,
            "label_name": stage.classes[label] if stage.classes else None,
            "predicted_name": stage.classes[predicted] if stage.classes else None,
            "images": images,
        }
        for summary in report.summaries
        for stage in summary.stages
        for label, row in enumerate(stage.confusion)
        for predicted, images in enumerate(row)
        if images
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(CONFUSION_COLUMNS))


def parquet_bytes(table: pa.Table) -> bytes:
    """Return `table` as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def csv_bytes(table: pa.Table) -> bytes:
    """Return `table` as CSV with a header; null becomes an empty field."""
    buffer = io.BytesIO()
    pa_csv.write_csv(table, buffer)
    return buffer.getvalue()


def _row(family: str, run: RunResult) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family, "stage": run.stage, "name": run.name, "state": run.state}
    row |= {"seed": run.seed, "seconds": run.seconds}
    if run.record:
        row |= {name: getattr(run.record, name) for name in RUN_FIELDS}
        row["git_revision"] = flatten(run.record.git).get("revision")
        if run.record.best:
            row |= {"best_epoch": run.record.best.epoch, "best_val_top1": run.record.best.val_top1}
    if run.history:
        row["num_epochs"] = len(run.history.epochs)
    if run.costs:
        row |= {"flops": run.costs.flops, "device": run.costs.device}
        for name in ("latency_ms", "images_per_s"):
            timing = getattr(run.costs, name)
            row |= {name: timing.median, f"{name}_p10": timing.p10, f"{name}_p90": timing.p90}
    if run.usage:
        row |= {"gpu_seconds": run.usage.gpu_seconds, "joules": run.usage.joules}
    if run.val:
        row |= {f"val_{name}": value for name, value in run.val.numbers.items()}
    if run.test:
        row |= {f"test_{name}": value for name, value in run.test.numbers.items()}
        row["test_num_images"] = run.test.num_images
    return row


def _summary_of(summary: FamilySummary, searches: Sequence[SearchSummary]) -> dict[str, Any]:
    return {
        "stages": {stage.stage: _as_json(stage) for stage in summary.stages},
        "gain": None if summary.gain is None else _gain_of(summary.gain),
        "gains": {name: _gain_of(gain) for name, gain in summary.gains.items()},
        "comparison": None if summary.comparison is None else _comparison_of(summary.comparison),
        "imbalance": None if summary.imbalance is None else _imbalance_of(summary.imbalance),
        "unplanned": [] if summary.family.unplanned is None else summary.family.unplanned.names,
        "searched": {search.name: [*search.search.space] for search in searches if search.family == summary.name},
        "tunings": [_as_json(tuning) for tuning in summary.tunings],
        "missing": summary.missing,
        "warnings": summary.warnings,
    }


def _comparison_of(comparison: Comparison) -> dict[str, Any]:
    """Return the methods, the best first, and the pairwise comparisons behind their ranks.

    p is the p-value of the paired t-test; p_holm is corrected for all methods against the baseline, or for all pairs.
    time and memory are medians over seeds, time_range and memory_range their [lowest, highest] value.
    """
    methods = [
        {
            "method": method.name,
            "rank": method.rank,
            "top1": _as_json(method.top1),
            "gain": None if method.gain is None else _gain_of(method.gain),
            **{name: getattr(method, name) for name in ("p", "p_holm", "published")},
            **_ratio_of("time", method.time),
            **_ratio_of("memory", method.memory),
            "hyperparameters": _as_json(method.hyperparameters),
        }
        for method in comparison.methods
    ]
    pairs = comparison.ranking.pairs if comparison.ranking else ()
    return {
        "methods": methods,
        "pairs": [
            {
                "better": pair.better,
                "worse": pair.worse,
                "mean": pair.gain.spread.mean,
                "interval": pair.gain.interval,
                "p": pair.gain.t_test_p,
                "p_holm": pair.gain.p_holm,
                "verdict": pair.verdict,
            }
            for pair in pairs
        ],
    }


def _over_families(comparison: FamiliesComparison) -> dict[str, Any]:
    """Return the baseline and the methods by mean rank, and the tests over the families in "counted".

    A gain is a mean over families, "gain" that over the baseline and "main_gain" that over the method "main". Its p is
    that of the Wilcoxon signed-rank test, p_holm is corrected for all methods with the same reference. "seeds" has the
    families in which means and tests leave out seeds.
    """
    rows = [
        {
            "method": row.name,
            "top1": _as_json(row.top1),
            "mean_rank": row.mean_rank,
            "gain": row.gain and _families_gain(row.gain),
            "main_gain": row.main_gain and _families_gain(row.main_gain),
            "per_pair": _as_json(row.per_pair),
        }
        for row in comparison.rows
    ]
    names = ("families", "counted", "tested", "main", "friedman", "seeds", "missing", "not_planned", "different")
    others = ("left_out", "num_teachers", "num_students", "data_sets")
    return {"rows": rows} | {name: _as_json(getattr(comparison, name)) for name in (*names, *others)}


def _families_gain(gain: FamiliesGain) -> dict[str, Any]:
    spread = {"mean": gain.spread.mean, "std": gain.spread.std, "num_families": gain.spread.num_runs}
    return spread | {name: getattr(gain, name) for name in ("num_better", "p", "p_holm", "differs")}


def _ratio_of(name: str, ratio: Ratio | None) -> dict[str, Any]:
    if ratio is None:
        return {name: None, f"{name}_range": None}
    return {name: ratio.median, f"{name}_range": [ratio.low, ratio.high]}


def _imbalance_of(imbalance: Imbalance) -> dict[str, Any]:
    """Return the images of each class by split, and the metrics with equal weight for each class."""
    return {
        "classes": imbalance.classes,
        "counts": _as_json(imbalance.counts),
        "spreads": _as_json(imbalance.spreads),
        "gains": {name: _gain_of(gain) for name, gain in imbalance.gains.items()},
    }


def _as_json(value: Any) -> Any:
    """Return dataclasses, mappings and tuples as JSON objects and lists; a spread has its interval added."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name != "confusion"]  # see confusion_table
        values = {name: _as_json(getattr(value, name)) for name in names}
        return values | {"interval": value.interval} if isinstance(value, Spread) else values
    if isinstance(value, Mapping):
        return {name: _as_json(item) for name, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, tuple | list) else value


def _gain_of(gain: PairedGain) -> dict[str, Any]:
    return {
        "pairs": [{"seed": pair.seed, "baseline": pair.reference, "distilled": pair.value} for pair in gain.pairs],
        "spread": _as_json(gain.spread),
        "interval": gain.interval,
        **{name: getattr(gain, name) for name in (*TESTS, "p_holm", "num_methods")},
        **{name: getattr(gain, name) for name in ("num_in_favor", "is_distinguishable", "verdict")},
    }


def json_bytes(values: Any) -> bytes:
    """Return `values` as indented JSON. Raises ValueError for NaN, which JSON does not have."""
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
