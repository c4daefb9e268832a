"""The logit caches of families that share a teacher: one cache with the views of all, or one for each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_runs import NO_WEIGHTS, digits, experiment, recipe

from raykd.spec.plan import Plan, make_plan
from raykd.store.run_store import RunStore
from raykd.training.teacher.choose import PlannedCache, choose_teacher, merge_caches
from raykd.training.teacher.fill import views_to_fill


def plan_and_cache(folder: Path, **changes: Any) -> tuple[Plan, PlannedCache]:
    """Return an experiment's plan, and the logit cache that its students read."""
    plan = make_plan(experiment(teacher_source="cache", **changes), digits(), NO_WEIGHTS)
    store = RunStore(folder)
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    choice = choose_teacher(plan, digits(), (), store.logit_caches, teachers)
    assert choice is not None and choice.cache is not None
    return plan, choice.cache


def are_served(plan: Plan, cache: PlannedCache) -> bool:
    """Return whether the distilled students of `plan` read `cache`; they are all alike."""
    (served,) = {cache.serves(run) for run in plan.runs if run.stage == "distilled"}
    return served


def test_families_with_equal_caches_fill_one_with_the_views_of_all(tmp_path: Path) -> None:
    one, first = plan_and_cache(tmp_path)
    other, second = plan_and_cache(tmp_path, family="other", seeds=(0, 1), student=recipe(epochs=2))
    (merged,) = merge_caches([first, second])
    assert merged.epochs == ((0, 3), (1, 2)) and not merged.holds_all_views
    expected = views_to_fill(first, digits()) | views_to_fill(second, digits())
    assert torch.equal(views_to_fill(merged, digits()), expected)
    assert are_served(one, merged) and are_served(other, merged)


def test_a_cache_alone_is_not_changed(tmp_path: Path) -> None:
    _, cache = plan_and_cache(tmp_path)
    assert merge_caches([cache]) == [cache]


def test_a_family_that_needs_all_views_makes_the_shared_cache_hold_them(tmp_path: Path) -> None:
    _, few = plan_and_cache(tmp_path)
    _, many = plan_and_cache(tmp_path, family="other", student=recipe(epochs=400))
    assert many.holds_all_views and not few.holds_all_views
    (merged,) = merge_caches([few, many])
    assert merged.holds_all_views and merged.epochs == ()


def test_families_whose_students_differ_in_images_or_precision_read_separate_caches(tmp_path: Path) -> None:
    one, first = plan_and_cache(tmp_path)
    for changes in (
        {"data": replace(experiment().data, student_images=100)},
        {"student": recipe(precision="bf16")},
        {"cached_classes": 3},
    ):
        other, second = plan_and_cache(tmp_path, family="other", **changes)
        assert merge_caches([first, second]) == [first, second]
        assert are_served(one, first) and are_served(other, second)
        assert not are_served(one, second) and not are_served(other, first)


def test_a_family_with_a_live_teacher_reads_no_cache_of_another_family(tmp_path: Path) -> None:
    _, cache = plan_and_cache(tmp_path)
    live = make_plan(experiment(family="other", teacher_source="live"), digits(), NO_WEIGHTS)
    assert not are_served(live, cache)
