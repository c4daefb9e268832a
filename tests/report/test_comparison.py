"""Methods side by side: gains over the baseline, ranks, times, memory and missing runs."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from report_files import summary_of
from scipy.stats import ttest_rel

from raykd.report.build import build, load
from raykd.report.render.comparison_lines import lines_under
from raykd.report.render.terminal import WIDTH, render_text
from raykd.report.stats.significance import holm
from raykd.report.wording import p_value


def write_comparison(results: Any, scores: Mapping[str, tuple[float | None, ...]]) -> None:
    """Write a family with baselines of 80, 81 and 82, and a method for each of `scores`."""
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


def rows_by_method(results: Any) -> dict[str, Any]:
    return {row["method"]: row for row in summary_of(results.root)["cnn"]["comparison"]["methods"]}


def test_methods_are_ranked_the_best_first_with_their_gains_and_times(results):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "dkd": (90.0, 91.2, 92.0)})
    rows = rows_by_method(results)
    assert list(rows) == ["dkd", "kd"]
    assert [row["rank"] for row in rows.values()] == ["1", "2"]
    assert abs(rows["dkd"]["gain"]["spread"]["mean"] - (10 + 10.2 + 10) / 3) < 1e-9
    assert rows["kd"]["time"] == 1.5
    text = render_text(load(results.root))
    assert "\nhighest mean: dkd, +10.07 points, Holm p < 0.001; better than every other method\n" in text


def test_indistinguishable_methods_share_ranks(results):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "dkd": (81.2, 82.0, 83.05)})
    assert [row["rank"] for row in rows_by_method(results).values()] == ["1-2", "1-2"]
    assert "no method is distinguishable from another at n = 3" in render_text(load(results.root))


def test_method_without_a_result_is_last_and_its_runs_are_missing(results):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "crd": (None, None, None)})
    rows = rows_by_method(results)
    assert list(rows) == ["kd", "crd"] and rows["crd"]["rank"] is None and rows["crd"]["gain"] is None
    assert load(results.root).summaries[0].missing
    assert "| crd " in render_text(load(results.root))


def test_family_without_compared_methods_has_no_comparison(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", 0, 80.0)])
    assert summary_of(results.root)["cnn"]["comparison"] is None


def lines_of(results: Any) -> list[str]:
    (summary,) = load(results.root).summaries
    return lines_under(summary.comparison)


def row_of(text: str, method: str) -> list[str]:
    """Return the cells of a method in the terminal's table."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_p_and_holm_p_agree_in_json_terminal_and_page(results):
    """The t-tests are scipy's. Holm by hand: the smallest p times 3, the next times 2, the largest unchanged."""
    tops = {"kd": (81.0, 82.1, 83.0), "dkd": (81.2, 82.0, 83.5), "sp": (80.0, 82.5, 81.0)}
    write_comparison(results, tops)
    rows = rows_by_method(results)
    raw = {name: ttest_rel(values, (80.0, 81.0, 82.0)).pvalue for name, values in tops.items()}
    assert {name: row["p"] for name, row in rows.items()} == pytest.approx(raw, rel=1e-6)
    assert raw["kd"] < raw["dkd"] < raw["sp"] < 1
    expected = {"kd": 3 * raw["kd"], "dkd": 2 * raw["dkd"], "sp": raw["sp"]}
    assert {name: row["p_holm"] for name, row in rows.items()} == pytest.approx(expected, rel=1e-6)
    report = build(results.root)
    assert row_of(render_text(report), "dkd")[5] == p_value(expected["dkd"])
    page = report.page.read_text(encoding="utf-8")
    assert f'data-label="p">{p_value(raw["dkd"])}<' in page
    assert f'data-label="Holm p">{p_value(expected["dkd"])}<' in page


def test_a_gain_significant_alone_may_not_be_significant_among_fifteen(results):
    good = {"kd": (81.0, 82.3, 83.0)}
    noise = {f"m{number:02}": (80.0 + 0.1 * number, 81.3, 81.5 - 0.2 * number) for number in range(14)}
    write_comparison(results, good | {"m00": noise["m00"]})
    assert "Holm p is below 0.05 for kd (better)" in lines_of(results)
    write_comparison(results, good | noise)
    row = rows_by_method(results)["kd"]
    assert row["gain"]["interval"][0] > 0 and row["p"] < 0.05 < row["p_holm"] == row["gain"]["p_holm"]
    assert not row["gain"]["is_distinguishable"]
    assert row["p_holm"] == pytest.approx(15 * row["p"])
    assert "no Holm p is below 0.05" in lines_of(results)


def test_text_names_methods_that_are_worse_than_the_baseline(results):
    write_comparison(results, {"kd": (85.0, 86.1, 87.0), "sp": (80.0, 81.4, 81.9), "at": (70.0, 71.1, 72.0)})
    assert "Holm p is below 0.05 for kd (better); at (worse)" in lines_of(results)


def test_text_states_chance_findings_and_the_gains_that_three_seeds_can_distinguish(results):
    """0.025 x 15; t(1 - 0.05 / 30, 2) / sqrt(3) = 9.97, t(0.975, 2) / sqrt(3) = 2.48; 2^-9 is below 0.05 / 15."""
    write_comparison(results, {f"m{number:02}": (80.5, 80.5 + 0.1 * number, 83.0) for number in range(15)})
    lines = lines_of(results)
    assert {
        "each interval is for one method alone",
        "of 15 methods without any effect, 0.38 would look better than the baseline by chance, and as many worse",
        "at n = 3, the largest of 15 gains is distinguishable if it is at least 10.0 standard deviations of its paired "
        "differences",
        "for one method alone, 2.5 standard deviations suffice",
        "no Holm p is below 0.05",
    } <= set(lines)


def test_holm_controls_errors_where_no_method_has_an_effect():
    """500 experiments of 15 methods and 5 seeds that share a baseline: uncorrected, most show some difference."""
    generator = np.random.default_rng(11)
    raw = adjusted = 0
    for _ in range(500):
        runs = generator.normal(80.0, 0.3, (16, 5))
        p_values = ttest_rel(runs[1:], runs[:1], axis=1).pvalue.tolist()
        raw += min(p_values) < 0.05
        adjusted += min(holm(p_values)) < 0.05
    assert raw / 500 > 0.25
    assert adjusted / 500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


def test_one_seed_has_gains_without_intervals(results):
    baseline = results.run("cnn", "baseline", 0, 80.0)
    named = {
        method: [results.run("cnn", "distilled", 0, top1, method=method, name=f"distilled-{method}")]
        for method, top1 in {"kd": 81.0, "dkd": 82.0}.items()
    }
    results.plan("cnn", named, baseline=[baseline], distilled=named["kd"])
    row = rows_by_method(results)["dkd"]
    assert (row["rank"], row["p"], row["p_holm"], row["gain"]["interval"]) == ("1-2", None, None, None)
    assert lines_of(results)[1:] == [
        "one seed: no interval and no test, so a gain may be chance",
        "ranks require at least 3 seeds",
        "time is the training time over that of the baseline of the same seed, median over seeds",
    ]
    assert row_of(render_text(load(results.root)), "dkd")[4:6] == ["+2.00", "-"]


def test_a_missing_seed_makes_no_pair_and_is_named(results):
    """dkd has no seed 1, and the baseline has no seed 3."""
    write_comparison(results, {"kd": (81.0, 82.1, 83.0, 84.0), "dkd": (81.0, None, 83.6, 84.6)})
    rows = rows_by_method(results)
    assert {pair["seed"] for pair in rows["kd"]["gain"]["pairs"]} == {0, 1, 2}
    assert {pair["seed"] for pair in rows["dkd"]["gain"]["pairs"]} == {0, 2}
    lines = lines_of(results)
    assert "gains leave out seeds without a baseline: 3" in lines
    assert "ranks use the seeds that each method with a result has: 0, 2, 3" in lines


def test_methods_are_ordered_by_rank_if_seeds_are_missing(results):
    """kd has the best mean because it lacks the hardest seed. Over the common seeds dkd is better."""
    write_comparison(results, {"kd": (None, 85.0, 86.0), "dkd": (70.0, 86.1, 87.0)})
    assert list(rows_by_method(results)) == ["dkd", "kd"]


def test_methods_without_a_common_seed_are_not_ranked(results):
    write_comparison(results, {"kd": (81.0, None, None), "dkd": (None, 82.0, 83.0)})
    assert [row["rank"] for row in rows_by_method(results).values()] == [None, None]
    assert "no ranks: no seed has a result of each of these methods yet" in lines_of(results)


def test_all_ties_with_the_best_method_are_named(results):
    write_comparison(results, {"kd": (95.0, 85.0, 90.5), "dkd": (90.0, 90.1, 90.05), "sp": (89.0, 89.1, 89.04)})
    assert [row["rank"] for row in rows_by_method(results).values()] == ["1-3", "1-2", "2-3"]
    text = render_text(load(results.root))
    assert "highest mean: kd, +9.17 points, Holm p = 0.10; not distinguishable from any other method\n" in text


def test_the_widest_comparison_table_fits_100_columns(results):
    tops = {"logit_standardization": (99.1, 31.25, 100.0), "kd (alpha 0.9, temperature 2.0)": (91.2, 92.1, 93.4)}
    write_comparison(results, tops)
    text = render_text(load(results.root))
    table = [line for line in text.split("methods on the test split")[1].splitlines() if line.startswith(("|", "+"))]
    assert table and all(len(line) <= WIDTH and line[-1] in "|+" for line in table)
    assert "| logit_standardization " in text and "\N{HORIZONTAL ELLIPSIS}" not in text
