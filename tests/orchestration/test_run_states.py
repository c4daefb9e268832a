"""The states of a command's runs: read once, and used for all decisions of the command."""

from pathlib import Path

import pytest
from small_runs import NO_WEIGHTS, digits, experiment
from written_records import record_of
from written_results import finished

from raykd.orchestration.run_states import RunStates
from raykd.spec.plan import Run, make_plan
from raykd.store.records import ComputeRecord, TeacherSource
from raykd.store.run_removal import removable_runs, remove_runs
from raykd.store.run_store import RunStore


def start(run: Run, store: RunStore, teacher_source: TeacherSource) -> None:
    """Write the files of an interrupted run: a checkpoint, and its teacher source in run.json."""
    folder = store.folder(run)
    folder.checkpoint.parent.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"")
    compute = ComputeRecord("cpu", "fp32", threads=1, teacher=teacher_source)
    folder.write_record(record_of(run, status="running", best=None, compute=compute))


def test_states_have_status_and_teacher_source_of_each_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    teacher, *_, live, cached = make_plan(experiment(seeds=(0, 1)), digits(), NO_WEIGHTS).runs
    start(live, store, "live")
    start(cached, store, "cache")
    states = RunStates.read([teacher, live, cached], store)
    assert list(states.statuses.values()) == ["not started", "interrupted", "interrupted"]
    assert (states.trained, states.started_live) == (set(), {live.name})
    assert states.in_progress_on_cache == {cached.name}
    assert states.with_done(cached).trained == {cached.name}
    assert states.with_done(cached).in_progress_on_cache == set()


def test_each_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, reads = make_plan(experiment(), digits(), NO_WEIGHTS), []
    monkeypatch.setattr(RunStore, "status", lambda store, run: reads.append(run.name) or "not started")
    RunStates.read([*plan.runs, *plan.runs], RunStore(tmp_path))
    assert reads == [run.name for run in plan.runs]


def test_a_run_that_was_removed_after_the_states_were_read_is_trained_again(tmp_path: Path) -> None:
    """`raykd runs rm` may remove a teacher before the command's plan protects it."""
    plan, store = finished(tmp_path), RunStore(tmp_path)
    states = RunStates.read(plan.runs, store)
    assert states.without_removed(plan.runs, store) == states and len(states.trained) == 5
    remove_runs(tmp_path, removable_runs(tmp_path, [store.folder(plan.runs[0])]))
    assert states.without_removed(plan.runs, store).trained == states.trained - {plan.runs[0].name}
