"""Small experiments on the digits, and helpers to train their runs in seconds on one CPU thread.

A child process imports this file too, so nothing in it needs pytest.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from raykd import models
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.methods import KD
from raykd.models.four_stage_resnet import MIN_WIDTH, ResNet
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Plan, Run, make_plan
from raykd.spec.recipe import SGD, Cosine, Recipe
from raykd.spec.stages import Stage
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.model_file import images_of
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.load import load_cached_teacher, load_live_teacher
from raykd.training.teacher.sources import LiveTeacher, Teacher, no_teacher

CPU = torch.device("cpu")
IMAGE_SIZE = 8  # the digits as they are stored
WIDTH = MIN_WIDTH
NO_WEIGHTS = Path("no-weights-here")
TIMINGS = ("seconds", "images_per_s")  # columns of a history that differ between equal runs


@cache
def digits() -> Dataset:
    """Return the digits: 1,200 training and 597 test images of 8x8."""
    return load_dataset("digits", None, image_size=IMAGE_SIZE)


def recipe(**changes: Any) -> Recipe:
    """Return a recipe of 3 epochs with 4 steps for a ResNet of 78 thousand weights."""
    model = ResNet(blocks=(1, 1, 1, 1), width=WIDTH)
    base = Recipe(model, epochs=3, batch_size=50, optimizer=SGD(lr=0.05), schedule=Cosine(), precision="fp32")
    return replace(base, **changes)


def experiment(**changes: Any) -> Experiment:
    """Return a teacher of width 16 and students of width 8 on 200 digits, 100 for validation; one seed."""
    base = Experiment(
        family="small",
        data=Data("digits", val_images=100, train_images=200, image_size=IMAGE_SIZE, crop_padding=1, flip=True),
        teacher=recipe(model=ResNet(blocks=(1, 1, 1, 1), width=2 * WIDTH)),
        student=recipe(),
        method=KD(alpha=0.5, temperature=4.0),
        seeds=(0,),
    )
    return replace(base, **changes)


def plan_of(made: Experiment) -> Plan:
    return make_plan(made, digits(), NO_WEIGHTS)


def run_of(stage: Stage, **changes: Any) -> Run:
    """Return the first run of `stage` in the plan of `experiment(**changes)`."""
    return next(run for run in plan_of(experiment(**changes)).runs if run.stage == stage)


def teacher_of(run: Run) -> Teacher:
    """Return a live teacher with random weights of the model of the run's teacher; no teacher for a baseline."""
    if run.teacher is None:
        return no_teacher
    return LiveTeacher(models.build(run.teacher.model, images_of(digits()), seed=99))


def trained_teacher_of(run: Run, trained: RunFolder, caches: Path) -> Teacher:
    """Return the trained teacher of `run`: cached if there is a logit cache in `caches`, else live."""
    if run.teacher is None:
        return no_teacher
    live = load_live_teacher([trained], CPU)
    key = PlannedCache(run.teachers, run.data, run.recipe.precision, (), True, 1).key(digits(), live.identity)
    return load_cached_teacher(run, digits(), LogitCache(caches, key), CPU) if LogitCache.exists(caches, key) else live


def train(run: Run, folder: RunFolder, teacher: Teacher | None = None, **hooks: Any) -> list[EpochReport]:
    """Start or resume `run` with `Hooks(**hooks)`, and return the reports of all epochs."""
    reports: list[EpochReport] = []
    fit(run, digits(), folder, CPU, teacher or teacher_of(run), Hooks(reports.append, **hooks))
    return reports


def curve(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the history without the columns that depend on the clock."""
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in folder.history()]
