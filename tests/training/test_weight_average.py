"""The moving average of the weights: its formula, and that it is what a run validates, keeps and saves."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CPU, curve, digits, recipe, run_of, teacher_of, train
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.model_file import load_model
from raykd.training.training_step import make_train_state, validation_of
from raykd.training.weight_average import WeightAverage

COMPUTE = choose_compute(CPU, "fp32")


def test_average_of_weights_and_buffers_is_that_of_timm() -> None:
    run = run_of("baseline", student=recipe(ema_decay=0.8))
    training = make_train_state(run, digits(), COMPUTE, teacher_of(run))
    network, average = training.objective.student.network, training.objective.average
    assert average is not None
    expected = ModelEmaV3(network, decay=0.8)
    for batch in training.loader.epoch(0):
        training.step(batch, {"ce": 1.0})
        expected.update(network)
    averaged = {name.replace("/", "."): tensor for name, tensor in average.state_dict().items()}
    assert averaged.keys() == network.state_dict().keys()
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(averaged[name], tensor), name
    assert any("running_var" in name for name in averaged)


def test_context_applies_the_average_and_restores_the_weights_after_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    average = WeightAverage(network, 0.5)
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    addresses = [parameter.data_ptr() for parameter in network.parameters()]
    with pytest.raises(ValueError, match="inside"), average.applied_to(network):
        assert all(torch.equal(tensor, initial[name]) for name, tensor in network.state_dict().items())
        raise ValueError("inside")
    assert torch.equal(network.get_parameter("0.bias"), initial["0.bias"] + 1)
    assert [parameter.data_ptr() for parameter in network.parameters()] == addresses, "a CUDA graph has recorded them"


def test_a_run_validates_and_keeps_its_averaged_weights(tmp_path: Path) -> None:
    run = run_of("baseline", student=recipe(ema_decay=0.7))
    folder = RunFolder(tmp_path / "averaged")
    train(run, folder)
    best = folder.require_record().best
    found = evaluate(load_model(folder.best), validation_of(run.data, digits(), CPU), COMPUTE)
    assert best is not None and best.epoch is not None
    assert (found.top1, found.nll) == (best.val_top1, folder.history()[best.epoch]["val_loss"])
    state = load_file(folder.checkpoint)
    assert best.epoch == run.recipe.epochs - 1, "so the last average is the best"
    for name, tensor in load_file(folder.best).items():
        assert torch.equal(state[f"objective.average.{name.replace('.', '/')}"], tensor)
        assert name.endswith("tracked") or not torch.equal(state[f"objective.student.network.{name}"], tensor)


def test_averaging_does_not_change_the_training(tmp_path: Path) -> None:
    """The weights that are trained and all columns of training stay the same; decay 0 is the run without it."""
    plain, zero, averaged = (
        run_of("baseline", student=recipe(ema_decay=decay, epochs=2)) for decay in (None, 0.0, 0.9)
    )
    folders = [RunFolder(tmp_path / name) for name in ("plain", "zero", "averaged")]
    for run, folder in zip((plain, zero, averaged), folders, strict=True):
        train(run, folder)
    states = [load_file(folder.checkpoint) for folder in folders]
    for name, tensor in states[0].items():
        if not name.startswith("best."):
            assert torch.equal(states[1][name], tensor) and torch.equal(states[2][name], tensor), name
    rows = [curve(folder) for folder in folders]
    assert rows[0] == rows[1] and folders[0].best.read_bytes()[-1000:] == folders[1].best.read_bytes()[-1000:]
    changed = {key for key in rows[0][0] if rows[0][0][key] != rows[2][0][key]}
    assert changed == {"val_top1", "val_loss"}
