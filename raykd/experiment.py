"""What an experiment file fills in: data, teacher, student, method, seeds, search. Data, not program.

Experiment(family="cnn", data=Data("cifar10"), teacher=Recipe("resnet18", ...), student=Recipe("resnet8", ...),
           method=KD(alpha=0.5, temperature=4.0), seeds=(0, 1, 2))
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from raykd.config import Config, override, place
from raykd.data.views import Views
from raykd.errors import ConfigError
from raykd.methods import KD, Method
from raykd.recipe import Recipe


@dataclass(frozen=True)
class Data(Config):
    """Which images are seen, and how. Validation images are held out of the training part, equally by class.

    train_images, student_images: how many of the rest the teacher and the students see (None: all; a student
    sees a part of its teacher's). image_size: images are averaged down to this side.
    """

    kind: ClassVar[str] = "data"
    name: Literal["cifar10", "digits"] = "cifar10"
    val_images: int = 5_000
    train_images: int | None = None
    student_images: int | None = None
    image_size: int | None = None
    crop_padding: int = 4
    flip: bool = True
    split_seed: int = 0

    def check(self) -> None:
        self.require(self.val_images >= 1, "val_images", "must be at least 1: validation picks the checkpoint")
        for name in ("train_images", "student_images", "image_size"):
            self.require(getattr(self, name) is None or getattr(self, name) >= 1, name, "must be at least 1, or none")
        self.require(0 <= self.crop_padding <= 32, "crop_padding", "must lie in [0, 32] pixels")
        if self.train_images is not None and self.student_images is not None:
            fits = self.student_images <= self.train_images
            self.require(fits, "student_images", f"must not exceed train_images = {self.train_images}")

    @property
    def views(self) -> Views:
        """The finite set of views of each image."""
        return Views(crop_padding=self.crop_padding, flip=self.flip)


@dataclass(frozen=True)
class Workers(Config):
    """What one run is given: `count` processes that share its batches (DDP), each with `cpus` and `gpus`.

    cpus, gpus: None for a GPU each where there are GPUs, else up to 2 CPUs; gpus may be a fraction.
    min_count: with how many a run goes on when a node is lost; None for all of them.
    """

    kind: ClassVar[str] = "workers"
    count: int = place(1)
    min_count: int | None = place(None)
    cpus: int | None = place(None)
    gpus: float | None = place(None)

    def check(self) -> None:
        self.require(self.count >= 1, "count", "must be at least 1")
        fits = self.min_count is None or 1 <= self.min_count <= self.count
        self.require(fits, "min_count", f"must lie in [1, count = {self.count}], or be none")
        self.require(self.cpus is None or self.cpus >= 1, "cpus", "must be at least 1, or none")
        self.require(self.gpus is None or self.gpus >= 0, "gpus", "must be 0 or more, or none")
        whole = self.gpus is None or self.gpus < 1 or float(self.gpus).is_integer()
        self.require(whole, "gpus", "must be a fraction below 1, or whole")
        shares = self.count > 1 and self.gpus is not None and 0 < self.gpus < 1
        self.require(not shares, "gpus", "must be whole where count > 1: workers of a run do not share a GPU")


@dataclass(frozen=True)
class Uniform(Config):
    """A number between low and high, each equally likely; `log` makes each factor equally likely instead."""

    kind: ClassVar[str] = "uniform"
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def check(self) -> None:
        self.require(self.low < self.high, "high", f"must exceed low = {self.low}")
        self.require(not self.log or self.low > 0, "low", "must be above 0 on a log scale")

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


def uniform(low: float, high: float) -> Uniform:
    """Search a field between low and high."""
    return Uniform(low, high)


def loguniform(low: float, high: float) -> Uniform:
    """Search a field between low and high on a log scale."""
    return Uniform(low, high, log=True)


@dataclass(frozen=True)
class Search:
    """A search over the distilled student's fields by dotted path; picked by validation, never by test.

    space: {"method.alpha": uniform(0, 1), ...}. trials: settings to try. grace_epochs: what ASHA leaves each;
    None for a tenth of the student's epochs.
    """

    space: Mapping[str, Uniform]
    trials: int = 16
    grace_epochs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trials", "grace_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"search.{name} = {value}: must be at least 1")
        if not self.space:
            raise ConfigError("search.space is empty: name at least one field, such as 'method.alpha': uniform(0, 1)")
        if others := [path for path in self.space if path.split(".")[0] not in ("method", "student")]:
            raise ConfigError(
                f"search.space names '{others[0]}': trials share data and teacher, so only method.* and "
                "student.* can be searched"
            )

    def grace_of(self, epochs: int) -> int:
        """Epochs that ASHA leaves each trial of a student of `epochs`."""
        return min(self.grace_epochs or max(1, epochs // 10), epochs)


@dataclass(frozen=True)
class Experiment(Config):
    """One family of runs: a teacher, and per seed a baseline and a distilled student of the same recipe.

    teacher_source: 'table' keeps the teacher's logits for each view on disk, 'live' asks it at every step, 'auto' takes
    what costs fewer passes of it.
    """

    kind: ClassVar[str] = "experiment"
    family: str = ""
    data: Data = Data()
    teacher: Recipe = Recipe("resnet18")
    student: Recipe = Recipe("resnet8")
    method: Method = KD()
    seeds: tuple[int, ...] = (0, 1, 2)
    teacher_seed: int = 0
    teacher_checkpoint: str | None = None
    teacher_source: Literal["auto", "live", "table"] = place("auto")
    workers: Workers = Workers()
    search: Search | None = place(None)

    def check(self) -> None:
        plain = re.fullmatch(r"[a-z][a-z0-9_]*", self.family) is not None
        self.require(plain, "family", "wants a short name of a-z, 0-9 and _, such as cnn: it becomes a folder")
        self.require(len(self.seeds) >= 1, "seeds", "wants at least one")
        self.require(len(set(self.seeds)) == len(self.seeds), "seeds", "names a seed twice")
        self.require(min(self.seeds, default=0) >= 0, "seeds", "must be 0 or more")
        self.require(bool(self.method.needs), "method", "needs no teacher, so nothing would be distilled; use KD()")
        more = ", ".join(sorted(self.method.needs - {"logits"}))
        wants = f"{self.method.title()} needs the teacher's {more}, and a table holds logits; use live, or auto"
        self.require(not more or self.teacher_source != "table", "teacher_source", wants)
        for who in ("teacher", "student"):
            recipe: Recipe = getattr(self, who)
            shared = recipe.batch_size % self.workers.count == 0
            self.workers.require(shared, "count", f"cannot share {who}.batch_size = {recipe.batch_size} equally")
        if self.search is not None:
            without_search = replace(self, search=None)
            for path, space in self.search.space.items():
                for end in space.ends:  # both ends of a range must be settings that the field accepts
                    override(without_search, path, repr(end))
