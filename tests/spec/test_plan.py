"""The runs of a plan, the runs that experiments share, and the fingerprint that identifies a run."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_runs import NO_WEIGHTS, digits, experiment, recipe, run_of

from raykd import models
from raykd.data.augmentation import Augmentation
from raykd.data.types import Dataset, Split
from raykd.errors import ConfigError
from raykd.methods import DKD, KD, DeiT, FeatureKD
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.spec.experiment import Data, Experiment, Workers
from raykd.spec.optimizers import Optimizer
from raykd.spec.overrides import override
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import SGD, AdamW, Constant, Cosine, MultiStep
from raykd.spec.search import Search, loguniform, uniform
from raykd.spec.stages import STAGES, Stage
from raykd.training.model_file import images_of
from raykd.training.training_step import make_model

# Run names of the experiment in small_runs.py. If they change, every run in every results folder is repeated. Update
# them only on purpose, and note it in the commit; if results changed too, raise plan.RESULT_VERSION.
GOLDEN = {
    "teacher": "teacher-resnet8-w16-s0-bf62f07e971f",
    "baseline": "baseline-resnet8-w8-s0-9b42bd592fa5",
    "distilled": "distilled-resnet8-w8-kd-s0-bf169fb67a38",
}

TESTS = Path(__file__).parents[1]


def runs_of(experiment: Experiment, dataset: Dataset | None = None, **options: Any) -> tuple[Run, ...]:
    return make_plan(experiment, dataset or digits(), NO_WEIGHTS, **options).runs


def names(experiment: Experiment, stage: Stage) -> list[str]:
    return [run.name for run in runs_of(experiment) if run.stage == stage]


def test_plan_is_a_teacher_then_a_baseline_and_a_distilled_student_per_seed() -> None:
    runs = runs_of(experiment(seeds=(3, 5)))
    assert [(run.stage, run.seed) for run in runs] == [
        ("teacher", 0),
        ("baseline", 3),
        ("baseline", 5),
        ("distilled", 3),
        ("distilled", 5),
    ]
    assert [run.teacher for run in runs] == [None, None, None, runs[0], runs[0]]
    assert {run.recipe for run in runs[1:]} == {experiment().student}


def test_plan_names_its_runs_by_stage() -> None:
    plan = make_plan(experiment(seeds=(1, 2)), digits(), NO_WEIGHTS)
    assert list(plan.stages) == list(STAGES)
    assert [len(names) for names in plan.stages.values()] == [1, 2, 2]
    assert [name for names in plan.stages.values() for name in names] == [run.name for run in plan.runs]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (("teacher",), ["teacher"]),
        (("baseline",), ["baseline"]),
        (("distilled",), ["teacher", "distilled"]),
        (("baseline", "teacher"), ["teacher", "baseline"]),
    ],
)
def test_a_plan_of_one_stage_includes_its_teachers(stages: tuple[Stage, ...], expected: list[str]) -> None:
    assert [run.stage for run in runs_of(experiment(), stages=stages)] == expected
    assert [run.stage for run in runs_of(experiment(), stages=iter(stages))] == expected


def test_selected_stages_have_the_same_runs_as_in_the_whole_plan() -> None:
    whole = {run.name for run in runs_of(experiment())}
    assert all(run.name in whole for stage in STAGES for run in runs_of(experiment(), stages=(stage,)))


def test_another_method_shares_teacher_and_baselines() -> None:
    kd, features = experiment(), experiment(method=FeatureKD())
    assert names(kd, "teacher") == names(features, "teacher")
    assert names(kd, "baseline") == names(features, "baseline")
    assert not set(names(kd, "distilled")) & set(names(features, "distilled"))


def test_another_teacher_shares_only_the_baselines() -> None:
    one, other = experiment(), experiment(teacher=recipe(epochs=5))
    assert names(one, "baseline") == names(other, "baseline")
    assert not set(names(one, "distilled")) & set(names(other, "distilled"))


def test_students_with_another_augmentation_share_the_teacher() -> None:
    plain, mixed = experiment(), experiment(student=recipe(augmentation=Augmentation(mixup=1.0)))
    assert names(plain, "teacher") == names(mixed, "teacher")
    assert not set(names(plain, "baseline")) & set(names(mixed, "baseline"))


def test_students_on_fewer_images_share_the_teacher() -> None:
    few = experiment(data=replace(experiment().data, student_images=60))
    assert names(few, "teacher") == names(experiment(), "teacher")
    assert names(few, "baseline") != names(experiment(), "baseline")


def test_more_seeds_keep_the_existing_runs() -> None:
    few, many = experiment(seeds=(0, 1)), experiment(seeds=(1, 0, 2))
    assert {run.name for run in runs_of(few)} < {run.name for run in runs_of(many)}


def test_several_teachers_are_separate_runs_and_each_distilled_run_uses_all() -> None:
    runs = runs_of(experiment(seeds=(3, 5), teacher_seeds=(2, 0, 1)))
    teachers, (one, other) = runs[:3], runs[-2:]
    assert [(run.stage, run.seed) for run in teachers] == [("teacher", 0), ("teacher", 1), ("teacher", 2)]
    assert one.teachers == other.teachers == teachers and one.teacher == teachers[0]
    assert [run.teachers for run in runs[:5]] == 5 * [()]
    assert teachers[0].name == GOLDEN["teacher"], "a trained teacher is reused"


def test_a_student_starts_as_its_teacher_if_their_initial_weights_are_equal() -> None:
    same = experiment(seeds=(0, 1, 2), teacher=experiment().student)
    cases = [same, replace(same, teacher_seed=9), replace(same, teacher_seeds=(1, 2)), experiment(seeds=(0, 1))]
    for case in cases:
        for run in runs_of(case):
            weights = make_model(run, digits()).network.state_dict()
            teachers = [make_model(teacher, digits()).network.state_dict() for teacher in run.teachers]
            is_equal = any(
                weights.keys() == other.keys() and all(torch.equal(weights[name], other[name]) for name in weights)
                for other in teachers
                if all(weights[name].shape == other[name].shape for name in weights.keys() & other.keys())
            )
            assert run.starts_as_its_teacher == is_equal
    assert [sum(run.starts_as_its_teacher for run in runs_of(case)) for case in cases] == [1, 0, 2, 0]


@pytest.mark.parametrize(
    ("epochs", "warmup", "reached"),
    # Epochs count from 0, and the weight of epoch e is e / warmup: at most 14/20 in 15 epochs, 19/20 in 20, 1 in 21.
    [(15, 20.0, 0.7), (20, 20.0, 0.95), (1, 20.0, 0.0), (21, 20.0, None), (15, 0.0, None)],
)
def test_a_warmup_that_does_not_end_reaches_a_part_of_the_weights(epochs, warmup, reached) -> None:
    changed = experiment(method=DKD(warmup_epochs=warmup), student=replace(experiment().student, epochs=epochs))
    *_, distilled = runs_of(changed)
    assert distilled.unfinished_warmup == (None if reached is None else (warmup, reached))
    assert all(run.unfinished_warmup is None for run in runs_of(experiment(method=KD())))


def test_order_of_the_teachers_seeds_does_not_matter() -> None:
    assert runs_of(experiment(teacher_seeds=(1, 0))) == runs_of(experiment(teacher_seeds=(0, 1)))


def test_teacher_seeds_with_one_seed_is_the_run_of_teacher_seed() -> None:
    assert runs_of(experiment(teacher_seeds=(4,))) == runs_of(experiment(teacher_seed=4))


CHANGES: dict[str, Callable[[Run], Run]] = {
    "epochs": lambda run: replace(run, recipe=replace(run.recipe, epochs=4)),
    "batch_size": lambda run: replace(run, recipe=replace(run.recipe, batch_size=40)),
    "ema_decay": lambda run: replace(run, recipe=replace(run.recipe, ema_decay=0.0)),
    "gradient_accumulation": lambda run: replace(run, recipe=replace(run.recipe, gradient_accumulation=2)),
    "class_weights": lambda run: replace(run, recipe=replace(run.recipe, class_weights="balanced")),
    "class weights by number": lambda run: replace(run, recipe=replace(run.recipe, class_weights=(1.0,) * 10)),
    "sampling": lambda run: replace(run, recipe=replace(run.recipe, sampling="balanced")),
    "repeats": lambda run: replace(run, recipe=replace(run.recipe, repeats=3)),
    "patience": lambda run: replace(run, recipe=replace(run.recipe, patience=1)),
    "optimizer by name": lambda run: replace(run, recipe=replace(run.recipe, optimizer=Optimizer("adam", lr=0.05))),
    "optimizer of timm": lambda run: replace(
        run, recipe=replace(run.recipe, optimizer=Optimizer("timm:adam", lr=0.05))
    ),
    "label_smoothing": lambda run: replace(run, recipe=replace(run.recipe, label_smoothing=0.1)),
    "clip_gradient_norm": lambda run: replace(run, recipe=replace(run.recipe, clip_gradient_norm=1.0)),
    "precision": lambda run: replace(run, recipe=replace(run.recipe, precision="bf16")),
    "channels_last": lambda run: replace(run, recipe=replace(run.recipe, channels_last=False)),
    "augmentation": lambda run: replace(run, recipe=replace(run.recipe, augmentation=Augmentation(cutout=3))),
    "mixup": lambda run: replace(run, recipe=replace(run.recipe, augmentation=Augmentation(cutout=3, mixup=0.2))),
    "erasing": lambda run: replace(run, recipe=replace(run.recipe, augmentation=Augmentation(erasing=0.25))),
    "erasing with the mean color": lambda run: replace(
        run, recipe=replace(run.recipe, augmentation=Augmentation(erasing=0.25, erasing_fill="mean"))
    ),
    "optimizer": lambda run: replace(run, recipe=replace(run.recipe, optimizer=AdamW(lr=0.05))),
    "lr": lambda run: replace(run, recipe=replace(run.recipe, optimizer=SGD(lr=0.06))),
    "momentum": lambda run: replace(run, recipe=replace(run.recipe, optimizer=SGD(lr=0.05, momentum=0.8))),
    "weight_decay": lambda run: replace(run, recipe=replace(run.recipe, optimizer=SGD(lr=0.05, weight_decay=0))),
    "nesterov": lambda run: replace(run, recipe=replace(run.recipe, optimizer=SGD(lr=0.05, nesterov=True))),
    "schedule": lambda run: replace(run, recipe=replace(run.recipe, schedule=Constant())),
    "milestones": lambda run: replace(run, recipe=replace(run.recipe, schedule=MultiStep((0.4,)))),
    "warmup": lambda run: replace(run, recipe=replace(run.recipe, schedule=Cosine(warmup_epochs=1))),
    "width": lambda run: replace(run, recipe=replace(run.recipe, model=ResNet((1, 1, 1, 1), 12))),
    "blocks": lambda run: replace(run, recipe=replace(run.recipe, model=ResNet((1, 1, 1, 2), 8))),
    "model": lambda run: replace(run, recipe=replace(run.recipe, model=ViT(1, 8, 1, 4))),
    "distillation token": lambda run: replace(
        run, recipe=replace(run.recipe, model=ViT(1, 8, 1, 4, distillation_token=True))
    ),
    "dropout": lambda run: replace(run, recipe=replace(run.recipe, model=ViT(1, 8, 1, 4, dropout=0.1))),
    "seed": lambda run: replace(run, seed=1),
    "alpha": lambda run: replace(run, method=KD(alpha=0.4)),
    "temperature": lambda run: replace(run, method=KD(temperature=2)),
    "method": lambda run: replace(run, method=FeatureKD()),
    "feature_weight": lambda run: replace(run, method=FeatureKD(feature_weight=2)),
    "hard labels": lambda run: replace(run, method=DeiT()),
    "soft labels for the token": lambda run: replace(run, method=DeiT(temperature=4.0)),
    "distance": lambda run: replace(run, method=FeatureKD(distance="cosine")),
    "val_images": lambda run: replace(run, data=replace(run.data, val_images=90)),
    "train_images": lambda run: replace(run, data=replace(run.data, train_images=None)),
    "student_images": lambda run: replace(run, data=replace(run.data, student_images=150)),
    "image_size": lambda run: replace(run, data=replace(run.data, image_size=None)),
    "crop_padding": lambda run: replace(run, data=replace(run.data, crop_padding=2)),
    "flip": lambda run: replace(run, data=replace(run.data, flip=False)),
    "split_seed": lambda run: replace(run, data=replace(run.data, split_seed=1)),
    "data_identity": lambda run: replace(run, data_identity="other pixels"),
    "teacher": lambda run: replace(run, teacher=None),
    "teachers' seeds": lambda run: replace(run, teacher_seeds=(0, 1)),
    "three teachers' seeds": lambda run: replace(run, teacher_seeds=(0, 1, 2)),
    "teacher's seed": lambda run: replace(run, teacher=replace(run_of("teacher"), seed=1)),
    "teacher's epochs": lambda run: replace(run, teacher=replace(run_of("teacher"), recipe=recipe(epochs=9))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fingerprint_changes_with_each_field_that_determines_the_result(name: str) -> None:
    assert CHANGES[name](run_of("distilled")).fingerprint != run_of("distilled").fingerprint


def test_no_two_changes_have_the_same_fingerprint() -> None:
    fingerprints = [change(run_of("distilled")).fingerprint for change in CHANGES.values()]
    assert len(set(fingerprints)) == len(fingerprints)


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": Workers(cpus=7, gpus=0.5)},
        {"search": Search({"method.alpha": uniform(0, 1)})},
        {"seeds": (0, 1, 2)},
        {"student": recipe(model=ResNet(blocks=(1, 1, 1, 1), width=8))},
        {"data": Data("digits", 100, 200, None, 8, 1, True, 0)},
        {"student": recipe(augmentation=Augmentation(crop_area=1.0, randaugment=(), mixup=0, erasing=0))},
    ],
)
def test_changes_without_effect_on_the_result_keep_the_fingerprints(changes: dict[str, Any]) -> None:
    expected = {run.fingerprint for run in runs_of(experiment())}
    assert expected <= {run.fingerprint for run in runs_of(experiment(**changes))}


def write_weights(path: Path, seed: int = 0) -> Path:
    model = models.build(recipe().model, images_of(digits()), seed)  # pyright: ignore[reportArgumentType]
    save_file(model.network.state_dict(), path)
    return path


def test_weights_file_is_identified_by_its_bytes_and_not_by_its_path(tmp_path: Path) -> None:
    file, copy = write_weights(tmp_path / "a.safetensors"), write_weights(tmp_path / "b.safetensors")
    other = write_weights(tmp_path / "c.safetensors", seed=1)

    def fingerprints(**changes: Any) -> list[str]:
        return [run.fingerprint for run in runs_of(experiment(**changes))]

    def starting_at(path: Path) -> dict[str, Any]:
        return {"student": recipe(model=ResNet((1, 1, 1, 1), 8, weights=str(path)))}

    assert fingerprints(**starting_at(file)) == fingerprints(**starting_at(copy))
    assert fingerprints(**starting_at(file))[1:] != fingerprints(**starting_at(other))[1:]
    assert fingerprints(**starting_at(file))[1:] != fingerprints()[1:]
    imported = [fingerprints(teacher_checkpoint=str(path)) for path in (file, copy, other)]
    assert imported[0] == imported[1] != imported[2]


def test_imported_teacher_has_no_initial_weights_and_no_seed_in_its_name(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "a.safetensors")
    teacher, *_ = runs_of(experiment(teacher_checkpoint=str(path), teacher=recipe()))
    assert teacher.imported is not None and teacher.initial is None
    assert teacher.name.startswith("teacher-resnet8-w8-imported-")


@pytest.mark.parametrize("field", ["teacher_checkpoint", "weights"])
def test_missing_weights_file_is_refused(field: str) -> None:
    missing = {"weights": {"student": recipe(model=ResNet((1, 1, 1, 1), 8, weights="none.pth"))}}
    with pytest.raises(ConfigError, match=r"weights file 'none\.pth' does not exist"):
        runs_of(experiment(**missing.get(field, {field: "none.pth"})))


def test_missing_pretrained_weights_are_refused_with_the_remedy() -> None:
    tiny = Timm("vit_tiny_patch16_224", input_size=16, weights="pretrained")
    with pytest.raises(ConfigError, match="raykd prefetch") as caught:
        runs_of(experiment(teacher=recipe(model=tiny)))
    remedy = str(caught.value).rsplit("--set ", 1)[1].partition("=")
    assert remedy == ("teacher.model.weights", "=", "")
    from_scratch = override(experiment(teacher=recipe(model=tiny)), remedy[0], remedy[2])
    assert runs_of(from_scratch)[0].initial is None


def test_the_librarys_weights_are_imported_with_their_classifier(tmp_path: Path) -> None:
    pretrained = experiment(teacher=recipe(model="torchvision:resnet18"), teacher_checkpoint="pretrained")
    with pytest.raises(ConfigError, match=r"torchvision-resnet18.safetensors' do not exist.*teacher_checkpoint=none"):
        runs_of(pretrained)
    file = tmp_path / "torchvision-resnet18.safetensors"
    file.write_bytes(b"weights")
    teacher, *students = make_plan(pretrained, digits(), tmp_path).runs
    assert teacher.imported is not None and teacher.initial is None and Path(teacher.imported.path) == file
    assert all(run.imported is None for run in students)
    with pytest.raises(ConfigError, match="teacher_checkpoint = 'pretrained' in Experiment: requires a model with"):
        replace(pretrained, teacher=recipe(model="resnet18"))


def test_baselines_need_no_weights_of_the_teacher() -> None:
    pretrained = experiment(teacher=recipe(model="vit_tiny"))
    assert [run.stage for run in runs_of(pretrained, stages=("baseline",))] == ["baseline"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": Data("digits", val_images=1_200)},
            "data.val_images = 1200: must be less than the 1,200 training images of digits",
        ),
        (
            {"data": Data("digits", 100, 1_101)},
            "data.train_images = 1101: must be at most 1,100, the number of images outside",
        ),
        (
            {"data": Data("digits", 100, None, 1_101)},
            "data.student_images = 1101: must be at most 1,100, the number of images",
        ),
        ({"student": recipe(batch_size=201)}, "student.batch_size = 201: must be at most 200, the number of its"),
        (
            {"student": recipe(augmentation=Augmentation(cutout=8))},
            "student.augmentation.cutout = 8: must be less than 8 pixels, the side of the images; "
            "--set student.augmentation.cutout=4 is usual",
        ),
        ({"teacher": recipe(augmentation=Augmentation(cutout=9))}, "teacher.augmentation.cutout = 9"),
        ({"teacher": recipe(batch_size=300)}, "teacher.batch_size = 300: must be at most 200, the number of its"),
    ],
)
def test_more_images_or_pixels_than_the_data_set_has_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        runs_of(experiment(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_runs_are_folders_of_stage_model_method_and_seed() -> None:
    run_names = [run.name for run in runs_of(experiment(method=FeatureKD(), seeds=(4,)))]
    assert [name.rsplit("-", 1)[0] for name in run_names] == [
        "teacher-resnet8-w16-s0",
        "baseline-resnet8-w8-s4",
        "distilled-resnet8-w8-feature-kd-s4",
    ]
    assert all(len(name.rsplit("-", 1)[1]) == 12 for name in run_names)


def test_fingerprints_equal_the_golden_ones() -> None:
    assert {run.stage: run.name for run in runs_of(experiment())} == GOLDEN


def test_fingerprints_are_equal_between_processes() -> None:
    """The fingerprint does not depend on hash seeds, import order, or objects made before."""
    script = "import small_runs; print(small_runs.run_of('distilled').fingerprint)"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", script]
    completed = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == run_of("distilled").fingerprint


def test_holding_out_all_images_of_a_class_is_refused() -> None:
    """With one image per class, each held-out image would remove a class from training."""
    few = digits().train
    rows = torch.stack([(few.labels == label).nonzero()[0, 0] for label in range(10)])
    rows = torch.cat([rows, (few.labels == 9).nonzero()[1:92, 0]])  # 101 in all
    small = replace(digits(), train=Split(few.images[rows], few.labels[rows]))
    data = replace(experiment().data, val_images=60, train_images=None)
    small_batches = experiment(data=data, teacher=recipe(batch_size=10), student=recipe(batch_size=10))
    with pytest.raises(ConfigError, match=r"data\.val_images = 60: all .* of the class '\d' .*data\.val_images=10"):
        runs_of(small_batches, small)
    assert runs_of(replace(small_batches, data=replace(data, val_images=10)), small)


# ---- Classes in a logit cache ----


def distilled_of(**changes: Any) -> Run:
    return next(run for run in make_plan(experiment(**changes), digits(), NO_WEIGHTS).runs if run.stage == "distilled")


def test_number_of_cached_classes_changes_the_fingerprint_of_distilled_runs_alone() -> None:
    plans = [make_plan(experiment(cached_classes=kept), digits(), NO_WEIGHTS) for kept in (None, 3, 4)]
    names = [{run.stage: run.name for run in plan.runs} for plan in plans]
    assert len({by_stage["distilled"] for by_stage in names}) == 3
    assert len({by_stage["teacher"] for by_stage in names}) == len({by_stage["baseline"] for by_stage in names}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"cached_classes": "all"},
        {"cached_classes": 10},
        {"cached_classes": 3, "teacher_source": "live"},
        {"cached_classes": 3, "student": recipe(augmentation=Augmentation(mixup=0.2))},
    ],
)
def test_runs_of_all_classes_or_of_a_live_teacher_keep_their_fingerprint(changes: dict[str, Any]) -> None:
    plain = {name: value for name, value in changes.items() if name == "student"}
    assert distilled_of(**changes).name == distilled_of(**plain).name


def test_methods_of_all_classes_keep_their_fingerprint() -> None:
    assert distilled_of(method=DKD(), cached_classes=3).name == distilled_of(method=DKD()).name
    assert distilled_of(method=KD(), cached_classes=3).cached_classes == 3


def test_more_classes_than_the_data_has_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        distilled_of(cached_classes=11)
    assert str(caught.value) == (
        "cached_classes = 11: must be at most 10, the number of classes of digits; --set cached_classes=all keeps all"
    )


def test_the_baselines_of_a_winner_are_trained_with_its_student_recipe() -> None:
    """They follow a search, also one that confirms nothing (confirm=0)."""
    search = Search({"student.optimizer.lr": loguniform(0.01, 1), "method.alpha": uniform(0, 1)}, confirm=0)
    winner = {"student.optimizer.lr": 0.25, "method.alpha": 0.125}
    runs = runs_of(experiment(search=search).with_configuration(winner))
    students = [run for run in runs if run.stage != "teacher"]
    assert {run.stage for run in students} == {"baseline", "distilled"}
    assert all(run.recipe == students[0].recipe and run.recipe.optimizer.lr == 0.25 for run in students)
