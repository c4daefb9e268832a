"""A comparison on the page and in the files: headline, marks, hyperparameters, times and memory."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_files import summary_of
from test_comparison import row_of, write_comparison
from test_page import Tags

from raykd.report.build import build, load
from raykd.report.render.comparison_lines import highest_mean, lines_under
from raykd.report.render.terminal import render_text

NOISE = {f"m{number:02}": (80.0 + 0.1 * number, 81.3, 81.5 - 0.2 * number) for number in range(13)}
BEST = {"crd": (90.0, 91.2, 92.0)}


def text_of(page: Path) -> str:
    return " ".join(Tags(page.read_text(encoding="utf-8")).text.split()).replace("\N{NO-BREAK SPACE}", " ")


def test_no_headline_calls_a_method_better_that_is_not_after_the_correction(results):
    """The interval of kd, the first of 15 methods, excludes 0. Its corrected p-value is 0.11."""
    write_comparison(results, {"kd": (81.0, 82.3, 83.0), **NOISE, **BEST})
    report = build(results.root)
    (summary,) = report.summaries
    assert summary.gain.interval[0] > 0 and summary.gain.p_holm > 0.05
    verdict = "kd: not distinguishable after correction for 15 methods, Holm p = 0.11"
    best = "highest mean: crd, +10.07 points, Holm p < 0.001; not distinguishable from 12 of 14 other methods"
    page, terminal = text_of(report.page), render_text(report)
    assert page.count(verdict) == 3, (
        "for all families, beside the gain of the family, and in the description of a figure"
    )
    assert best.split(";")[0] in page and f"H{best[1:]}." in page
    assert f"\n{verdict}\n{best}\n" in terminal
    assert not re.search(r"(distilled|kd) is better", f"{page}{terminal}", re.IGNORECASE)
    assert summary_of(results.root)["cnn"]["gain"]["verdict"] == verdict
    assert verdict in report._repr_html_().replace("&#39;", "'")


def test_the_method_with_the_highest_mean_names_its_ties(results):
    write_comparison(results, {"kd": (90.0, 91.0, 92.0), "dkd": (89.9, 91.1, 91.8), "sp": (70.0, 71.1, 72.0)})
    (summary,) = load(results.root).summaries
    assert highest_mean(summary.comparison).endswith("; not distinguishable from dkd")


def test_two_seeds_have_no_verdict_in_a_comparison(results):
    write_comparison(results, {"kd": (81.0, 82.01), "dkd": (90.0, 91.01)})
    report = build(results.root)
    for text in (text_of(report.page), render_text(report)):
        assert "too few seeds for a verdict" in text
        assert not re.search(r"kd is better|\(better\)|better than every", text)
    assert row_of(render_text(report), "dkd")[1] == "1-2"


def test_bold_and_dagger_mean_the_same_on_the_page_as_in_the_tables_for_a_paper(results):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "dkd": (90.0, 91.2, 92.0), "sp": (90.1, 91.1, 91.8)})
    page = build(results.root).page.read_text(encoding="utf-8")
    assert (
        "<b>91.07</b> ± 1.01</td>" in page
        and ">91.00 ± 0.85<span" in page
        and page.count("&nbsp;\N{DAGGER}</span></td>") == 1
    )
    assert ">82.03 ± 1.00</td>" in page
    text = " ".join(Tags(page).text.split())
    assert "Bold: the best mean over seeds 0, 1, 2" in text
    assert "\N{DAGGER} Not distinguishable from dkd, by paired t-tests" in text
    assert 'class="number strong"' not in page, "no other number is bold"


def test_the_example_of_a_rank_is_in_the_table(results):
    tops = {"a": (90.0, 91.0, 92.0), "b": (89.8, 90.7, 91.6), "c": (89.4, 90.4, 91.38), "d": (70.0, 71.1, 72.0)}
    write_comparison(results, tops)
    (summary,) = load(results.root).summaries
    ranks = {method.name: method.rank for method in summary.comparison.methods}
    (line,) = (line for line in lines_under(summary.comparison) if line.startswith("rank "))
    rank, name = re.match(r"rank (\d+-\d+) of (\w+): ", line).groups()
    assert ranks[name] == rank
    first, last = map(int, rank.split("-"))
    better = {0: "no method is", 1: "1 method is"}.get(first - 1, f"{first - 1} methods are")
    assert line.endswith(f"{better} shown to be better, and {4 - last or 'none'} to be worse")


def test_no_sentence_under_a_comparison_is_long(results):
    write_comparison(results, {"kd": (81.0, 82.3, 83.0), **NOISE, **BEST})
    (summary,) = load(results.root).summaries
    assert max(len(line.split()) for line in lines_under(summary.comparison)) <= 25


def write_with(results, fields: dict[str, Any]) -> None:
    """Write a comparison of kd and dkd whose runs all have some fields of run.json."""
    baseline = [results.run("cnn", "baseline", seed, 80.0 + seed, **fields) for seed in range(3)]
    settings = {"kd": {"kind": "kd", "alpha": 0.5}, "dkd": {"kind": "dkd", "beta": 8.0, "stages": [1, 2]}}
    named = {
        method: [
            results.run(
                "cnn",
                "distilled",
                seed,
                81.0 + seed,
                method=method,
                name=f"d-{method}-s{seed}",
                config={"method": config, "recipe": {"epochs": 3}},
                **{**fields, "seconds": 60.0 + 30 * seed, "peak_memory_bytes": 150},
            )
            for seed in range(3)
        ]
        for method, config in settings.items()
    }
    results.plan("cnn", named, baseline=baseline, distilled=named["kd"])


def test_the_hyperparameters_of_each_method_are_on_the_page_and_in_the_files(results):
    write_with(results, {})
    report = build(results.root)
    text = text_of(report.page)
    assert "hyperparameters dkd beta = 8.0, stages = [1, 2] kd alpha = 0.5 " in text
    assert "No method was tuned by a search in this results folder, and neither was the baseline." in text
    rows = {row["method"]: row for row in summary_of(results.root)["cnn"]["comparison"]["methods"]}
    assert rows["dkd"]["hyperparameters"] == {"beta": ["8.0"], "stages": ["[1, 2]"]}
    runs = report.runs.set_index("name")
    assert runs.loc["d-kd-s0", "method.alpha"] == 0.5 and runs.loc["d-dkd-s0", "method.stages"] == "[1, 2]"
    assert runs["method.alpha"].count() == 3


def test_summary_json_has_the_fields_of_each_search_of_the_family(one_search):
    (summary,) = one_search.summary.values()
    assert summary["searched"] == {"search": ["method.alpha", "method.temperature"]}


def test_memory_is_that_of_gpus_and_a_time_has_its_range(results):
    write_with(results, {"peak_memory_bytes": 100})
    report = build(results.root)
    assert "GPU memory" not in text_of(report.page), "on a CPU, the peak is that of the whole process"
    (method, _) = report.summaries[0].comparison.methods
    assert method.memory is None and (method.time.median, method.time.low, method.time.high) == (1.5, 1.0, 2.0)
    assert "1.50 x [1.00, 2.00]" in text_of(report.page)
    write_with(results, {"peak_memory_bytes": 100, "compute": {"device": "cuda:0", "threads": 2, "precision": "bf16"}})
    report = build(results.root)
    assert "GPU memory" in text_of(report.page)
    (row, _) = summary_of(results.root)["cnn"]["comparison"]["methods"]
    assert (row["memory"], row["memory_range"], row["time_range"]) == (1.5, [1.5, 1.5], [1.0, 2.0])


@pytest.mark.parametrize(
    ("changes", "num_sharing"),
    [({}, 0), ({"started": "2026-01-02T03:04:55+00:00"}, 2), ({"started": "noon"}, 0), ({"host": None}, 0)],
)
def test_runs_that_trained_at_the_same_time_on_one_machine_are_counted(results, changes, num_sharing):
    """Each run ends when the next one starts, unless a run starts 10 s earlier."""
    names = []
    for place in range(4):
        start, end = (f"2026-01-02T03:{4 + minute:02}:05+00:00" for minute in (place, place + 1))
        fields = {"started": start, "ended": end, "host": "cn1"} | (changes if place == 1 else {})
        stage = "baseline" if place < 2 else "distilled"
        names.append(results.run("cnn", stage, place % 2, 80.0 + place % 2, **fields))
    results.plan("cnn", {"kd": names[2:], "other": []}, baseline=names[:2], distilled=names[2:])
    comparison = load(results.root).summaries[0].comparison
    assert comparison is not None and comparison.num_sharing == num_sharing
    line = "2 of 4 runs trained while another one used the same machine, so times also depend on the others"
    assert (line in lines_under(comparison)) == bool(num_sharing)


def test_the_verdict_of_each_method_in_the_summary_is_corrected(results):
    write_comparison(results, {"kd": (81.0, 82.3, 83.0), **NOISE, **BEST})
    build(results.root)
    methods = json.loads((results.root / "report" / "summary.json").read_text())["cnn"]["comparison"]["methods"]
    verdicts = {method["method"]: method["gain"]["verdict"] for method in methods}
    assert verdicts["crd"].startswith("crd is better at n = 3 after correction for 15 methods, Holm p < 0.001")
    assert verdicts["kd"].startswith("kd: not distinguishable after correction")
