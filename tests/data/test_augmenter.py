"""Augmented batches are a function of (seed, epoch, index): not of order, workers, resume point or other images."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.data.augmenter import Augmenter, Draws
from raykd.data.load import load_dataset
from raykd.data.loader import Batch, TrainLoader
from raykd.data.views import Views

DIGITS = load_dataset("digits", None)
IMAGES, LABELS = DIGITS.train.images[:200], DIGITS.train.labels[:200]
INDICES = torch.arange(20, 180)
EVERYTHING = Augmentation(crop_area=0.3, randaugment=(2, 9), cutout=6, mixup=0.8, cutmix=1.0)
ERASING = replace(EVERYTHING, erasing=0.5)
KINDS = [
    Augmentation(crop_area=0.3),
    Augmentation(randaugment=(2, 9)),
    Augmentation(cutout=6),
    Augmentation(erasing=1.0),
    Augmentation(erasing=1.0, erasing_fill="mean"),
    Augmentation(mixup=0.8),
    Augmentation(cutmix=1.0),
    EVERYTHING,
    ERASING,
]
FIELDS = ("images", "labels", "index", "view")
GOLDEN = {
    "crop_area": "e21483f6c2fb7610",
    "randaugment": "a8e09915f93e62fd",
    "cutout": "74653d9e7b12f801",
    "erasing": "e2288ce02837b29e",
    "erasing with the mean color": "f19afa5f418bc29f",
    "mixup": "f8f5eccd391a45ab",
    "cutmix": "9b943a276945083d",
    "crop_area+randaugment+cutout+mixup+cutmix": "9e587f10ec85528a",
    "crop_area+randaugment+cutout+erasing+mixup+cutmix": "89b98721051e87bf",
}


def name_of(augmentation: Augmentation) -> str:
    fill = f" with the {augmentation.erasing_fill} color" if augmentation.erasing_fill == "mean" else ""
    return "+".join(augmentation.techniques) + fill


def loader(augmentation: Augmentation = EVERYTHING, **changes: Any) -> TrainLoader:
    settings: dict = {
        "indices": INDICES,
        "views": Views(2, True),
        "batch_size": 32,
        "seed": 3,
        "mean": DIGITS.mean,
        "std": DIGITS.std,
        **changes,
    }
    return TrainLoader(IMAGES, LABELS, augmentation=augmentation, **settings)


def tensors(batch: Batch) -> list[Tensor]:
    return [*(getattr(batch, name) for name in FIELDS), *(batch.mixed or ())]


def assert_equal(left: Batch, right: Batch) -> None:
    assert all(torch.equal(one, other) for one, other in zip(tensors(left), tensors(right), strict=True))


def draws_of(run: TrainLoader, epoch: int, index: Tensor) -> Draws:
    augmenter = run._augmenter
    assert isinstance(augmenter, Augmenter)
    return augmenter.draw(run.seed, epoch, index, run.views.draw(run.seed, epoch, index))


def augmented(run: TrainLoader, index: Tensor) -> Tensor:
    """Return images `index` of epoch 1, augmented together."""
    draws = draws_of(run, 1, index)
    assert run._augmenter is not None
    views = run.renderer.render(draws.index.flatten(), draws.view.flatten())
    return run._augmenter.apply(views, draws, slice(None))[0]


def pixels_by_row(run: TrainLoader, epoch: int) -> dict[int, Tensor]:
    pairs = [(row, image) for batch in run.epoch(epoch) for row, image in zip(batch.index, batch.images, strict=True)]
    return {int(row): image for row, image in pairs}


@pytest.mark.parametrize("augmentation", KINDS, ids=name_of)
def test_pixels_of_an_image_do_not_depend_on_the_batch(augmentation: Augmentation) -> None:
    """Another batch size changes an image's position and neighbors, and drops different images."""
    one, other = (pixels_by_row(loader(augmentation, batch_size=size), 4) for size in (32, 7))
    assert len(one.keys() & other.keys()) > 100
    assert all(torch.equal(one[row], other[row]) for row in one.keys() & other.keys())
    plain = pixels_by_row(loader(NO_AUGMENTATION), 4)
    assert sum(not torch.equal(one[row], plain[row]) for row in one) > 0.5 * len(one)


@pytest.mark.parametrize("augmentation", KINDS, ids=name_of)
def test_pixels_match_golden_hashes(augmentation: Augmentation) -> None:
    """If pixels change intentionally, update the hash and increase plan.RESULT_VERSION."""
    digest = hashlib.sha256()
    for batch in loader(augmentation).epoch(1):
        for tensor in tensors(batch):
            digest.update(tensor.contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[name_of(augmentation)]


@pytest.mark.parametrize("augmentation", KINDS, ids=name_of)
def test_the_order_of_the_images_does_not_matter(augmentation: Augmentation) -> None:
    run = loader(augmentation)
    shuffled = torch.randperm(len(INDICES), generator=torch.Generator().manual_seed(0))
    straight, mixed_up = augmented(run, INDICES), augmented(run, INDICES[shuffled])
    assert torch.equal(straight[shuffled], mixed_up)


@pytest.mark.parametrize("world_size", [2, 4])
def test_batches_of_all_ranks_concatenate_to_the_batch_of_one_worker(world_size: int) -> None:
    ranks = [loader(rank=rank, world_size=world_size).epoch(1) for rank in range(world_size)]
    for whole, *shares in zip(loader().epoch(1), *ranks, strict=True):
        joined = [torch.cat(parts) for parts in zip(*map(tensors, shares), strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(joined, tensors(whole), strict=True))


@pytest.mark.parametrize("first_step", [0, 1, 4, 5])
def test_resumed_epoch_equals_the_rest_of_an_uninterrupted_epoch(first_step: int) -> None:
    whole, resumed = list(loader().epoch(7))[first_step:], list(loader().epoch(7, first_step))
    assert len(resumed) == 5 - first_step
    for left, right in zip(whole, resumed, strict=True):
        assert_equal(left, right)


@pytest.mark.parametrize("changes", [{"seed": 4}, {}])
def test_pixels_differ_between_seeds_and_epochs(changes: dict) -> None:
    one, other = pixels_by_row(loader(), 0), pixels_by_row(loader(**changes), 0 if changes else 1)
    same = [torch.equal(one[row], other[row]) for row in one.keys() & other.keys()]
    assert len(same) > 100 and sum(same) < 0.1 * len(same)


def test_batches_are_uint8_and_channels_last() -> None:
    batch = next(loader().epoch(0))
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (32, 3, 16, 16)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_stored_images_are_not_changed() -> None:
    run = loader(views=Views(0, False))
    before = IMAGES.clone()
    list(run.epoch(0))
    assert torch.equal(IMAGES, before)


def test_without_augmentation_a_batch_consists_of_views() -> None:
    run = loader(NO_AUGMENTATION)
    for batch in run.epoch(2):
        assert batch.mixed is None and run._augmenter is None
        assert torch.equal(batch.images, run.renderer.render(batch.index, batch.view))


@pytest.mark.parametrize("technique", ["crop_area", "randaugment", "cutout", "erasing"])
def test_techniques_without_mixing_have_no_partners(technique: str) -> None:
    kept = replace(NO_AUGMENTATION, **{technique: getattr(ERASING, technique)})
    assert next(loader(kept).epoch(0)).mixed is None


def test_partners_are_uniform_over_the_images_of_the_run() -> None:
    run = loader()
    partners = torch.cat([draws_of(run, epoch, INDICES).index[1] for epoch in range(100)])
    counts = partners.bincount(minlength=200)
    assert counts[:20].sum() == counts[180:].sum() == 0, "an image was mixed in that the run does not train on"
    assert stats.chisquare(counts[20:180].numpy()).pvalue > 1e-3


def test_views_of_partners_are_uniform_and_independent() -> None:
    run = loader()
    draws = [draws_of(run, epoch, INDICES) for epoch in range(100)]
    images, partners = (torch.cat([drawn.view[which] for drawn in draws]) for which in (0, 1))
    assert stats.chisquare(partners.bincount(minlength=50).numpy()).pvalue > 1e-3
    assert (images == partners).float().mean() < 0.03
    shown = torch.cat([run.views.draw(3, epoch, drawn.index[1]) for epoch, drawn in enumerate(draws)])
    assert (shown == partners).float().mean() < 0.03, "an image is shown the same twice in an epoch"


def test_labels_and_shares_of_partners_match_the_mixed_pixels() -> None:
    run = loader(Augmentation(mixup=1.0))
    for batch in run.epoch(0):
        draws = draws_of(run, 0, batch.index)
        assert batch.mixed is not None and torch.equal(batch.mixed.labels, LABELS[draws.index[1]])
        images, partner = (run.renderer.render(draws.index[which], draws.view[which]).double() for which in (0, 1))
        share = batch.mixed.share.double().view(-1, 1, 1, 1)
        assert torch.equal(batch.images, (share * images + (1 - share) * partner + 0.5).floor().to(torch.uint8))
        assert torch.equal(draws.view[0], batch.view) and batch.mixed.share.min() >= 0.5


def test_draws_of_one_technique_do_not_depend_on_the_others() -> None:
    """Outside of the box of CutMix, an image equals the image without CutMix."""
    alone, mixed = loader(replace(EVERYTHING, mixup=0.0, cutmix=0.0)), loader(replace(EVERYTHING, mixup=0.0))
    for left, right in zip(alone.epoch(3), mixed.epoch(3), strict=True):
        assert right.mixed is not None
        same = (left.images == right.images).all(1).float().mean((1, 2))
        assert (same >= right.mixed.share - 1e-6).all()


def test_partners_are_augmented_too() -> None:
    """The color of cutout appears in the partner's part: the black margins of digits do not have it."""
    run = loader(Augmentation(cutout=8, mixup=1.0), mean=(1.0, 0.0, 0.0), views=Views(0, False))
    reds = []
    for batch in run.epoch(0):
        assert batch.mixed is not None
        weight = ((1 - batch.mixed.share) * 255).round()
        is_gray = (batch.images[:, 0] == batch.images[:, 1]).flatten(1).all(1)
        is_red = ((batch.images[:, 0].float() - weight[:, None, None]).abs() < 1) & (batch.images[:, 1] == 0)
        assert not is_gray.any()
        reds.append(is_red.flatten(1).any(1))
    assert torch.cat(reds).float().mean() > 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", KINDS, ids=name_of)
def test_cuda_computes_the_same_pixels(augmentation: Augmentation) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for ours, theirs in zip(loader(augmentation, device="cuda").epoch(1), loader(augmentation).epoch(1), strict=True):
        assert all(torch.equal(one.cpu(), other) for one, other in zip(tensors(ours), tensors(theirs), strict=True))
