"""Optimizers by name: exact state in a checkpoint for every one of torch and timm, groups, and graphs."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from nightly import nightly_except
from resume_cases import outcome
from small_runs import recipe, run_of, train
from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from raykd.errors import ConfigError, Interrupted
from raykd.methods import FeatureKD
from raykd.spec.optimizers import SGD, AdamW, NamedOptimizer, Optimizer
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute, why_not_graph
from raykd.training.optim import make_optimizer, set_learning_rate
from raykd.training.optimizer_state import pack_state, unpack_state

TORCH = ("adadelta", "adafactor", "adagrad", "adam", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop")
OTHER_FIELDS: dict[str, dict[str, Any]] = {
    "rmsprop": {"momentum": 0.9, "centered": True, "weight_decay": 1e-4},
    "adam": {"amsgrad": True},
    "adadelta": {"weight_decay": 0.01},
    "timm:lamb": {"weight_decay": 0.02, "decoupled_decay": True},
    "timm:muon": {"nesterov": True, "weight_decay": 0.01},
}


_UNUSABLE = ("bnb", "fused", "kron", "adahessian")  # of other packages, or refused
TIMM = tuple(f"timm:{name}" for name in list_optimizers())
NAMES = (*TORCH, *(name for name in TIMM if not name.removeprefix("timm:").startswith(_UNUSABLE)))
FEW = (*TORCH, "timm:lamb", "timm:muon", "timm:adafactorbv", "timm:adan", "timm:nadamuon", "timm:madgrad")


class Small(nn.Module):
    """Weights of 1, 2 and 4 dimensions, channels last as in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3)
        self.norm = nn.BatchNorm2d(20)
        self.head = nn.Linear(20, 17)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def update(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        set_learning_rate(optimizer, 0.01 / (1 + step))
        optimizer.zero_grad(set_to_none=True)
        network(images).square().mean().backward()
        optimizer.step()


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Return every bit of weights, of the optimizer's state and of its groups."""
    tensors, structure = pack_state(network, optimizer)
    both = {**network.state_dict(), **tensors}
    layouts = {name: tensor.stride() for name, tensor in tensors.items()}
    return repr(({name: tensor.flatten().tolist() for name, tensor in both.items()}, layouts, structure))


def test_every_name_of_torch_and_timm_is_usable_or_refused_with_a_reason() -> None:
    assert all(Optimizer(name).title() == name for name in NAMES)
    for name in (*(set(TIMM) - set(NAMES)), "lbfgs", "sparseadam", "muon"):
        with pytest.raises(ConfigError, match=f"^optimizer {name}: "):
            Optimizer(name)


@pytest.mark.parametrize("names", [FEW, pytest.param(NAMES, marks=pytest.mark.nightly)], ids=["few", "all"])
def test_every_optimizer_continues_from_its_packed_state_with_the_same_bits(names: tuple[str, ...]) -> None:
    cases = [(name, {}) for name in names] + list(OTHER_FIELDS.items())
    for name, changes in cases:
        config = Optimizer(name, **changes)
        network = small()
        optimizer = make_optimizer(network, config)
        update(network, optimizer, range(3))
        tensors, structure = pack_state(network, optimizer)
        tensors = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
        resumed = small()
        resumed.load_state_dict(network.state_dict())
        fresh = make_optimizer(resumed, config)
        unpack_state(resumed, fresh, tensors, json.loads(json.dumps(structure)))
        assert state_of(resumed, fresh) == state_of(network, optimizer), name
        for each, its in ((network, optimizer), (resumed, fresh)):
            update(each, its, range(3, 6))
        assert state_of(resumed, fresh) == state_of(network, optimizer), name


def test_sgd_and_adamw_are_stored_as_tensors_alone() -> None:
    """Their checkpoints have the same bytes as before there were other optimizers."""
    for config in (SGD(), SGD(momentum=0.0), AdamW()):
        network = small()
        optimizer = make_optimizer(network, config)
        update(network, optimizer, range(2))
        _, structure = pack_state(network, optimizer)
        assert structure == {}, config


def test_state_that_a_checkpoint_cannot_hold_is_refused_when_it_is_saved() -> None:
    network = small()
    optimizer = make_optimizer(network, SGD())
    update(network, optimizer, range(1))
    optimizer.state[network.head.weight]["rule"] = torch.float16
    with pytest.raises(TypeError, match=r"'head\.weight\.rule' is a dtype, which a checkpoint cannot hold"):
        pack_state(network, optimizer)


QUICK = ("timm:muon",)


@pytest.mark.parametrize("name", nightly_except(QUICK, NAMES))
def test_a_run_that_is_interrupted_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Stop twice, within an epoch and at its end, with an adapter whose weights the optimizer updates too."""
    optimizer = Optimizer(name, **OTHER_FIELDS.get(name, {}) | {"lr": 1e-3})
    run = run_of("distilled", method=FeatureKD(), student=recipe(optimizer=optimizer, epochs=2))
    train(run, RunFolder(tmp_path / "straight"))
    folder = RunFolder(tmp_path / "run")
    for steps in (3, 1):
        left = iter([False] * (steps - 1) + [True])
        with pytest.raises(Interrupted):
            train(run, folder, should_stop=lambda left=left: next(left))
    train(run, folder)
    assert outcome(folder.path) == outcome(tmp_path / "straight")


def test_torch_decays_all_weights_and_timm_exempts_vectors() -> None:
    network = small()
    (group,) = make_optimizer(network, Optimizer("rmsprop", weight_decay=0.3)).param_groups
    assert group["weight_decay"] == 0.3 and len(group["params"]) == 6
    decayed, exempt = make_optimizer(network, Optimizer("timm:lamb", weight_decay=0.3)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2] and decayed["weight_decay"] == 0.3
    assert {p.ndim for p in exempt["params"]} == {1} and exempt["weight_decay"] == 0


def test_a_graph_captures_only_optimizers_of_torch_that_can_be_captured() -> None:
    gpu = Compute(torch.device("cuda"), "bf16", 1)
    reasons = {}
    for name in ("sgd", "adam", "rmsprop", "adagrad", "rprop", "timm:lamb"):
        optimizer: Any = Optimizer(name)
        reasons[name] = why_not_graph(run_of("baseline", student=recipe(optimizer=optimizer)), gpu, 1)
        if isinstance(optimizer, NamedOptimizer):
            groups = optimizer.make([{"params": [nn.Parameter(torch.ones(2))]}], on_gpu=True).param_groups
            assert bool(groups[0].get("capturable")) == (not reasons[name])
    assert not any(reasons[name] for name in ("sgd", "adam", "rmsprop"))
    for name in ("adagrad", "rprop", "timm:lamb"):
        assert reasons[name] == f"the optimizer {name} may read numbers from the GPU"


@pytest.mark.parametrize("name", ["adadelta", "adamax", "asgd", "nadam", "radam", "rmsprop"])
def test_a_step_that_is_captured_reads_nothing_from_the_gpu(name: str) -> None:
    """On a simulated GPU with the learning rate on the device. Adam's fused kernel, as AdamW's, has no simulation."""
    config: Any = Optimizer(name, **OTHER_FIELDS.get(name, {}))
    assert config.is_capturable
    with FakeTensorMode(allow_non_fake_inputs=False), mock.patch("torch.cuda.is_available", lambda: True):
        parameters = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in ((4,), (4, 6), (4, 2, 3, 3))]
        optimizer = config.make([{"params": parameters}], on_gpu=True)
        set_learning_rate(optimizer, torch.zeros((), device="cuda"))  # type: ignore[arg-type]
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            with mock.patch("torch.cuda.is_current_stream_capturing", lambda: False):
                optimizer.step()
        state = [tensor for values in optimizer.state.values() for tensor in values.values()]
        assert state and all(tensor.device.type == "cuda" for tensor in state)
