"""Fill a logit cache of the small digits or of CIFAR-10 in a child process, which a test may kill.

The child process imports this module, so it must not require pytest.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from small_runs import CPU

from raykd import models
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.experiment import Data
from raykd.spec.plan import Run
from raykd.training.compute import choose_compute
from raykd.training.model_file import images_of
from raykd.training.teacher import fill
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache

SHA = "5a" * 32


@dataclass(frozen=True)
class Story:
    """Fill all views of `data` in `num_parts`, in pieces of about `piece_s` seconds, with a pause after each piece."""

    data: Data
    precision: str
    num_parts: int
    piece_s: float
    pause_s: float = 0.0
    embedding_width: int = 0
    cached_classes: int | None = None

    @property
    def planned(self) -> PlannedCache:
        teachers = (Run(stage="teacher"),)
        return PlannedCache(
            teachers,
            self.data,
            self.precision,
            (),
            True,
            self.num_parts,
            self.embedding_width,
            cached_classes=self.cached_classes,
        )

    def dataset(self) -> Dataset:
        folder = Path(os.environ["RAYKD_DATA"]) if self.data.name == "cifar10" else None
        return load_dataset(self.data.name, folder, self.data.image_size)

    def cache(self, folder: Path, dataset: Dataset) -> LogitCache:
        return LogitCache(folder, self.planned.key(dataset, SHA))


DIGITS = Story(Data("digits", 100, 200, None, 8, 1, True), "fp32", 3, piece_s=1e-3, pause_s=0.02)
CIFAR10 = Story(Data("cifar10"), "bf16", 146, piece_s=2.0)


def fill_beside(story: Story, folder: Path, ready: Path, other: Path, count: Path) -> None:
    """Fill as soon as the file `other` of another process exists too, and write the number of filled views to `count`.

    ready: the file of this process.
    """
    ready.touch()
    while not other.exists():
        time.sleep(0.001)
    count.write_text(str(fill_all(story, folder)))


def fill_all(story: Story, folder: Path) -> int:
    """Fill the missing views, part after part, and return how many this process filled."""
    torch.set_num_threads(1)
    fill.PIECE_S = story.piece_s
    dataset = story.dataset()
    cache = story.cache(folder, dataset)
    write = cache.write

    def slowly(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        time.sleep(story.pause_s)

    cache.write = slowly  # type: ignore[method-assign]
    teacher = models.build(ResNet(blocks=(1, 1, 1, 1), width=8), images_of(dataset), seed=5)
    model = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    filler = fill.Filler(story.planned, dataset, cache, model, choose_compute(CPU, story.precision))
    return sum(filler.fill(part) for part in range(story.num_parts))
