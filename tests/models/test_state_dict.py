"""Checkpoints of public training scripts: the state dict is found, or refused with a one-line error."""

import argparse
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from small_runs import NO_WEIGHTS, digits, experiment, recipe, run_of
from torch import Tensor, nn

from raykd import models
from raykd.errors import ConfigError
from raykd.models import ImageSpec, torch_file
from raykd.models.four_stage_resnet import ResNet
from raykd.models.weights import load_weights, split_key
from raykd.spec.plan import make_plan
from raykd.training.training_step import make_model

IMAGES = ImageSpec(10, 16, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
TINY = ResNet((1, 1, 1, 1), width=8)
State = dict[str, Tensor]


def network(seed: int = 0, model: ResNet = TINY) -> nn.Module:
    return models.build(model, IMAGES, seed).network


GOOD: State = network(seed=1).state_dict()


def prefixed(prefix: str, state: State = GOOD) -> State:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def renamed(*pairs: tuple[str, str]) -> State:
    def one(name: str) -> str:
        for old, new in pairs:
            name = name.replace(old, new)
        return name

    return OrderedDict((one(name), tensor) for name, tensor in GOOD.items())


def changed(**tensors: Any) -> State:
    return OrderedDict(GOOD) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


KUANGLIU = renamed(("downsample", "shortcut"), ("fc.", "linear."))
WEIAICUNZAI = renamed(
    *((f"layer{stage}.0.{old}.", f"conv{stage + 1}_x.0.residual_function.{new}.")
      for stage in (1, 2, 3, 4) for old, new in (("conv1", 0), ("bn1", 1), ("conv2", 3), ("bn2", 4))),
    *((f"layer{stage}.0.downsample", f"conv{stage + 1}_x.0.shortcut") for stage in (2, 3, 4)),
)  # fmt: skip
STEM = {"conv1.weight": "conv1.0.weight"} | {
    name: name.replace("bn1.", "conv1.1.") for name in GOOD if name[:3] == "bn1"
}
WEIAICUNZAI = OrderedDict((STEM.get(name, name), tensor) for name, tensor in WEIAICUNZAI.items())
SPOILT = {name: torch.zeros_like(tensor) for name, tensor in GOOD.items()}


class Settings(dict):
    """A configuration class of a project that is not installed where the file is read."""


LOADED: dict[str, Any] = {
    "plain": GOOD,
    "RepDistiller": {
        "epoch": 240,
        "model": prefixed("module."),
        "best_acc": torch.tensor(0.98),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "RepDistiller's teacher": {"opt": argparse.Namespace(lr=0.1, path=Path("a")), "model": GOOD},
    "pytorch-cifar on one GPU": {"net": GOOD, "acc": 98.66, "epoch": 199},
    "pytorch-cifar under DataParallel": {"net": prefixed("module."), "acc": 98.66, "epoch": 199},
    "pytorch-cifar's names": {"net": prefixed("module.", KUANGLIU), "acc": 98.66, "epoch": 199},
    "pytorch-cifar's names alone": KUANGLIU,
    "pytorch-cifar100's names": WEIAICUNZAI,
    "torch.compile": prefixed("_orig_mod."),
    "torch.compile under DDP": prefixed("module._orig_mod."),
    "DDP under torch.compile": prefixed("_orig_mod.module."),
    "torch.compile of each stage": renamed(("layer1.", "layer1._orig_mod."), ("layer2.", "layer2._orig_mod.")),
    "torch.compile in a model": {"model": prefixed("_orig_mod."), "epoch": 3},
    "mdistiller": {"epoch": 240, "model": prefixed("module.student."), "best_acc": 98.0, "optimizer": {}},
    "mdistiller's distiller with a larger teacher": {
        "model": prefixed("module.student.")
        | prefixed("module.teacher.", network(2, ResNet((2, 1, 1, 1), 8)).state_dict())
    },
    "Lightning": {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed("model.") | {"criterion.weight": torch.ones(10)},
        "loops": {},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
    },
    "timm with args": {"state_dict": GOOD, "optimizer": {}, "version": 2, "args": argparse.Namespace(lr=0.1)},
    "NumPy scalars": {"model": GOOD, "best_acc": np.float64(98.6), "curve": np.ones(3), "epoch": 3},
    "a project's configuration": {"model": GOOD, "cfg": Settings(lr=0.1), "seen": defaultdict(list)},
    "any other key": {"net_state": GOOD, "epoch": 3},
    "nested keys": {"checkpoint": {"student": {"weights": GOOD}}},
    "an epoch beside the tensors": {**GOOD, "epoch": 3},
    "two keys for one model": {"model": GOOD, "state_dict": GOOD},
    "AveragedModel": prefixed("module.") | {"n_averaged": torch.tensor(5)},
    "thop's counters": {**GOOD, "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
    "before num_batches_tracked": {name: value for name, value in GOOD.items() if "num_batches" not in name},
    "half precision": {name: value.half() if value.is_floating_point() else value for name, value in GOOD.items()},
    "parameters": {name: nn.Parameter(value, False) for name, value in GOOD.items()},
    "an EMA beside the weights": {"state_dict": GOOD, "state_dict_ema": SPOILT},
}


@pytest.mark.parametrize("kind", LOADED)
def test_checkpoints_of_public_scripts_are_read(kind: str, tmp_path: Path) -> None:
    ours = network()
    torch.save(LOADED[kind], tmp_path / "a.pth")
    load_weights(ours, tmp_path / "a.pth")
    state = ours.state_dict()
    for name, tensor in GOOD.items():
        close = 1e-3 if kind == "half precision" else 0
        assert torch.allclose(state[name].float(), tensor.float(), rtol=close, atol=close), name


@pytest.mark.parametrize("legacy", [True, False])
def test_arguments_and_numbers_are_ignored_in_both_formats(legacy: bool, tmp_path: Path) -> None:
    content = {"opt": argparse.Namespace(lr=0.1), "acc": np.float64(98.6), "model": GOOD}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    ours = network()
    load_weights(ours, tmp_path / "a.pth")
    assert torch.equal(ours.state_dict()["fc.weight"], GOOD["fc.weight"])


def test_the_format_is_recognized_by_content_and_not_by_suffix(tmp_path: Path) -> None:
    save_file(GOOD, tmp_path / "a.pth")
    torch.save(GOOD, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        ours = network()
        load_weights(ours, tmp_path / name)
        assert torch.equal(ours.state_dict()["fc.weight"], GOOD["fc.weight"])


def test_averaged_weights_are_noted_and_read_only_by_key(tmp_path: Path) -> None:
    torch.save({"state_dict": GOOD, "state_dict_ema": SPOILT}, tmp_path / "a.pth")
    ours = network()
    note = load_weights(ours, tmp_path / "a.pth")
    assert torch.equal(ours.state_dict()["fc.weight"], GOOD["fc.weight"])
    assert f"name them with '{tmp_path / 'a.pth'}#state_dict_ema'" in note
    assert load_weights(ours, *_key(f"{tmp_path / 'a.pth'}#state_dict_ema")) == ""
    assert not ours.state_dict()["fc.weight"].any()


def _key(text: str) -> tuple[Path, bool, str]:
    path, key = split_key(text)
    return path, False, key


def test_a_number_sign_in_an_existing_file_name_starts_no_key(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a#b.pth").touch()
    assert split_key(str(tmp_path / "a#b.pth")) == (tmp_path / "a#b.pth", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_key("~/c.pth#model.student") == (tmp_path / "c.pth", "model.student")


def refused(content: Any, tmp_path: Path, key: str = "") -> str:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ConfigError) as caught:
        load_weights(network(), tmp_path / "a.pth", key=key)
    message = str(caught.value)
    assert "\n" not in message and "a.pth" in message
    return message


def test_error_for_several_fitting_state_dicts_lists_them(tmp_path: Path) -> None:
    content = {"model": prefixed("module.student.") | prefixed("module.teacher.", SPOILT)}
    message = refused(content, tmp_path)
    assert "several state dicts that fit: model.student, model.teacher" in message
    assert "a.pth#model.teacher'" in message
    assert "known are model.student" in refused({"model": prefixed("student.")}, tmp_path, key="model.pupil").replace(
        "model, ", ""
    )


def test_error_names_the_stem_before_the_head_and_extra_beside_missing_tensors(tmp_path: Path) -> None:
    head = {"fc.weight": torch.randn(100, 64), "fc.bias": torch.zeros(100)}
    message = refused({**GOOD, **head, "conv1.weight": torch.randn(8, 3, 7, 7)}, tmp_path)
    assert "another architecture, width or stem: conv1.weight is (8, 3, 7, 7)" in message
    assert "number of classes differs too" in message
    message = refused({**GOOD, **head}, tmp_path)
    assert "another number of classes: fc." in message and "or stem" not in message
    other = {name.replace("fc.", "classifier."): tensor for name, tensor in GOOD.items()}
    assert "it lacks fc.weight and has classifier.weight, which the model lacks" in refused(other, tmp_path)


def test_error_for_a_pickled_module_has_the_remedy(tmp_path: Path) -> None:
    for content in (
        nn.DataParallel(nn.Linear(3, 3)),
        {"model": nn.Linear(3, 3)},
        network(),
        {"model": network(), "a": 1},
    ):
        assert "torch.save(model.state_dict(), 'weights.pth')" in refused(content, tmp_path)


def test_pickled_network_beside_a_fitting_state_dict_is_refused(tmp_path: Path) -> None:
    """Otherwise the averaged weights would be mistaken for the network's."""
    content = {"model": network(), "ema": GOOD, "args": argparse.Namespace(lr=0.1)}
    message = refused(content, tmp_path)
    assert "and also a whole pickled network as 'model'" in message and "a.pth#ema'" in message
    assert load_weights(network(), tmp_path / "a.pth", key="ema") == ""
    assert "as 'student.net'" in refused({"student": {"net": nn.DataParallel(network())}, "teacher": GOOD}, tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused_as_code_and_not_as_damaged(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(ConfigError, match=r"is a TorchScript archive; save its weights: torch") as caught:
        load_weights(network(), tmp_path / "a.pt")
    assert "damaged" not in str(caught.value)


def test_checksum_of_another_program_is_ignored(tmp_path: Path) -> None:
    save_file(GOOD, tmp_path / "a.safetensors", metadata={"checksum": "md5:12", "format": "pt"})
    assert load_weights(network(), tmp_path / "a.safetensors") == ""


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


def test_function_beside_good_weights_is_refused(tmp_path: Path) -> None:
    assert "holds more than tensors" in refused({"model": GOOD, "extra": Code()}, tmp_path)


def test_refusal_names_the_function_and_no_replaceable_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"args": argparse.Namespace(), "extra": Code()}, tmp_path / "a.pth")
    found = ["argparse.Namespace", "builtins.eval"]  # torch returns these in a random order
    monkeypatch.setattr(torch_file, "get_unsafe_globals_in_checkpoint", lambda _: found)
    with pytest.raises(UnpicklingError, match=r"^holds builtins\.eval$"):
        torch_file.read_torch_file(tmp_path / "a.pth")


BAD_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda x: x.index_fill(0, torch.tensor([0]), float("nan")), "NaN or infinite"),
    "infinite": (lambda x: x * float("inf"), "NaN or infinite"),
    "float64 beyond float32": (lambda x: x.double() + 1e300, "NaN or infinite"),
    "int8": (lambda x: (x * 127).to(torch.int8), "is int8, and weights must be dense floating-point"),
    "bool": (lambda x: x > 0, "is bool"),
    "complex": (lambda x: x.to(torch.complex64), "is complex64"),
    "sparse": (lambda x: x.to_sparse(), "is sparse"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is qint8"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spoil", "message"), BAD_NUMBERS.values(), ids=BAD_NUMBERS.keys())
@pytest.mark.parametrize("name", ["conv1.weight", "fc.bias", "bn1.running_mean"])
def test_error_names_weights_that_are_not_finite_floats(name: str, spoil: Any, message: str, tmp_path: Path) -> None:
    error = refused({**GOOD, name: spoil(GOOD[name])}, tmp_path)
    assert f" {name} " in error and message in error


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    assert "bn1.running_var has negative values" in refused(changed(bn1__running_var=-torch.ones(8)), tmp_path)


@pytest.mark.parametrize("head", [23, None])
def test_pretraining_on_other_classes_keeps_the_resnets_new_head(head: int | None, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in GOOD.items() if head or "fc." not in name}
    if head:
        state |= {"fc.weight": torch.ones(head, 64), "fc.bias": torch.ones(head)}
    torch.save(state, tmp_path / "a.pth")
    started = ResNet((1, 1, 1, 1), width=8, weights=str(tmp_path / "a.pth"))
    run = make_plan(experiment(student=recipe(model=started)), digits(), NO_WEIGHTS, ("baseline",)).runs[0]
    started_model = make_model(run, digits()).network.state_dict()
    fresh = make_model(run_of("baseline"), digits()).network.state_dict()
    assert torch.equal(started_model["conv1.weight"], GOOD["conv1.weight"])
    assert torch.equal(started_model["fc.weight"], fresh["fc.weight"]) and started_model["fc.weight"].shape == (10, 64)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_prefixes_before_names_of_timm_networks_are_found(name: str, tmp_path: Path) -> None:
    theirs, ours = timm.create_model(name), timm.create_model(name)
    torch.save({"state_dict": prefixed("backbone._orig_mod.", theirs.state_dict())}, tmp_path / "a.ckpt")
    load_weights(ours, tmp_path / "a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
