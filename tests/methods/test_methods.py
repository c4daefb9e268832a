"""Methods as objects: their terms, weights, needs and adapters."""

import pytest
import torch
from torch import nn

from raykd.config import kinds
from raykd.methods import KD, CrossEntropy, FeatureKD, Method
from raykd.methods.feature_kd import feature_cosine_loss, feature_mse_loss
from raykd.methods.kd import kd_loss
from raykd.outputs import Outputs, Targets


def outputs(width: int, seed: int, num_images: int = 6) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, 10, generator=generator)
    return Outputs(logits, torch.randn(num_images, width, generator=generator))


TARGETS = Targets(labels=torch.tensor([0, 1, 2, 3, 4, 5]), index=torch.tensor([10, 3, 7, 2, 11, 5]))
IMAGES = Targets(labels=torch.arange(12) % 10, index=torch.arange(12))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (CrossEntropy(), {"ce": 1.0}),
        (KD(alpha=0.3), {"ce": 0.3, "kd": 0.7}),
        (KD(alpha=0.0), {"ce": 0.0, "kd": 1.0}),
        (KD(alpha=1.0), {"ce": 1.0, "kd": 0.0}),
        (FeatureKD(alpha=0.3, feature_weight=2.5), {"ce": 0.3, "kd": 0.7, "feature": 2.5}),
    ],
)
def test_weights_are_the_papers_at_every_epoch(method: Method, weights: dict[str, float]) -> None:
    for epoch in (0, 1, 199):
        assert method.weights(epoch) == pytest.approx(weights)


@pytest.mark.parametrize("method", [CrossEntropy(), KD(), FeatureKD(), FeatureKD(distance="cosine")])
def test_a_method_has_weights_for_ce_and_exactly_its_terms(method: Method) -> None:
    terms = method.terms(outputs(8, 0), outputs(8, 1), TARGETS, None)
    assert {"ce", *terms} == set(method.weights(0))
    assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())


def test_terms_are_unweighted() -> None:
    student, teacher = outputs(8, 0), outputs(8, 1)
    plain = FeatureKD(alpha=0.5, feature_weight=1.0).terms(student, teacher, TARGETS, None)
    weighed = FeatureKD(alpha=0.1, feature_weight=9.0).terms(student, teacher, TARGETS, None)
    assert all(torch.equal(plain[name], weighed[name]) for name in plain)
    assert torch.equal(plain["kd"], kd_loss(student.logits, teacher.logits, 4.0))


def test_distance_chooses_the_feature_loss() -> None:
    student, teacher = outputs(8, 0), outputs(8, 1)
    assert student.embedding is not None and teacher.embedding is not None
    for method, loss in (
        (FeatureKD(distance="mse"), feature_mse_loss),
        (FeatureKD(distance="cosine"), feature_cosine_loss),
    ):
        term = method.terms(student, teacher, TARGETS, None)["feature"]
        assert torch.equal(term, loss(student.embedding, teacher.embedding))


def test_adapter_is_there_only_where_widths_differ() -> None:
    assert FeatureKD().adapter(outputs(8, 0), outputs(8, 1), IMAGES) is None
    adapter = FeatureKD().adapter(outputs(6, 0), outputs(8, 1), IMAGES)
    assert isinstance(adapter, nn.Linear) and (adapter.in_features, adapter.out_features) == (6, 8)
    assert KD().adapter(outputs(6, 0), outputs(8, 1), IMAGES) is None


def test_adapters_gradient_comes_from_the_feature_term() -> None:
    student, teacher = outputs(6, 0), outputs(8, 1)
    adapter = FeatureKD().adapter(student, teacher, IMAGES)
    assert isinstance(adapter, nn.Linear)
    FeatureKD().terms(student, teacher, TARGETS, adapter)["feature"].backward()
    assert adapter.weight.grad is not None and adapter.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("method", "needs"), [(CrossEntropy(), set()), (KD(), {"logits"}), (FeatureKD(), {"logits", "embedding"})]
)
def test_needs_are_declared(method: Method, needs: set[str]) -> None:
    assert method.needs == needs


# Default weights after warm-up, and temperature: from the authors' code for CIFAR-100 or, where they have none, from
# RepDistiller's scripts/run_cifar_distill.sh and mdistiller/engine/cfg.py; each module's docstring names its source.
PUBLISHED: dict[str, tuple[dict[str, float], float | None]] = {
    "dkd": ({"ce": 1, "tckd": 1, "nckd": 8}, 4),
    "dist": ({"ce": 1, "inter": 2, "intra": 2}, 4),
    "logit_standardization": ({"ce": 0.1, "kd": 9}, 2),
    "standardized_dkd": ({"ce": 1, "tckd": 9, "nckd": 72}, 2),
    "hard_labels": ({"ce": 0.5, "hard": 0.5}, None),
    "deit": ({"ce": 0.5, "token": 0.5}, None),
    "fitnets": ({"ce": 1, "kd": 0, "fitnets": 100}, 4),
    "at": ({"ce": 1, "kd": 0, "at": 1000}, 4),
    "sp": ({"ce": 1, "kd": 0, "sp": 3000}, 4),
    "cc": ({"ce": 1, "kd": 0, "cc": 0.02}, 4),
    "vid": ({"ce": 1, "kd": 0, "vid": 1}, 4),
    "rkd": ({"ce": 1, "kd": 0, "rkd_distance": 25, "rkd_angle": 50}, 4),
    "pkt": ({"ce": 1, "kd": 0, "pkt": 30_000}, 4),
    "nst": ({"ce": 1, "kd": 0, "nst": 50}, 4),
    "crd": ({"ce": 1, "kd": 0, "crd": 0.8}, 4),
    "srrl": ({"ce": 1, "kd": 0, "srrl_embedding": 1, "srrl_logits": 1}, 4),
    "reviewkd": ({"ce": 1, "kd": 0, "reviewkd": 5}, 4),
}
UNPUBLISHED = {
    "kd": ({"ce": 0.5, "kd": 0.5}, 4),
    "feature_kd": ({"ce": 0.5, "kd": 0.5, "feature": 1}, 4),
    "embedding": ({"ce": 1, "kd": 0, "embedding": 1}, 4),
}


@pytest.mark.parametrize(("name", "published"), (PUBLISHED | UNPUBLISHED).items())
def test_default_weights_are_the_published_ones_or_raykds(
    name: str, published: tuple[dict[str, float], float | None]
) -> None:
    method = Method.from_text(name)
    assert (method.weights(99), getattr(method, "temperature", None)) == published


def test_every_methods_default_weights_have_a_source() -> None:
    ours = {kind for kind, method in kinds(Method).items() if method.__module__.startswith("raykd.methods.")}
    assert ours - {"ce"} == {*PUBLISHED, *UNPUBLISHED}
