"""The line of a plan about runs of other configurations, so that a reader of "not started" knows that none is lost."""

from dataclasses import replace

import pytest
from small_runs import experiment, plan_of, recipe
from written_results import finish, finished, interrupt

from raykd.methods import DKD, KD
from raykd.orchestration.earlier_runs import earlier_runs_line
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan
from raykd.store.locked_folder import LockedFolder
from raykd.store.run_store import RunStore

SEVERAL = (0, 1)


def line_of(results, made: Experiment) -> str:
    return earlier_runs_line(plan_of(made), RunStore(results))


def test_runs_of_an_earlier_configuration_are_counted_with_the_fields_that_differ(tmp_path, monkeypatch):
    interrupt(RunStore(tmp_path).folder(finished(tmp_path).runs[-1]))
    changed = experiment(seeds=SEVERAL, student=recipe(epochs=5), method=KD(alpha=0.5, temperature=2.0))
    line = line_of(tmp_path, changed)
    assert line.startswith(
        "4 runs of other configurations are kept and not counted here; "
        "those of the last command differ in method.temperature, student.epochs; '"
    )
    assert line.endswith(f"runs --results {tmp_path}' lists them")
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("ray_results").symlink_to(tmp_path)
    assert line_of(type(tmp_path)("ray_results"), changed).endswith("runs' lists them")


def test_an_unchanged_plan_and_an_empty_folder_have_no_line(tmp_path):
    assert line_of(tmp_path, experiment()) == ""
    finished(tmp_path)
    assert line_of(tmp_path, experiment(seeds=SEVERAL)) == ""


def test_another_teacher_counts_with_its_students_but_not_if_the_family_has_not_planned_it(tmp_path):
    finished(tmp_path)
    longer = experiment(seeds=SEVERAL, teacher=recipe(epochs=9, model=experiment().teacher.model))
    line = line_of(tmp_path, longer)
    assert line.startswith("3 runs") and "differ in teacher.epochs;" in line
    assert line_of(tmp_path, replace(longer, family="other")) == ""


def test_fewer_seeds_are_named(tmp_path):
    finished(tmp_path)
    assert line_of(tmp_path, experiment()).startswith("2 runs") and "differ in seeds;" in line_of(
        tmp_path, experiment()
    )


def test_runs_that_the_last_command_did_not_plan_are_counted_without_fields(tmp_path):
    finished(tmp_path)
    finish(RunStore(tmp_path), plan_of(experiment(student=recipe(epochs=5))).runs[1])
    line = line_of(tmp_path, experiment(seeds=SEVERAL))
    assert line.startswith("1 run of other configurations is kept and not counted here; '")


def test_only_the_planned_stages_are_compared(tmp_path):
    finished(tmp_path)
    whole = plan_of(experiment(seeds=SEVERAL, student=recipe(epochs=5)))
    baselines = Plan(whole.experiment, tuple(run for run in whole.runs if run.stage == "baseline"))
    assert earlier_runs_line(baselines, RunStore(tmp_path)).startswith("2 runs")


@pytest.mark.parametrize("damaged", ["plan.json", "run.json"])
def test_a_damaged_file_does_not_end_the_plan(tmp_path, damaged):
    finished(tmp_path)
    for path in (tmp_path / "small").rglob(damaged):
        path.write_text("{")
    line = line_of(tmp_path, experiment(seeds=SEVERAL, student=recipe(epochs=5)))
    assert line.startswith("4 runs of other configurations are kept and not counted here; '")


def test_few_files_are_read_however_many_runs_there_are(tmp_path, monkeypatch):
    finished(tmp_path, experiment(seeds=tuple(range(20)), compare=(DKD(),)))
    reads = []
    record = LockedFolder.record
    monkeypatch.setattr(LockedFolder, "record", lambda folder: reads.append(folder) or record(folder))
    assert line_of(tmp_path, experiment(student=recipe(epochs=5))).startswith("60 runs")
    assert len(reads) == 3, "a baseline and a student of each method"
