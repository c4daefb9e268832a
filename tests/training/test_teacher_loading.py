"""A run loads its teacher from the planned logit cache, or live if it started live."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, teacher_of, train

from raykd.bench.without_ray import train_plan
from raykd.errors import Interrupted, RunFailed
from raykd.methods import FeatureKD
from raykd.spec.plan import Run, make_plan
from raykd.store.run_store import RunStore
from raykd.training.teacher import load as teachers
from raykd.training.teacher.choose import PlannedCache, choose_teacher
from raykd.training.teacher.sources import no_teacher

EPOCHS = 6


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """With a trained teacher."""
    made = RunStore(tmp_path)
    train(planned()[0], made.folder(planned()[0]))
    return made


def planned() -> tuple[Run, ...]:
    return make_plan(experiment(student=recipe(epochs=EPOCHS), teacher=recipe(epochs=1)), digits(), NO_WEIGHTS).runs


def wanted(store: RunStore) -> PlannedCache:
    asked = experiment(student=recipe(epochs=EPOCHS), teacher=recipe(epochs=1), teacher_source="cache")
    plan = make_plan(asked, digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), store.logit_caches, [store.folder(plan.runs[0])])
    assert found is not None and found.cache is not None
    return found.cache


def source(run: Run, store: RunStore, cache: PlannedCache | None) -> str:
    return teachers.load_teacher(run, store.folder(run).teacher_source_at_start, cache, store, digits(), CPU).source


def test_a_baseline_has_no_teacher_and_a_distilled_run_the_planned_one(store: RunStore) -> None:
    _, baseline, distilled = planned()
    assert teachers.load_teacher(baseline, "", None, store, digits(), CPU) is no_teacher
    assert source(distilled, store, None) == "live"
    cache = wanted(store)
    with pytest.raises(RunFailed, match="lacks"):
        source(distilled, store, cache)
    teachers.make_filler(cache, store, digits(), CPU).fill(0)
    assert source(distilled, store, cache) == "cache"


def test_run_that_started_with_a_live_teacher_resumes_with_it(store: RunStore) -> None:
    *_, distilled = planned()
    live = teachers.load_teacher(distilled, "", None, store, digits(), CPU)
    with pytest.raises(Interrupted):
        train(distilled, store.folder(distilled), live, should_stop=lambda: True)
    assert source(distilled, store, wanted(store)) == "live"


def test_teachers_of_both_kinds_know_the_same_weights(store: RunStore) -> None:
    *_, distilled = planned()
    cache = wanted(store)
    teachers.make_filler(cache, store, digits(), CPU).fill(0)
    made = [teachers.load_teacher(distilled, "", t, store, digits(), CPU) for t in (None, cache)]
    assert made[0].identity == made[1].identity != teacher_of(distilled).identity


@pytest.mark.nightly
def test_plan_of_a_method_of_embeddings_reads_them_from_one_cache(tmp_path: Path) -> None:
    made = experiment(student=recipe(epochs=EPOCHS), teacher=recipe(epochs=1), method=FeatureKD(), seeds=(0, 1))
    plan, store = make_plan(replace(made, teacher_source="cache"), digits(), NO_WEIGHTS), RunStore(tmp_path)
    train_plan(plan, digits(), CPU, store)
    (folder,) = store.logit_caches.iterdir()
    assert (folder / "outputs.f16").stat().st_size == 1_200 * 18 * (10 + 64) * 2
    for run in plan.runs[-2:]:
        record = store.folder(run).require_record()
        assert record.compute.teacher == "cache" and record.status == "done"
