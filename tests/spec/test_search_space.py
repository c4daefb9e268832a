"""Searches and their spaces are checked before anything starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import experiment

from raykd.errors import ConfigError
from raykd.models.timm_model import Timm
from raykd.report.search_wording import configuration_in_words, trials_in_words
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override
from raykd.spec.search import Search, Space, choice, integer, loguniform, uniform
from raykd.store.study import SearchFolder, SearchStudy

SPACE: dict[str, Space] = {"method.alpha": uniform(0, 1)}


def searched(**changes: Any) -> Experiment:
    return experiment(search=Search(**{"space": SPACE} | changes))


def test_some_values_of_a_long_range_are_paired_with_neighbors_at_both_ends() -> None:
    assert integer(1, 8).paired_values == (1, 2, 3, 4, 5, 6, 7, 8)
    assert integer(1, 9).paired_values == (1, 2, 3, 5, 7, 8, 9)
    assert integer(1, 1_000).paired_values == (1, 2, 3, 252, 501, 750, 999, 1_000)
    assert len(choice(*range(1_000)).paired_values) == 8
    assert uniform(0, 1).paired_values == (0, 1)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"method.alpha": uniform(0, 2)}, r"method.alpha=2.0: alpha = 2.0 in KD"),
        ({"method.alph": uniform(0, 1)}, r"unknown config field 'method.alph'.*did you mean 'alpha'"),
        ({"student.batch_size": choice(50, 0)}, r"batch_size = 0"),
        ({"student.batch_size": choice(50, "many")}, r"student.batch_size=many: 'many' is not an integer"),
        ({"student.batch_size": uniform(10, 20)}, r"student.batch_size=10.0: '10.0' is not an integer"),
        ({"method": choice("kd", "ke")}, r"unknown method 'ke'"),
        ({"data.flip": choice(True, False)}, r"names 'data.flip': trials share data and teacher"),
        ({"teacher.epochs": integer(1, 3)}, r"names 'teacher.epochs': trials share data and teacher"),
        ({"method.alpha": 0.5}, r"in Search: must be a mapping of names to Space"),
        ({}, r"name at least one field"),
    ],
)
def test_space_that_cannot_be_searched_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        searched(space=space)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trials": 0}, r"trials = 0 in Search: must be at least 1"),
        ({"grace_epochs": 0}, r"grace_epochs = 0 in Search"),
        ({"reduction_factor": 1}, r"must be at least 2"),
        ({"metric": "test_top1"}, r"known are val_top1, val_loss, parameters, latency_ms"),
        ({"metric": "val_top"}, r"did you mean 'val_top1'"),
        ({"mode": "min"}, r"mode = 'min' in Search: must be max for val_top1; leave it out"),
        ({"metric": ("val_top1", "parameters")}, r"--set search.scheduler=none"),
        ({"sampler": "grid"}, r"'method.alpha' is uniform\(0, 1\); list its values"),
        ({"sampler": "bayes"}, r"one of tpe, random, grid"),
        ({"name": "../up"}, r"it becomes a folder"),
        ({"trial_seed": 0}, r"must not be one of seeds = \(0,\)"),
    ],
)
def test_search_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        searched(**fields)


def test_reversed_ranges_logarithms_of_zero_and_repeated_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="must exceed low"):
        uniform(1, 1)
    with pytest.raises(ConfigError, match="above 0 on a log scale"):
        loguniform(0, 1)
    with pytest.raises(ConfigError, match="above 0 on a log scale"):
        integer(0, 8, log=True)
    with pytest.raises(ConfigError, match="repeats a value"):
        choice(1, 2, 1)


def test_fields_of_every_kind_can_be_searched() -> None:
    space = {
        "method.temperature": loguniform(1, 20),
        "student.optimizer.lr": uniform(0.01, 0.1),
        "student.batch_size": choice(25, 50),
        "student.model.width": integer(8, 16),
        "student.schedule": choice("cosine", "constant"),
    }
    changed = searched(space=space).with_configuration(
        {"student.model.width": 12, "student.schedule": "constant", "student.optimizer.lr": 0.0125}
    )
    assert changed.search is None
    assert (changed.student.model.width, changed.student.optimizer.lr) == (12, 0.0125)  # type: ignore[union-attr]
    assert changed.student.schedule.kind == "constant"


def test_several_metrics_require_no_early_stopping_and_keep_their_directions() -> None:
    search = Search(SPACE, metric=("val_top1", "latency_ms"), mode=("max", "min"), scheduler="none")
    assert search.metrics == ("val_top1", "latency_ms") and search.directions == ("max", "min")
    from_the_command_line = override(replace(search, metric="val_loss", mode=None), "metric", "val_top1,parameters")
    assert from_the_command_line.metrics == ("val_top1", "parameters")


def test_grid_has_every_combination_and_limits_the_number_of_trials() -> None:
    search = Search({"method.alpha": choice(0.1, 0.9), "method.temperature": choice(1, 2, 4)}, sampler="grid")
    assert [tuple(configuration.values()) for configuration in search.grid] == [
        (0.1, 1),
        (0.1, 2),
        (0.1, 4),
        (0.9, 1),
        (0.9, 2),
        (0.9, 4),
    ]
    assert search.num_trials == 6 and trials_in_words(search) == "6 trials"
    assert replace(search, trials=4).num_trials == 4


def test_a_grid_with_fewer_trials_than_configurations_is_described_with_both_numbers() -> None:
    search = Search({"method.alpha": choice(0.1, 0.9), "method.temperature": choice(1, 2, 4)}, sampler="grid", trials=3)
    assert trials_in_words(search) == (
        "3 trials, the first of 6 configurations of the grid (search.trials=6 tries all)"
    )
    assert trials_in_words(replace(search, sampler="random")) == "3 trials"


@pytest.mark.parametrize(
    ("grace", "epochs", "rungs"), [(20, 200, (20, 60, 180)), (None, 200, (20, 60, 180)), (1, 9, (1, 3)), (5, 5, ())]
)
def test_rungs_grow_by_the_reduction_factor(grace: int | None, epochs: int, rungs: tuple[int, ...]) -> None:
    assert Search(SPACE, grace_epochs=grace).rungs_of(epochs) == rungs


def test_configuration_is_worded_without_the_paths_of_its_fields() -> None:
    assert configuration_in_words({"method.alpha": 0.123456, "student.batch_size": 64}) == "alpha 0.1235, batch_size 64"


def test_an_argument_of_a_network_is_searched_beside_the_value_of_the_experiment() -> None:
    path = "student.model.arguments.drop_path_rate"
    student = replace(experiment().student, model=Timm("test_vit", arguments={"drop_path_rate": 0.1, "depth": 3}))
    planned = replace(experiment(), student=student, search=Search({path: uniform(0, 0.3)}))
    assert planned.search is not None and planned.default_configuration(planned.search) == {path: 0.1}
    trial = planned.with_configuration({path: 0.25}).student.model
    assert trial == Timm("test_vit", arguments={"drop_path_rate": 0.25, "depth": 3})
    with pytest.raises(ConfigError, match=r"'student.model.arguments.drop_rate' has no value in the experiment"):
        replace(planned, search=Search({"student.model.arguments.drop_rate": uniform(0, 0.3)}))


def test_default_of_a_searched_method_is_its_name() -> None:
    of_methods = searched(space={"method": choice("dkd", "kd")})
    assert of_methods.search is not None and of_methods.default_configuration(of_methods.search) == {"method": "kd"}
    with pytest.raises(ConfigError, match="lacks the experiment's default of 'method'"):
        searched(space={"method": choice("dkd", "dist")})


@pytest.mark.parametrize(
    ("path", "values", "text"),
    [
        ("student.clip_gradient_norm", ("none", 1.0, 5.0), "none"),
        ("student.augmentation.randaugment", ("2,9", "()"), "()"),
        ("student.channels_last", ("true", "false"), "true"),
        ("student.label_smoothing", ("0.1", "0.0"), "0.0"),
        ("student.epochs", ("2", "3"), "3"),
        ("method.alpha", (0.25, 0.5), 0.5),
    ],
)
def test_the_default_is_found_among_choices_by_its_parsed_value(
    path: str, values: tuple[Any, ...], text: object, tmp_path: Path
) -> None:
    search = Search({path: choice(*values)})
    default = experiment(search=search).default_configuration(search)
    assert default == {path: text} and type(default[path]) is type(text)
    assert SearchStudy(SearchFolder(tmp_path), search, default).start_trial().configuration == default


def test_a_default_that_is_no_choice_is_kept_and_not_the_first_trial(tmp_path: Path) -> None:
    search = Search({"student.clip_gradient_norm": choice(1.0, "5.0")})
    default = experiment(search=search).default_configuration(search)
    assert default == {"student.clip_gradient_norm": None}
    assert SearchStudy(SearchFolder(tmp_path), search, default).start_trial().configuration != default
