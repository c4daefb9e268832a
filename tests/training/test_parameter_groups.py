"""A method gives parts of its adapter other learning rates and weight decays; one optimizer trains all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from methods_with_groups import Scaled, WithOptimizer, Wrong
from safetensors import safe_open
from small_runs import CPU, digits, recipe, run_of, teacher_of, train
from torch import Tensor

from raykd.errors import ConfigError
from raykd.methods import FeatureKD, Method
from raykd.spec.optimizers import SGD, AdamW, Optimizer
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.cuda_graph import EagerSteps
from raykd.training.network_checks import NetworkChecks
from raykd.training.training_step import TrainState, make_train_state

SECOND = ("adapter.1.weight", "adapter.1.bias")


def training_of(method: Method, optimizer: Optimizer) -> TrainState:
    run = run_of("distilled", method=method, student=recipe(optimizer=optimizer))
    return make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))


def update_of(method: Method, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the change of each weight in the first step."""
    training = training_of(method, optimizer)
    before = {name: weight.detach().clone() for name, weight in training.objective.named_parameters()}
    steps = EagerSteps(training)
    steps.start_epoch(0, 0)
    steps.run_step(0)
    return {name: weight.detach() - before[name] for name, weight in training.objective.named_parameters()}


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, weight_decay=0.0), AdamW(lr=0.01, weight_decay=0.0)])
def test_the_learning_rate_of_a_group_is_scaled_and_no_other(optimizer: Optimizer) -> None:
    same, scaled = (update_of(Scaled(lr_scale=scale, weight_decay=None), optimizer) for scale in (1.0, 0.25))
    for name, update in same.items():
        factor = 0.25 if name in SECOND else 1.0
        torch.testing.assert_close(scaled[name], factor * update, rtol=1e-3, atol=1e-7, msg=name)


def names_by_decay(method: Method, optimizer: Optimizer) -> dict[tuple[float, float], set[str]]:
    """Return the names of the adapter's parameters by weight decay and factor of the learning rate."""
    training = training_of(method, optimizer)
    names = {id(p): name for name, p in training.objective.named_parameters() if name.startswith("adapter.")}
    found: dict[tuple[float, float], set[str]] = {}
    for group in training.optimizer.param_groups:
        key = group["weight_decay"], group.get("lr_scale", 1.0)
        found.setdefault(key, set()).update(names[id(p)] for p in group["params"] if id(p) in names)
    return {key: members for key, members in found.items() if members}


def test_the_weight_decay_of_a_group_replaces_the_recipes() -> None:
    first, second = {"adapter.0.weight", "adapter.0.bias"}, set(SECOND)
    assert names_by_decay(Scaled(), SGD(weight_decay=0.3)) == {(0.3, 1.0): first, (0.02, 0.1): second}
    assert names_by_decay(Scaled(weight_decay=None), AdamW(weight_decay=0.3)) == {
        (0.3, 1.0): {"adapter.0.weight"},
        (0.0, 1.0): {"adapter.0.bias"},
        (0.3, 0.1): {"adapter.1.weight"},
        (0.0, 0.1): {"adapter.1.bias"},
    }
    assert names_by_decay(Scaled(), AdamW(weight_decay=0.3))[0.02, 0.1] == second, "norms and biases too"


def test_without_groups_student_and_adapter_share_one_group() -> None:
    (group,) = training_of(FeatureKD(), SGD()).optimizer.param_groups
    assert "lr_scale" not in group


def test_checkpoints_do_not_store_the_scale(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(run_of("distilled", method=Scaled()), folder)
    with safe_open(folder.checkpoint, framework="pt") as file:
        assert "optimizer" not in file.metadata(), "a later version of the method may change it"


@pytest.mark.parametrize(
    ("method", "optimizer", "words"),
    [
        (
            Wrong(problem="twice"),
            SGD(),
            "returns a parameter twice, or one of another module; return each parameter of",
        ),
        (Wrong(problem="foreign"), SGD(), "returns a parameter twice, or one of another module"),
        (Wrong(problem="names"), SGD(), "returns 'weight'; return each parameter of the adapter once"),
        (Wrong(problem="as in torch"), SGD(), r"returns {'params': .*; return a list of raykd.ParameterGroup"),
        (Wrong(problem="other"), SGD(), r"fails at line \d+ with KeyError: 'other'"),
        (Scaled(lr_scale=0.0), SGD(), "has lr_scale = 0.0: must be a number greater than 0"),
        (Scaled(weight_decay=-1.0), SGD(), "has weight_decay = -1.0: must be 0 or more, or None"),
        (Scaled(), Optimizer("rprop"), "has a weight_decay, and the optimizer rprop has none; leave it out"),
    ],
)
def test_groups_that_cannot_be_trained_are_refused_before_training(method: Any, optimizer: Any, words: str) -> None:
    run = run_of("distilled", method=method, student=recipe(optimizer=optimizer))
    with pytest.raises(ConfigError, match=rf"^method = {method.title()}: its parameter_groups\(\) {words}") as caught:
        NetworkChecks(digits()).require_method_fits(run)
    assert "\n" not in str(caught.value)


def test_an_optimizer_in_an_adapter_is_refused_before_training() -> None:
    words = "^method = WithOptimizer: its adapter stores an optimizer, 'updates' of Linear, and one optimizer trains "
    with pytest.raises(ConfigError, match=words):
        NetworkChecks(digits()).require_method_fits(run_of("distilled", method=WithOptimizer()))
