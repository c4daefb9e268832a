"""The benchmarked recipes, from experiments/distill_cnn.py and distill_vit.py, on images of noise.

The content of images and the teacher's weights do not affect the time, so nothing is downloaded.
"""

from dataclasses import dataclass, replace

import torch

from raykd.data.types import Dataset, Split
from raykd.methods import KD, CrossEntropy
from raykd.models import ImageModel
from raykd.models.timm_model import Timm
from raykd.spec.experiment import Data
from raykd.spec.plan import Run
from raykd.spec.recipe import SGD, AdamW, Cosine, MultiStep, Recipe
from raykd.training.teacher.choose import PlannedCache
from raykd.training.training_step import make_model

NUM_CLASSES, IMAGE_SIZE = 10, 32
_MANY_EPOCHS = 10_000  # more than any benchmark trains
TRAIN_IMAGES_PER_VAL_IMAGE = 9  # as in CIFAR-10's 45,000 : 5,000


@dataclass(frozen=True)
class TimedPair:
    """The recipes of a teacher and a student.

    steps: training steps per round. epochs, seeds, num_images: the size of the experiment, whose runs share the cost of
    filling the logit cache.
    """

    name: str
    teacher: Recipe
    student: Recipe
    steps: int
    epochs: int
    seeds: int = 3
    num_images: int = 45_000

    @property
    def data(self) -> Data:
        return Data("cifar10", val_images=self.steps * self.student.batch_size // TRAIN_IMAGES_PER_VAL_IMAGE)

    @property
    def num_views(self) -> int:
        """The number of views of an image."""
        count = self.data.views.count
        assert count is not None, "padded views are finite"
        return count

    def dataset(self) -> Dataset:
        """Return noise images for the training steps of one round, and for its validation."""
        return noise(self.steps * self.student.batch_size + self.data.val_images)

    def teacher_run(self) -> Run:
        return Run(self.name, "teacher", self.teacher, data=self.data, data_identity="noise")

    def baseline(self) -> Run:
        return replace(self.teacher_run(), stage="baseline", recipe=self.student, method=CrossEntropy())

    def distilled(self) -> Run:
        return replace(self.baseline(), stage="distilled", method=KD(), teacher=self.teacher_run())

    def cache(self, num_parts: int = 1) -> PlannedCache:
        """Return the logit cache of all views, which the pair's distilled runs read."""
        return PlannedCache((self.teacher_run(),), self.data, self.student.precision, (), True, num_parts)

    def teacher_model(self, channels_last: bool) -> ImageModel:
        """Return the teacher's network with random weights."""
        model = make_model(self.teacher_run(), noise(NUM_CLASSES)).eval().requires_grad_(False)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return model.to(memory_format=layout)  # type: ignore[call-overload]


def noise(num_images: int) -> Dataset:
    """Return a data set of random uint8 images with an empty test split."""
    images = torch.randint(0, 256, (num_images, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    train = Split(images, torch.arange(num_images) % NUM_CLASSES)
    test, names = Split(images[:0], train.labels[:0]), tuple("0123456789")
    return Dataset("noise", train, test, names, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "noise")


def cnn() -> TimedPair:
    """Return the CNN pair: ResNet-18 -> ResNet-8."""
    recipe = Recipe("resnet18", epochs=_MANY_EPOCHS, optimizer=SGD(), schedule=MultiStep())
    return TimedPair("cnn", recipe, replace(recipe, model="resnet8"), steps=9, epochs=200)


def vit() -> TimedPair:
    """Return the ViT pair: ViT-Tiny at 224 -> 6 layers at 32."""
    teacher = Timm("vit_tiny_patch16_224", input_size=224)
    recipe = Recipe(teacher, epochs=_MANY_EPOCHS, optimizer=AdamW(lr=1e-3, weight_decay=0.05), schedule=Cosine())
    return TimedPair("vit", recipe, replace(recipe, model="vit6"), steps=5, epochs=150)


def pair(teacher: str, student: str) -> TimedPair:
    """Return a pair of any two models for images of 32 pixels, by name, with the CNN pair's recipe.

    Raises ConfigError for an unknown name, and for a model that cannot take these images.
    """
    recipe = replace(cnn().teacher, model=teacher)
    student_recipe = replace(recipe, model=student)
    # Few steps, because a large model may be slow.
    made = replace(cnn(), name=f"{teacher}:{student}", teacher=recipe, student=student_recipe, steps=3)
    for run in (made.teacher_run(), made.baseline()):
        make_model(run, noise(NUM_CLASSES)).require_size(IMAGE_SIZE, run.model.label)
    return made


FAMILIES = {"cnn": cnn, "vit": vit}
