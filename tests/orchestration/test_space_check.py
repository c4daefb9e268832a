"""A search that could draw a configuration that cannot be trained is refused before Ray starts; the check is cheap."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_runs import experiment, recipe
from written_records import search_record

from raykd.errors import ConfigError
from raykd.methods import AttentionTransfer, FeatureKD
from raykd.models.vit_cifar import ViT
from raykd.orchestration import experiment_plans, run_experiments, run_search
from raykd.orchestration.command import Command, SearchCommand
from raykd.orchestration.options import Options
from raykd.orchestration.search_identity import identity_of_search
from raykd.orchestration.space_check import early_comparison
from raykd.spec.experiment import Experiment
from raykd.spec.recipe import SGD, Cosine, MultiStep, Recipe
from raykd.spec.search import Search, Space, choice, integer, loguniform, uniform
from raykd.training import network_checks

VIT = ViT(depth=1, width=24, heads=2, patch=2)
WITH_TOKEN = replace(VIT, distillation_token=True)


class RayStarts(Exception):
    pass


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise RayStarts

    for module in (run_experiments, run_search):
        monkeypatch.setattr(module, "ray_session", start)


def search(space: dict[str, Space], results: Path, **changes: Any) -> None:
    searched: Experiment = replace(experiment(**changes), search=Search(space))
    run_search.search(searched, Command(Options(results, Path("none")), Console(file=io.StringIO())))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Space], tuple[str, ...]]] = {
    "feature maps that one of the students lacks": (
        {"student": recipe(model="resnet8")},
        {"student.model": choice("resnet8", "vit6"), "method": choice("kd", "at")},
        (
            "student.model vit6 with method at",
            "the student's model returns no feature maps",
            "such as a ResNet",
            "leave one of",
        ),
    ),
    "feature maps that the teacher lacks": (
        {"teacher": recipe(model=VIT)},
        {"method": choice("kd", "vid")},
        ("method vid cannot be trained", "the teacher's model returns no feature maps", "such as a ResNet"),
    ),
    "a distillation token that some students lack": (
        {"student": recipe(model=WITH_TOKEN)},
        {"method": choice("kd", "deit"), "student.model.distillation_token": choice(True, False)},
        ("method deit with student.model.distillation_token False", "trains a distillation token", "--set student.mo"),
    ),
    "missing stages": (
        {"method": AttentionTransfer()},
        {"method.stages": choice("0,1", "0,7"), "method.weight": uniform(1, 1000)},
        (
            "search.space: method.stages 0,7 cannot be trained",
            "stages = (0, 7)",
            "must lie in [-4, 3], because one of the models has only 4 stages",
        ),
    ),
    "a field that some methods lack": (
        {"method": FeatureKD()},
        {"method": choice("kd", "feature_kd"), "method.feature_weight": uniform(0, 1)},
        ("method kd cannot be trained", "'method.feature_weight': KD has alpha, temperature"),
    ),
    "a field that some optimizers lack": (
        {"student": recipe(optimizer=SGD())},
        {"student.optimizer": choice("sgd", "adamw"), "student.optimizer.momentum": uniform(0, 0.9)},
        ("search.space: student.optimizer adamw cannot be trained", "'student.optimizer.momentum': AdamW has lr"),
    ),
    "two fields of the recipe that exclude each other": (
        {},
        {"student.sampling": choice("shuffle", "balanced"), "student.augmentation.mixup": uniform(0, 1)},
        (
            "search.space: a trial could have student.sampling=balanced, student.augmentation.mixup=1.0: ",
            "cannot be combined with mixup or cutmix",
            "use shuffle",
        ),
    ),
    "an integer that must divide another one": (
        {"student": recipe(batch_size=20)},
        {"student.gradient_accumulation": integer(1, 5)},
        ("search.space: a trial could have student.gradient_accumulation=3: ", "must divide batch_size = 20"),
    ),
    "an invalid value of a single field": (
        {},
        {"student.batch_size": choice(50, 5_000)},
        ("student.batch_size in choice(50, 5000) cannot be 5000", "--set student.batch_size=200"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_has_field_value_and_remedy(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.startswith("feature maps"):  # make a ViT one of the few networks without stages in timm
        monkeypatch.setattr("raykd.models.timm_model.feature_stages", lambda network: [])
    changes, space, parts = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        search(space, tmp_path / "results", **changes)
    message = str(caught.value)
    assert "\n" not in message and not (tmp_path / "results").exists()
    for part in parts:
        assert part in message


def test_started_search_resumes_although_a_configuration_of_its_space_fails(tmp_path: Path) -> None:
    """The space is checked only before a search starts, and a failing configuration is then a failed trial."""
    changes, space, _ = REFUSED["a distillation token that some students lack"]
    searched = replace(experiment(**changes), search=Search(space))
    options = Options(tmp_path / "results", Path("none"))
    plan, dataset = experiment_plans.plan_of(searched, options)
    command = SearchCommand(options, Console(file=io.StringIO()), searched)
    command.folder.write_record(search_record(identity=identity_of_search(plan, dataset)))
    with pytest.raises(RayStarts):
        search(space, tmp_path / "results", **changes)


@pytest.mark.parametrize(
    ("changes", "space"),
    [
        ({"teacher_source": "cache"}, {"method": choice("kd", "feature_kd")}),
        ({"student": recipe(model=WITH_TOKEN)}, {"method": choice("kd", "deit", "feature_kd")}),
        ({}, {"method": choice("kd", "at", "nst", "crd"), "student.model.width": integer(8, 16)}),
    ],
)
def test_valid_combinations_are_searched(changes: dict[str, Any], space: dict[str, Space], tmp_path: Path) -> None:
    with pytest.raises(RayStarts):
        search(space, tmp_path / "results", **changes)


def test_methods_and_models_are_paired_once_whatever_else_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters: list[tuple[str, str, Any]] = []
    models: list[str] = []
    make_adapter, make_model = network_checks.make_adapter, network_checks.make_model

    def record_adapter(run: Any, *arguments: Any) -> Any:
        adapters.append((run.method.kind, run.model.label, run.method.stages))
        return make_adapter(run, *arguments)

    def record_model(run: Any, dataset: Any) -> Any:
        models.append(run.model.label)
        return make_model(run, dataset)

    space = {
        "method": choice("at", "vid"),
        "method.stages": choice("0,1", "2"),
        "method.weight": choice(1, 2, 4, 8),
        "method.kd_weight": uniform(0, 1),
        "student.model.width": integer(8, 16),
        "student.batch_size": choice(10, 20, 40, 50),
        "student.optimizer.lr": loguniform(0.01, 0.1),
    }
    with pytest.raises(RayStarts):
        monkeypatch.setattr(network_checks, "make_adapter", record_adapter)
        monkeypatch.setattr(network_checks, "make_model", record_model)
        search(space, tmp_path / "results", method=AttentionTransfer())
    planned, *pairs = adapters
    assert planned[0] == "at" and planned[2] == (), "of the plan, which is checked first"
    assert len(pairs) == len(set(pairs)) == 2 * 2 * 2, "methods, their stages, widths"
    assert Counter(models) == {"resnet8-w16": 4, "resnet8-w8": 4}, "of plan and space, with and without feature maps"


def test_a_comparison_before_the_first_decay_of_a_searched_learning_rate_is_named() -> None:
    rates = {"student.optimizer.lr": choice(0.01, 0.1)}
    student = Recipe(epochs=200, schedule=MultiStep((0.5, 0.75)))
    text = early_comparison(Search(rates, grace_epochs=20), student)
    assert text.startswith(
        "ASHA compares trials after epoch 20 and 60, and the learning rate first decays after epoch 100,"
    )
    assert "--set search.grace_epochs=110, " in text
    assert early_comparison(Search(rates, grace_epochs=110), student) == ""
    assert early_comparison(Search(rates, scheduler="none"), student) == ""
    assert early_comparison(Search(rates), replace(student, schedule=Cosine())) == ""
    assert early_comparison(Search({"method.alpha": choice(0.1, 0.9)}), student) == ""
