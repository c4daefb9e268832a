"""Experiments with the same teacher in one results folder: it is trained once, by one command or by two."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_runs import run_here
from rich.console import Console
from small_runs import CPU, digits, experiment, plan_of

from raykd.bench.without_ray import train_plan
from raykd.errors import Interrupted
from raykd.methods import FitNets
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.reporting import evaluate_and_report
from raykd.orchestration.run_experiments import train_experiments
from raykd.orchestration.run_queue import Job, plan_jobs
from raykd.orchestration.runs_left import RunsLeft
from raykd.spec.experiment import Experiment, Workers
from raykd.spec.plan import Run
from raykd.spec.stages import TEACHERS
from raykd.store.records import read_plan
from raykd.store.run_store import RunStore
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.teacher.choose import PlannedCache

ONE = experiment(family="one", workers=Workers(cpus=1))
OTHER = experiment(family="other", method=FitNets(), seeds=(1,), workers=Workers(cpus=1))
NO_DATA = Path("no-data-here")


def teacher_of(family: Experiment) -> Run:
    return plan_of(family).runs[0]


def train(family: Experiment, results: Path, hooks: Hooks) -> None:
    """Train the runs of `family` without Ray, and write its plan."""
    plan, store = plan_of(family), RunStore(results)
    store.write_plan(plan)
    train_plan(plan, digits(), CPU, store, hooks)


def names_trained(trained: list[str]) -> list[str]:
    """Return the runs in the order of their first epoch."""
    return list(dict.fromkeys(trained))


def planned_jobs(results: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Return the jobs of a command that runs both families; nothing is trained."""
    found: list[Job] = []

    def run(left: RunsLeft, *_: object) -> list[object]:
        found.extend(left.jobs())
        return []

    monkeypatch.setattr("raykd.orchestration.run_experiments._run", run)
    train_experiments([ONE, OTHER], Command(Options(results, NO_DATA), Console(file=io.StringIO())))
    return found


def test_one_command_plans_the_teacher_of_two_families_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = planned_jobs(tmp_path, monkeypatch)
    teacher = teacher_of(ONE).name
    assert [job.name for job in jobs if job.run.stage == "teacher"] == [f"train {teacher}", f"evaluate {teacher}"]
    distilled = [job for job in jobs if job.kind == "train" and job.run.stage == "distilled"]
    assert [job.run.family for job in distilled] == ["one", "other"]
    assert all(job.needs == (f"train {teacher}",) for job in distilled)
    for family in ("one", "other"):
        assert read_plan(tmp_path / family / "plan.json").stages["teacher"] == (teacher,)


def test_runs_of_two_families_read_the_cache_of_their_family() -> None:
    runs = [*plan_of(ONE).runs, *plan_of(replace(ONE, family="other")).runs[1:]]
    caches = [
        PlannedCache((runs[0],), ONE.data, precision, (), True, 1, families=frozenset({family}))
        for family, precision in {"one": "fp32", "other": "bf16"}.items()
    ]
    jobs = plan_jobs(runs, set(), set(), caches)
    assert len({job.name for job in jobs}) == len(jobs), "each part is filled by a job"
    read = {job.run.family: job.cache for job in jobs if job.kind == "train" and job.run.stage == "distilled"}
    assert read == dict(zip(("one", "other"), caches, strict=True))


def test_second_experiment_trains_no_teacher_and_both_reports_have_it(tmp_path: Path) -> None:
    trained: list[str] = []
    hooks = Hooks(lambda report: trained.append(report.run))
    train(ONE, tmp_path, hooks)
    before, store = list(trained), RunStore(tmp_path)
    record = store.folder(teacher_of(ONE)).require_record()
    train(OTHER, tmp_path, hooks)
    assert names_trained(trained) == [run.name for run in (*plan_of(ONE).runs, *plan_of(OTHER).runs[1:])]
    assert teacher_of(OTHER).name in before
    assert store.folder(teacher_of(OTHER)).require_record() == record
    assert [path.name for path in (tmp_path / TEACHERS).iterdir()] == [record.name]

    report = evaluate_and_report(Command(Options(tmp_path, NO_DATA), Console(file=io.StringIO())))
    accuracies = json.loads((tmp_path / "report.json").read_text())
    assert accuracies["one"]["teacher_accuracy"] == accuracies["other"]["teacher_accuracy"] > 0
    assert not any(summary.missing for summary in report.summaries)
    assert "earlier weights" not in str([summary.warnings for summary in report.summaries])
    students = [store.folder(run) for family in (ONE, OTHER) for run in plan_of(family).runs if run.teacher]
    assert all('"agreement": null' not in folder.test.read_text() for folder in students), "evaluated with the teacher"
    saved = [tmp_path / "models_saved" / f"{family}_teacher.safetensors" for family in ("one", "other")]
    assert {path.read_bytes() for path in saved} == {store.folder(teacher_of(ONE)).best.read_bytes()}
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count(f'href="../teachers/{record.name}/"') == 2 and f"../one/{record.name}" not in page


def test_teacher_that_was_interrupted_is_resumed_by_another_experiment(tmp_path: Path) -> None:
    epochs: list[int] = []

    def count(report: EpochReport) -> None:
        epochs.append(report.epoch)

    with pytest.raises(Interrupted):
        train(ONE, tmp_path, Hooks(count, should_stop=lambda: len(epochs) == 2))
    folder = RunStore(tmp_path).folder(teacher_of(ONE))
    assert folder.status() == "interrupted" and epochs == [0, 1]
    train(OTHER, tmp_path, Hooks(lambda report: count(report) if report.run == folder.path.name else None))
    assert epochs == [0, 1, 2] and folder.require_record().resumes == 1
    train_plan(plan_of(ONE), digits(), CPU, RunStore(straight := tmp_path / "straight"))
    assert RunStore(straight).folder(teacher_of(ONE)).best.read_bytes() == folder.best.read_bytes()


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.xdist_group("ray")
def test_two_families_in_one_command_train_their_teacher_once(cluster: str, tmp_path: Path) -> None:
    one, other = (replace(ONE, family=family, teacher_source="cache") for family in ("one", "other"))
    ended = run_here([one, other], tmp_path)
    assert ended.exit_code == 0 and ended.errors == [], ended
    assert any(line.startswith("5 runs, 0 of them done before") for line in ended.lines)
    (teacher,) = (tmp_path / TEACHERS).iterdir()
    assert teacher.name == teacher_of(one).name
    (cache,) = (tmp_path / ".logit_caches").iterdir()
    assert (cache / "cache.json").is_file()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["one"] == report["other"] and None not in report["one"].values(), "equal but for their names"
