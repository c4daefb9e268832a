"""Reading run folders: absent files are missing results, and damaged ones are named in one line."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.errors import ConfigError, RaykdError
from raykd.report.read.collect import collect
from raykd.store.run_folder import RunFolder


def test_a_run_is_read_as_it_was_written(results):
    name = results.run("cnn", "distilled", 2, 88.5, metrics={"ece": 0.02, "note": "text", "flag": True})
    results.plan("cnn", distilled=[name])
    (family,) = collect(results.root)
    (run,) = family.runs
    assert (family.name, run.name, run.stage, run.state) == ("cnn", name, "distilled", "evaluated")
    assert (run.record.model, run.record.method, run.record.seed) == ("resnet8", "kd", 2)
    assert (run.record.best.epoch, run.record.best.val_top1) == (2, 89.0)
    assert (run.test.top1, run.test.nll, run.test.num_images) == (88.5, 0.5, 10_000)
    assert run.test.numbers == {"top1": 88.5, "nll": 0.5, "ece": 0.02}
    assert run.history.epochs == (0, 1, 2)
    assert run.history.loss_terms == ("ce",)


def test_folders_outside_the_plan_are_ignored(results):
    results.run("cnn", "baseline", 0, 10.0, name="baseline-net-s0-0000")
    results.plan("cnn", baseline=[results.run("cnn", "baseline", 0, 88.0)])
    (family,) = collect(results.root)
    assert [run.name for run in family.runs] == ["baseline-net-s0-ab12"]


def test_each_unfinished_state_has_a_description(results):
    stages = [
        results.run("cnn", "baseline", 0, None),
        results.run("cnn", "baseline", 1, None, status="running"),
        results.run("cnn", "baseline", 2, None, status="failed", reason="NaN in ce\n at \x1b[31mepoch 3"),
        results.run("cnn", "baseline", 3, None, status="running", history={"ce": [1.0]}),
        "baseline-net-s4-ab12",
    ]
    results.plan("cnn", baseline=stages)
    with RunFolder(results.root / "cnn" / stages[3]).lock():
        (family,) = collect(results.root)
    assert [run.state_in_words for run in family.runs] == [
        "not evaluated",
        "interrupted: 3 epochs recorded",
        "failed: NaN in ce at [31mepoch 3",
        "running: 1 epoch recorded",
        "not started",
    ]


def test_test_metrics_of_an_unfinished_run_are_ignored(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", 0, 88.0, status="running")])
    (family,) = collect(results.root)
    assert family.runs[0].test is None


def test_null_in_a_history_is_nan(results):
    history = {"ce": [1.0, 0.5], "val_top1": [None, 80.0]}
    results.plan("cnn", baseline=[results.run("cnn", "baseline", history=history)])
    (family,) = collect(results.root)
    assert math.isnan(family.runs[0].history.columns["val_top1"][0])


def test_no_plan_is_a_config_error_with_a_remedy(results):
    with pytest.raises(ConfigError, match=r"no plan under .*start an experiment first"):
        collect(results.root)


@pytest.mark.parametrize("file", ["plan.json", "baseline-net-s0-ab12/run.json", "baseline-net-s0-ab12/test.json"])
@pytest.mark.parametrize("content", [b'{"top1": 88', b"[]", b"\xff\xfe", b"", b"[" * 100_000, b"{}"])
def test_a_damaged_json_file_is_named_in_one_line(results, file, content):
    results.family("cnn", [], [88.0], [])
    path = results.root / "cnn" / file
    path.write_bytes(content)
    with pytest.raises(RaykdError) as caught:
        collect(results.root)
    assert f"'{path}' is damaged: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_history_is_named_in_one_line(results):
    results.family("cnn", [], [88.0], [])
    path = results.root / "cnn" / "baseline-net-s0-ab12" / "history.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RaykdError, match=r"history\.parquet' is damaged: "):
        collect(results.root)


@pytest.mark.parametrize(
    "table",
    [pa.table({"ce": [1.0]}), pa.table({"epoch": [0, 2, 1]}), pa.table({"epoch": [0, 0]}), pa.table({"epoch": ["a"]})],
)
def test_a_history_with_invalid_epochs_is_refused(results, table):
    results.family("cnn", [], [88.0], [])
    pq.write_table(table, results.root / "cnn" / "baseline-net-s0-ab12" / "history.parquet")
    with pytest.raises(RaykdError, match=r"history\.parquet"):
        collect(results.root)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("seed", "0", "field 'seed' is '0', not an integer"),
        ("seed", True, "field 'seed' is True"),
        ("seconds", -1, r"field 'seconds' is -1, not a finite number in \[0, inf\)"),
        ("seconds", float("nan"), "field 'seconds' is nan"),
        ("seconds", 10**400, "field 'seconds' is 1000"),
        ("status", "finished", "field 'status' is 'finished', not 'running' or 'done' or 'failed'"),
        ("stage", "teacher", "stage is 'teacher', the plan has 'baseline' there"),
        ("best", {"epoch": 1, "val_top1": 100.1}, "field 'best.val_top1' is 100.1"),
        ("config", [], r"field 'config' is \[\], not an object"),
    ],
)
def test_an_invalid_field_is_named_with_its_value(results, field, value, complaint):
    results.family("cnn", [], [88.0], [])
    record = results.root / "cnn" / "baseline-net-s0-ab12" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), field: value}))
    with pytest.raises(RaykdError, match=complaint):
        collect(results.root)


@pytest.mark.parametrize("top1", [-0.1, 100.1, float("nan"), None, "88"])
def test_a_test_top1_outside_0_to_100_is_refused(results, top1):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", metrics={"top1": top1})])
    with pytest.raises(RaykdError, match=r"test\.json' is damaged: field 'top1'"):
        collect(results.root)


@pytest.mark.parametrize("name", ["../other/run", "a/b", "..", ".", "", "/tmp", "a\x00b", "\ud800"])
def test_a_plan_cannot_name_runs_outside_its_folder(results, name):
    results.plan("cnn", baseline=[name])
    with pytest.raises(RaykdError, match="is not the name of a run's folder"):
        collect(results.root)


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ({"family": "vit", "stages": {}}, "family is 'vit', but the folder is 'cnn'"),
        ({"family": "cnn", "stages": {"tuned": []}}, "field 'stages.tuned' is 'tuned', not 'teacher' or"),
        ({"family": "cnn", "stages": {"teacher": "a"}}, "field 'stages.teacher' is 'a', not a list"),
        ({"family": "cnn", "stages": {"teacher": ["a", "a"]}}, "has a run twice"),
    ],
)
def test_an_invalid_plan_is_refused(results, plan, complaint):
    results.write("cnn/plan.json", plan)
    with pytest.raises(RaykdError, match=complaint):
        collect(results.root)


def test_a_stage_that_mixes_methods_or_repeats_a_seed_is_refused(results):
    first = results.run("cnn", "distilled", 0)
    other = results.run("cnn", "distilled", 1, method="dkd")
    again = results.run("cnn", "distilled", 0, name="distilled-net-s0-0000")
    results.plan("cnn", distilled=[first, other])
    with pytest.raises(RaykdError, match="mixes resnet8 dkd and resnet8 kd"):
        collect(results.root)
    results.plan("cnn", distilled=[first, again])
    with pytest.raises(RaykdError, match="two runs of one seed"):
        collect(results.root)


def test_a_comparison_that_repeats_a_seed_or_names_a_baseline_is_refused(results):
    seeds = [
        results.run("cnn", "distilled", seed, name=f"distilled-{name}", method="dkd")
        for seed, name in [(0, "a"), (0, "b")]
    ]
    results.plan("cnn", {"dkd": seeds})
    with pytest.raises(RaykdError, match="comparison of 'dkd' has two runs of one seed"):
        collect(results.root)
    baseline = results.run("cnn", "baseline", 0)
    results.plan("cnn", {"dkd": [baseline]}, baseline=[baseline])
    with pytest.raises(RaykdError, match="the plan has 'distilled' there"):
        collect(results.root)


def test_an_unreadable_results_folder_is_a_config_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no plan under"):
        collect(tmp_path / "file")
