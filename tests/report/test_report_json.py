"""report.json, summary.json and the table of runs against manual results."""

import csv
import json
import math

import pyarrow.parquet as pq
import pytest

from raykd.report.build import build, load
from raykd.report.render import files


def report_json(results):
    return json.loads(files.report_json(load(results.root)))


def test_report_json_has_the_specified_shape_in_fractions(results):
    results.family("cnn", [95.0], [87.0, 88.0, 89.0], [88.5, 89.0, 90.0])
    results.family("vit", [93.0, 94.0], [82.0], [83.5])
    assert report_json(results) == {
        "cnn": {
            "teacher_accuracy": 0.95,
            "student_accuracy_without_kd": 0.88,
            "student_accuracy_with_kd": 0.89166667,
        },
        "vit": {
            "teacher_accuracy": 0.935,
            "student_accuracy_without_kd": 0.82,
            "student_accuracy_with_kd": 0.835,
        },
    }


def test_a_stage_without_an_evaluated_run_is_null(results):
    results.plan("cnn", teacher=[results.run("cnn", "teacher", 0, None)], baseline=["baseline-net-s0-ab12"])
    assert report_json(results)["cnn"] == {
        "teacher_accuracy": None,
        "student_accuracy_without_kd": None,
        "student_accuracy_with_kd": None,
    }


def test_the_mean_is_over_evaluated_seeds_only(results):
    runs = [
        results.run("cnn", "baseline", 0, 80.0),
        results.run("cnn", "baseline", 1, 10.0, status="failed", reason="lost"),
        results.run("cnn", "baseline", 2, None),
        results.run("cnn", "baseline", 3, 90.0),
    ]
    results.plan("cnn", baseline=runs)
    assert report_json(results)["cnn"]["student_accuracy_without_kd"] == 0.85


def test_only_seeds_that_both_students_finished_are_paired(results):
    baseline = [results.run("cnn", "baseline", seed, 80.0 + seed) for seed in (0, 1, 2)]
    distilled = [results.run("cnn", "distilled", seed, 82.0 + 2 * seed) for seed in (1, 2, 3)]
    results.plan("cnn", baseline=baseline, distilled=distilled)
    gain = load(results.root).summaries[0].gain
    assert [(pair.seed, pair.gain) for pair in gain.pairs] == [(1, 3.0), (2, 4.0)]


def test_the_share_of_the_gap_requires_a_distinguishable_gain(results):
    results.family("cnn", [95.0], [85.0, 85.0, 85.0], [87.0, 87.5, 88.0])
    results.family("vit", [95.0], [85.0, 85.0, 85.0], [80.0, 87.5, 95.0])
    cnn, vit = load(results.root).summaries
    assert cnn.share_of_gap == pytest.approx(25.0)
    assert vit.share_of_gap is None


def test_the_share_of_the_gap_is_that_of_the_paired_seeds(results):
    teacher = [results.run("cnn", "teacher", 0, 80.0)]
    baseline = [results.run("cnn", "baseline", seed, top1) for seed, top1 in enumerate((70.0, 71.0, 72.0, 60.0))]
    distilled = [results.run("cnn", "distilled", seed, top1) for seed, top1 in enumerate((72.0, 73.2, 74.1))]
    results.plan("cnn", teacher=teacher, baseline=baseline, distilled=distilled)
    # The mean gain of seeds 0 to 2 is 2.1 points, and their baselines are 71 % on average.
    assert load(results.root).summaries[0].share_of_gap == pytest.approx(100 * 2.1 / (80 - 71))


def test_several_teachers_have_no_share_of_the_gap(results):
    """The students learn from the mean of the logits, whose accuracy is not that of the teachers on average."""
    results.family("cnn", [95.0, 93.0], [85.0, 85.0, 85.0], [87.0, 87.5, 88.0])
    assert load(results.root).summaries[0].share_of_gap is None


def test_a_teacher_with_a_linear_probe_has_no_share_of_the_gap(results):
    results.family("cnn", [], [85.0, 85.0, 85.0], [87.0, 87.5, 88.0])
    probed = results.run("cnn", "teacher", 0, 95.0, metrics={"probe_penalty": 0.1, "knn_top1": 90.0})
    summary = load(results.root).summaries[0]
    names = {stage: [run.name for run in summary.family.stage(stage)] for stage in ("baseline", "distilled")}
    results.plan("cnn", teacher=[probed], **names)
    assert load(results.root).summaries[0].share_of_gap is None


def test_summary_json_has_spreads_gain_and_missing_runs(results):
    results.family("cnn", [95.0], [87.0, 88.0, 89.0], [88.5, 89.0, 90.0])
    results.plan("vit", baseline=["baseline-net-s0-ab12"])
    build(results.root)
    summary = json.loads((results.root / "report" / "summary.json").read_text())
    top1 = summary["cnn"]["stages"]["baseline"]["top1"]
    half = pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)  # t(0.975, 2)
    assert (top1["mean"], top1["std"], top1["num_runs"]) == (88.0, 1.0, 3)
    assert (88.0 - top1["interval"][0], top1["interval"][1] - 88.0) == (half, half)
    assert summary["cnn"]["gain"]["num_in_favor"] == 3
    assert summary["cnn"]["gain"]["verdict"] == "distilled is better at n = 3"
    assert summary["vit"]["gain"] is None
    assert summary["vit"]["missing"] == ["baseline-net-s0-ab12: not started"]


def test_the_run_tables_have_one_row_per_planned_run(results):
    evaluated = results.run("cnn", "baseline", 0, 87.25, metrics={"ece": 0.02})
    failed = results.run("cnn", "baseline", 1, None, status="failed", reason='a "quoted", split\nreason')
    results.plan("cnn", baseline=[evaluated, failed, "baseline-net-s2-ab12"])
    build(results.root)
    rows = pq.ParquetFile(results.root / "report" / "runs.parquet").read().to_pylist()
    assert [row["state"] for row in rows] == ["evaluated", "failed", "not started"]
    assert [row["test_top1"] for row in rows] == [87.25, None, None]
    assert [row["test_ece"] for row in rows] == [0.02, None, None]
    assert (rows[0]["best_epoch"], rows[0]["num_epochs"], rows[0]["git_revision"]) == (2, 3, "0123456789")
    with (results.root / "report" / "runs.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert written[0]["test_top1"] == "87.25"
    assert written[1]["reason"] == 'a "quoted", split\nreason'
    assert written[2]["seed"] == "2", "the name of a planned run has its seed"


def test_a_run_without_history_is_listed_as_missing(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", history=None)])
    (summary,) = load(results.root).summaries
    assert summary.missing == ("baseline-net-s0-ab12: no history.parquet, so no learning curve",)
