"""Metrics, costs and usage of runs: reading, checks, spreads, gains and tables."""

import csv
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from evaluated_folders import COSTS, TIMING, write_evaluated_run
from report_files import summary_of

from raykd.errors import RaykdError
from raykd.report.build import build, load
from raykd.report.read.collect import collect
from raykd.report.render.files import runs_table
from raykd.report.render.metric_rows import cost_rows, metric_notes, metric_rows
from raykd.report.render.page import render_page
from raykd.report.render.terminal import render_text


@pytest.fixture(autouse=True)
def without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page: its figures take two seconds, and no test here reads them."""
    monkeypatch.setattr("raykd.report.build.render_page", lambda *_: b"")


def write_family(results, name: str = "cnn", distilled: tuple[float, ...] = (90.0, 91.0, 92.5), **changes: Any) -> None:
    results.plan(
        name,
        baseline=[write_evaluated_run(results, name, "baseline", seed, 88.0 + seed) for seed in range(3)],
        distilled=[
            write_evaluated_run(
                results, name, "distilled", seed, top1, agreement=80.0 + seed, teacher_kl=0.5, **changes
            )
            for seed, top1 in enumerate(distilled)
        ],
    )


def test_a_runs_files_are_read_as_they_were_written(results):
    write_family(results)
    (family,) = collect(results.root)
    run = family.stage("distilled")[1]
    assert run.test.numbers == pytest.approx(
        {"top1": 91.0, "nll": 0.09, "ece": 0.09, "brier": 0.18, "agreement": 81.0, "teacher_kl": 0.5}
    )
    assert (run.val.top1, run.test.classes) == (92.0, ("cat", "dog"))
    assert run.test.class_top1 == (91.0, None) and run.test.confusion == ((91, 9), (0, 0))
    assert run.test.reliability.accuracy == (None, 0.91)
    assert (run.costs.flops, run.costs.latency_ms.p90, run.costs.images_per_s.batch_size) == (506_865_664, 3.0, 256)
    assert (run.usage.gpu_seconds, run.usage.joules) == (120.0, 24_002.0)


def test_missing_metrics_are_blank(results):
    results.family("cnn", [95.0], [87.0, 88.0], [88.5, 89.0])
    report = load(results.root)
    stage = report.summaries[0].stage("distilled")
    assert (stage.costs, stage.gpu_seconds, stage.joules, stage.reliability, stage.class_top1) == (
        (),
        None,
        None,
        None,
        (),
    )
    assert list(report.summaries[0].gains) == ["top1", "nll"] and list(stage.val) == []
    rows = runs_table(report).to_pylist()
    assert all(row["flops"] is None and row["joules"] is None for row in rows)
    text = render_text(report, in_full=True)
    assert "NLL (nats)" in text and "calibration" not in text and "FLOPs" not in text


def test_a_spread_covers_the_runs_that_have_the_metric(results):
    old = results.run("cnn", "baseline", 0, 80.0)
    results.plan(
        "cnn", baseline=[old, *(write_evaluated_run(results, "cnn", "baseline", seed, 88.0 + seed) for seed in (1, 2))]
    )
    stage = load(results.root).summaries[0].stage("baseline")
    assert (stage.top1.num_runs, stage.metrics["ece"].num_runs) == (3, 2)
    assert sum(map(sum, stage.confusion)) == 200 and stage.reliability.count == (0, 200)


@pytest.mark.parametrize(
    ("file", "field", "value", "complaint"),
    [
        ("test.json", "confusion", [[1, 2]], r"different sizes: \[1, 2\]"),
        ("test.json", "confusion", [[90, 10], [0, 1]], "confusion counts 101 images, but num_images is 100"),
        ("test.json", "confusion", [[90.5, 9.5], [0, 0]], "field 'confusion.0.0' is 90.5, not an integer"),
        ("test.json", "confusion", 3, "field 'confusion' is 3, not a list"),
        ("test.json", "class_top1", [101.0, 5.0], r"field 'class_top1\.0' is 101\.0"),
        ("test.json", "class_top1", [True, 5.0], r"field 'class_top1\.0' is True"),
        ("test.json", "classes", ["cat"], "different sizes"),
        ("val.json", "nll", -1, "field 'nll' is -1"),
        ("val.json", "reliability", {"count": [1], "confidence": [0.5], "accuracy": []}, "have different lengths"),
        (
            "val.json",
            "reliability",
            {"count": [1], "confidence": [1.5], "accuracy": [1]},
            r"field 'reliability\.confidence\.0' is 1\.5",
        ),
        ("costs.json", "flops", -5, "field 'flops' is -5"),
        ("costs.json", "latency_ms", {"median": 1}, "field 'latency_ms.p10' is missing"),
        ("usage/0.json", "pieces", [{"seconds": 1.0}], "field 'pieces.0.gpus' is missing"),
        ("usage/0.json", "pieces", [3], "field 'pieces.0' is 3, not an object"),
    ],
)
def test_an_invalid_number_is_named_with_its_file(results, file, field, value, complaint):
    results.plan("cnn", baseline=[write_evaluated_run(results, "cnn", "baseline", 0, 88.0)])
    path = results.root / "cnn" / "baseline-net-s0-ab12" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(RaykdError, match=complaint) as caught:
        collect(results.root)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_joules_of_workers_add_up_and_are_none_if_a_part_is_unknown(results):
    name = write_evaluated_run(results, "cnn", "distilled", 0, 90.0)
    piece = {"seconds": 50.0, "gpus": 0.5, "gpu": "x", "joules": None, "joules_missing_reason": "0.5 of the GPU"}
    results.write(f"cnn/{name}/usage/1.json", {"run": name, "pieces": [piece]})
    results.plan("cnn", distilled=[name])
    usage = collect(results.root)[0].runs[0].usage
    assert (usage.gpu_seconds, usage.joules, usage.joules_missing_reason) == (145.0, None, ("0.5 of the GPU",))


def test_usage_recorded_from_the_middle_of_a_run_is_left_out(results):
    name = write_evaluated_run(results, "cnn", "distilled", 0, 90.0)
    path = results.root / "cnn" / name / "usage" / "0.json"
    results.plan("cnn", distilled=[name])
    assert load(results.root).summaries[0].stage("distilled").gpu_seconds.mean == 120.0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"since": "2026-11-23T13:00:00+00:00"}))
    report = load(results.root)
    stage = report.summaries[0].stage("distilled")
    assert (stage.gpu_seconds, stage.joules) == (None, None)
    (row,) = runs_table(report).to_pylist()
    assert (row["gpu_seconds"], row["joules"]) == (None, None)


def test_usage_with_seconds_lost_to_kills_is_counted(results):
    name = write_evaluated_run(results, "cnn", "distilled", 0, 90.0)
    record = results.root / "cnn" / name / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 175.0}))
    results.plan("cnn", distilled=[name])
    assert collect(results.root)[0].runs[0].usage.gpu_seconds == 120.0


def test_summary_json_has_every_metric_with_its_interval(results):
    write_family(results)
    stages = summary_of(results.root)["cnn"]["stages"]
    distilled = stages["distilled"]
    assert distilled["top1"]["num_runs"] == 3 and distilled["top1"]["mean"] == pytest.approx(273.5 / 3)
    low, high = distilled["top1"]["interval"]
    assert low < distilled["top1"]["mean"] < high
    assert set(distilled["metrics"]) == {"nll", "ece", "brier", "agreement", "teacher_kl"}
    assert set(distilled["val"]) == {"top1", "nll", "ece", "brier"}
    assert distilled["class_top1"][1] is None and distilled["class_top1"][0]["num_runs"] == 3
    assert distilled["reliability"]["count"] == [0, 300]
    assert distilled["reliability"]["accuracy"] == [None, pytest.approx(273.5 / 300)]
    assert [costs["device"] for costs in distilled["costs"]] == ["NVIDIA H100"], "one model, three runs"
    assert distilled["gpu_seconds"]["mean"] == 120 and distilled["joules"]["num_runs"] == 3
    assert stages["teacher"]["top1"] is None and stages["teacher"]["costs"] == []


def test_gains_are_positive_where_distillation_is_better(results):
    write_family(results)
    summary = summary_of(results.root)["cnn"]
    assert summary["gain"] == summary["gains"]["top1"]
    assert set(summary["gains"]) == {"top1", "nll", "ece", "brier"}, "a baseline agrees with no teacher"
    assert summary["gains"]["top1"]["spread"]["mean"] == pytest.approx(6.5 / 3)
    assert summary["gains"]["ece"]["spread"]["mean"] == pytest.approx(0.065 / 3)
    for gain in summary["gains"].values():
        assert (gain["sign_test_p"], gain["permutation_p"], gain["smallest_p"]) == (0.25, 0.25, 0.25)
        assert gain["num_in_favor"] == 3 and gain["t_test_p"] < 0.05


def test_tables_have_metric_columns_and_confusion_rows(results):
    write_family(results)
    build(results.root)
    folder = results.root / "report"
    rows = pq.ParquetFile(folder / "runs.parquet").read().to_pylist()
    with (folder / "runs.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [row["name"] for row in rows]
    last = rows[-1]
    expected = {
        "test_top1": 92.5,
        "test_agreement": 82.0,
        "val_top1": 93.5,
        "flops": 506_865_664,
        "device": "NVIDIA H100",
        "latency_ms": 2.0,
        "latency_ms_p90": 3.0,
        "images_per_s": 51234.5,
        "gpu_seconds": 120.0,
        "joules": 24_004.0,
    }
    assert {name: last[name] for name in expected} == expected
    assert rows[0]["test_agreement"] is None and rows[0]["test_brier"] == pytest.approx(0.24)
    cells = pq.ParquetFile(folder / "confusion.parquet").read().to_pylist()
    assert cells[0] == {
        "family": "cnn",
        "stage": "baseline",
        "label": 0,
        "predicted": 0,
        "label_name": "cat",
        "predicted_name": "cat",
        "images": 88 + 89 + 90,
    }
    assert sum(cell["images"] for cell in cells) == 600


def test_the_full_text_has_metrics_tests_and_costs(results):
    write_family(results)
    text = render_text(load(results.root), in_full=True)
    assert "agreement (%)" in text and "81.00 ± 1.00" in text
    assert "sign p = 0.25, permutation p = 0.25\nthe smallest possible p of these at n = 3 is 0.25" in text
    assert "507 M" in text and "2 [1.5, 3]" in text and "51,234" in text
    assert "2 min 00 s" in text and "24.0 kJ" in text
    assert "measured on NVIDIA H100, bf16" in text
    assert "sign p" not in render_text(load(results.root)), "an experiment's table stays short"
    assert all(len(line) <= 100 for line in text.splitlines() if line.startswith(("|", "+")))
    text.encode("latin-1")


def test_each_metric_names_the_better_student_if_its_interval_excludes_0(results):
    write_family(results, distilled=(90.0, 91.0, 92.5), brier=0.2)
    rows = {row.name: row.in_favor for row in metric_rows(load(results.root).summaries[0])}
    assert rows["top-1 (%)"] == rows["calibration error"] == "distilled"
    assert (rows["Brier score"], rows["agreement (%)"]) == ("-", "-")
    write_family(results, "vit", distilled=(80.0, 81.1, 82.0))
    _, vit = load(results.root).summaries
    assert {row.name: row.in_favor for row in metric_rows(vit)}["top-1 (%)"] == "baseline"


def test_metrics_of_two_seeds_are_in_favor_of_no_student(results):
    results.family("cnn", [], [87.0, 88.0], [92.0, 93.01])
    summary = load(results.root).summaries[0]
    assert [row.in_favor for row in metric_rows(summary)] == ["-", "-"]
    assert "no metric is in favor of a student: n = 2 is too small" in metric_notes(summary)


def test_the_tests_of_several_metrics_are_not_corrected_and_the_page_states_it(results):
    write_family(results)
    page = render_page(load(results.root)).decode()
    assert "The metrics are tested separately, without correction for their number." in page


def test_costs_of_several_devices_have_a_row_each(results):
    teacher = write_evaluated_run(results, "cnn", "teacher", 0, 90.0)
    students = [write_evaluated_run(results, "cnn", "baseline", seed, 88.0) for seed in range(2)]
    slow = COSTS | {"shape": "cd", "device": "a slow processor", "latency_ms": TIMING | {"median": 2.5}}
    results.write(f"cnn/{students[1]}/costs.json", slow)
    results.plan("cnn", teacher=[teacher], baseline=students)
    loaded = load(results.root)
    rows = {row.name: row.cells["latency (ms)"] for row in cost_rows(loaded.summaries[0])}
    fast, slow = "2 [1.5, 3]", "2.5 [1.5, 3]"
    assert rows == {"teacher (1)": fast, "baseline (1)": fast, "baseline (2)": slow, "distilled": "-"}
    text = render_text(loaded, in_full=True)
    assert "measured on (1) NVIDIA H100, bf16" in text and "measured on (2) a slow processor, bf16" in text
    page = render_page(loaded).decode()
    assert "Measured on (1) NVIDIA H100, bf16; on (2) a slow processor, bf16." in page
    assert '<span class="key baseline"></span>baseline (2)</th>' in page


def test_the_page_has_all_metrics(results):
    write_family(results)
    page = render_page(load(results.root)).decode()
    names = (
        "NLL (nats) \N{DOWNWARDS ARROW}",
        "calibration error, 2 bins \N{DOWNWARDS ARROW}",
        "agreement (%) \N{UPWARDS ARROW}",
    )
    assert all(f'<th scope="row">{name}' in page for name in names)
    assert "two-sided: sign p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.25" in page
    assert "2 [1.5, 3]" in page and "Measured on NVIDIA H100, bf16. Latency: median [p10, p90]" in page
