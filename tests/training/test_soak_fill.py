"""The logit cache of CIFAR-10, killed at random moments while it is filled: `make soak`, 15 minutes."""

import random
import time
from pathlib import Path

import children
import fill_story
import pytest
import torch

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 20
TIME_S = 1800.0  # each of the two fills has a core


def test_cache_of_cifar10_killed_at_20_random_moments_equals_one_filled_in_peace(tmp_path: Path) -> None:
    story, chance = fill_story.CIFAR10, random.Random(0)
    dataset = story.dataset()
    cache = {name: story.cache(tmp_path / name, dataset) for name in ("peace", "killed")}
    peaceful = children.start(fill_story.fill_all, story, tmp_path / "peace")
    counts = [0]
    for _ in range(KILLS):
        child = children.start(fill_story.fill_all, story, tmp_path / "killed")
        time.sleep(chance.uniform(8.0, 40.0))  # the images are decoded in the first seconds
        child.kill()
        child.join()
        assert child.exitcode == -9, "it was through before it was killed"
        counts.append(int(cache["killed"].filled().sum()))
    last = children.start(fill_story.fill_all, story, tmp_path / "killed")
    for child in (peaceful, last):
        child.join(TIME_S)
        assert child.exitcode == 0
    print("filled at each kill:", counts, "of", int(cache["peace"].filled().sum()))
    assert counts == sorted(counts) and cache["peace"].filled().sum() == 45_000 * 162
    assert torch.equal(cache["killed"].filled(), cache["peace"].filled())
    difference = (cache["killed"].logits().float() - cache["peace"].logits().float()).abs()
    assert difference.max() <= 2**-7 * cache["peace"].logits().abs().max(), "no more than bfloat16's rounding"
    print("entries of other bits:", int((difference > 0).any(1).sum()))
