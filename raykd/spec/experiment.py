"""What an experiment file fills in: data, teacher, student, method, seeds, search. Data, not program.

Experiment(family="cnn", data=Data("cifar10"), teacher=Recipe("resnet18", ...), student=Recipe("resnet8", ...),
           method=KD(alpha=0.5, temperature=4.0), seeds=(0, 1, 2))
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from raykd.config import AtMost, Config, MaxLength, Seed, Seeds, not_fingerprinted, type_hints
from raykd.data import dataset_names
from raykd.data.views import Views
from raykd.methods import KD, Method, custom_file
from raykd.methods.method import Need
from raykd.models import MAX_SIDE, Model
from raykd.models.vit_cifar import ViT
from raykd.spec.overrides import override_all
from raykd.spec.recipe import Recipe
from raykd.spec.search import Search

CACHEABLE: frozenset[Need] = frozenset({"logits", "embedding"})  # a teacher's maps of features would be GB
AUGMENTATION = "student.augmentation."  # where a search names its fields


@dataclass(frozen=True)
class Data(Config):
    """Which images are seen, and how. Validation images are held out of the training part, equally by class.

    name: see data/dataset_names.py; or a person's own: 'folder:PLACE', 'parquet:PLACE'. train_images, student_images:
    how many of the rest the teacher and the students see (None: all; a student sees a part of its teacher's).
    image_size: images are brought to this side.
    """

    kind: ClassVar[str] = "data"
    name: str = "cifar10"
    val_images: int = 5_000
    train_images: int | None = None
    student_images: int | None = None
    image_size: Annotated[int | None, AtMost(MAX_SIDE)] = None
    crop_padding: int = 4
    flip: bool = True
    split_seed: Seed = 0

    def check(self) -> None:
        dataset_names.require_known(self.name)
        self.require(self.val_images >= 1, "val_images", "must be at least 1: validation picks the checkpoint")
        for name in ("train_images", "student_images", "image_size"):
            self.require(getattr(self, name) is None or getattr(self, name) >= 1, name, "must be at least 1, or none")
        self.require(self.split_seed >= 0, "split_seed", "must be 0 or more")
        self.require(0 <= self.crop_padding <= 32, "crop_padding", "must lie in [0, 32] pixels")
        if self.train_images is not None and self.student_images is not None:
            fits = self.student_images <= self.train_images
            self.require(fits, "student_images", f"must not exceed train_images = {self.train_images}")

    def stored(self, results_only: bool) -> dict[str, Any]:
        """A person's own data are known by their bytes, `Run.data_identity`, and not by where they lie."""
        return super().stored(results_only) | ({"name": dataset_names.kind_of(self.name)} if results_only else {})

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
    count: Annotated[int, AtMost(10_000)] = not_fingerprinted(1)
    min_count: int | None = not_fingerprinted(None)
    cpus: Annotated[int | None, AtMost(10_000)] = not_fingerprinted(None)
    gpus: Annotated[float | None, AtMost(10_000)] = not_fingerprinted(None)

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
class Experiment(Config):
    """One family of runs: a teacher, and per seed a baseline and a distilled student of the same recipe.

    compare: other methods, each distilled with the same seeds from the same teacher and compared with `method`.
    teacher_seeds: of several teachers of one recipe, whose logits' mean teaches; () for the one of teacher_seed.
    teacher_checkpoint: a file of weights, FILE or FILE#KEY, that are imported instead of trained. teacher_mean,
    teacher_std: by channel, as fractions of 255, what an imported teacher's images are normalized by; () for what its
    file says, or timm for its name, or else the data's.
    teacher_source: 'cache' keeps the teacher's logits for each view on disk, 'live' asks it at every step, 'auto' takes
    what costs fewer passes of it.
    """

    kind: ClassVar[str] = "experiment"
    family: Annotated[str, AtMost(64)] = ""
    data: Data = Data()
    teacher: Recipe = Recipe("resnet18")
    student: Recipe = Recipe("resnet8")
    method: Method = KD()
    seeds: Seeds = (0, 1, 2)
    teacher_seed: Seed = 0
    teacher_checkpoint: str | None = None
    teacher_source: Literal["auto", "live", "cache"] = not_fingerprinted("auto")
    workers: Workers = Workers()
    search: Search | None = not_fingerprinted(None)
    compare: Annotated[tuple[Method, ...], MaxLength(100)] = not_fingerprinted(())
    teacher_seeds: Seeds = ()
    teacher_mean: tuple[float, ...] = ()
    teacher_std: tuple[float, ...] = ()

    def check(self) -> None:
        plain = re.fullmatch(r"[a-z][a-z0-9_]*", self.family) and self.family not in type_hints(Experiment)
        becomes = "it becomes a folder, and the beginning of paths for --set"
        self.require(bool(plain), "family", f"wants a short name of a-z, 0-9 and _, and not a field's: {becomes}")
        self.require(self.teacher_seed >= 0, "teacher_seed", "must be 0 or more")
        self.require(len(self.seeds) >= 1, "seeds", "wants at least one")
        self.require(len(set(self.seeds)) == len(self.seeds), "seeds", "names a seed twice")
        self.require(min(self.seeds, default=0) >= 0, "seeds", "must be 0 or more")
        self._check_methods()
        if self.teacher_seeds:
            self._check_teachers()
        self._check_token()
        for name, low in (("teacher_mean", "from 0"), ("teacher_std", "above 0")):
            values = getattr(self, name)
            inside = all(0 <= value <= 1 and (value > 0 or name == "teacher_mean") for value in values)
            wants = f"must be three numbers, one a channel, {low} up to 1: divide values of pixels by 255"
            self.require(len(values) in (0, 3) and inside, name, wants)
        augmented = ", ".join(self.augmented)
        wants = f"student.augmentation has {augmented}, and a logit cache holds only plain views; use live or auto"
        self.require(not augmented or self.teacher_source != "cache", "teacher_source", wants)
        for who in ("teacher", "student"):
            recipe: Recipe = getattr(self, who)
            shared = recipe.batch_size % self.workers.count == 0
            self.workers.require(shared, "count", f"cannot share {who}.batch_size = {recipe.batch_size} equally")
        if self.search is not None:
            self._check_search(self.search)

    def _check_methods(self) -> None:
        for method in self.methods:
            name = "method" if method is self.method else "compare"
            self.require(bool(method.needs), name, "needs no teacher, so nothing would be distilled; use KD()")
            method.require_valid_weights(self.student.epochs)
            method.require_batch(self.student.batch_size)
        repeated = [method.title() for method in self.methods if self.methods.count(method) > 1]
        self.require(not repeated, "compare", f"has {repeated[:1]} twice, the experiment's own method counted")
        both = "is no part of a search; leave one of them out"
        self.require(not self.compare or self.search is None, "compare", both)
        more = ", ".join(sorted(self.needs.union(*(method.needs for method in self.compare)) - self.cached_needs))
        held = "logits" if self.compare else "logits and embeddings"
        wants = f"the method needs the teacher's {more}, and a logit cache holds {held}; use live or auto"
        self.require(not more or self.teacher_source != "cache", "teacher_source", wants)

    def _check_token(self) -> None:
        model = self.student.model
        assert isinstance(model, Model)  # the recipe looked its name up
        add = "--set student.model.distillation_token=true"
        add = add if isinstance(model, ViT) else f"--set student.model=vit6 {add}"
        lacks = any(m.needs_distillation_token for m in self.methods) and not model.has_distillation_token
        self.require(not lacks, "method", f"trains a distillation token, and {model.label} has none; {add}")

    def _check_teachers(self) -> None:
        """Each seed once, and none elsewhere; of what several say, logits are all that has a mean."""
        several = len(self.teacher_seeds) > 1
        self.require(len(set(self.teacher_seeds)) == len(self.teacher_seeds), "teacher_seeds", "names a seed twice")
        self.require(min(self.teacher_seeds) >= 0, "teacher_seeds", "must be 0 or more")
        alone = f"would be without effect beside teacher_seeds = {self.teacher_seeds}; leave one of both out"
        self.require(self.teacher_seed == Experiment.teacher_seed, "teacher_seed", alone)
        self.require(self.teacher_checkpoint is None, "teacher_checkpoint", f"is one teacher and {alone}")
        more = ", ".join(sorted(self.needs.union(*(method.needs for method in self.compare)) - {"logits"}))
        mean = f"the method needs their {more}, of which there is no mean; use a method of logits, or one seed"
        self.require(not (several and more), "teacher_seeds", mean)

    @property
    def methods(self) -> tuple[Method, ...]:
        """`method`, and those that it is compared with."""
        return (self.method, *self.compare)

    @cached_property
    def custom_methods(self) -> dict[str, Method]:
        """Methods of a person's own that the search names by their files, by their words.

        Read once, when the experiment is made, and carried with it as text: a trial has another working directory, may
        be on another node, and begins when the file may have been edited.
        """
        space = self.search.space.get("method") if self.search else None
        words = [word for word in space.probe_values if isinstance(word, str)] if space else []
        return {word: Method.from_text(word) for word in words if custom_file.is_path(word)}

    @property
    def needs(self) -> frozenset[Need]:
        """What its own method needs of the teacher, or that of any trial where the method is searched."""
        space = self.search.space.get("method") if self.search else None
        searched = [self.with_setting({"method": value}).method.needs for value in space.probe_values] if space else []
        return self.method.needs.union(*searched)

    @property
    def cached_needs(self) -> frozenset[Need]:
        """What a logit cache holds: in a comparison only logits, since few methods would read embeddings."""
        is_whole = not self.compare and self.needs <= CACHEABLE
        logits: frozenset[Need] = frozenset({"logits"})
        return self.needs | logits if is_whole else logits

    @property
    def most_epochs(self) -> int:
        """Of a student, or of the longest trial where its epochs are searched."""
        space = self.search.space.get("student.epochs") if self.search else None
        return max(int(value) for value in space.probe_values) if space else self.student.epochs

    @property
    def augmented(self) -> tuple[str, ...]:
        """What of an Augmentation students train under, in any trial where it is searched: ('crop_area', 'mixup')."""
        space = self.search.space if self.search else {}
        searched = (path.removeprefix(AUGMENTATION) for path in space if path.startswith(AUGMENTATION))
        return tuple(dict.fromkeys((*self.student.augmentation.techniques, *searched)))

    def _check_search(self, search: Search) -> None:
        """Every field is there and takes what the search would try."""
        fresh = f"must not be one of seeds = {self.seeds}: those confirm what the trials found"
        search.require(search.trial_seed not in self.seeds, "trial_seed", fresh)
        for path, space in search.space.items():
            for value in space.probe_values:
                self.with_setting({path: value})
        self.default_setting(search)

    def default_setting(self, search: Search) -> dict[str, Any]:
        """This experiment's own value of each field of `search`, by dotted path: of a method, say, the word for it.

        Raises ConfigError where the space has no word for what it is.
        """
        return {path: self._default_value(search, path) for path in search.space}

    def _default_value(self, search: Search, path: str) -> Any:
        own = attrgetter(path)
        if not isinstance(own(self), Config):
            return own(self)
        words = [word for word in search.space[path].probe_values if own(self.with_setting({path: word})) == own(self)]
        search.require(bool(words), "space", f"has for '{path}' none that is the experiment's own, {own(self)}; add it")
        return words[0]

    def with_setting(self, setting: Mapping[str, object]) -> "Experiment":
        """This experiment without its search, with {dotted path: value}. Raises ConfigError for what does not fit."""
        read = {"method": self.custom_methods}  # custom methods, as they were when the experiment was made
        made = [(path, read.get(path, {}).get(str(value), str(value))) for path, value in setting.items()]
        return override_all(replace(self, search=None), made)
