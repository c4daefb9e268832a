"""Rows of the top classes: their probabilities are the teacher's, and the others share the rest equally."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from raykd.config import kinds
from raykd.methods import KD, Method
from raykd.methods.dist import dist_inter_loss
from raykd.methods.dkd import nckd_loss
from raykd.methods.kd import kd_loss
from raykd.methods.logit_standardization import standardize
from raykd.outputs import Outputs
from raykd.training.teacher.sparse_rows import RowLayout, encode, error_sums, restore

FLOAT16 = 2**-10  # a unit in float16's last place, relative
CLASSES, KEPT = 50, 6


def logits_of(num_images: int = 7, num_classes: int = CLASSES, seed: int = 0) -> Tensor:
    """float64 [B, C], with one class well above the others, as of a trained teacher"""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(num_images, num_classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(num_images), torch.arange(num_images) * 3 % num_classes] += 6
    return logits


def exactly_restored(words: Tensor, num_classes: int) -> np.ndarray:
    """Return the logits of sparse rows, float64 [B, C], from the format's definition, one row and class at a time."""
    raw = words.numpy()
    kept = raw.shape[1] // 2
    logits = np.empty((len(raw), num_classes))
    for row, values in zip(raw, logits, strict=True):
        values[:] = float(row[2 * kept : 2 * kept + 1].view(np.float16)[0]) - log(num_classes - kept)
        for place in range(kept):
            values[row[kept + place : kept + place + 1].view(np.uint16)[0]] = row[place : place + 1].view(np.float16)[0]
    return logits


def test_row_takes_four_bytes_for_each_kept_class_and_two_for_the_others() -> None:
    words = encode(logits_of(3, 1000), 16)
    assert words.shape == (3, 33) and words.dtype == torch.int16 and words[0].nbytes == 4 * 16 + 2
    assert RowLayout(1000, kept=16).width == 33 and RowLayout(1000, 512, 16).width == 33 + 512


@pytest.mark.parametrize("kept", [1, KEPT, CLASSES - 1])
def test_restored_probabilities_of_kept_classes_are_those_of_the_teacher(kept: int) -> None:
    logits = logits_of()
    expected, found = logits.softmax(1), restore(encode(logits, kept), CLASSES).double().softmax(1)
    top = logits.topk(kept, dim=1).indices
    largest = logits.abs().max()
    torch.testing.assert_close(found.gather(1, top), expected.gather(1, top), rtol=float(2 * FLOAT16 * largest), atol=0)


def test_classes_that_are_not_kept_share_the_rest_equally() -> None:
    logits = logits_of()
    found = restore(encode(logits, KEPT), CLASSES).double().softmax(1)
    others = torch.ones_like(found, dtype=torch.bool).scatter(1, logits.topk(KEPT, dim=1).indices, False)
    for row, expected, mask in zip(found, logits.softmax(1), others, strict=True):
        assert row[mask].unique().numel() == 1
        assert row[mask].sum().item() == pytest.approx(expected[mask].sum().item(), rel=0.01)


def test_class_numbers_up_to_65535_are_kept() -> None:
    logits = torch.zeros(3, 65_536)
    chosen = torch.tensor([[65_535, 0], [32_768, 32_767], [40_000, 65_534]])
    logits.scatter_(1, chosen, torch.tensor([[9.0, 8.0]]).expand(3, 2))
    found = restore(encode(logits, 2), 65_536)
    assert torch.equal(found.topk(2, dim=1).indices, chosen)
    assert found[0, 1].item() == pytest.approx(0, abs=0.01), "65,534 equal classes"


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_of_sparse_rows_equals_kd_of_the_restored_distribution_and_its_gradient(temperature: float) -> None:
    words, student = encode(logits_of(), KEPT), logits_of(seed=1).requires_grad_()
    restored = exactly_restored(words, CLASSES)
    p, s = (np.exp(x / temperature) for x in (restored, student.detach().numpy()))
    p, s = p / p.sum(1, keepdims=True), s / s.sum(1, keepdims=True)
    expected = temperature**2 * (p * np.log(p / s)).sum(1).mean()
    loss = kd_loss(student, restore(words, CLASSES).double(), temperature)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # restore returns float32
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), temperature * (s - p) / len(s), rtol=1e-5, atol=1e-8)


def test_restored_logits_equal_the_definition_to_the_rounding_of_float32() -> None:
    words = encode(logits_of(), KEPT)
    np.testing.assert_allclose(restore(words, CLASSES).numpy(), exactly_restored(words, CLASSES), rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_error_equals_the_divergence_of_teacher_and_restored(temperature: float) -> None:
    logits = logits_of()
    restored = restore(encode(logits, KEPT), CLASSES).double()
    p, q = ((x / temperature).softmax(1) for x in (logits, restored))
    probability, kl = error_sums(logits, restored, KEPT, [temperature]).tolist()
    assert probability == pytest.approx(logits.softmax(1).topk(KEPT, dim=1).values.sum().item(), rel=1e-12)
    assert kl == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-9) and kl > 0
    assert error_sums(logits, logits, KEPT, [temperature])[1] == 0


def test_error_falls_with_the_number_of_kept_classes() -> None:
    logits = logits_of(200)
    errors = {k: error_sums(logits, restore(encode(logits, k), CLASSES), k, [1, 2, 4])[1:] for k in (4, 16)}
    assert (errors[16] < errors[4]).all()


def test_kept_classes_lose_probability_at_a_higher_temperature() -> None:
    logits = logits_of(200)
    restored, top = restore(encode(logits, KEPT), CLASSES).double(), logits.topk(KEPT, dim=1).indices
    kept = {t: [(x / t).softmax(1).gather(1, top).sum(1) for x in (logits, restored)] for t in (1.0, 4.0)}
    torch.testing.assert_close(*kept[1.0], rtol=0, atol=5e-3)
    assert (kept[4.0][1] < kept[4.0][0]).all()


def test_rows_with_an_embedding_hold_it_behind_the_top_classes() -> None:
    layout, logits = RowLayout(CLASSES, 5, KEPT), logits_of().float()
    embedding = torch.randn(len(logits), 5, generator=torch.Generator().manual_seed(2))
    rows = layout.encode(Outputs(logits, embedding))
    found = layout.decode(rows)
    assert rows.shape == (len(logits), layout.width) and rows.dtype == torch.int16
    assert torch.equal(found.logits, restore(encode(logits, KEPT), CLASSES))
    assert found.embedding is not None and torch.equal(found.embedding, embedding.half().float())


def test_numbers_of_a_row_are_all_words_but_the_class_numbers() -> None:
    layout = RowLayout(CLASSES, 2, KEPT)
    rows = layout.encode(Outputs(logits_of(), torch.tensor([[7.0, float("nan")]]).expand(7, 2)))
    values = layout.values(rows.view(7, 1, -1))
    assert values.shape == (7, 1, KEPT + 1 + 2) and values[0, 0, KEPT + 1] == 7
    assert values[..., :-1].isfinite().all() and values[..., -1].isnan().all()


# ---- Which methods work with the top classes ----

WORKING = {"kd", "hard_labels", "deit", "feature_kd"}  # and every FeatureMethod, whose logits only KD's term reads
NOT_WORKING = {"ce", "dkd", "standardized_dkd", "logit_standardization", "dist", "srrl"}


def test_methods_declare_whether_they_work_with_the_top_classes() -> None:
    built_in = {kind: method for kind, method in kinds(Method).items() if method.custom_source() is None}
    working = {kind for kind, method in built_in.items() if method.works_with_top_classes}
    assert working >= WORKING and not working & NOT_WORKING
    for kind in working - WORKING:
        assert built_in[kind].logit_terms == {"kd"}, f"{kind} has a term of logits beside KD's"


def test_losses_of_methods_that_need_all_classes_change_far_more_than_that_of_kd() -> None:
    """KD changes by 1 %, losses that compare the other classes, or all classes alike, by 29 % to a multiple."""
    labels = torch.arange(300) * 3 % CLASSES
    teacher = logits_of(300) + 3 * torch.nn.functional.one_hot(labels, CLASSES)
    student = 0.6 * teacher + 0.4 * torch.randn(300, CLASSES, generator=torch.Generator().manual_seed(9))
    restored = restore(encode(teacher, KEPT), CLASSES).double()

    def change(loss: object) -> float:
        before, after = (float(loss(student, logits)) for logits in (teacher, restored))  # type: ignore[operator]
        return abs(after / before - 1)

    kd = change(lambda s, t: kd_loss(s, t, 1.0))
    assert kd < 0.02
    assert change(lambda s, t: nckd_loss(s, t, labels, 4.0)) > 0.25
    assert change(lambda s, t: kd_loss(standardize(s), standardize(t), 2.0)) > 0.25
    assert change(lambda s, t: dist_inter_loss(s, t, 4.0)) > 0.25


def test_custom_method_with_other_terms_does_not_inherit_the_claim(tmp_path) -> None:
    path = tmp_path / "my_method.py"
    path.write_text(
        "from typing import ClassVar\nfrom dataclasses import dataclass\nfrom raykd import KD\n\n"
        "@dataclass(frozen=True)\nclass Changed(KD):\n    kind: ClassVar[str] = 'changed_kd'\n\n"
        "    def terms(self, student, teacher, targets, adapter):\n"
        "        return super().terms(student, teacher, targets, adapter)\n\n"
        "@dataclass(frozen=True)\nclass Declared(Changed):\n    kind: ClassVar[str] = 'declared_kd'\n"
        "    works_with_top_classes: ClassVar[bool] = True\n"
    )
    assert KD.works_with_top_classes
    assert not Method.from_text(f"{path}:Changed").works_with_top_classes
    assert Method.from_text(f"{path}:Declared").works_with_top_classes
