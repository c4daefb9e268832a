"""Gradient accumulation: the same step in several passes, with less memory."""

from typing import Any

import pytest
import torch
from small_runs import CPU, digits, recipe, run_of, teacher_of
from torch import Tensor

from raykd.data.augmentation import Augmentation
from raykd.data.loader import TrainLoader
from raykd.errors import ConfigError
from raykd.methods import KD, RKD
from raykd.models.vit_cifar import ViT
from raykd.spec.optimizers import SGD
from raykd.spec.plan import Run
from raykd.spec.recipe import Recipe
from raykd.training.compute import choose_compute
from raykd.training.training_step import TrainState, make_train_state

VIT = ViT(depth=2, width=24, heads=2, patch=2)  # no batch norm, so a step in several passes is the same step


def training_of(passes: int, **changes: Any) -> TrainState:
    student = recipe(model=VIT, optimizer=SGD(lr=1.0, momentum=0.0), gradient_accumulation=passes, **changes)
    run = run_of("distilled", method=KD(alpha=0.3), student=student)
    return make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))


@pytest.mark.parametrize(
    "changes",
    [{}, {"augmentation": Augmentation(mixup=0.5), "label_smoothing": 0.1}, {"class_weights": tuple(range(1, 11))}],
    ids=["plain", "mixed images", "class weights"],
)
def test_a_step_in_several_passes_is_the_same_step_up_to_rounding(changes: dict[str, Any]) -> None:
    one, many = training_of(1, **changes), training_of(5, **changes)
    terms = [training.step(next(training.loader.epoch(0)), training.run.method.weights(0)) for training in (one, many)]
    assert terms[0].keys() == terms[1].keys() == {"ce", "kd", "top1", "loss"}
    for name, value in terms[0].items():
        torch.testing.assert_close(terms[1][name], value, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(many.objective.parameters(), one.objective.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_pass_keeps_the_activations_of_its_own_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.untyped_storage().nbytes() * (tensor.dim() > 0 and tensor.shape[0] in (5, 50))
        return tensor

    backward = Tensor.backward
    monkeypatch.setattr(Tensor, "backward", lambda self: (backward(self), kept.append(0))[0])
    most = []
    for passes in (1, 10):
        training = training_of(passes)
        kept[:] = [0]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            training.step(next(training.loader.epoch(0)), training.run.method.weights(0))
        assert len(kept) == passes + 1
        most.append(max(kept))
    assert 0 < most[1] == pytest.approx(most[0] / 10, rel=0.05)


def test_workers_together_have_the_images_of_each_pass() -> None:
    """A method that relates images then gets the same ones, whatever the number of workers."""

    def loader(rank: int, workers: int) -> TrainLoader:
        run, dataset = run_of("distilled"), digits()
        rows = torch.arange(200)
        views, images, labels = run.data.views, dataset.train.images, dataset.train.labels
        return TrainLoader(images, labels, rows, views, 60, 3, CPU, rank, workers, passes=5)

    for step, whole in enumerate(loader(0, 1).epoch(2)):
        both = [list(loader(rank, 2).epoch(2))[step].parts(5) for rank in (0, 1)]
        for part, first, second in zip(whole.parts(5), *both, strict=True):
            assert torch.equal(part.index, torch.cat([first.index, second.index]))
            assert torch.equal(part.images, torch.cat([first.images, second.images]))


@pytest.mark.parametrize("changes", [{"gradient_accumulation": 3}, {"gradient_accumulation": 0}])
def test_passes_must_divide_the_batch(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"gradient_accumulation = \d in Recipe: must (divide batch_size = 50|be at)"):
        recipe(**changes)


def test_a_method_of_related_images_requires_enough_in_each_pass() -> None:
    with pytest.raises(ConfigError, match=r"batch_size = 50 in 25 passes .*'rkd' .*--set student\.batch_size=75 or"):
        run_of("distilled", method=RKD(), student=recipe(gradient_accumulation=25))


def test_the_default_is_one_pass_and_keeps_the_fingerprint() -> None:
    assert Recipe().images_per_pass == Recipe().batch_size
    assert Run(recipe=Recipe(gradient_accumulation=1)).fingerprint == Run(recipe=Recipe()).fingerprint
