"""The contents of an experiment file: data, teacher, student, method, seeds, search. It is data, not a program.

Experiment(family="cnn", data=Data("cifar10"), teacher=Recipe("resnet18", ...), student=Recipe("resnet8", ...),
           method=KD(alpha=0.5, temperature=4.0), seeds=(0, 1, 2))
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from raykd.config import (
    Config,
    Interval,
    MaxLength,
    NonNegativeInt,
    PositiveInt,
    Seed,
    Seeds,
    by_name,
    custom_file,
    kinds,
    not_fingerprinted,
    skip_if_default,
    type_hints,
)
from raykd.data import dataset_names
from raykd.data.crop_views import CropViews
from raykd.data.sampling import Sampling
from raykd.data.views import Views
from raykd.errors import ConfigError
from raykd.methods import KD, CrossEntropy, Method
from raykd.methods.method import Need
from raykd.models import MAX_SIDE, Model, find, hf_files
from raykd.models.hf_model import HuggingFace
from raykd.models.vit_cifar import ViT
from raykd.spec.callback import Callback, callbacks_named
from raykd.spec.overrides import override_all, value_at
from raykd.spec.published import published_pairs
from raykd.spec.recipe import Recipe
from raykd.spec.search import Choice, Search
from raykd.spec.stages import RESERVED
from raykd.spec.trackers import require_known_trackers, trackers_named

CACHEABLE: frozenset[Need] = frozenset({"logits", "embedding"})  # a cache of feature maps would take gigabytes
MAX_CLASSES = 65_536  # a cache of the top classes stores their numbers in 16 bits
ALL_CLASSES_UP_TO = 128  # classes of the data; with more, a logit cache keeps only the top classes by default
DEFAULT_TOP_CLASSES = 16
PRETRAINED = "pretrained"  # the value of `teacher_checkpoint` that names no file
AUGMENTATION = "student.augmentation."  # prefix of its fields' paths in a search


@dataclass(frozen=True)
class Data(Config):
    """The data set, its split and its views."""

    kind: ClassVar[str] = "data"
    # cifar10, cifar100, cifar100-coarse, digits, imagenet, tiny_imagenet; or folder:PLACE, parquet:PLACE,
    # webdataset:PLACE, packed:PLACE for custom images (data/dataset_names.py)
    name: str = "cifar10"
    # training images used for validation, in equal proportion from each class; 0 for none
    val_images: NonNegativeInt = 5_000
    train_images: PositiveInt | None = None  # how many of the other training images the teacher trains on; None for all
    student_images: PositiveInt | None = None  # how many of the teacher's images the students train on; None for all
    image_size: Annotated[int | None, Interval(f"[1, {MAX_SIDE}]")] = None  # side in pixels to resize to; None: as is
    crop_padding: Annotated[int, Interval("[0, 32]")] = 4  # pixels of padding for random crops; 0 for no crops
    flip: bool = True  # random horizontal flips
    split_seed: Seed = 0  # selects the images of every part above
    # Random crops of whole images, of at least this fraction of the area, resized to image_size, as usual for ImageNet.
    # None: crops of padded squares, see crop_padding.
    min_crop_area: Annotated[float | None, Interval("(0, 1]")] = skip_if_default(None)
    # How many different crops of each image are shown, which a logit cache can hold; None: a new one in every epoch.
    views_per_image: Annotated[int | None, Interval("[1, 10000]")] = skip_if_default(None)
    # Evaluation shows the middle square with this fraction of the shorter side; ImageNet's usual is 0.875.
    center_crop: Annotated[float, Interval("(0, 1]")] = skip_if_default(1.0)
    # 'memory' decodes all images once; 'disk' decodes them in each step, from a packed data set. 'auto' takes memory if
    # the decoded images fit in a quarter of it. Pixels are the same.
    storage: Literal["auto", "memory", "disk"] = not_fingerprinted("auto")

    def check(self) -> None:
        dataset_names.require_known(self.name)
        self._check_crops()
        if self.train_images is not None and self.student_images is not None:
            is_subset = self.student_images <= self.train_images
            self.require(is_subset, "student_images", f"must not exceed train_images = {self.train_images}")

    def _check_crops(self) -> None:
        """Check the fields of random crops of whole images."""
        if self.min_crop_area is None:
            requires = "requires min_crop_area, the random crops of whole images; set it, or leave this out"
            self.require(self.views_per_image is None, "views_per_image", requires)
            self.require(self.center_crop == 1, "center_crop", requires)
            return
        no_effect = "has no effect beside min_crop_area; set it to 0"
        self.require(self.crop_padding == 0, "crop_padding", no_effect)
        self.require(self.image_size is not None, "image_size", "is required by min_crop_area: the pixels of a crop")
        whole = "cannot hold random crops of whole images, which are decoded in each step; use disk or auto"
        self.require(self.storage != "memory", "storage", whole)

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Hide the path of a custom data set from results: `Run.data_identity` identifies it by its bytes."""
        return super().stored(results_only) | ({"name": dataset_names.kind_of(self.name)} if results_only else {})

    @property
    def views(self) -> Views | CropViews:
        """The views of each image."""
        if self.min_crop_area is not None:
            return CropViews(self.min_crop_area, self.flip, self.views_per_image)
        return Views(crop_padding=self.crop_padding, flip=self.flip)


@dataclass(frozen=True)
class Workers(Config):
    """The processes that share the batches of one run (DDP), and the resources of each."""

    kind: ClassVar[str] = "workers"
    count: Annotated[int, Interval("[1, 10000]")] = not_fingerprinted(1)  # processes that share the batches of a run
    min_count: PositiveInt | None = not_fingerprinted(None)  # workers that can continue without a lost node; None: all
    # CPUs per worker. None: proportional to its GPUs; without GPUs an equal share of the node's CPUs, at most 16.
    cpus: Annotated[int | None, Interval("[1, 10000]")] = not_fingerprinted(None)
    # GPUs per worker, whole or a fraction below 1. None: one if there are GPUs, else 0.
    gpus: Annotated[float | None, Interval("[0, 10000]")] = not_fingerprinted(None)
    # Threads per worker that decode images of a data set on disk. None: one for each of its CPUs.
    loaders: Annotated[int | None, Interval("[1, 10000]")] = not_fingerprinted(None)

    def check(self) -> None:
        is_in_range = self.min_count is None or self.min_count <= self.count
        self.require(is_in_range, "min_count", f"must lie in [1, count = {self.count}], or be none")
        is_valid = self.gpus is None or self.gpus < 1 or float(self.gpus).is_integer()
        self.require(is_valid, "gpus", "must be a fraction below 1, or whole")
        is_shared = self.count > 1 and self.gpus is not None and 0 < self.gpus < 1
        self.require(not is_shared, "gpus", "must be whole where count > 1: workers of a run do not share a GPU")


@dataclass(frozen=True)
class Experiment(Config):
    """One family of runs: a teacher, and for each seed a baseline and a distilled student of the same recipe."""

    kind: ClassVar[str] = "experiment"
    family: Annotated[str, MaxLength(64)] = ""  # name of the results' folder: a-z, 0-9 and _
    data: Data = Data()  # the data set, its split and its views
    teacher: Recipe = Recipe("resnet18")  # recipe of the teacher
    student: Recipe = Recipe("resnet8")  # recipe of the baselines and the distilled students
    method: Method = KD()  # how the students distill
    seeds: Seeds = (0, 1, 2)  # seeds of the students
    teacher_seed: Seed = 0  # seed of the teacher
    # Weights to import instead of training a teacher: 'FILE', 'FILE#KEY', 'pretrained' for those of the library that
    # names the teacher's model, with their classifier, or the 'hf:FOLDER' of the teacher's model.
    teacher_checkpoint: str | None = by_name(None, hf_files.with_absolute_path)
    # 'cache' stores the teacher's logits of every view on disk, 'live' runs the teacher in every step, 'auto' selects
    # the cache if filling it takes at most 90 % of the forward passes of a live teacher.
    teacher_source: Literal["auto", "live", "cache"] = not_fingerprinted("auto")
    # How many classes of each view a logit cache keeps, those with the largest logits; the others share the rest of the
    # probability equally. 'all' keeps all. None: all of up to 128 classes, else 16 if the method works with these.
    cached_classes: Annotated[int | Literal["all"] | None, Interval(f"[1, {MAX_CLASSES}]")] = skip_if_default(None)
    workers: Workers = Workers()  # processes of one run, and their resources
    search: Search | None = not_fingerprinted(None)  # of hyperparameters; None for none
    # Other methods, each distilled with the same seeds from the same teacher and compared with `method`.
    compare: Annotated[tuple[Method, ...], MaxLength(100)] = not_fingerprinted(())
    teacher_seeds: Seeds = ()  # seeds of several teachers, whose mean logits are distilled; () for one teacher
    # A published pair of networks on CIFAR-100, whose accuracies the report shows: 'resnet32x4:resnet8x4'; '' for none.
    published: str = ""
    # Where epochs and results are logged: 'tensorboard', 'mlflow', 'wandb' or several of these; 'none' for nowhere.
    tracker: Annotated[tuple[str, ...], MaxLength(10)] = by_name(("tensorboard",), trackers_named, False)
    # Code of the user that each run calls at its start, after each epoch and at its end: 'my_callbacks.py:MyCallback'.
    callbacks: Annotated[tuple[Callback, ...], MaxLength(100)] = by_name((), callbacks_named, False)
    # Whether finished runs and trials keep their checkpoints, three times the weights each. They can restore damaged
    # weights; nothing resumes from them.
    keep_checkpoints: bool = not_fingerprinted(False)

    def check(self) -> None:
        is_plain = re.fullmatch(r"[a-z][a-z0-9_]*", self.family) and self.family not in type_hints(Experiment)
        reason = "it becomes a folder, and the beginning of paths for --set"
        allowed = f"must be a short name of a-z, 0-9 and _, and not the name of a field: {reason}"
        self.require(bool(is_plain), "family", allowed)
        taken = "is the name of a folder that raykd makes below the results; use another name"
        self.require(self.family not in RESERVED, "family", taken)
        known = ", ".join(published_pairs())
        self.require(self.published in ("", *published_pairs()), "published", f"must be one of {known}")
        is_cifar100 = self.data.name == "cifar100"
        self.require(
            not self.published or is_cifar100, "published", f"requires data.name = cifar100, not {self.data.name}"
        )
        require_known_trackers(self.tracker)
        self._check_seeds("seeds")
        self._check_methods()
        if self.teacher_seeds:
            self._check_teachers()
        self._check_token()
        self._check_classifiers()
        if self.data.val_images == 0:
            self._check_without_validation()
        self._check_checkpoint()
        self._check_cache()
        for role in ("teacher", "student"):
            recipe = getattr(self, role)
            passes = f" / gradient_accumulation = {recipe.gradient_accumulation}"
            images = f"{role}.batch_size = {recipe.batch_size}{passes if recipe.gradient_accumulation > 1 else ''}"
            is_equal = recipe.images_per_pass % self.workers.count == 0
            self.workers.require(is_equal, "count", f"cannot share {images} equally")
            has_tf32 = recipe.precision != "tf32" or self.workers.gpus != 0
            no_gpu = f"requires a GPU, and workers.gpus = 0; set {role}.precision to auto or fp32"
            recipe.require(has_tf32, "precision", no_gpu)
        if self.search is not None:
            self._check_search(self.search)

    def _check_seeds(self, name: str) -> None:
        seeds = getattr(self, name)
        self.require(len(seeds) >= 1, name, "must have at least one seed")
        self.require(len(set(seeds)) == len(seeds), name, "repeats a seed")

    def _check_methods(self) -> None:
        for method in self.methods:
            name = "method" if method is self.method else "compare"
            is_baseline = type(method) is CrossEntropy
            self.require(not is_baseline, name, "needs no teacher, so nothing would be distilled; use KD()")
            method.require_valid_weights(self.student.epochs)
            method.require_batch(self.student.batch_size, self.student.gradient_accumulation)
        repeated = [method.title() for method in self.methods if self.methods.count(method) > 1]
        self.require(not repeated, "compare", f"has {repeated[:1]} twice, including the experiment's `method`")
        both = "cannot be combined with a search; remove one of them"
        self.require(not self.compare or self.search is None, "compare", both)

    def _check_without_validation(self) -> None:
        """Check that nothing selects by validation."""
        trains = all(method.trains_classifier(self.student.epochs) for method in self.methods)
        has_probe = not (trains and self._teacher_has_logits)
        selecting = "a search" if self.search else "a linear probe" if has_probe else ""
        self.data.require(not selecting, "val_images", f"must be above 0, because {selecting} selects by validation")
        for role in ("student",) if self.teacher_checkpoint else ("teacher", "student"):
            selects = f"selects the epoch by validation, and data.val_images = 0; set {role}.keep=last"
            getattr(self, role).require(getattr(self, role).keep == "last", "keep", selects)

    def _check_cache(self) -> None:
        """Check that a logit cache can serve every run if one is requested, and the number of classes in it."""
        if isinstance(self.cached_classes, int):
            without = "requires the teacher's logits, and teacher.model.classifier = False; leave it out"
            self.require(self._teacher_has_logits, "cached_classes", without)
        if self.teacher_source != "cache":
            return
        uncached = ", ".join(sorted(self._needs_of_all - self.cached_needs))
        cached = "logits" if self.compare else "logits and embeddings"
        remedy = f"the method needs the teacher's {uncached}, and a logit cache holds {cached}; use live or auto"
        self.require(not uncached, "teacher_source", remedy)
        augmented = ", ".join(self.augmented)
        plain_only = f"student.augmentation has {augmented}, and a logit cache holds only plain views; use live or auto"
        self.require(not augmented, "teacher_source", plain_only)
        self.require(not self.why_never_cached, "teacher_source", f"{self.why_never_cached}, or use live or auto")
        if isinstance(self.cached_classes, int) and (needing := self.methods_of_all_classes):
            reads_all = f"method {needing[0]} reads the logits of all classes; set it to all, or teacher_source to live"
            self.require(False, "cached_classes", reads_all)

    def _check_token(self) -> None:
        model = self.student.model
        assert isinstance(model, Model)  # the recipe looked its name up
        add = "--set student.model.distillation_token=true"
        add = add if isinstance(model, ViT) else f"--set student.model=vit6 {add}"
        is_missing = any(m.needs_distillation_token for m in self.methods) and not model.has_distillation_token
        self.require(not is_missing, "method", f"trains a distillation token, and {model.label} has none; {add}")

    def _check_classifiers(self) -> None:
        """Check that the student has a classifier, and the teacher too if a method reads its logits."""
        teacher, student = self.teacher.model, self.student.model
        assert isinstance(teacher, Model) and isinstance(student, Model)
        reason = "baselines train it; distilled students have none where ce_weight and kd_weight are 0"
        student.require(student.classifier, "classifier", f"must be true for the student: {reason}")
        for method in self.methods if self.student.sampling == "balanced" else ():
            reads_labels = method.trains_classifier(self.student.epochs) or method.reads_labels
            unread = f"requires labels, and the students of {method.title()} train without them; use shuffle"
            self.student.require(reads_labels, "sampling", unread)
        without = [method.title() for method in self.methods if not method.trains_classifier(self.student.epochs)]
        mixed = (
            f"students of {', '.join(without)} have no classifier (ce_weight = 0) and the others have one, and "
            "accuracies of a linear probe and of a classifier cannot be compared; set ce_weight alike"
        )
        self.require(len(without) in (0, len(self.methods)), "compare", mixed)
        if not teacher.classifier:
            self._check_methods_without_logits()

    def _check_methods_without_logits(self) -> None:
        """Check that no method reads the logits of a teacher that has no classifier."""
        for method in self.methods:
            known = ", ".join(kind for kind, other in kinds(Method).items() if other.works_without_logits())
            reads = "its loss reads the teacher's logits, and teacher.model.classifier = False; use one of"
            name = "method" if method is self.method else "compare"
            self.require(not method.uses_logits(self.student.epochs), name, f"{reads} {known} with kd_weight=0")

    def _check_checkpoint(self) -> None:
        """Check that the weights belong to the teacher's network, if `teacher_checkpoint` names no file."""
        self.require(self.teacher_checkpoint != "", "teacher_checkpoint", "must name a file, or be none")
        checkpoint, model = self.teacher_checkpoint or "", self.teacher.model
        assert isinstance(model, Model)
        has_pretrained = type(model).download is not Model.download
        no_weights = f"requires a model with pretrained weights, timm:NAME or torchvision:NAME, not {model.label}"
        self.require(has_pretrained or checkpoint != PRETRAINED, "teacher_checkpoint", no_weights)
        is_same = isinstance(model, HuggingFace) and checkpoint == f"{hf_files.PREFIX}{model.name}"
        setting = shlex.quote(f"teacher.model={checkpoint}")
        other = f"has another network than teacher.model = {model.label}; --set {setting}"
        self.require(is_same or not checkpoint.startswith(hf_files.PREFIX), "teacher_checkpoint", other)

    def _check_teachers(self) -> None:
        """Check that the seeds are unique, and that several teachers have a meaningful mean: only logits do."""
        self._check_seeds("teacher_seeds")
        no_effect = f"would have no effect beside teacher_seeds = {self.teacher_seeds}; remove one of them"
        self.require(self.teacher_seed == Experiment.teacher_seed, "teacher_seed", no_effect)
        self.require(self.teacher_checkpoint is None, "teacher_checkpoint", no_effect)
        others = ", ".join(sorted(self._needs_of_all - {"logits"}))
        no_mean = f"the method needs their {others}, which cannot be averaged; use a method of logits only, or one seed"
        self.require(len(self.teacher_seeds) == 1 or not others, "teacher_seeds", no_mean)

    @property
    def methods(self) -> tuple[Method, ...]:
        """`method`, then the methods that it is compared with."""
        return (self.method, *self.compare)

    @cached_property
    def custom_methods(self) -> dict[str, Method]:
        """The custom methods that the search names by file, by their text in the search.

        They are read when the experiment is made, and pickled with it: a trial has another working directory, may run
        on another node, and may start after the file was edited.
        """
        return {text: Method.from_text(text) for text in self._searched_texts("method") if custom_file.is_path(text)}

    @cached_property
    def custom_models(self) -> dict[str, Model]:
        """The student models that the search names by a file or folder, by their text; see `custom_methods`."""
        texts = self._searched_texts("student.model")
        return {text: find(text) for text in texts if custom_file.is_path(text) or text.startswith(hf_files.PREFIX)}

    def _searched_texts(self, path: str) -> list[str]:
        return [value for value in self._probe_values(path) if isinstance(value, str)]

    def _probe_values(self, path: str) -> Sequence[str | int | float | bool]:
        space = self.search.space.get(path) if self.search else None
        return space.probe_values if space else ()

    def _searched_values(self, path: str) -> list[Any]:
        """Return the values that the trials have at `path`, of the field's type; [] if the field is not searched.

        Of a range, these are its ends.
        """
        return [value_at(self._configured({path: value}), path) for value in self._probe_values(path)]

    @property
    def needs(self) -> frozenset[Need]:
        """The teacher outputs that `method` needs, or that any trial needs if the method is searched."""
        return self.method.needs.union(*(method.needs for method in self._searched_values("method")))

    @property
    def _methods_of_all(self) -> tuple[Method, ...]:
        """`method`, the methods that it is compared with, and those of the trials."""
        return (*self.methods, *self._searched_values("method"))

    @property
    def _needs_of_all(self) -> frozenset[Need]:
        return self.needs.union(*(method.needs for method in self.compare))

    @property
    def cached_needs(self) -> frozenset[Need]:
        """The teacher outputs in a logit cache. In a comparison only logits: few methods would read embeddings."""
        is_cacheable = not self.compare and self.needs <= CACHEABLE
        logits: frozenset[Need] = frozenset({"logits"})
        return self.needs | logits if is_cacheable else logits

    @property
    def methods_of_all_classes(self) -> tuple[str, ...]:
        """The methods that read a teacher and do not work with the top classes alone, searched ones included."""
        return tuple(dict.fromkeys(m.title() for m in self._methods_of_all if m.needs and not m.works_with_top_classes))

    @property
    def why_never_cached(self) -> str:
        """Why a logit cache cannot hold the students' views, or ''."""
        if self.augmented:
            return f"a logit cache holds plain views, and students train with {', '.join(self.augmented)}"
        repeats = {self.student.repeats, *self._searched_values("student.repeats")} - {1}
        if repeats:
            return f"each epoch shows several views of an image (student.repeats = {max(repeats)}); set it to 1"
        if self.data.views.count is None:
            return "every epoch shows new crops; set data.views_per_image=30 to store their logits"
        return ""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures of all methods, searched ones included, ascending."""
        searched = {value for value in self._searched_values("method.temperature") if value is not None}
        return tuple(sorted(searched | {method.soft_temperature for method in self._methods_of_all}))

    def num_cached_classes(self, num_classes: int) -> int | None:
        """Return how many of the data's classes each row of a logit cache keeps; None for all."""
        kept = self.cached_classes
        if kept is None and num_classes > ALL_CLASSES_UP_TO and not self.methods_of_all_classes:
            kept = DEFAULT_TOP_CLASSES
        if not isinstance(kept, int) or not self._teacher_has_logits:
            return None
        return kept if kept < num_classes <= MAX_CLASSES else None

    @property
    def _teacher_has_logits(self) -> bool:
        assert isinstance(self.teacher.model, Model)
        return self.teacher.model.classifier

    @property
    def most_epochs(self) -> int:
        """Epochs of a student, or of the longest trial if epochs are searched."""
        return max(self._searched_values("student.epochs") or [self.student.epochs])

    @property
    def augmented(self) -> tuple[str, ...]:
        """The augmentation techniques of the students, and those of any trial if searched: ('crop_area', 'mixup')."""
        space = self.search.space if self.search else {}
        searched = (path.removeprefix(AUGMENTATION) for path in space if path.startswith(AUGMENTATION))
        return tuple(dict.fromkeys((*self.student.augmentation.techniques, *searched)))

    @property
    def samplings(self) -> frozenset[Sampling]:
        """The sampling of the students, or those of all trials if it is searched."""
        return frozenset(self._searched_values("student.sampling") or [self.student.sampling])

    def _check_search(self, search: Search) -> None:
        """Check that every searched field exists and accepts the values of its space."""
        unused = f"must not be one of seeds = {self.seeds}, which confirm the results of the trials"
        search.require(search.trial_seed not in self.seeds, "trial_seed", unused)
        for path, space in search.space.items():
            for value in space.probe_values:
                changed = self.with_configuration({path: value})
                has_classifier = changed.method.trains_classifier(changed.student.epochs)
                reason = "students without a classifier are evaluated by k-NN, and their baselines by a classifier"
                search.require(has_classifier, "space", f"{path} = {value}: {reason}; set method.ce_weight above 0")
        self.default_configuration(search)

    def default_configuration(self, search: Search) -> dict[str, Any]:
        """Return this experiment's value of each searched field, by dotted path; among choices, the one that means it.

        Raises ConfigError if no choice means the experiment's method, model, optimizer or schedule.
        """
        return {path: self._default_value(search, path) for path in search.space}

    def _default_value(self, search: Search, path: str) -> Any:
        space, default = search.space[path], self._value_at(path)
        if not isinstance(space, Choice):
            return default
        # Nested fields that are searched too keep the experiment's values: with lr searched, "sgd" is SGD(lr=0.05).
        deeper = {name: self._value_at(name) for name in search.space if name.startswith(f"{path}.")}

        def is_default(choice: object) -> bool:
            try:
                return value_at(self.with_configuration({path: choice, **deeper}), path) == default
            except ConfigError:  # such as an optimizer without one of the fields
                return False

        chosen = next(filter(is_default, space.values), None)
        lacking = f"lacks the experiment's default of '{path}', {default}; add it"
        search.require(chosen is not None or not isinstance(default, Config), "space", lacking)
        return default if chosen is None else chosen

    def _value_at(self, path: str) -> Any:
        """Return the value of a searched field. Raises ConfigError for an argument of a network that is not set."""
        try:
            return value_at(self, path)
        except KeyError:
            reason = f"'{path}' has no value in the experiment, which the trials are compared with"
            raise ConfigError(f"search.space: {reason}; --set {path}=VALUE, or set it in the file") from None

    def with_configuration(self, configuration: Mapping[str, object]) -> "Experiment":
        """Return this experiment without its search, with {dotted path: value}. Raises ConfigError if invalid.

        All trials of a search read one logit cache. If the method of any trial reads all classes, the cache keeps all.
        """
        configured = self._configured(configuration)
        if self.cached_classes is None and self.methods_of_all_classes:
            return replace(configured, cached_classes="all")
        return configured

    def _configured(self, configuration: Mapping[str, object]) -> "Experiment":
        # The files may have changed since the experiment was made.
        by_text = {"method": self.custom_methods, "student.model": self.custom_models}
        values = [(path, by_text.get(path, {}).get(str(value), str(value))) for path, value in configuration.items()]
        return override_all(replace(self, search=None), values)


def require_experiments(values: Sequence[object], call: str) -> None:
    """Raise ConfigError unless `values` are experiments, and at least one.

    call: the function whose arguments they are, such as 'main', for the message.
    """
    if not values:
        raise ConfigError(f"{call}() has no experiment to run; write {call}(experiment)")
    for value in values:
        if not isinstance(value, Experiment):
            raise ConfigError(
                f"{call}() has an argument of type {type(value).__name__}, which must be an Experiment; write "
                f"{call}(experiment), or {call}(*experiments) for a list or tuple of them"
            )
