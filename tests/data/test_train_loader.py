"""Batches are a function of (seed, epoch, step): not of workers, resume point or earlier reads."""

from itertools import islice

import pytest
import torch

from raykd.data.loader import Batch, TrainLoader
from raykd.data.views import Views
from raykd.errors import ConfigError

NUM_IMAGES = 100
IMAGES = torch.randint(0, 256, (NUM_IMAGES, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM_IMAGES) % 10
INDICES = torch.arange(10, NUM_IMAGES)  # 90 of the 100


def loader(**changes: object) -> TrainLoader:
    settings: dict = {"indices": INDICES, "views": Views(2, True), "batch_size": 16, "seed": 3, **changes}
    return TrainLoader(IMAGES, LABELS, **settings)


def assert_equal(left: Batch, right: Batch) -> None:
    for name in ("images", "labels", "index", "view"):
        assert getattr(left, name).equal(getattr(right, name)), name


def test_an_epoch_has_complete_batches_only() -> None:
    batches = list(loader().epoch(0))
    assert len(batches) == loader().steps_per_epoch == 5
    assert all(batch.images.shape == (16, 3, 8, 8) for batch in batches)


def test_an_epoch_has_each_image_of_the_run_at_most_once() -> None:
    index = torch.cat([batch.index for batch in loader().epoch(0)])
    assert len(index.unique()) == len(index) == 80
    assert set(index.tolist()) <= set(INDICES.tolist())


def test_each_epoch_drops_different_images() -> None:
    seen = [set(torch.cat([batch.index for batch in loader().epoch(epoch)]).tolist()) for epoch in range(8)]
    assert set().union(*seen) == set(INDICES.tolist())
    assert len({frozenset(rows) for rows in seen}) == 8


def test_labels_and_pixels_match_index_and_view() -> None:
    run = loader()
    for batch in run.epoch(2):
        assert batch.labels.equal(LABELS[batch.index])
        assert batch.view.equal(Views(2, True).draw(3, 2, batch.index))
        assert batch.images.equal(run.renderer.render(batch.index, batch.view))


@pytest.mark.parametrize("first_step", [0, 1, 4, 5])
def test_resumed_epoch_equals_the_rest_of_an_uninterrupted_epoch(first_step: int) -> None:
    whole = list(loader().epoch(7))[first_step:]
    resumed = list(loader().epoch(7, first_step))
    assert len(resumed) == 5 - first_step
    for left, right in zip(whole, resumed, strict=True):
        assert_equal(left, right)


def test_epochs_do_not_depend_on_earlier_reads() -> None:
    used = loader()
    list(islice(used.epoch(0), 2))
    list(used.epoch(5))
    for left, right in zip(used.epoch(1), loader().epoch(1), strict=True):
        assert_equal(left, right)


@pytest.mark.parametrize("world_size", [2, 4])
def test_batches_of_all_ranks_concatenate_to_the_batch_of_one_worker(world_size: int) -> None:
    ranks = [loader(rank=rank, world_size=world_size).epoch(1) for rank in range(world_size)]
    for whole, *shares in zip(loader().epoch(1), *ranks, strict=True):
        for name in ("images", "labels", "index", "view"):
            joined = torch.cat([getattr(share, name) for share in shares])
            assert joined.equal(getattr(whole, name)), name


def test_views_do_not_depend_on_subset_or_batch_size() -> None:
    few = loader(indices=INDICES[::3], batch_size=5)
    views_of = [
        {
            row: view
            for batch in run.epoch(4)
            for row, view in zip(batch.index.tolist(), batch.view.tolist(), strict=True)
        }
        for run in (loader(), few)
    ]
    shared = views_of[0].keys() & views_of[1].keys()
    assert len(shared) > 20
    assert all(views_of[0][row] == views_of[1][row] for row in shared)


def test_seeds_differ_in_order_and_views() -> None:
    one, other = next(loader().epoch(0)), next(loader(seed=4).epoch(0))
    assert not one.index.equal(other.index)
    assert not one.view.equal(other.view)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 15, "world_size": 2},
            "batch_size = 15: must be a positive multiple of the number of workers, 2",
        ),
        ({"batch_size": 0}, "batch_size = 0: must be a positive"),
        ({"batch_size": 91}, "must be at most 90, the number of training images"),
        ({"rank": 2, "world_size": 2}, r"rank = 2: must lie in \[0, 1\], for 2 workers"),
        ({"indices": torch.arange(85, 101)}, "indices range from 85 to 100"),
    ],
)
def test_impossible_arguments_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(**changes)


@pytest.mark.parametrize("first_step", [-1, 6])
def test_a_step_outside_of_the_epoch_is_refused(first_step: int) -> None:
    with pytest.raises(ConfigError, match=rf"first_step = {first_step}: must lie in \[0, 5\], the steps of an epoch"):
        loader().epoch(0, first_step)
