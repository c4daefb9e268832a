"""Tests of one training step: its loss, updates, float types, and the inputs of teacher and student."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import CPU, digits, experiment, recipe, run_of, teacher_of
from torch import Tensor, nn

from raykd import models
from raykd.data.loader import Batch
from raykd.methods import KD, FeatureKD
from raykd.methods.kd import kd_loss
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs
from raykd.spec.plan import Run, train_val_indices
from raykd.spec.recipe import SGD, AdamW
from raykd.training.compute import choose_compute
from raykd.training.model_file import images_of
from raykd.training.optim import make_optimizer
from raykd.training.teacher.sources import LiveTeacher, Teacher, no_teacher
from raykd.training.training_step import TrainState, make_train_state

SMALL_VIT = ViT(depth=1, width=24, heads=2, patch=2, dropout=0.2)


def training_of(run: Run, teacher: Teacher | None = None) -> TrainState:
    return make_train_state(run, digits(), choose_compute(CPU, run.recipe.precision), teacher or teacher_of(run))


def one_step(training: TrainState, epoch: int = 0) -> tuple[Batch, dict[str, Tensor]]:
    training.objective.train()
    batch = next(training.loader.epoch(epoch))
    return batch, training.step(batch, training.run.method.weights(epoch))


def test_loss_is_the_weighted_sum_of_unweighted_terms() -> None:
    run = run_of("distilled", method=FeatureKD(alpha=0.3, feature_weight=2.0))
    _, terms = one_step(training_of(run))
    assert set(terms) == {"ce", "kd", "feature", "top1", "loss"}
    expected = 0.3 * terms["ce"] + 0.7 * terms["kd"] + 2.0 * terms["feature"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(term.dtype == torch.float32 and term.shape == () for term in terms.values())


def test_terms_are_those_of_the_papers_formula_on_the_batch() -> None:
    run = run_of("distilled")
    training, reference = training_of(run), training_of(run)
    batch, terms = one_step(training)
    reference.objective.train()
    student, teacher = reference.objective.student(batch.images), reference.teacher(batch)
    assert teacher is not None
    assert terms["ce"].item() == F.cross_entropy(student.logits, batch.labels).item()
    assert terms["kd"].item() == kd_loss(student.logits, teacher.logits, 4.0).item()
    right = (student.logits.argmax(1) == batch.labels).float().mean()
    assert terms["top1"].item() == pytest.approx(100 * right.item())


def test_label_smoothing_is_in_the_labels_term() -> None:
    run = run_of("baseline", student=recipe(label_smoothing=0.2))
    reference = training_of(run)
    batch, terms = one_step(training_of(run))
    reference.objective.train()
    log_p = reference.objective.student(batch.images).logits.log_softmax(1)
    target = torch.full_like(log_p, 0.2 / 10).scatter_(1, batch.labels[:, None], 0.8 + 0.2 / 10)
    assert terms["ce"].item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_gradients_are_clipped_to_their_common_norm(limit: float) -> None:
    """With plain SGD at rate 1 an update is the gradient; adapter and student are clipped as one."""
    plain = SGD(lr=1.0, momentum=0.0, weight_decay=0.0)
    run = run_of("distilled", method=FeatureKD(), student=recipe(optimizer=plain, clip_gradient_norm=limit))
    training = training_of(run)
    before = [parameter.detach().clone() for parameter in training.objective.parameters()]
    one_step(training)
    moved = [a.detach() - b for a, b in zip(training.objective.parameters(), before, strict=True)]
    norm = torch.cat([part.flatten() for part in moved]).norm().item()
    assert norm == pytest.approx(limit, rel=1e-3) if limit < 1 else norm < limit


def test_bf16_computes_in_bf16_and_keeps_weights_and_losses_in_float32() -> None:
    run = run_of("distilled", method=FeatureKD(), student=recipe(precision="bf16"))
    seen: list[torch.dtype] = []
    training = training_of(run)
    for module in (*training.objective.student.modules(), *_modules(training.teacher)):
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    _, terms = one_step(training)
    assert set(seen) == {torch.bfloat16}
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert {parameter.dtype for parameter in training.objective.parameters()} == {torch.float32}


def _modules(teacher: Teacher) -> list[nn.Module]:
    return list(teacher.model.modules()) if isinstance(teacher, LiveTeacher) else []


def test_teacher_is_in_evaluation_mode_gets_no_gradient_and_does_not_change() -> None:
    run = run_of("distilled")
    training = training_of(run)
    teacher = training.teacher
    assert isinstance(teacher, LiveTeacher)
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    batch, _ = one_step(training)
    outputs = teacher(batch)
    assert not any(module.training for module in teacher.model.modules())
    assert not outputs.logits.requires_grad and all(p.grad is None for p in teacher.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.model.state_dict().items())
    held = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in teacher.model.parameters()}


def test_live_teacher_is_deterministic_even_with_dropout() -> None:
    teacher = LiveTeacher(models.build(SMALL_VIT, images_of(digits()), 0))
    batch = next(training_of(run_of("baseline")).loader.epoch(0))
    assert torch.equal(teacher(batch).logits, teacher(batch).logits)


def test_student_trains_in_training_mode() -> None:
    training = training_of(run_of("distilled"))
    before = training.objective.student.network.get_buffer("bn1.num_batches_tracked").item()
    one_step(training)
    assert training.objective.student.network.get_buffer("bn1.num_batches_tracked").item() == before + 1


class Watching:
    """A teacher that keeps the batches it was shown."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.batches = teacher, []
        self.identity = teacher.identity

    def __call__(self, batch: Batch) -> Outputs | None:
        self.batches.append(batch)
        return self.teacher(batch)


def test_teacher_and_student_see_the_same_pixels() -> None:
    run = run_of("distilled")
    watching = Watching(teacher_of(run))
    training = training_of(run, watching)
    watching.batches.clear()
    shown: list[Tensor] = []
    training.objective.student.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    batch, _ = one_step(training, epoch=1)
    assert len(shown) == len(watching.batches) == 1
    assert torch.equal(shown[0], watching.batches[0].images)
    rendered = training.loader.renderer.render(batch.index, batch.view)
    assert torch.equal(shown[0], rendered), "the batch does not say which views it holds"


def views_seen(run: Run, epochs: int = 2) -> list[tuple[Tensor, Tensor, Tensor]]:
    loader = training_of(run).loader
    return [(b.index, b.view, b.images) for epoch in range(epochs) for b in loader.epoch(epoch)]


@pytest.mark.parametrize("method", [KD(), FeatureKD(), KD(alpha=0.9, temperature=1.0)])
def test_baseline_and_distilled_start_from_identical_weights_and_see_identical_views(method: Any) -> None:
    """Whatever the method: a paired comparison differs in the loss alone."""
    baseline, distilled = run_of("baseline", method=method), run_of("distilled", method=method)
    ours, theirs = (training_of(run).objective.student.network.state_dict() for run in (baseline, distilled))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for one, other in zip(views_seen(baseline), views_seen(distilled), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_students_of_two_seeds_differ_in_weights_and_views() -> None:
    one, other = run_of("baseline"), run_of("baseline", seeds=(1,))
    first, second = (training_of(run).objective.student.network.state_dict()["conv1.weight"] for run in (one, other))
    assert not torch.equal(first, second)
    assert not torch.equal(views_seen(one)[0][0], views_seen(other)[0][0])


def test_validation_images_are_never_trained_on_and_are_the_same_for_all() -> None:
    data = replace(experiment().data, student_images=60)
    labels = digits().train.labels
    rows, val = train_val_indices(data, labels)
    teachers_rows, teachers_val = train_val_indices(replace(data, student_images=None), labels)
    assert len(rows) == 60 and len(teachers_rows) == 200 and len(val) == 100
    assert torch.equal(val, teachers_val)
    assert set(rows.tolist()) <= set(teachers_rows.tolist()) and not set(rows.tolist()) & set(val.tolist())
    seen = {index for batch in views_seen(run_of("teacher"), 3) for index in batch[0].tolist()}
    assert seen <= set(teachers_rows.tolist())


def test_adapter_is_trained_with_the_student_and_its_weights_come_from_the_seed() -> None:
    run = run_of("distilled", method=FeatureKD())
    training, again = training_of(run), training_of(run)
    other = training_of(run_of("distilled", method=FeatureKD(), seeds=(1,)))
    adapter, same, different = (t.objective.get_parameter("adapter.weight") for t in (training, again, other))
    assert adapter.shape == (128, 64) and torch.equal(adapter, same) and not torch.equal(adapter, different)
    before = adapter.detach().clone()
    one_step(training)
    assert not torch.equal(adapter, before)


def test_adapter_is_there_only_where_widths_differ() -> None:
    same_width = recipe(model=ResNet((2, 1, 1, 1), 8))
    assert training_of(run_of("distilled", method=FeatureKD(), teacher=same_width)).objective.adapter is None
    assert training_of(run_of("distilled", method=KD())).objective.adapter is None
    assert training_of(run_of("baseline", method=FeatureKD())).objective.adapter is None


def test_making_a_train_state_leaves_the_random_generators_unchanged() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    training_of(run_of("distilled", method=FeatureKD()))
    assert torch.equal(torch.rand(1), expected)


def test_adamw_does_not_decay_what_timms_no_weight_decay_names() -> None:
    network = models.build(Timm("swin_s3_tiny_224", input_size=32), images_of(digits()), 0)
    optimizer = make_optimizer(network, AdamW(weight_decay=0.3))
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.0 for p in group["params"]}
    tables = [p for name, p in network.named_parameters() if name.endswith("relative_position_bias_table")]
    assert tables and all(p.ndim > 1 and id(p) in spared for p in tables)


@pytest.mark.parametrize("model", [SMALL_VIT, Timm("deit_tiny_distilled_patch16_224", input_size=32)])
def test_adamw_decays_matrices_and_neither_norms_biases_nor_tokens(model: Any) -> None:
    network = models.build(model, images_of(digits()), 0).network
    optimizer = make_optimizer(network, AdamW(weight_decay=0.3))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decays[id(parameter)] for name, parameter in network.named_parameters()}
    assert set(found.values()) == {0.0, 0.3}
    for name, weight_decay in found.items():
        spared = "norm" in name or name.endswith(("bias", "pos_embed", "_token"))
        assert weight_decay == (0.0 if spared else 0.3), name


def test_sgd_decays_every_weight() -> None:
    network = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0).network
    (group,) = make_optimizer(network, SGD(weight_decay=0.3)).param_groups
    assert group["weight_decay"] == 0.3 and len(group["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_changes_the_layout_only(channels_last: bool) -> None:
    training = training_of(run_of("distilled", student=recipe(channels_last=channels_last)))
    weight = training.objective.get_parameter("student.network.layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    _, terms = one_step(training)
    _, others = one_step(training_of(run_of("distilled", student=recipe(channels_last=not channels_last))))
    assert terms["loss"].item() == pytest.approx(others["loss"].item(), rel=1e-5)


def test_a_method_that_needs_a_teacher_is_not_trained_without_one() -> None:
    with pytest.raises(AssertionError):
        training_of(run_of("distilled"), no_teacher)
