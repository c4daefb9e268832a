"""Methods side by side in the report: gains over the baseline, ranks, times and memory, and what is missing."""

import json
from typing import Any

from raykd.report.build import build
from raykd.report.text import render_text


def compared(results: Any, scores: dict[str, tuple[float | None, ...]]) -> None:
    """A family with baselines of 80, 81, 82 and a method for each of `scores`."""
    baseline = [results.run("cnn", "baseline", seed, 80.0 + seed, seconds=100.0) for seed in range(3)]
    named = {
        method: [
            results.run(
                "cnn", "distilled", seed, top1, method=method, seconds=150.0, name=f"distilled-{method}-s{seed}"
            )
            for seed, top1 in enumerate(tops)
        ]
        for method, tops in scores.items()
    }
    first = next(iter(named.values()))
    results.plan("cnn", baseline=baseline, distilled=first, comparison=named)


def rows_of(results: Any) -> dict[str, Any]:
    build(results.root)
    found = json.loads((results.root / "report" / "summary.json").read_text())["cnn"]["comparison"]
    return {row["method"]: row for row in found["methods"]}


def test_methods_are_ranked_the_best_first_with_their_gains_and_times(results):
    compared(results, {"kd": (81.0, 82.1, 83.0), "dkd": (90.0, 91.1, 92.0)})
    rows = rows_of(results)
    assert list(rows) == ["dkd", "kd"]
    assert [row["rank"] for row in rows.values()] == ["1", "2"]
    assert abs(rows["dkd"]["gain"]["spread"]["mean"] - (10 + 10.1 + 10) / 3) < 1e-9
    assert rows["kd"]["time"] == 1.5
    assert "dkd is better than every other at n = 3" in render_text(build(results.root))


def test_methods_that_seeds_cannot_tell_apart_share_ranks(results):
    compared(results, {"kd": (81.0, 82.1, 83.0), "dkd": (81.2, 82.0, 83.05)})
    assert [row["rank"] for row in rows_of(results).values()] == ["1-2", "1-2"]
    assert "no method is distinguishable from another at n = 3" in render_text(build(results.root))


def test_method_without_a_result_stands_last_and_its_runs_are_missing(results):
    compared(results, {"kd": (81.0, 82.1, 83.0), "crd": (None, None, None)})
    rows = rows_of(results)
    assert list(rows) == ["kd", "crd"] and rows["crd"]["rank"] is None and rows["crd"]["gain"] is None
    assert not build(results.root).is_complete
    assert "| crd " in render_text(build(results.root))


def test_family_that_compares_nothing_has_no_such_table(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", 0, 80.0)])
    build(results.root)
    assert json.loads((results.root / "report" / "summary.json").read_text())["cnn"]["comparison"] is None
