"""Fields of an experiment are checked, alone and together, before anything starts."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from small_runs import experiment, recipe

from raykd.cli.experiment_file import apply_settings
from raykd.config import Config
from raykd.data.augmentation import Augmentation
from raykd.errors import ConfigError
from raykd.methods import KD, CrossEntropy, DeiT, FeatureKD
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.spec.experiment import Data, Experiment, Workers
from raykd.spec.overrides import override
from raykd.spec.recipe import SGD, AdamW, Constant, Cosine, MultiStep, Recipe
from raykd.spec.search import Search, uniform


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (SGD(), {"lr": 0}),
        (SGD(), {"momentum": 1}),
        (SGD(), {"weight_decay": -1}),
        (SGD(momentum=0), {"nesterov": True}),
        (AdamW(), {"lr": -1e-3}),
        (AdamW(), {"beta2": 1}),
        (AdamW(), {"weight_decay": -0.1}),
        (MultiStep(), {"milestones": (0.5, 0.5)}),
        (MultiStep(), {"milestones": (0.0, 0.5)}),
        (MultiStep(), {"gamma": 1}),
        (Cosine(), {"warmup_epochs": -1}),
        (Cosine(), {"floor": 1}),
        (Recipe(), {"epochs": 0}),
        (Recipe(), {"batch_size": 0}),
        (Recipe(), {"label_smoothing": 1}),
        (Recipe(), {"clip_gradient_norm": 0}),
        (Recipe(), {"repeats": 0}),
        (Recipe(sampling="balanced"), {"repeats": 3}),
        (Recipe(), {"precision": "fp8"}),
        (KD(), {"alpha": 1.1}),
        (KD(), {"temperature": 0}),
        (FeatureKD(), {"feature_weight": -1}),
        (FeatureKD(), {"distance": "l1"}),
        (DeiT(), {"alpha": -0.1}),
        (DeiT(), {"temperature": 0}),
        (Data(), {"val_images": -1}),
        (Data(), {"crop_padding": 33}),
        (Data(), {"image_size": 0}),
        (Data(train_images=100), {"student_images": 101}),
        (Data(), {"name": "mnist"}),
        (Augmentation(), {"crop_area": 0.0}),
        (Augmentation(), {"crop_area": 1.5}),
        (Augmentation(), {"randaugment": (2,)}),
        (Augmentation(), {"randaugment": (0, 9)}),
        (Augmentation(), {"randaugment": (2, 31)}),
        (Augmentation(), {"cutout": -1}),
        (Augmentation(), {"erasing": 1.5}),
        (Augmentation(erasing=0.25), {"erasing_fill": "black"}),
        (Augmentation(), {"erasing_fill": "mean"}),
        (Augmentation(), {"mixup": -0.1}),
        (Augmentation(), {"cutmix": 33.0}),
        (Workers(), {"cpus": 0}),
        (Workers(), {"gpus": 1.5}),
        (ResNet(), {"blocks": (1, 1, 1)}),
        (ResNet(), {"width": 0}),
        (ViT(), {"heads": 5}),
        (ViT(), {"dropout": 1}),
        (experiment(), {"seeds": ()}),
        (experiment(), {"seeds": (0, 0)}),
        (experiment(), {"seeds": (-1,)}),
        (experiment(), {"family": "CNN/1"}),
        (experiment(), {"method": CrossEntropy()}),
        (experiment(), {"teacher_seeds": (0, 0)}),
        (experiment(), {"teacher_seeds": (-1, 0)}),
    ],
)
def test_invalid_value_is_refused_with_the_name_of_its_field(config: Config, changes: dict[str, Any]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(ConfigError) as caught:
        replace(config, **changes)
    message = str(caught.value)
    assert ("width" if name == "heads" else name) in message
    assert name == "method" or name == "heads" or repr(value).strip("()") in message, message
    assert "\n" not in message


def test_unknown_model_is_refused_with_the_most_similar_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'renset8'.*did you mean 'resnet8'"):
        Recipe("renset8")
    with pytest.raises(ConfigError, match=r"unknown timm model 'vit_tinny_patch16_224'.*'vit_tiny_patch16_224'"):
        Recipe("timm:vit_tinny_patch16_224")


def test_recipe_replaces_a_models_name_by_the_model() -> None:
    assert Recipe("resnet8") == Recipe(ResNet(blocks=(1, 1, 1, 1)))
    assert override(experiment(), "student.model", "vit6").student.model == ViT()
    assert override(experiment(), "student.model.width", "12").student.model == ResNet((1, 1, 1, 1), width=12)


def test_milestones_after_the_last_epoch_are_refused_because_they_do_nothing() -> None:
    with pytest.raises(ConfigError, match=r"milestones.*come after the last of 100 epochs"):
        Recipe(epochs=100, schedule=MultiStep(milestones=(50, 150)))


def test_warmup_as_long_as_the_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_epochs"):
        Recipe(epochs=5, schedule=Cosine(warmup_epochs=5))


@pytest.mark.parametrize(("epochs", "milestones"), [(300, [150, 225, 275]), (200, [100, 150, 183]), (1, [1, 1, 1])])
def test_milestones_are_fractions_of_the_epochs(epochs: int, milestones: list[int]) -> None:
    assert MultiStep((1 / 2, 3 / 4, 11 / 12)).epochs_of(epochs) == milestones


def test_one_epoch_trains_at_the_full_learning_rate() -> None:
    assert MultiStep((0.5, 0.75)).factor(0.0, 0, 1) == 1.0


def test_multistep_multiplies_at_each_milestone() -> None:
    schedule = MultiStep((1 / 2, 3 / 4, 9 / 10), gamma=0.1)
    factors = [schedule.factor(epoch, epoch, 200) for epoch in (0, 99, 100, 149, 150, 179, 180, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_cosine_falls_from_one_to_its_floor_after_warmup() -> None:
    schedule = Cosine(warmup_epochs=2, floor=0.1)
    assert schedule.factor(1.0, 1, 10) == pytest.approx(0.5)
    assert schedule.factor(2.0, 2, 10) == pytest.approx(1.0)
    assert schedule.factor(6.0, 6, 10) == pytest.approx(0.55)
    assert schedule.factor(10.0, 10, 10) == pytest.approx(0.1)
    factors = [Cosine().factor(epoch / 4, epoch // 4, 10) for epoch in range(40)]
    assert factors[0] == 1 and all(after < before for before, after in pairwise(factors))


def test_a_warmup_of_less_than_a_step_never_exceeds_the_learning_rate() -> None:
    factors = [Cosine(warmup_epochs=5e-4).factor(progress, 0, 10) for progress in (0.0, 2e-4, 4e-4, 5e-4)]
    assert factors == pytest.approx([1, 1, 1, 1])


def test_constant_schedule_has_factor_1() -> None:
    assert {Constant().factor(epoch, epoch, 5) for epoch in range(5)} == {1.0}


def test_trials_of_a_search_can_be_set_by_path() -> None:
    searched = experiment(search=Search({"method.alpha": uniform(0, 1)}))
    changed = override(searched, "search.trials", "3")
    assert isinstance(changed, Experiment) and changed.search is not None and changed.search.trials == 3


def test_settings_without_effect_beside_several_teachers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher_seed = 3 in Experiment: would have no effect beside .*\(0, 1\)"):
        experiment(teacher_seed=3, teacher_seeds=(0, 1))
    with pytest.raises(ConfigError, match=r"teacher_checkpoint = 'a.pth' in Experiment: would have"):
        experiment(teacher_checkpoint="a.pth", teacher_seeds=(0, 1))


def test_several_teachers_are_refused_if_the_method_needs_outputs_without_a_mean() -> None:
    with pytest.raises(ConfigError, match=r"teacher_seeds = \(0, 1\) in Experiment: the method needs their embedding"):
        experiment(method=FeatureKD(), teacher_seeds=(0, 1))
    assert experiment(method=FeatureKD(), teacher_seeds=(1,)).teacher_seeds == (1,)


def test_a_student_without_a_distillation_token_is_refused_with_the_setting_that_adds_it() -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(method=DeiT(), student=recipe(model="vit6"))
    message = str(caught.value)
    assert message.endswith("vit6 has none; --set student.model.distillation_token=true") and "\n" not in message
    with pytest.raises(
        ConfigError, match=r"resnet8-w8 has none; --set student\.model=vit6 --set student\.model\.distil"
    ):
        experiment(method=DeiT())
    with pytest.raises(ConfigError, match="test_vit has none"):
        experiment(method=DeiT(), student=recipe(model="timm:test_vit"))
    for model in (ViT(distillation_token=True), Timm("deit_tiny_distilled_patch16_224")):
        assert experiment(method=DeiT(), student=recipe(model=model)).method == DeiT()


@pytest.mark.parametrize("order", [1, -1])
def test_method_and_its_token_may_be_set_in_any_order(order: int) -> None:
    settings = ["method=deit", "student.model=vit6", "student.model.distillation_token=true"][::order]
    (changed,) = apply_settings([experiment()], settings)
    assert changed.student.model == ViT(distillation_token=True) and changed.method == DeiT()


def test_the_name_vit_tiny_is_the_pretrained_model() -> None:
    assert recipe(model="vit_tiny").model == Timm("vit_tiny_patch16_224", input_size=224, weights="pretrained")
