"""Balanced sampling: equally many images of each class; repeats: copies of an image; by seed and epoch."""

import pytest
import torch
from small_runs import CPU, digits, recipe, run_of, teacher_of
from torch import Tensor

from raykd.data.augmentation import Augmentation
from raykd.data.loader import TrainLoader
from raykd.data.sampling import Balanced, Repeated, Shuffled, expected_counts
from raykd.data.views import Views
from raykd.training.compute import choose_compute
from raykd.training.training_step import make_train_state

LABELS = torch.tensor([0] * 60 + [2] * 30 + [5] * 7 + [0] * 3)  # classes 1, 3 and 4 have no images
INDICES = torch.arange(2, 100)


def draws(epochs: int, seed: int = 3) -> list[Tensor]:
    sampler = Balanced(INDICES, LABELS)
    return [sampler.draw(seed, epoch).index for epoch in range(epochs)]


def test_each_class_is_shown_equally_often_to_within_one_image() -> None:
    for index in draws(20):
        counts = torch.bincount(LABELS[index])
        assert len(index) == len(INDICES) and set(index.tolist()) <= set(INDICES.tolist())
        assert counts[[1, 3, 4]].sum() == 0 and counts[[0, 2, 5]].max() - counts[[0, 2, 5]].min() <= 1


def test_images_of_a_class_are_shown_equally_often_on_average() -> None:
    epochs = 600
    counts = torch.bincount(torch.cat(draws(epochs)), minlength=100).double()[INDICES] / epochs
    expected = expected_counts(INDICES, LABELS)
    assert expected.mean().item() == pytest.approx(1)
    error = (counts - expected).abs() / (expected / epochs).sqrt()  # in standard deviations
    assert error.max() < 5


def test_order_of_the_classes_is_random_and_each_epoch_differs() -> None:
    first, second = draws(2)
    assert not torch.equal(first, second) and torch.equal(first, draws(1)[0])
    assert not torch.equal(first, draws(1, seed=4)[0])
    repeats = (LABELS[first][1:] == LABELS[first][:-1]).double().mean().item()
    assert 0.2 < repeats < 0.5, "one in three pairs of neighbors by chance"


@pytest.mark.parametrize("repeats", [2, 3, 98])
def test_an_epoch_shows_copies_of_the_first_images_of_its_order(repeats: int) -> None:
    drawn, shuffled = Repeated(INDICES, repeats).draw(3, 7), Shuffled(INDICES).draw(3, 7).index
    assert drawn.number is not None and len(drawn.index) == len(drawn.number) == len(INDICES)
    for position, (index, number) in enumerate(zip(drawn.index.tolist(), drawn.number.tolist(), strict=True)):
        assert (index, number) == (shuffled[position // repeats], position % repeats)


def test_every_image_is_repeated_equally_often_over_the_epochs() -> None:
    epochs = 600
    shown = torch.cat([Repeated(INDICES, 3).draw(3, epoch).index for epoch in range(epochs)])
    counts = shown.bincount(minlength=100).double()[INDICES] / epochs
    assert counts.mean().item() == pytest.approx(1)
    assert ((counts - 1).abs() / (2 / epochs) ** 0.5).max() < 5  # 3 times with probability 1/3: variance 2


def test_copies_of_an_image_have_different_views_and_augmentations_and_are_in_one_batch() -> None:
    train, augmentation = digits().train, Augmentation(crop_area=0.3, mixup=0.5, erasing=0.5)
    options = {"augmentation": augmentation, "mean": digits().mean, "std": digits().std, "repeats": 3}

    def loaders(rank: int = 0, workers: int = 1) -> TrainLoader:
        return TrainLoader(
            train.images, train.labels, torch.arange(200), Views(2, True), 60, 1, CPU, rank, workers, **options
        )  # fmt: skip

    whole = list(loaders().epoch(2))
    for batch in whole:
        copies = batch.index.view(-1, 3)
        assert (copies == copies[:, :1]).all() and len(copies[:, 0].unique()) == 20
        images = batch.images.reshape(20, 3, -1)
        same = [torch.equal(images[n, one], images[n, other]) for n in range(20) for one, other in ((0, 1), (1, 2))]
        assert sum(same) <= 1
    for resumed, batch in zip(loaders().epoch(2, first_step=1), whole[1:], strict=True):
        assert torch.equal(resumed.images, batch.images)
    for parts in zip(whole, loaders(0, 2).epoch(2), loaders(1, 2).epoch(2), strict=True):
        assert torch.equal(parts[0].images, torch.cat([part.images for part in parts[1:]]))


def test_a_run_trains_on_repeated_images() -> None:
    run = run_of("baseline", student=recipe(repeats=5))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    (batch, *_) = training.loader.epoch(0)
    assert len(batch.index) == 50 and len(batch.index.unique()) == 10


def loader(rank: int = 0, workers: int = 1, augmentation: Augmentation = Augmentation()) -> TrainLoader:  # noqa: B008
    train = digits().train
    return TrainLoader(
        train.images, train.labels, torch.arange(200), Views(2, True), 40, 1, CPU, rank, workers, augmentation,
        sampling="balanced",
    )  # fmt: skip


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(crop_area=0.3, mixup=0.5)])
def test_batches_do_not_depend_on_workers_or_the_step_of_a_resume(augmentation: Augmentation) -> None:
    whole = list(loader(augmentation=augmentation).epoch(2))
    for step, batch in enumerate(loader(augmentation=augmentation).epoch(2, first_step=2)):
        assert torch.equal(batch.images, whole[step + 2].images)
    both = [list(loader(rank, 2, augmentation).epoch(2)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in both]))


def test_an_image_that_is_shown_twice_has_different_views_and_augmentations() -> None:
    order = loader(augmentation=Augmentation(crop_area=0.3)).order(0)
    assert order.draws is not None
    values, counts = order.index.unique(return_counts=True)
    often = values[counts.argmax()]
    places = (order.index == often).nonzero().flatten()
    assert len(places) >= 3
    boxes = torch.stack([draw[0, places] for draw in order.draws.techniques[0]])
    assert len(order.view[places].unique()) > 1 and len(boxes.unique(dim=1).T) > 1


def test_shuffled_epochs_are_unchanged() -> None:
    """The same images and views as before there was another sampling."""
    train = digits().train
    plain = TrainLoader(train.images, train.labels, torch.arange(200), Views(2, True), 40, 1, CPU)
    order = plain.order(3)
    assert torch.equal(order.index.sort().values, torch.arange(200))
    assert torch.equal(order.view, Views(2, True).draw(1, 3, order.index))
    assert order.index[:5].tolist() == [78, 137, 73, 55, 126]


def test_a_run_trains_on_balanced_batches() -> None:
    run = run_of("baseline", student=recipe(sampling="balanced"))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    labels = torch.cat([batch.labels for batch in training.loader.epoch(0)])
    assert torch.bincount(labels).tolist() == [20] * 10
