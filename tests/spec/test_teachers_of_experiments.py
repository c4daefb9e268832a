"""Experiments with the same teacher share its run, whatever else differs between them."""

from dataclasses import replace
from typing import Any

import pytest
from small_runs import NO_WEIGHTS, digits, experiment, recipe, run_of

from raykd.methods import CRD, DKD
from raykd.spec.experiment import Workers
from raykd.spec.plan import make_plan
from raykd.spec.search import Search, uniform
from raykd.spec.stages import TEACHERS

DATA = experiment().data


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "other"},
        {"student": recipe(epochs=9, batch_size=20)},
        {"method": CRD()},
        {"compare": (DKD(),)},
        {"seeds": (3, 4)},
        {"data": replace(DATA, student_images=100)},
        {"data": replace(DATA, storage="memory")},
        {"teacher_source": "live"},
        {"cached_classes": 3},
        {"workers": Workers(count=2)},
        {"search": Search({"method.alpha": uniform(0, 1)})},
        {"teacher_seeds": (0, 1)},
    ],
    ids=str,
)
def test_a_change_that_the_teacher_does_not_depend_on_keeps_its_run(changes: dict[str, Any]) -> None:
    assert run_of("teacher", **changes).name == run_of("teacher").name


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": recipe()},
        {"teacher_seed": 1},
        {"data": replace(DATA, train_images=150)},
        {"data": replace(DATA, val_images=90)},
        {"data": replace(DATA, split_seed=1)},
        {"data": replace(DATA, flip=False)},
    ],
    ids=str,
)
def test_another_recipe_other_images_or_another_seed_make_another_teacher(changes: dict[str, Any]) -> None:
    assert run_of("teacher", **changes).name != run_of("teacher").name


def test_teachers_have_a_separate_family_and_students_that_of_their_experiment() -> None:
    runs = make_plan(experiment(teacher_seeds=(0, 1)), digits(), NO_WEIGHTS).runs
    assert [(run.stage, run.family) for run in runs] == [
        *[("teacher", TEACHERS)] * 2,
        ("baseline", "small"),
        ("distilled", "small"),
    ]
