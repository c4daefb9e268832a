"""A run that started with a cache of embeddings resumes when other methods are compared with its method."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import CPU, digits, experiment, plan_of, recipe, train

from raykd.errors import ConfigError, Interrupted, RunFailed
from raykd.methods import KD, VID, FeatureKD
from raykd.orchestration.experiment_plans import teacher_choice_of
from raykd.orchestration.options import Options
from raykd.orchestration.run_queue import Job, plan_jobs
from raykd.orchestration.run_states import RunStates
from raykd.spec.overrides import override
from raykd.spec.plan import Plan, Run
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.teacher.choose import TeacherChoice
from raykd.training.teacher.load import load_teacher, make_filler

SINGLE_WORKER = experiment(
    method=FeatureKD(), teacher_source="cache", student=recipe(epochs=6), teacher=recipe(epochs=1), seeds=(0, 1)
)
COMPARED = replace(SINGLE_WORKER, teacher_source="auto", compare=(KD(), VID()))


def named(plan: Plan, method: type, seed: int = 0) -> Run:
    return next(run for run in plan.runs if type(run.method) is method and run.seed == seed)


def asked(plan: Plan, results: Path) -> tuple[TeacherChoice | None, list[Job]]:
    """Return the teacher source of the plan's runs, and the jobs that are left."""
    states = RunStates.read(plan.runs, RunStore(results))
    choice = teacher_choice_of(plan, digits(), states, Options(results, Path("no-data")))
    caches = choice.caches if choice else ()
    return choice, plan_jobs(plan.runs, states.trained, states.trained, caches, states.started_live)


def resume(run: Run, plan: Plan, results: Path, **hooks: Any) -> str:
    """Train `run` as a worker would that is given its job; under what it was trained."""
    store, (_, jobs) = RunStore(results), asked(plan, results)
    job = next(job for job in jobs if job.kind == "train" and job.run == run)
    for fill in (other for other in jobs if other.kind == "fill" and other.name in job.needs):
        assert fill.cache is not None
        make_filler(fill.cache, store, digits(), CPU).fill(fill.part)
    folder = store.folder(run)
    teacher = load_teacher(run, folder.teacher_source_at_start, job.cache, store, digits(), CPU)
    train(run, folder, teacher, **hooks)
    return folder.require_record().compute.teacher


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with a trained teacher, and a FeatureKD student that was interrupted in its second epoch."""
    plan, steps = plan_of(SINGLE_WORKER), iter(range(6))
    train(plan.runs[0], RunStore(tmp_path).folder(plan.runs[0]))
    with pytest.raises(Interrupted):
        resume(named(plan, FeatureKD), plan, tmp_path, should_stop=lambda: next(steps, None) is None)
    return tmp_path


def test_run_resumes_with_its_cache_to_the_same_bits_and_the_others_do_not_change(results: Path) -> None:
    plan, store = plan_of(COMPARED), RunStore(results)
    teaching, _ = asked(plan, results)
    assert teaching is not None and teaching.cache is not None and teaching.embedding_cache is not None
    assert (teaching.cache.embedding_width, teaching.embedding_cache.embedding_width) == (0, 64)
    assert teaching.reason.endswith(
        "; logit cache with embeddings for 2 runs, because one of them started with it; "
        "live for 2 runs whose methods need more"
    )
    run, straight = named(plan, FeatureKD), RunFolder(results / "straight")
    for method, source in ((FeatureKD, "cache"), (KD, "cache"), (VID, "live")):
        assert resume(named(plan, method), plan, results) == source
    train(run, straight, load_teacher(run, "", teaching.embedding_cache, store, digits(), CPU))
    assert straight.best.read_bytes() == store.folder(run).best.read_bytes()
    assert len(list(store.logit_caches.iterdir())) == 2


@pytest.mark.nightly
def test_no_cache_with_embeddings_is_planned_after_that_run_is_done(results: Path) -> None:
    plan = plan_of(COMPARED)
    resume(named(plan, FeatureKD), plan, results)
    teaching, jobs = asked(plan, results)
    assert teaching is not None and teaching.embedding_cache is None
    assert next(job for job in jobs if job.run == named(plan, FeatureKD, seed=1)).cache is None


def test_cache_is_kept_if_no_other_method_reads_one(results: Path) -> None:
    plan = plan_of(replace(COMPARED, compare=(VID(),)))
    teaching, _ = asked(plan, results)
    assert teaching is not None and teaching.cache is None and teaching.reason.startswith("logit cache with embeddings")
    assert resume(named(plan, FeatureKD), plan, results) == "cache"


@pytest.mark.nightly
def test_methods_of_logits_never_read_the_cache_that_is_kept(tmp_path: Path) -> None:
    """Where a logit cache is not worth it they have a live teacher: the kept one's views are of other runs."""
    alone = replace(SINGLE_WORKER, student=recipe(epochs=4), seeds=(0,))
    plan, steps = plan_of(alone), iter(range(6))
    train(plan.runs[0], RunStore(tmp_path).folder(plan.runs[0]))
    with pytest.raises(Interrupted):
        resume(named(plan, FeatureKD), plan, tmp_path, should_stop=lambda: next(steps, None) is None)
    plan = plan_of(replace(alone, teacher_source="auto", compare=(KD(),)))
    teaching, _ = asked(plan, tmp_path)
    assert teaching is not None and teaching.cache is None and teaching.embedding_cache is not None
    assert teaching.reason.startswith("live, 4 teacher passes per image")
    assert resume(named(plan, KD), plan, tmp_path) == "live"
    assert resume(named(plan, FeatureKD), plan, tmp_path) == "cache"


def test_parts_of_both_caches_are_separate_jobs(results: Path) -> None:
    _, jobs = asked(plan_of(COMPARED), results)
    fills = [job for job in jobs if job.kind == "fill"]
    assert len({job.name for job in fills}) == len(fills) == 2


@pytest.mark.parametrize("compare", [(), (KD(),)])
@pytest.mark.nightly
def test_refusal_of_a_live_teacher_has_the_remedy(results: Path, compare: Any) -> None:
    made = replace(COMPARED, teacher_source="live", compare=compare)
    with pytest.raises(RunFailed, match=r"partly trained with teacher_source = cache, .* resume with live") as caught:
        resume(named(plan_of(made), FeatureKD), plan_of(made), results)
    (path, value), *_ = re.findall(r"--set (\w+)=(\w+)", str(caught.value))
    remedied = plan_of(override(made, path, value))
    assert resume(named(remedied, FeatureKD), remedied, results) == "cache"


@pytest.mark.nightly
def test_cache_that_is_gone_is_made_again_for_it(results: Path) -> None:
    shutil.rmtree(RunStore(results).logit_caches)
    for made in (COMPARED, replace(SINGLE_WORKER, teacher_source="auto", seeds=(0,))):
        plan, run = plan_of(made), named(plan_of(made), FeatureKD)
        steps = iter(range(2))
        with pytest.raises(Interrupted):
            resume(run, plan, results, should_stop=lambda steps=steps: next(steps, None) is None)
        assert RunStore(results).folder(run).teacher_source_at_start == "cache"


def test_teacher_source_cache_is_refused_with_a_remedy(results: Path) -> None:
    with pytest.raises(ConfigError, match="a logit cache holds logits; use live or auto"):
        replace(COMPARED, teacher_source="cache")
