"""Small experiments on the digits and what tests do with their runs: seconds each, on one CPU thread.

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
from raykd.models.resnet_cifar import MIN_WIDTH, ResNet
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import SGD, Cosine, Recipe
from raykd.spec.stages import Stage
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.model_file import images_of
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import cache_key
from raykd.training.teacher.load import load_cached_teacher, load_live_teacher
from raykd.training.teacher.sources import LiveTeacher, Teacher, no_teacher

CPU = torch.device("cpu")
IMAGE_SIZE = 8  # the digits as they are stored
WIDTH = MIN_WIDTH
NO_WEIGHTS = Path("no-weights-here")


@cache
def digits() -> Dataset:
    """1,200 and 597 images of 8x8."""
    return load_dataset("digits", None, image_size=IMAGE_SIZE)


def recipe(**changes: Any) -> Recipe:
    """3 epochs of 4 steps for a ResNet of 78 thousand weights."""
    model = ResNet(blocks=(1, 1, 1, 1), width=WIDTH)
    made = Recipe(model, epochs=3, batch_size=50, optimizer=SGD(lr=0.05), schedule=Cosine(), precision="fp32")
    return replace(made, **changes)


def experiment(**changes: Any) -> Experiment:
    """A teacher of width 16 and students of width 8 on 200 digits, 100 held out; one seed."""
    made = Experiment(
        family="small",
        data=Data("digits", val_images=100, train_images=200, image_size=IMAGE_SIZE, crop_padding=1, flip=True),
        teacher=recipe(model=ResNet(blocks=(1, 1, 1, 1), width=2 * WIDTH)),
        student=recipe(),
        method=KD(alpha=0.5, temperature=4.0),
        seeds=(0,),
    )
    return replace(made, **changes)


def run_of(stage: Stage, **changes: Any) -> Run:
    """The first run of `stage` in the plan of `experiment(**changes)`."""
    return next(run for run in make_plan(experiment(**changes), digits(), NO_WEIGHTS).runs if run.stage == stage)


def teacher_of(run: Run) -> Teacher:
    """A live teacher of the run's teacher's shape with weights that were never trained; none for a baseline."""
    if run.teacher is None:
        return no_teacher
    return LiveTeacher(models.build(run.teacher.model, images_of(digits()), seed=99))


def taught_by(run: Run, trained: RunFolder, caches: Path) -> Teacher:
    """The trained teacher of `run`, from its logit cache below `caches` where there is one, else live."""
    if run.teacher is None:
        return no_teacher
    live = load_live_teacher([trained], CPU)
    key = cache_key(run.data, run.recipe.precision, digits(), live.identity)
    return load_cached_teacher(run, digits(), LogitCache(caches, key), CPU) if LogitCache.exists(caches, key) else live


def train(run: Run, folder: RunFolder, teacher: Teacher | None = None, **hooks: Any) -> list[EpochReport]:
    """Train from where the folder stands, with `Hooks(**hooks)`; what `on_epoch` heard."""
    reports: list[EpochReport] = []
    fit(run, digits(), folder, CPU, teacher or teacher_of(run), Hooks(reports.append, **hooks))
    return reports
