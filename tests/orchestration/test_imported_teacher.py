"""An imported teacher in a whole command: it is evaluated first, and ends the command if it does not fit."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_runs import Ended, run_here
from imported_teachers import good_file, good_state, importing, permuted_head
from rich.console import Console
from safetensors.torch import save_file
from search_runs import EXPERIMENT, run_search
from small_runs import NO_WEIGHTS, digits, recipe
from written_records import record_of

from raykd.errors import ConfigError
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import run_experiments
from raykd.orchestration.run_queue import plan_jobs
from raykd.spec.experiment import Experiment, Workers
from raykd.spec.plan import make_plan
from raykd.store.records import ImportCheck
from raykd.store.run_store import RunStore

ONE_CPU = Workers(cpus=1)


def statuses_of(experiment: Experiment, results: Path) -> dict[str, str]:
    store = RunStore(results)
    return {run.stage: store.status(run) for run in make_plan(experiment, digits(), NO_WEIGHTS).runs}


def misfit(folder: Path) -> Path:
    save_file(permuted_head({index: 9 - index for index in range(10)}), folder / "misfit.safetensors")
    return folder / "misfit.safetensors"


def assert_refused(ended: Ended, file: Path) -> None:
    assert ended.exit_code == 2
    assert len(ended.errors) == 1
    assert ended.errors[0].startswith(f"raykd: teacher_checkpoint = {file}: its accuracy on validation is ")


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.nightly
def test_a_teacher_that_does_not_fit_ends_the_command_and_nothing_is_trained(cluster, tmp_path, monkeypatch) -> None:
    """Rerunning the command fails with the same message, read from the run's folder; Ray is not started."""
    file, results = misfit(tmp_path), tmp_path / "results"
    experiment = importing(file, workers=ONE_CPU)
    first = run_here([experiment], results)
    assert_refused(first, file)
    assert statuses_of(experiment, results) == {
        "teacher": "failed",
        "baseline": "not started",
        "distilled": "not started",
    }
    assert not (results / "report.json").exists()
    monkeypatch.setattr("raykd.orchestration.run_experiments.ray_session", lambda: pytest.fail("Ray was started"))
    again = run_here([experiment], results)
    assert again.exit_code == 2 and again.errors == first.errors


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.nightly
def test_the_accuracy_of_an_imported_teacher_is_logged_before_any_student_starts(cluster, tmp_path) -> None:
    file, results = tmp_path / "good.safetensors", tmp_path / "results"
    file.write_bytes(good_file())
    experiment = importing(file, workers=ONE_CPU, student=recipe(epochs=1))
    ended = run_here([experiment], results)
    assert ended.exit_code == 0, ended.errors
    log = [line for line in ended.lines if "-imported-" in line or "baseline-" in line or "distilled-" in line]
    assert "done: imported, validation top-1 9" in log[0] and "% of 200 images" in log[0]
    again = run_here([experiment], results)
    assert any(": imported, validation top-1 9" in line for line in again.lines)


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.nightly
def test_a_search_ends_before_its_trials_where_its_teacher_does_not_fit(cluster, tmp_path) -> None:
    file, results = misfit(tmp_path), tmp_path / "results"
    ended = run_search(results, replace(EXPERIMENT, teacher_checkpoint=str(file), teacher=importing(file).teacher))
    assert ended.exit_code == 2 and ended.error.count("\n") == 1
    assert ended.error.startswith(f"raykd: teacher_checkpoint = {file}: its accuracy on validation is ")
    assert not list(results.glob("*/*/trials*")) and not list(results.glob("*/distilled-*"))


@pytest.mark.nightly
def test_a_refusal_that_is_recorded_is_raised_by_the_plan_too(tmp_path) -> None:
    file = misfit(tmp_path)
    experiment, options = importing(file), Options(tmp_path / "results", tmp_path)
    (teacher,) = make_plan(experiment, digits(), NO_WEIGHTS, ("teacher",)).runs
    folder = RunStore(options.results).folder(teacher)
    folder.write_record(
        record_of(teacher, status="failed", imported=ImportCheck(1.0, 9, "it does not fit", ("beware",)))
    )
    with pytest.raises(ConfigError, match=r"misfit\.safetensors: it does not fit; beware"):
        run_experiments([experiment], Command(options, Console(file=io.StringIO())))


def test_every_run_waits_for_every_imported_teacher(tmp_path) -> None:
    save_file(good_state(), tmp_path / "a.safetensors")
    imported = make_plan(importing(tmp_path / "a.safetensors"), digits(), NO_WEIGHTS).runs
    other = make_plan(replace(importing("x"), family="other", teacher_checkpoint=None), digits(), NO_WEIGHTS).runs
    jobs = plan_jobs([*other, *imported], set(), set())
    first = f"train {imported[0].name}"
    waiting = [job for job in jobs if job.kind == "train" and job.name != first]
    assert len(waiting) == 5 and all(first in job.needs for job in waiting)
    done = plan_jobs([*other, *imported], {imported[0].name}, set())
    assert not any(first in job.needs for job in done)
