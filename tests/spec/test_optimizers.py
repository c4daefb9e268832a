"""Optimizers by name: their fields, their text, JSON and pickles, and searches over them."""

import pickle

import pytest
from small_runs import experiment, recipe

from raykd.cli.experiment_file import apply_settings
from raykd.config import from_dict, to_dict
from raykd.config.limits import Tiny
from raykd.errors import ConfigError
from raykd.spec.optimizers import SGD, AdamW, NamedOptimizer, Optimizer
from raykd.spec.plan import Run
from raykd.spec.search import Search, choice, loguniform


def test_parameters_of_init_are_fields_with_the_librarys_defaults() -> None:
    assert to_dict(Optimizer("rmsprop")) == {
        "kind": "optimizer",
        "name": "rmsprop",
        "lr": 0.01,
        "alpha": 0.99,
        "eps": 1e-08,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
    }
    lamb = to_dict(Optimizer("timm:lambw", lr=1))
    assert lamb["lr"] == 1.0 and lamb["decoupled_decay"] is True, "timm's name sets a parameter of the class"
    assert to_dict(Optimizer("timm:rmsprop"))["momentum"] == 0.9, "timm's factory sets this default"


def test_settings_change_fields_of_an_optimizer_by_name() -> None:
    (changed,) = apply_settings(
        [experiment()],
        ["student.optimizer.betas=0.8,0.95", "student.optimizer=adam", "student.optimizer.lr=2e-3"],
    )
    assert changed.student.optimizer == Optimizer("adam", lr=0.002, betas=(0.8, 0.95))
    (changed,) = apply_settings([experiment()], ["student.optimizer=adafactor", "student.optimizer.eps=none,1e-4"])
    assert changed.student.optimizer == Optimizer("adafactor", eps=(None, 1e-4))


def test_a_recipe_accepts_the_name_of_an_optimizer() -> None:
    assert recipe(optimizer="timm:lamb").optimizer == Optimizer("timm:lamb")
    with pytest.raises(ConfigError, match="unknown optimizer 'lam'"):
        recipe(optimizer="lam")
    with pytest.raises(ConfigError, match=r"optimizer = 3 in Recipe: must be Optimizer"):
        recipe(optimizer=3)


def test_sgd_and_adamw_are_those_of_raykd() -> None:
    assert Optimizer("sgd", lr=0.2) == SGD(lr=0.2) and Optimizer.from_text("AdamW") == AdamW()
    assert isinstance(Optimizer("timm:sgd"), NamedOptimizer)


@pytest.mark.parametrize("name", ["radam", "timm:lion"])
def test_pickle_and_json_return_an_equal_optimizer_and_run(name: str) -> None:
    optimizer = Optimizer(name, lr=0.02)
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer  # noqa: S301 - our own pickle
    assert hash(optimizer) == hash(Optimizer(name, lr=0.02))
    run = Run(recipe=recipe(optimizer=optimizer))
    assert from_dict(Run, to_dict(run)) == run
    assert run.fingerprint != Run(recipe=recipe(optimizer=Optimizer(name))).fingerprint


def test_optimizers_with_equal_fields_have_different_fingerprints() -> None:
    runs = [Run(recipe=recipe(optimizer=Optimizer(name, lr=0.01))) for name in ("adamax", "timm:adamax", "adam")]
    assert len({run.fingerprint for run in runs}) == 3


def test_optimizers_and_their_learning_rate_are_searched_together() -> None:
    space = {
        "student.optimizer": choice("sgd", "rmsprop", "timm:lamb"),
        "student.optimizer.lr": loguniform(1e-4, 1e-1),
    }
    searched = experiment(student=recipe(optimizer=SGD(lr=0.02)), search=Search(space, trials=2))
    configuration = {"student.optimizer": "timm:lamb", "student.optimizer.lr": 0.03}
    assert searched.with_configuration(configuration).student.optimizer == Optimizer("timm:lamb", lr=0.03)
    assert searched.search is not None
    assert searched.default_configuration(searched.search) == {"student.optimizer": "sgd", "student.optimizer.lr": 0.02}
    with pytest.raises(ConfigError, match=r"lacks the experiment's default of 'student\.optimizer', SGD\(lr=0\.05"):
        experiment(student=recipe(optimizer=SGD(momentum=0.5, lr=0.05)), search=Search(space, trials=2))


def test_tiny_values_are_allowed_for_eps_alone() -> None:
    assert Tiny(1e-37) in Optimizer("timm:laprop").__annotations__["eps"].__metadata__
    assert Optimizer("adam", eps=1e-30)
    with pytest.raises(ConfigError, match=r"weight_decay = 1e-30 in adam: must be 0, or have a magnitude"):
        Optimizer("adam", weight_decay=1e-30)


def test_an_optimizer_requires_a_name() -> None:
    with pytest.raises(ConfigError, match=r"requires a name, and then its fields: Optimizer\('rmsprop'"):
        Optimizer(lr=0.1)
