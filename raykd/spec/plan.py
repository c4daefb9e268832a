"""The runs of an experiment: teachers, then baselines and distilled students, one per seed; and their data splits.

A `Run` holds exactly what determines the result of one training run. Its fingerprint identifies this result: runs of
different experiments with equal fingerprints are the same run, and a finished run is not repeated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raykd.config import Config, fingerprint, not_fingerprinted, skip_if_default, to_dict
from raykd.data.splits import stratified_split, stratified_subset
from raykd.data.types import Dataset
from raykd.disk.lookup import is_file
from raykd.errors import COMMAND, ConfigError, plural
from raykd.methods import CrossEntropy, Method
from raykd.methods.method import LinearWarmup
from raykd.models import Model
from raykd.models.hf_files import PREFIX as HF_PREFIX
from raykd.models.hf_model import HuggingFace
from raykd.models.weights import require_file, split_key
from raykd.provenance import file_sha256
from raykd.spec.experiment import CACHEABLE, MAX_CLASSES, PRETRAINED, Data, Experiment
from raykd.spec.recipe import Recipe
from raykd.spec.stages import STAGES, TEACHERS, Stage

# Increase it when a change to the code changes the result of an unchanged configuration: old runs are then repeated.
RESULT_VERSION = 2


@dataclass(frozen=True)
class WeightsFile(Config):
    """A file of weights, identified by its content and not by its path."""

    kind: ClassVar[str] = "weights_file"
    sha256: str = ""
    path: str = not_fingerprinted("")
    key: str = ""  # key of the state dict in the file; '' if the file has only one


@dataclass(frozen=True)
class Run(Config):
    """One training run: recipe, method and seed on a part of the data, with or without a teacher.

    A distilled run has no teacher if its method needs none.
    """

    kind: ClassVar[str] = "run"
    family: str = ""  # the experiment's; TEACHERS for a teacher, which experiments share
    stage: Stage = "baseline"
    recipe: Recipe = Recipe()
    method: Method = CrossEntropy()
    seed: int = 0
    data: Data = Data()
    data_identity: str = ""  # digest of the data set's content
    teacher: "Run | None" = None
    initial: WeightsFile | None = None  # initial weights, such as pretrained ones
    imported: WeightsFile | None = None  # final weights, trained elsewhere: this run does not train
    teacher_seeds: tuple[int, ...] = ()  # seeds of several teachers, which differ from `teacher` in nothing else
    # Classes of each view whose logits a logit cache keeps for the run; None for all, or if its teacher is always live.
    cached_classes: int | None = skip_if_default(None)

    @cached_property
    def teachers(self) -> tuple["Run", ...]:
        """The runs whose mean logits this run distills; () for none."""
        if self.teacher is None:
            return ()
        return tuple(replace(self.teacher, seed=seed) for seed in self.teacher_seeds) or (self.teacher,)

    @property
    def starts_as_its_teacher(self) -> bool:
        """Whether a teacher began its training with the initial weights of this run: random ones of the same seed."""
        is_random = self.initial is None and self.teacher is not None and self.teacher.initial is None
        return is_random and any(
            teacher.imported is None and (teacher.model, teacher.seed) == (self.model, self.seed)
            for teacher in self.teachers
        )

    @property
    def unfinished_warmup(self) -> tuple[float, float] | None:
        """(epochs, reached) of a warm-up of the method that does not end within the run; None without one.

        epochs: of the whole warm-up. reached: the share of their weights that the loss terms reach in the last epoch.
        """
        if not isinstance(self.method, LinearWarmup) or (reached := self.method.warmup(self.recipe.epochs - 1)) >= 1:
            return None
        return self.method.warmup_epochs, reached

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that identify everything that determines the result, including the teacher's configuration."""
        return fingerprint({"version": RESULT_VERSION, "run": to_dict(self, results_only=True)})

    @property
    def role(self) -> Literal["teacher", "student"]:
        """The field of the experiment that has the run's recipe."""
        return "teacher" if self.stage == "teacher" else "student"

    @property
    def name(self) -> str:
        """The run's folder: '<stage>-<model>[-<method>]-s<seed>-<12 digits of the fingerprint>'."""
        method = f"-{self.method.kind.replace('_', '-')}" if type(self.method) is not CrossEntropy else ""
        seed = "-imported" if self.imported else f"-s{self.seed}"
        return f"{self.stage}-{self.model.label}{method}{seed}-{self.fingerprint[:12]}"

    @property
    def model(self) -> Model:
        """The recipe's model. `Recipe` replaces the name of a model by the model when it is created."""
        assert isinstance(self.recipe.model, Model)
        return self.recipe.model


@dataclass(frozen=True)
class Plan:
    """The runs of one experiment, each after its teachers.

    cached_classes: how many classes each row of its logit cache keeps; None for all.
    """

    experiment: Experiment
    runs: tuple[Run, ...]
    cached_classes: int | None = None

    @property
    def stages(self) -> dict[Stage, list[str]]:
        """Names of the runs by stage. Distilled runs with methods of `compare` are in `comparison` only."""
        runs = [run for run in self.runs if run.stage != "distilled" or run.method == self.experiment.method]
        return {stage: [run.name for run in runs if run.stage == stage] for stage in STAGES}

    @property
    def comparison(self) -> dict[str, list[str]]:
        """Names of the distilled runs by method, `experiment.method` first; {} if no methods are compared."""
        if not self.experiment.compare:
            return {}
        methods = self.experiment.methods
        distilled = [run for run in self.runs if run.stage == "distilled"]
        return {_label(method, methods): [run.name for run in distilled if run.method == method] for method in methods}


def _label(method: Method, methods: Sequence[Method]) -> str:
    """Return the method's kind, with its changed fields if several of `methods` share the kind."""
    values = [(item.name, getattr(method, item.name), item.default) for item in fields(method)]
    changed = ", ".join(f"{name} {value}" for name, value, default in values if value != default)
    is_unique = [other.kind for other in methods].count(method.kind) == 1
    return method.kind if is_unique or not changed else f"{method.kind} ({changed})"


def make_plan(experiment: Experiment, dataset: Dataset, weights_folder: Path, stages: Iterable[Stage] = STAGES) -> Plan:
    """Return the runs of `stages`, and the teachers that distilled students need.

    weights_folder: the folder in which `prefetch` stores pretrained weights. Raises ConfigError if a run does not fit
    `dataset`.
    """
    selected = set(stages)
    _check_cached_classes(experiment, dataset)
    kept = experiment.num_cached_classes(dataset.num_classes)
    needs_teachers = "distilled" in selected and any(method.needs for method in experiment.methods)
    has_teachers = needs_teachers or "teacher" in selected
    teachers = _teachers(experiment, dataset, weights_folder) if has_teachers else []
    base = Run(
        family=experiment.family,
        recipe=_without_path(experiment.student),
        data=experiment.data,
        data_identity=dataset.identity,
        initial=_initial("student", experiment.student, weights_folder),
    )
    runs = list(teachers)
    if "baseline" in selected:
        runs += [replace(base, stage="baseline", seed=seed) for seed in experiment.seeds]
    if "distilled" in selected:
        for method in experiment.methods:
            recipe = _distilled_recipe(base.recipe, method)
            changed = replace(base, stage="distilled", recipe=recipe, method=method)
            if method.needs:
                seeds = tuple(run.seed for run in teachers) if len(teachers) > 1 else ()
                classes = _cached_classes(experiment, method, kept)
                changed = replace(changed, teacher=teachers[0], teacher_seeds=seeds, cached_classes=classes)
            runs += [replace(changed, seed=seed) for seed in experiment.seeds]
    for run in runs:
        _check_images(run, dataset)
        _check_cutout(run, dataset)
        _check_class_weights(run, dataset)
    return Plan(experiment, tuple(runs), kept)


def _teachers(experiment: Experiment, dataset: Dataset, weights_folder: Path) -> list[Run]:
    """Return the teachers, trained or imported, in the order of their seeds.

    They have no field of a single experiment, so that experiments with the same teacher share its run.
    """
    imported = _imported(experiment, weights_folder)
    teacher = Run(
        family=TEACHERS,
        stage="teacher",
        recipe=_without_path(experiment.teacher),
        data=replace(experiment.data, student_images=None),
        data_identity=dataset.identity,
        imported=imported,
        initial=None if imported else _initial("teacher", experiment.teacher, weights_folder),
    )
    seeds = experiment.teacher_seeds or (experiment.teacher_seed,)
    return [replace(teacher, seed=seed) for seed in sorted(seeds)]


def _imported(experiment: Experiment, weights_folder: Path) -> WeightsFile | None:
    """Return the weights of an imported teacher, else None. A teacher without a classifier must be imported."""
    model = experiment.teacher.model
    assert isinstance(model, Model)
    if experiment.teacher_checkpoint == PRETRAINED:
        return _pretrained_weights(model, weights_folder, "train the teacher with --set teacher_checkpoint=none")
    if checkpoint := experiment.teacher_checkpoint:
        is_folder = checkpoint.startswith(HF_PREFIX)
        return _weights_file(str(model.pretrained_file(weights_folder)) if is_folder else checkpoint)
    if model.classifier:
        return None
    weights = _initial("teacher", experiment.teacher, weights_folder)
    if weights is None:
        raise ConfigError(
            "teacher.model.classifier = False: a teacher without a classifier requires weights, since it is not "
            "trained here; --set teacher.model.weights=pretrained or a file, or --teacher-checkpoint FILE"
        )
    return weights


def _check_cached_classes(experiment: Experiment, dataset: Dataset) -> None:
    """Raise ConfigError if a logit cache cannot keep as many classes as requested."""
    kept, num_classes = experiment.cached_classes, dataset.num_classes
    if not isinstance(kept, int):
        return
    if num_classes > MAX_CLASSES:
        raise ConfigError(
            f"cached_classes = {kept}: {dataset.name} has {num_classes:,} classes, and a logit cache can number only "
            f"{MAX_CLASSES:,}; --set cached_classes=all"
        )
    if kept > num_classes:
        raise ConfigError(
            f"cached_classes = {kept}: must be at most {num_classes:,}, the number of classes of {dataset.name}; "
            "--set cached_classes=all keeps all"
        )


def _cached_classes(experiment: Experiment, method: Method, kept: int | None) -> int | None:
    """Return how many classes a logit cache keeps for runs with `method`; None for all, or if they never read one.

    A cache of the top classes changes the result. A cache of all classes only rounds the logits.
    """
    is_live = experiment.teacher_source == "live" or experiment.why_never_cached or not method.needs <= CACHEABLE
    return None if is_live or not method.works_with_top_classes else kept


def _distilled_recipe(recipe: Recipe, method: Method) -> Recipe:
    """Return the recipe of distilled students, which have no classifier if nothing in the loss would train it."""
    if method.trains_classifier(recipe.epochs):
        return recipe
    assert isinstance(recipe.model, Model)
    return replace(recipe, model=replace(recipe.model, classifier=False))


def _without_path(recipe: Recipe) -> Recipe:
    """Return `recipe` without the paths of weights, which `Run.initial` identifies by content, and of folders."""
    model = recipe.model
    if isinstance(model, HuggingFace):
        model = model.without_path
    if getattr(model, "weights", "") not in ("", "pretrained"):
        assert isinstance(model, Model)
        model = replace(model, **{"weights": "file"})
    return replace(recipe, model=model)


def _initial(role: str, recipe: Recipe, weights_folder: Path) -> WeightsFile | None:
    weights = getattr(recipe.model, "weights", "")
    if weights != "pretrained":
        return _weights_file(weights) if weights else None
    assert isinstance(recipe.model, Model)
    from_scratch = f"train from scratch with --set {role}.model.weights="
    return _pretrained_weights(recipe.model, weights_folder, from_scratch)


def _pretrained_weights(model: Model, weights_folder: Path, instead: str) -> WeightsFile:
    """Return the library's weights of `model`, which `prefetch` stores. instead: another remedy if they are missing."""
    path = model.pretrained_file(weights_folder)
    if not is_file(path):
        raise ConfigError(
            f"pretrained weights '{path}' do not exist: run `{COMMAND} prefetch FILE` with this experiment's file "
            f"and its --set options on a machine with internet access, or {instead}"
        )
    return _weights_file(str(path))


def _weights_file(text: str) -> WeightsFile:
    """Return the WeightsFile for the text 'FILE' or 'FILE#KEY'. Raises ConfigError if the file does not exist."""
    path, key = split_key(text)
    require_file(path)
    return WeightsFile(sha256=file_sha256(path), path=str(path.absolute()), key=key)


def _usual_val_images(dataset: Dataset) -> int:
    """Return a tenth of the training images, the usual size of the validation split."""
    return max(1, len(dataset.train.labels) // 10)


def _check_classes(data: Data, dataset: Dataset) -> None:
    """Raise ConfigError if the validation split contains all images of a class, as can happen for a small class."""
    labels = dataset.train.labels
    smallest = int(torch.bincount(labels, minlength=dataset.num_classes).min())
    if smallest * (len(labels) - data.val_images) >= len(labels):
        return  # each class contributes in proportion, to within one image, so at least one of its images remains
    train, _ = stratified_split(labels, data.val_images, data.split_seed)
    train_images_per_class = torch.bincount(labels[train], minlength=dataset.num_classes).tolist()
    if 0 in train_images_per_class:
        name = dataset.class_names[train_images_per_class.index(0)]
        raise ConfigError(
            f"data.val_images = {data.val_images}: all images of the class '{name}' would be validation images; "
            f"--set data.val_images={_usual_val_images(dataset)} is usual, or add images to the class"
        )


def _check_images(run: Run, dataset: Dataset) -> None:
    """Raise ConfigError unless there are enough images for validation, for the requested parts, and for one batch."""
    num_available = len(dataset.train.labels) - run.data.val_images
    role = run.role
    if num_available < 1:
        total = plural(len(dataset.train.labels), "training image")
        raise ConfigError(
            f"data.val_images = {run.data.val_images}: must be less than the {total} of {dataset.name}; "
            f"--set data.val_images={_usual_val_images(dataset)} is usual"
        )
    _check_classes(run.data, dataset)
    for name in ("train_images", "student_images"):
        num_images = getattr(run.data, name)
        if num_images is not None and num_images > num_available:
            raise ConfigError(
                f"data.{name} = {num_images}: must be at most {num_available:,}, the number of images outside the "
                "validation split"
            )
        num_available = num_images or num_available
    if run.recipe.batch_size > num_available:
        raise ConfigError(
            f"{role}.batch_size = {run.recipe.batch_size}: must be at most {num_available:,}, the number of its "
            f"training images; --set {role}.batch_size={num_available} or less"
        )


def _check_cutout(run: Run, dataset: Dataset) -> None:
    """Raise ConfigError if cutout would remove a whole image."""
    role, side = run.role, run.recipe.augmentation.cutout
    if side >= dataset.image_size:
        width = plural(dataset.image_size, "pixel")
        raise ConfigError(
            f"{role}.augmentation.cutout = {side}: must be less than {width}, the side of the images; "
            f"--set {role}.augmentation.cutout={dataset.image_size // 2} is usual"
        )


def _check_class_weights(run: Run, dataset: Dataset) -> None:
    """Raise ConfigError for class weights that do not fit the data."""
    weights, labels = run.recipe.class_weights, dataset.train.labels
    if isinstance(weights, str):
        return
    if len(weights) != dataset.num_classes:
        raise ConfigError(
            f"{run.role}.class_weights has {plural(len(weights), 'number')}, and {dataset.name} has "
            f"{dataset.num_classes} classes; give one number per class, or --set {run.role}.class_weights=balanced"
        )
    present = labels[train_val_indices(run.data, labels)[0]].unique().tolist()
    if not any(weights[label] for label in present):
        raise ConfigError(
            f"{run.role}.class_weights = {weights}: every class with training images has a weight of 0; raise one"
        )


def train_val_indices(data: Data, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and of the validation images in the training split, int64, ascending.

    The validation indices depend on val_images and split_seed alone, so teacher and students share them.
    """
    train, val = stratified_split(labels, data.val_images, data.split_seed)
    for num_images in (data.train_images, data.student_images):
        if num_images is not None:
            train = train[stratified_subset(labels[train], num_images, data.split_seed)]
    return train, val
