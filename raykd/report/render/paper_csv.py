"""The numbers of the paper's tables as CSV with all digits: a row for each stage and for each compared method.

Methods over families have two rows each, without a family: one with the gain over the baseline, and one with that over
the families' main method.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from raykd.report.stats.comparison import Comparison
from raykd.report.stats.over_families import BASELINE, FamiliesComparison, FamiliesGain, compare_families
from raykd.report.stats.paired_interval import PairedGain, Spread
from raykd.report.stats.summary import FamilySummary

# row: 'stage'; 'method' for a compared method; 'families' and 'families_main' for the gain of a method over families.
# There, rank is the mean rank, and a pair is a family. top1 is in percent on the test split, gains are in
# percentage points over the baseline of the same seed. time and memory: relative to the baseline of the same seed,
# median over seeds; memory is that of GPUs. An empty field: not known.
COLUMNS = (
    *("family", "row", "stage", "model", "method"),
    *("top1_mean", "top1_std", "num_runs", "num_planned"),
    *("gain_mean", "gain_std", "gain_low", "gain_high", "num_pairs"),
    *("p", "p_holm", "rank", "is_best", "is_tied_with_best", "published", "time", "memory"),
)


def csv_table(summaries: Sequence[FamilySummary]) -> str:
    """Return CSV with one header line. Floats have the fewest digits that identify them."""
    output = io.StringIO()
    writer = csv.DictWriter(output, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for summary in summaries:
        writer.writerows(_stage_rows(summary))
        if summary.comparison is not None:
            writer.writerows(_method_rows(summary, summary.comparison))
    if over_families := compare_families(summaries):
        writer.writerows(_family_rows(over_families))
    return output.getvalue()


def _stage_rows(summary: FamilySummary) -> Iterator[dict[str, Any]]:
    for stage in summary.stages:
        names = {"stage": stage.stage, "model": stage.model, "method": stage.method}
        gain = gain_columns(summary.gain) if stage.stage == "distilled" else {}
        yield {"family": summary.name, "row": "stage", **names, **_top1(stage.top1, stage.num_planned), **gain}


def _method_rows(summary: FamilySummary, comparison: Comparison) -> Iterator[dict[str, Any]]:
    ranking = comparison.ranking
    for method in comparison.methods:
        marks = {
            "is_best": ranking is not None and method.name == ranking.best,
            "is_tied_with_best": ranking is not None and method.name in ranking.tied_with_best,
        }
        yield {
            "family": summary.name,
            "row": "method",
            "stage": "distilled",
            "model": summary.stage("distilled").model,
            "method": method.name,
            **_top1(method.top1, method.num_planned),
            **gain_columns(method.gain),
            **{name: getattr(method, name) for name in ("p", "p_holm", "rank", "published")},
            **{name: ratio and ratio.median for name, ratio in (("time", method.time), ("memory", method.memory))},
            **{name: str(value).lower() for name, value in marks.items()},
        }


def _family_rows(comparison: FamiliesComparison) -> Iterator[dict[str, Any]]:
    for row in comparison.rows:
        names = {"stage": "distilled" if row.name != BASELINE else BASELINE, "method": row.name}
        if row.mean_rank is not None:
            yield {"row": "families", **names, "rank": row.mean_rank, **_families_gain(row.gain)}
        if row.main_gain is not None:
            yield {"row": "families_main", **names, **_families_gain(row.main_gain)}


def _families_gain(gain: FamiliesGain | None) -> dict[str, Any]:
    if gain is None:
        return {}
    numbers = {"gain_mean": gain.spread.mean, "gain_std": gain.spread.std, "num_pairs": gain.spread.num_runs}
    return numbers | {"p": gain.p, "p_holm": gain.p_holm}


def _top1(spread: Spread | None, num_planned: int) -> dict[str, Any]:
    counts = {"num_runs": spread.num_runs if spread else 0, "num_planned": num_planned}
    return counts | ({"top1_mean": spread.mean, "top1_std": spread.std} if spread else {})


def gain_columns(gain: PairedGain | None) -> dict[str, Any]:
    """Return the columns of a gain; {} without one."""
    if gain is None:
        return {}
    low, high = gain.interval or (None, None)
    numbers = {"gain_mean": gain.spread.mean, "gain_std": gain.spread.std, "gain_low": low, "gain_high": high}
    return {**numbers, "num_pairs": len(gain.pairs)}
