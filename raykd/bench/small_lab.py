"""A small lab from its first line to its last model, the usual way and raykd's: teacher, baselines, distilled students.

Narrow models, 3 seeds, 20 epochs each, on images of noise; both get the same images, epochs and validation.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raykd.bench.families import noise
from raykd.bench.usual import UsualWay
from raykd.data.dataset import Dataset
from raykd.experiment import Data, Experiment
from raykd.models.resnet_cifar import ResNet
from raykd.models.weights import file_fingerprint
from raykd.plan import Plan, Run, make_plan
from raykd.recipe import SGD, Cosine, Recipe
from raykd.runs import RunStore
from raykd.teacher_table import TeacherTable
from raykd.teaching import decide
from raykd.training.compute import choose
from raykd.training.fill import Filler
from raykd.training.loop import fit
from raykd.training.teachers import Teacher, no_teacher, read_table
from raykd.training.trained import load_trained


@dataclass(frozen=True)
class SmallLab:
    """Its size."""

    num_images: int = 1408
    epochs: int = 20
    width: int = 16

    def plan(self, dataset: Dataset) -> Plan:
        recipe = Recipe(ResNet(width=self.width), epochs=self.epochs, optimizer=SGD(lr=0.05), schedule=Cosine())
        student = replace(recipe, model=ResNet(blocks=(1, 1, 1, 1), width=self.width))
        data = Data("cifar10", val_images=128)
        return make_plan(Experiment(family="small", data=data, teacher=recipe, student=student), dataset, Path("none"))


def compare(size: SmallLab, device: torch.device) -> dict[str, float]:
    """Seconds of both, and their ratio."""
    dataset = noise(size.num_images)
    plan = size.plan(dataset)
    began = time.perf_counter()
    _usual(plan, dataset, device)
    usual_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _raykd(plan, dataset, device, RunStore(Path(folder)))
        raykd_s = time.perf_counter() - began
    return {"usual_s": usual_s, "raykd_s": raykd_s, "ratio": usual_s / raykd_s}


def _usual(plan: Plan, dataset: Dataset, device: torch.device) -> None:
    teacher = None
    for run in plan.runs:
        way = UsualWay(run, dataset, teacher if run.stage == "distilled" else None, device)
        for _ in range(run.recipe.epochs):
            way.epoch()
            way.validate()
        teacher = way.student.requires_grad_(False) if run.stage == "teacher" else teacher


def _raykd(plan: Plan, dataset: Dataset, device: torch.device, store: RunStore) -> None:
    """What the lab does on Ray, in one process: table included, as it would be decided."""
    for run in plan.runs:
        teacher = _teacher(run, plan, dataset, device, store) if run.stage == "distilled" else no_teacher
        fit(run, dataset, store.folder(run), device, teacher)


def _teacher(run: Run, plan: Plan, dataset: Dataset, device: torch.device, store: RunStore) -> Teacher:
    """From its table, which the first to ask fills."""
    assert run.teacher is not None
    folder = store.folder(run.teacher)
    teaching = decide(plan, dataset, (), store.tables, folder)
    assert teaching is not None and teaching.table is not None
    table = TeacherTable(store.tables, teaching.table.key(dataset, file_fingerprint(folder.best)))
    model = load_trained(folder.best).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    filler = Filler(teaching.table, dataset, table, model, choose(device, teaching.table.precision))
    for part in range(teaching.table.num_parts):
        filler.fill(part)
    return read_table(run, dataset, table, device)
