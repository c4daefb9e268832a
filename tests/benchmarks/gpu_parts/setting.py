"""The subjects of the measurement: recipes of raykd.bench.families, full-sized or tiny, and ways to launch a step."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raykd import models
from raykd.bench.families import TimedPair, cnn, noise, vit
from raykd.data.types import Dataset
from raykd.methods import CRD, RKD, Method
from raykd.models import ImageModel
from raykd.models.four_stage_resnet import ResNet
from raykd.models.vit_cifar import ViT
from raykd.spec.plan import Run
from raykd.spec.recipe import Recipe
from raykd.training.model_file import images_of
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher, Teacher, no_teacher

NARROW = ResNet(blocks=(1, 1, 1, 1), width=8)
BATCH_SIZE, TEACHER_WIDTH = 16, 16  # of the checks
NARROW_VIT = ViT(depth=2, width=48, heads=3, patch=8)
ONE_BY_ONE = "graph, weights cast one by one"
WAYS = {
    "eager": {"compile": False, "step": "eager"},
    "graph": {"compile": False, "step": "graph"},
    ONE_BY_ONE: {"compile": False, "step": "graph"},
    "compile": {"compile": True, "step": "eager"},
    "graph+compile": {"compile": True, "step": "graph"},
}


@dataclass(frozen=True)
class Setting:
    """The arguments of all parts.

    device_name: 'cuda' or 'cpu'. toy: tiny models and few steps. data_dir: folder of CIFAR-10, or None. folder: for
    temporary files.
    """

    device_name: str
    toy: bool
    data_dir: Path | None
    folder: Path

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_name)

    @property
    def has_cuda(self) -> bool:
        return self.device.type == "cuda"

    def cnn(self, steps: int = 200) -> TimedPair:
        """Return ResNet-18 -> ResNet-8 with epochs of `steps` steps, tiny in a toy."""
        return self._sized(cnn(), NARROW, NARROW, steps)

    def vit(self, steps: int = 200) -> TimedPair:
        """Return ViT-Tiny at 224 -> 6 layers at 32, tiny in a toy."""
        return self._sized(vit(), NARROW_VIT, NARROW_VIT, steps)

    def _sized(self, family: TimedPair, teacher: models.Model, student: models.Model, steps: int) -> TimedPair:
        if not self.toy:
            return replace(family, steps=steps)
        recipes = (
            replace(family.teacher, model=teacher, batch_size=18),
            replace(family.student, model=student, batch_size=18),
        )
        return replace(family, teacher=recipes[0], student=recipes[1], steps=2)


@dataclass(frozen=True)
class Subject:
    """A training to measure. source of the teacher's outputs: 'none', 'cache' (logit cache) or 'live'."""

    name: str
    family: TimedPair
    run: Run
    source: str

    def launched(self, way: str) -> Run:
        """Return the run with its steps launched in one of WAYS; 'auto' leaves the recipe unchanged."""
        return with_recipe(self.run, **WAYS[way]) if way in WAYS else self.run

    def teacher(self, dataset: Dataset, device: torch.device) -> Teacher:
        """Return a teacher with fresh weights or random cached logits, whose values do not affect the time."""
        if self.source == "none":
            return no_teacher
        if self.source == "live":
            return LiveTeacher(self.family.teacher_model(channels_last=True).to(device))
        return random_cache(self.run, dataset, device)


def subjects(setting: Setting, steps: int = 200) -> list[Subject]:
    """Return the trainings of the parts 'steps' and 'profile', the most important first."""
    cnn_family, vit_family = setting.cnn(steps), setting.vit(steps)
    large = setting.vit(max(steps // 2, 1))
    distilled, vit6 = cnn_family.distilled(), vit_family.distilled()
    return [
        Subject("resnet8 cache", cnn_family, distilled, "cache"),
        Subject("resnet18 training", cnn_family, cnn_family.teacher_run(), "none"),
        Subject("vit6 cache", vit_family, vit6, "cache"),
        Subject("vit_tiny training", large, large.teacher_run(), "none"),
        Subject("resnet8 live", cnn_family, distilled, "live"),
        Subject("rkd live", cnn_family, replace(distilled, method=RKD()), "live"),
        Subject("crd live", cnn_family, replace(distilled, method=CRD()), "live"),
        Subject("resnet8 baseline", cnn_family, cnn_family.baseline(), "none"),
        Subject("vit6 live", vit_family, vit6, "live"),
        Subject("vit6 baseline", vit_family, vit_family.baseline(), "none"),
    ]


def subject_named(setting: Setting, name: str, steps: int = 200) -> Subject:
    return next(subject for subject in subjects(setting, steps) if subject.name == name)


def with_recipe(run: Run, **changes: object) -> Run:
    """Return `run` with some fields of its recipe changed."""
    return replace(run, recipe=replace(run.recipe, **changes))


def random_cache(run: Run, dataset: Dataset, device: torch.device, embedding_width: int = 0) -> CachedTeacher:
    """Return a full logit cache of random rows."""
    num_views = run.data.views.count
    shape = (len(dataset.train.labels) * num_views, dataset.num_classes + embedding_width)
    return CachedTeacher(torch.randn(shape, device=device, dtype=torch.float16), num_views, "", embedding_width)


@dataclass(frozen=True)
class Small:
    """A narrow training for checks, by default in float32: 6 batches of BATCH_SIZE images per epoch."""

    method: Method
    source: str
    precision: str = "fp32"
    step: str = "eager"
    epochs: int = 3

    def run(self, **changes: object) -> Run:
        base = cnn()
        recipe = Recipe(
            self._student(), epochs=self.epochs, batch_size=BATCH_SIZE, precision=self.precision, step=self.step
        )  # type: ignore[arg-type]
        family = replace(
            base,
            teacher=replace(recipe, model=ResNet(blocks=(1, 1, 1, 1), width=TEACHER_WIDTH)),
            student=recipe,
            steps=6,
        )
        run = family.baseline() if self.source == "none" else replace(family.distilled(), method=self.method)
        return with_recipe(run, **changes) if changes else run

    def _student(self) -> models.Model:
        if self.method.needs_distillation_token:
            return ViT(depth=2, width=48, heads=3, patch=8, distillation_token=True)
        return NARROW

    def teacher(self, run: Run, dataset: Dataset, device: torch.device) -> Teacher:
        """Return a teacher whose outputs are equal on every device."""
        if self.source == "none" or run.teacher is None:
            return no_teacher
        model = teacher_network(run, dataset).to(device)
        if self.source == "live":
            return LiveTeacher(model)
        width = TEACHER_WIDTH * 8 if "embedding" in run.method.needs else 0
        shape = (len(dataset.train.labels) * run.data.views.count, dataset.num_classes + width)
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(5)).half()
        return CachedTeacher(rows.to(device), run.data.views.count, "", width, load_network=lambda: model)


def teacher_network(run: Run, dataset: Dataset) -> ImageModel:
    """Return the teacher of `run` with the weights of its seed, on the CPU."""
    assert run.teacher is not None
    model = models.build(run.teacher.model, images_of(dataset), run.teacher.seed)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def small_dataset(num_images: int = 7 * BATCH_SIZE) -> Dataset:
    """Return images of noise, equal in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return noise(num_images)
