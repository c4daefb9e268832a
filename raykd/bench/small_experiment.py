"""Time the training of all models of a small experiment, with the standard pipeline and with raykd.

The experiment trains a teacher, baselines and distilled students.

Models of width 16, 3 seeds, 16 epochs each, on images of noise, with the same images, epochs and validation for both.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raykd.bench.families import noise
from raykd.bench.standard_pipeline import StandardPipeline
from raykd.bench.without_ray import train_plan
from raykd.data.types import Dataset
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Plan, make_plan
from raykd.spec.recipe import SGD, Cosine, Recipe
from raykd.store.run_store import RunStore
from raykd.training.compute import GLIBC_DEFAULT, set_malloc


@dataclass(frozen=True)
class SmallExperiment:
    num_images: int = 768
    epochs: int = 16
    width: int = 16

    def plan(self, dataset: Dataset) -> Plan:
        recipe = Recipe(ResNet(width=self.width), epochs=self.epochs, optimizer=SGD(lr=0.05), schedule=Cosine())
        student = replace(recipe, model=ResNet(blocks=(1, 1, 1, 1), width=self.width))
        data = Data("cifar10", val_images=128)
        return make_plan(Experiment(family="small", data=data, teacher=recipe, student=student), dataset, Path("none"))


def compare(experiment: SmallExperiment, device: torch.device) -> dict[str, float]:
    """Return the training seconds of the standard pipeline and of raykd, and their ratio.

    Both are measured once, after a warm-up with one epoch per run.
    """
    if experiment.epochs > 1:
        compare(replace(experiment, epochs=1), device)
    dataset = noise(experiment.num_images)
    plan = experiment.plan(dataset)
    set_malloc(GLIBC_DEFAULT)
    start = time.perf_counter()
    _train_standard_pipeline(plan, dataset, device)
    standard_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train_plan(plan, dataset, device, RunStore(Path(folder)))
        raykd_s = time.perf_counter() - start
    return {"standard_s": standard_s, "raykd_s": raykd_s, "ratio": standard_s / raykd_s}


def _train_standard_pipeline(plan: Plan, dataset: Dataset, device: torch.device) -> None:
    teacher = None
    for run in plan.runs:
        pipeline = StandardPipeline(run, dataset, teacher if run.stage == "distilled" else None, device)
        for _ in range(run.recipe.epochs):
            pipeline.epoch()
            pipeline.validate()
        teacher = pipeline.student.requires_grad_(False) if run.stage == "teacher" else teacher
