"""A logit cache of the top classes: its files, its damage, and its error against a live teacher."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raykd.config.codec import read_record, write_checked_json
from raykd.disk.damage import DamagedFile
from raykd.errors import ConfigError, RunFailed
from raykd.outputs import Outputs
from raykd.store.records import RestoredSample, SampleSum, TopClasses
from raykd.training.teacher.cache import CacheKey, LogitCache

IMAGES, VIEWS, CLASSES, KEPT = 20, 18, 200, 3
KEY = CacheKey(
    "ab" * 32,
    "cd" * 32,
    crop_padding=1,
    flip=True,
    precision="fp32",
    num_images=IMAGES,
    num_classes=CLASSES,
    cached_classes=KEPT,
)


def some(num_images: int, seed: int = 0, key: CacheKey = KEY) -> Tensor:
    """int16 [num_images, V, W]"""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(num_images * VIEWS, CLASSES, generator=generator)
    embedding = torch.randn(num_images * VIEWS, key.embedding_width, generator=generator)
    return key.layout.encode(Outputs(logits, embedding)).view(num_images, VIEWS, -1)


def all_of(num_images: int) -> Tensor:
    return torch.ones(num_images, VIEWS, dtype=torch.bool)


def measured(total: float, num_rows: int = 2, temperature: str = "4") -> RestoredSample:
    return RestoredSample(SampleSum(num_rows, 0.5 * num_rows), {temperature: SampleSum(num_rows, total)})


def test_imagenet_with_30_crops_and_the_top_16_classes_takes_the_bytes_that_the_docs_promise() -> None:
    key = replace(
        KEY,
        num_images=1_281_167,
        num_classes=1000,
        crop_padding=0,
        min_crop_area=0.08,
        views_per_image=30,
        cached_classes=16,
    )
    assert key.size_bytes == 1_281_167 * 30 * 66 == 2_536_710_660
    assert replace(key, cached_classes=None).size_bytes == 1_281_167 * 30 * 2000


@pytest.mark.parametrize(("width", "name"), [(0, "top_logits.u16"), (5, "top_outputs.u16")])
def test_rows_of_the_top_classes_are_read_as_they_were_written(width: int, name: str, tmp_path: Path) -> None:
    key = replace(KEY, embedding_width=width)
    written, filled = some(5, key=key), torch.rand(5, VIEWS, generator=torch.Generator().manual_seed(1)) < 0.5
    LogitCache(tmp_path, key).write(7, written, filled)
    cache = LogitCache(tmp_path, key)
    assert cache.filled().sum() == filled.sum() and torch.equal(cache.filled()[7:12], filled)
    assert torch.equal(cache.rows().view(IMAGES, VIEWS, -1)[7:12][filled], written[filled])
    assert (cache.folder / name).stat().st_size == IMAGES * VIEWS * (4 * KEPT + 2 + 2 * width)


def test_caches_of_different_numbers_of_classes_have_separate_folders(tmp_path: Path) -> None:
    LogitCache(tmp_path, KEY).write(0, some(IMAGES), all_of(IMAGES))
    for kept in (None, 4):
        assert not LogitCache.exists(tmp_path, replace(KEY, cached_classes=kept))


DAMAGE = {
    "a logit": (2, b"\x11\x22"),
    "a class number": (KEPT * 2, b"\x12\x34"),
    "the sum of the others": (KEPT * 4, b"\x00\x7e"),
}


@pytest.mark.parametrize("part", DAMAGE)
def test_damaged_row_of_the_top_classes_counts_as_not_filled_and_is_filled_again(part: str, tmp_path: Path) -> None:
    cache, whole = LogitCache(tmp_path, KEY), some(IMAGES)
    cache.write(0, whole, all_of(IMAGES))
    offset, damage = DAMAGE[part]
    with (cache.folder / "top_logits.u16").open("r+b") as file:
        file.seek(6 * VIEWS * KEY.row_width * 2 + offset)
        file.write(damage)
    filled, damaged = LogitCache(tmp_path, KEY).check()
    assert damaged.nonzero().tolist() == [[6]] and not filled[6].any() and filled.sum() == (IMAGES - 1) * VIEWS
    cache.write(0, whole, all_of(IMAGES))
    assert LogitCache(tmp_path, KEY).filled().all() and torch.equal(cache.rows().view(IMAGES, VIEWS, -1), whole)


def test_cache_of_the_top_classes_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = LogitCache(tmp_path, KEY).folder / "top_logits.u16"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"top_logits.u16' is not \d+ bytes long; remove"):
        LogitCache(tmp_path, KEY)


@pytest.mark.parametrize("word", [0, 2 * KEPT], ids=["a logit", "the sum of the others"])
def test_numbers_that_are_not_finite_are_never_kept(word: int, tmp_path: Path) -> None:
    rows = some(2)
    rows[1, 3, word] = 0x7C00  # infinity
    cache = LogitCache(tmp_path, KEY)
    with pytest.raises(RunFailed, match="check the teacher's weights"):
        cache.write(0, rows, all_of(2))
    assert not cache.filled().any()


def test_class_number_with_the_bits_of_nan_is_kept(tmp_path: Path) -> None:
    rows = some(2)
    rows[..., KEPT] = 0x7C01
    cache = LogitCache(tmp_path, KEY)
    cache.write(0, rows, all_of(2))
    assert cache.filled()[:2].all()


# ---- The error that is measured while a cache is filled. ----


def test_error_is_the_mean_over_all_samples(tmp_path: Path) -> None:
    cache = LogitCache(tmp_path, KEY)
    assert cache.sampled() is None and cache.describe_error() == ""
    assert cache.top_classes(4.0) == TopClasses(KEPT, CLASSES)
    for sample in (measured(0.2), measured(1.0, num_rows=6), measured(3.0, temperature="1")):
        cache.add_sample(sample)
    assert LogitCache(tmp_path, KEY).sampled() == RestoredSample(
        SampleSum(10, 5.0), {"4": SampleSum(8, 1.2), "1": SampleSum(2, 3.0)}
    )
    assert cache.top_classes(4.0) == TopClasses(KEPT, CLASSES, 0.5, 0.15, 4.0)
    assert cache.describe_error() == (
        "the kept classes have 50.00% of the teacher's probability, and KL(teacher || restored) is 1.5 at temperature "
        "1, 0.15 at temperature 4 (nats per view)"
    )


def test_error_of_a_temperature_that_was_not_measured_is_that_of_the_nearest(tmp_path: Path) -> None:
    cache = LogitCache(tmp_path, KEY)
    cache.add_sample(measured(0.2))
    cache.add_sample(measured(0.4, temperature="1"))
    assert [top.temperature for t in (0.5, 1.9, 2.1, 20) if (top := cache.top_classes(t))] == [1, 1, 4, 4]


def test_rows_of_all_classes_have_no_error(tmp_path: Path) -> None:
    assert LogitCache(tmp_path, replace(KEY, cached_classes=None)).top_classes(4.0) is None


@pytest.mark.parametrize(
    "content",
    [
        {"probability": {"num_rows": 0, "total": 0.0}, "kl": {"4": {"num_rows": 1, "total": 0.0}}},
        {"probability": {"num_rows": 1, "total": 0.5}, "kl": {}},
        {"probability": {"num_rows": 1, "total": 0.5}, "kl": {"hot": {"num_rows": 1, "total": 0.5}}},
        {"probability": {"num_rows": 1, "total": 0.5}, "kl": {"e+1": {"num_rows": 1, "total": 0.5}}},
        {"probability": {"num_rows": 1, "total": 0.5}, "kl": {"4": {"num_rows": 1, "total": -0.5}}},
    ],
)
def test_impossible_error_is_refused_with_the_remedy(content: dict[str, object], tmp_path: Path) -> None:
    path = LogitCache(tmp_path, KEY).folder / "sampled.json"
    write_checked_json(path, content)
    with pytest.raises(DamagedFile, match=r"sampled\.json' is damaged: .*; remove it; the logit cache .* stays valid"):
        read_record(RestoredSample, path)
