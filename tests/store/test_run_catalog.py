"""What `raykd runs` reads: runs of all configurations, their results and sizes."""

from small_runs import experiment
from written_records import search_record
from written_results import finished, interrupt

from raykd.methods import DKD
from raykd.store.run_catalog import read_catalog
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder


def test_a_run_of_a_method_that_the_plan_compares_is_planned(tmp_path):
    plan = finished(tmp_path, experiment(compare=(DKD(),)))
    assert len(read_catalog(tmp_path).runs) == len(plan.runs) == 4
    assert all(run.is_planned and not run.changes for run in read_catalog(tmp_path).runs)


def test_results_of_other_weights_are_not_those_of_the_run(tmp_path):
    plan, store = finished(tmp_path), RunStore(tmp_path)
    folder = store.folder(plan.runs[0])
    assert next(run for run in read_catalog(tmp_path).runs if run.stage == "teacher").test_top1 == 90.0
    folder.update(weights_sha256="0" * 64)
    assert next(run for run in read_catalog(tmp_path).runs if run.stage == "teacher").test_top1 is None


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    plan, store = finished(tmp_path), RunStore(tmp_path)
    store.folder(plan.runs[0]).record_path.write_text("{")
    assert sorted(run.status for run in read_catalog(tmp_path).runs) == ["damaged", *["done"] * 4]


def test_trials_of_a_search_are_apart_from_the_runs(tmp_path):
    plan, store = finished(tmp_path), RunStore(tmp_path)
    search = SearchFolder(tmp_path / "small" / "search")
    search.write_record(search_record(family="small", search={"kind": "search", "space": {}}))
    trial = store.folder(plan.runs[-1]).path
    trial.rename(search.run(3).path.parent.mkdir(parents=True) or search.run(3).path)
    catalog = read_catalog(tmp_path)
    (found,) = catalog.searches
    assert len(catalog.runs) == 4 and [one.name for one in found.trials] == ["search/0003"]
    assert found.trials[0].family == "small" and found.is_unfinished


def test_the_age_of_an_interrupted_run_counts_from_its_last_checkpoint(tmp_path):
    plan, store = finished(tmp_path), RunStore(tmp_path)
    folder = store.folder(plan.runs[0])
    interrupt(folder)
    teacher = next(run for run in read_catalog(tmp_path).runs if run.stage == "teacher")
    assert teacher.status == "interrupted" and teacher.changed_at >= folder.checkpoint.stat().st_mtime
