"""The distillation token: the loss of each head, against formulas in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raykd.methods import KD, CrossEntropy, DeiT
from raykd.methods.kd import kd_loss
from raykd.outputs import Outputs, Targets

TARGETS = Targets(torch.tensor([3, 1, 0, 2, 9, 4]), torch.arange(6))


def some(seed: int, **named: Any) -> Tensor:
    """Return random logits, float64 [6, 10]."""
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **named)


def student() -> Outputs:
    heads = some(0).requires_grad_(), some(1).requires_grad_()
    return Outputs((heads[0] + heads[1]) / 2, heads=heads)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_hard_labels_are_the_teachers_decisions() -> None:
    actual = DeiT().terms(student(), Outputs(some(2)), TARGETS, None)
    log_p, decided = log_softmax(some(1).numpy()), some(2).numpy().argmax(1)
    expected = -np.mean([log_p[row, decided[row]] for row in range(6)])
    assert set(actual) == {"token"} and actual["token"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_labels_are_the_teachers_softened_outputs(temperature: float) -> None:
    actual = DeiT(temperature=temperature).terms(student(), Outputs(some(2)), TARGETS, None)["token"]
    log_p, log_t = (log_softmax(some(seed).numpy() / temperature) for seed in (1, 2))
    expected = temperature**2 * (np.exp(log_t) * (log_t - log_p)).sum(1).mean()
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    assert actual.item() == kd_loss(some(1), some(2), temperature).item()


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_term_is_computed_in_float32_at_least(temperature: float | None) -> None:
    half = Outputs(some(0).half(), heads=(some(0).half(), some(1).half()))
    actual = DeiT(temperature=temperature).terms(half, Outputs(some(2).half()), TARGETS, None)["token"]
    assert actual.dtype == torch.float32 and actual.shape == ()


def test_hard_term_is_zero_if_the_token_predicts_the_teachers_class() -> None:
    sure = 1e3 * torch.nn.functional.one_hot(some(2).argmax(1), 10).double()
    assert DeiT().terms(Outputs(sure, heads=(some(0), sure)), Outputs(some(2)), TARGETS, None)["token"].item() == 0


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_class_head_learns_the_labels_and_distillation_head_the_teacher(temperature: float | None) -> None:
    method, outputs = DeiT(temperature=temperature), student()
    assert method.supervised_logits(outputs) is outputs.heads[0]
    method.terms(outputs, Outputs(some(2)), TARGETS, None)["token"].backward()
    assert outputs.heads[0].grad is None and outputs.heads[1].grad is not None
    assert outputs.heads[1].grad.abs().sum() > 0


def test_alpha_weights_the_labels() -> None:
    assert DeiT().weights(0) == {"ce": 0.5, "token": 0.5}, "the paper's halves"
    assert DeiT(alpha=0.9).weights(7) == pytest.approx({"ce": 0.9, "token": 0.1})


def test_other_methods_train_the_mean_of_both_heads_on_the_labels() -> None:
    outputs = student()
    assert all(method.supervised_logits(outputs) is outputs.logits for method in (KD(), CrossEntropy()))
