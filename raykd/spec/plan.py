"""The graph of runs that an experiment asks for: teachers -> baselines and distilled students, one a seed.

A `Run` is all that decides one training's result, and its fingerprint names exactly that: equal fingerprints
are the same run, whoever asked for it, and a run that is done is not run again.

Which images of the training part a run trains on, and which are held out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from raykd.config import Config, fingerprint, not_fingerprinted, to_dict
from raykd.data.splits import stratified_holdout, stratified_subset
from raykd.data.types import Dataset
from raykd.errors import ConfigError, plural
from raykd.methods import CrossEntropy, Method
from raykd.models import Model
from raykd.models.weights import require_file, split_key
from raykd.provenance import file_sha256
from raykd.spec.experiment import Data, Experiment
from raykd.spec.recipe import Recipe
from raykd.spec.stages import STAGES, Stage

# Raised when a change to the code changes what a run of the same settings gives: old runs are then run anew.
RESULT_VERSION = 1


@dataclass(frozen=True)
class WeightsFile(Config):
    """A file of weights, known by its bytes and not by where it lies. key: which of its state dicts, '' for the one."""

    kind: ClassVar[str] = "weights_file"
    sha256: str = ""
    path: str = not_fingerprinted("")
    key: str = ""


@dataclass(frozen=True)
class Run(Config):
    """One training: recipe, method and seed on a part of the data, under a teacher or none.

    teacher_seeds: where there are several teachers, which differ from `teacher` in their seeds alone: all of them.
    initial: the file that the weights start from. imported: weights trained elsewhere, taken over untrained.
    normalization: mean and std of each channel that imported weights were trained with, as the user set them; () for
    what the file, or timm, says.
    """

    kind: ClassVar[str] = "run"
    family: str = ""
    stage: Stage = "baseline"
    recipe: Recipe = Recipe()
    method: Method = CrossEntropy()
    seed: int = 0
    data: Data = Data()
    data_identity: str = ""
    teacher: "Run | None" = None
    initial: WeightsFile | None = None
    imported: WeightsFile | None = None
    teacher_seeds: tuple[int, ...] = ()
    normalization: tuple[float, ...] = ()

    @cached_property
    def teachers(self) -> tuple["Run", ...]:
        """The runs whose logits' mean teaches this one; () for none."""
        if self.teacher is None:
            return ()
        return tuple(replace(self.teacher, seed=seed) for seed in self.teacher_seeds) or (self.teacher,)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that name everything which decides this run's result, the teacher's settings included."""
        return fingerprint({"version": RESULT_VERSION, "run": to_dict(self, results_only=True)})

    @property
    def name(self) -> str:
        """The run's folder: '<stage>-<model>[-<method>]-s<seed>-<12 digits of the fingerprint>'."""
        method = f"-{self.method.kind.replace('_', '-')}" if self.method.needs else ""
        seed = "-imported" if self.imported else f"-s{self.seed}"
        return f"{self.stage}-{self.model.label}{method}{seed}-{self.fingerprint[:12]}"

    @property
    def model(self) -> Model:
        """The recipe's model; a name was looked up when the recipe was made."""
        assert isinstance(self.recipe.model, Model)
        return self.recipe.model


@dataclass(frozen=True)
class Plan:
    """The runs of one experiment, each after the teachers that it needs."""

    experiment: Experiment
    runs: tuple[Run, ...]

    @property
    def stages(self) -> dict[str, list[str]]:
        """Names of the runs by stage; of the distilled ones, those by the experiment's own method."""
        own = [run for run in self.runs if run.stage != "distilled" or run.method == self.experiment.method]
        return {stage: [run.name for run in own if run.stage == stage] for stage in STAGES}

    @property
    def comparison(self) -> dict[str, list[str]]:
        """Names of the distilled runs by method, where several are compared; the experiment's own is the first."""
        if not self.experiment.compare:
            return {}
        distilled = [run for run in self.runs if run.stage == "distilled"]
        methods = self.experiment.methods
        labels = zip(labels_of(methods), methods, strict=True)
        return {label: [run.name for run in distilled if run.method == method] for label, method in labels}


def labels_of(methods: Sequence[Method]) -> list[str]:
    """Each by its kind, with the fields that are not as it comes where several are of one kind."""
    kinds = [method.kind for method in methods]

    def label(method: Method) -> str:
        if kinds.count(method.kind) == 1:
            return method.kind
        own = {item.name: (getattr(method, item.name), item.default) for item in fields(method)}
        changed = [f"{name} {value}" for name, (value, usual) in own.items() if value != usual]
        return f"{method.kind} ({', '.join(changed)})" if changed else method.kind

    return [label(method) for method in methods]


def make_plan(experiment: Experiment, dataset: Dataset, weights_folder: Path, stages: Iterable[Stage] = STAGES) -> Plan:
    """The runs of `stages`, teachers of distilled students always included.

    weights_folder: where `prefetch` keeps pretrained weights. Raises ConfigError for what cannot run on `dataset`.
    """
    asked = set(stages)
    teachers = _teachers(experiment, dataset, weights_folder) if asked & {"teacher", "distilled"} else []
    base = Run(
        family=experiment.family,
        recipe=_without_path(experiment.student),
        data=experiment.data,
        data_identity=dataset.identity,
        initial=_initial("student", experiment.student, weights_folder),
    )
    runs = list(teachers)
    if "baseline" in asked:
        runs += [replace(base, stage="baseline", seed=seed) for seed in experiment.seeds]
    if "distilled" in asked:
        seeds = tuple(run.seed for run in teachers) if len(teachers) > 1 else ()
        taught = replace(base, stage="distilled", teacher=teachers[0], teacher_seeds=seeds)
        methods = experiment.methods
        runs += [replace(taught, method=method, seed=seed) for method in methods for seed in experiment.seeds]
    for run in runs:
        _check_images(run, dataset)
        _check_cutout(run, dataset)
    return Plan(experiment, tuple(runs))


def _teachers(experiment: Experiment, dataset: Dataset, weights_folder: Path) -> list[Run]:
    """Trained on all training images, or taken over from a file. Several stand in the order of their seeds."""
    imported = _weights_file(experiment.teacher_checkpoint) if experiment.teacher_checkpoint else None
    teacher = Run(
        family=experiment.family,
        stage="teacher",
        recipe=_without_path(experiment.teacher),
        data=replace(experiment.data, student_images=None),
        data_identity=dataset.identity,
        imported=imported,
        normalization=_normalization(experiment),
        initial=None if imported else _initial("teacher", experiment.teacher, weights_folder),
    )
    seeds = experiment.teacher_seeds or (experiment.teacher_seed,)
    return [replace(teacher, seed=seed) for seed in sorted(seeds)]


def _normalization(experiment: Experiment) -> tuple[float, ...]:
    """Mean and std of an imported teacher, (3 + 3) values; () where the experiment sets none."""
    mean, std = experiment.teacher_mean, experiment.teacher_std
    if not mean and not std:
        return ()
    name, value, other = ("teacher_mean", mean, "teacher_std") if mean else ("teacher_std", std, "teacher_mean")
    if not (mean and std):
        raise ConfigError(f"{name} = {value}: requires {other} too; --set {other}=RED,GREEN,BLUE")
    if not experiment.teacher_checkpoint:
        raise ConfigError(
            f"teacher_mean = {mean}: would have no effect, because the teacher is trained here on the data's own "
            "normalization; leave it out, or import a teacher with --teacher-checkpoint FILE"
        )
    return (*mean, *std)


def _without_path(recipe: Recipe) -> Recipe:
    """`recipe` with the word 'file' for a path of weights: `Run.initial` knows the file by its bytes."""
    if getattr(recipe.model, "weights", "") in ("", "pretrained"):
        return recipe
    assert isinstance(recipe.model, Model)
    return replace(recipe, model=replace(recipe.model, **{"weights": "file"}))


def _initial(who: str, recipe: Recipe, weights_folder: Path) -> WeightsFile | None:
    weights = getattr(recipe.model, "weights", "")
    if weights != "pretrained":
        return _weights_file(weights) if weights else None
    assert isinstance(recipe.model, Model)
    path = weights_folder / f"{recipe.model.label}.safetensors"
    if not path.is_file():
        raise ConfigError(
            f"pretrained weights '{path}' are not there: run `python -m raykd prefetch` on a machine "
            f"with a network, or train from scratch with --set {who}.model.weights="
        )
    return _weights_file(str(path))


def _weights_file(text: str) -> WeightsFile:
    """The file of 'FILE' or 'FILE#KEY'. Raises ConfigError where it does not exist."""
    path, key = split_key(text)
    require_file(path)
    return WeightsFile(sha256=file_sha256(path), path=str(path.absolute()), key=key)


def _tenth(dataset: Dataset) -> int:
    return max(1, len(dataset.train.labels) // 10)


def _check_classes(data: Data, dataset: Dataset) -> None:
    """Of each class some images are left: a share of a small one may be all of it."""
    labels = dataset.train.labels
    smallest = int(torch.bincount(labels, minlength=dataset.num_classes).min())
    if smallest * (len(labels) - data.val_images) >= len(labels):
        return  # a class gives its share to within one image, and keeps one at least
    kept, _ = stratified_holdout(labels, data.val_images, data.split_seed)
    left = torch.bincount(labels[kept], minlength=dataset.num_classes).tolist()
    if 0 in left:
        name = dataset.class_names[left.index(0)]
        raise ConfigError(
            f"data.val_images = {data.val_images}: all training images of the class '{name}' would be held out; "
            f"--set data.val_images={_tenth(dataset)} is a tenth of all, or give the class more images"
        )


def _check_images(run: Run, dataset: Dataset) -> None:
    """Enough images for validation, for the parts asked for, and for one batch."""
    left = len(dataset.train.labels) - run.data.val_images
    who = "teacher" if run.stage == "teacher" else "student"
    if left < 1:
        total = plural(len(dataset.train.labels), "training image")
        raise ConfigError(
            f"data.val_images = {run.data.val_images}: {dataset.name} has {total}, and some must be left to train "
            f"on; --set data.val_images={_tenth(dataset)} is a tenth"
        )
    _check_classes(run.data, dataset)
    for name in ("train_images", "student_images"):
        asked = getattr(run.data, name)
        if asked is not None and asked > left:
            raise ConfigError(f"data.{name} = {asked}: must be at most {left}, the images left after validation")
        left = asked or left
    if run.recipe.batch_size > left:
        raise ConfigError(
            f"{who}.batch_size = {run.recipe.batch_size} is larger than the {plural(left, 'image')} it trains on; "
            f"--set {who}.batch_size={left} or less"
        )


def _check_cutout(run: Run, dataset: Dataset) -> None:
    """Something of an image has to be left."""
    who, side = "teacher" if run.stage == "teacher" else "student", run.recipe.augmentation.cutout
    if side >= dataset.image_size:
        width = plural(dataset.image_size, "pixel")
        raise ConfigError(
            f"{who}.augmentation.cutout = {side}: images of {dataset.name} are {width} wide here; "
            f"--set {who}.augmentation.cutout={dataset.image_size // 2} is usual"
        )


def train_val_indices(data: Data, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(rows trained on, rows held out for validation) of the training part; both int64, ascending.

    The held-out rows depend on val_images and split_seed alone, so teacher and students share them.
    """
    kept, held_out = stratified_holdout(labels, data.val_images, data.split_seed)
    for asked in (data.train_images, data.student_images):
        if asked is not None:
            kept = kept[stratified_subset(labels[kept], asked, data.split_seed)]
    return kept, held_out
