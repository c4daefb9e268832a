"""Tests of the logit cache on disk: rows are read as they were written, holes are known, other caches are refused."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from small_runs import CPU, digits, run_of
from torch import Tensor

from raykd.config import fingerprint
from raykd.config.codec import read_checked_json, write_checked_json
from raykd.data.loader import TrainLoader
from raykd.data.sampling import Balanced, Sampling
from raykd.data.views import Views
from raykd.disk.file_lock import lock_at
from raykd.errors import ConfigError, RunFailed
from raykd.spec.plan import train_val_indices
from raykd.training.teacher.cache import CacheKey, LogitCache, visited_views

KEY = CacheKey("ab" * 32, "cd" * 32, crop_padding=1, flip=True, precision="fp32", num_images=20, num_classes=3)
VIEWS = 18
NOT_SET = dict.fromkeys(("min_crop_area", "views_per_image", "cached_classes"))


def some(num_images: int, seed: int = 0) -> Tensor:
    """float16 [num_images, V, C]"""
    return torch.randn(num_images, VIEWS, 3, generator=torch.Generator().manual_seed(seed)).half()


def all_of(num_images: int) -> Tensor:
    return torch.ones(num_images, VIEWS, dtype=torch.bool)


def test_new_cache_is_all_holes(tmp_path: Path) -> None:
    cache = LogitCache(tmp_path, KEY)
    assert not cache.filled().any() and cache.filled().shape == (20, VIEWS)
    assert cache.logits().shape == (20 * VIEWS, 3) and cache.logits().dtype == torch.float16


def test_what_is_written_is_read_by_another_process_s_eyes(tmp_path: Path) -> None:
    written, filled = some(5), torch.rand(5, VIEWS, generator=torch.Generator().manual_seed(1)) < 0.5
    LogitCache(tmp_path, KEY).write(7, written, filled)
    cache = LogitCache(tmp_path, KEY)
    expected = torch.zeros(20, VIEWS, dtype=torch.bool)
    expected[7:12] = filled
    assert torch.equal(cache.filled(), expected)
    assert torch.equal(cache.logits().view(20, VIEWS, 3)[expected], written[filled])


def test_what_is_filled_never_changes(tmp_path: Path) -> None:
    cache, first, second = LogitCache(tmp_path, KEY), some(4, seed=1), some(4, seed=2)
    half = all_of(4)
    half[:, ::2] = False
    cache.write(3, first, half)
    cache.write(3, second, all_of(4))
    found = cache.logits().view(20, VIEWS, 3)[3:7]
    assert torch.equal(found, torch.where(half[..., None], first, second))
    assert cache.filled().sum() == 4 * VIEWS


def test_neighbouring_pieces_leave_each_other_alone(tmp_path: Path) -> None:
    cache, whole = LogitCache(tmp_path, KEY), some(20)
    for first in (8, 0, 4, 16, 12):
        cache.write(first, whole[first : first + 4], all_of(4))
    assert cache.filled().all() and torch.equal(cache.logits().view(20, VIEWS, 3), whole)


def test_file_of_cifar10s_cache_has_the_bytes_that_the_docs_promise() -> None:
    key = replace(KEY, crop_padding=4, num_images=50_000, num_classes=10)
    assert (key.num_views, key.size_bytes) == (162, 162_000_000)


def test_folder_is_named_by_its_key(tmp_path: Path) -> None:
    written = {
        "teacher_sha256": "ab" * 32,
        "data_identity": "cd" * 32,
        "crop_padding": 1,
        "flip": True,
        "precision": "fp32",
        "num_images": 20,
        "num_classes": 3,
        "embedding_width": 0,
    }
    cache = LogitCache(tmp_path, KEY)
    assert cache.folder.name == fingerprint(written)[:16]
    assert read_checked_json(cache.folder / "cache.json") == written | NOT_SET | {"computed_in": "fp32"}
    assert {path.name for path in cache.folder.iterdir()} == {"cache.json", "logits.f16", "filled.bits", ".lock"}


def test_cache_made_before_crop_views_and_top_classes_is_found_and_read(tmp_path: Path) -> None:
    """Its record lacks their fields, and its name is the fingerprint of the others."""
    cache = LogitCache(tmp_path, KEY)
    cache.write(0, some(20), all_of(20))
    path = cache.folder / "cache.json"
    content = read_checked_json(path)
    assert content is not None
    write_checked_json(path, {name: value for name, value in content.items() if name not in NOT_SET})
    assert LogitCache.exists(tmp_path, KEY) and LogitCache(tmp_path, KEY).filled().all()


def test_cache_of_crop_views_has_as_many_views_as_crops(tmp_path: Path) -> None:
    crops = replace(KEY, crop_padding=0, min_crop_area=0.08, views_per_image=5)
    assert crops.num_views == 5 and crops.size_bytes == 20 * 5 * 3 * 2
    assert LogitCache(tmp_path, crops).filled().shape == (20, 5)
    names = {crops.name, replace(crops, min_crop_area=0.2).name, replace(crops, views_per_image=6).name, KEY.name}
    assert len(names) == 4


def test_rows_with_an_embedding_hold_it_behind_the_logits(tmp_path: Path) -> None:
    key = replace(KEY, embedding_width=5)
    rows = torch.randn(4, VIEWS, 8, generator=torch.Generator().manual_seed(3)).half()
    cache = LogitCache(tmp_path, key)
    cache.write(3, rows, all_of(4))
    assert torch.equal(cache.rows().view(20, VIEWS, 8)[3:7], rows)
    assert torch.equal(cache.logits().view(20, VIEWS, 3)[3:7], rows[..., :3])
    assert (cache.folder / "outputs.f16").stat().st_size == key.size_bytes == 20 * VIEWS * 8 * 2
    assert cache.filled().sum() == 4 * VIEWS and not LogitCache(tmp_path, KEY).filled().any()


@pytest.mark.parametrize("name", [field.name for field in fields(CacheKey)])
def test_each_part_of_the_key_makes_another_cache(name: str, tmp_path: Path) -> None:
    other = {"teacher_sha256": "ef" * 32, "data_identity": "01" * 32, "crop_padding": 2, "flip": False}
    other |= {"precision": "bf16", "num_images": 21, "num_classes": 4, "embedding_width": 5}
    other |= {"min_crop_area": 0.08, "views_per_image": 7, "cached_classes": 2}
    LogitCache(tmp_path, KEY).write(0, some(1), all_of(1))
    assert not LogitCache(tmp_path, replace(KEY, **{name: other[name]})).filled().any()
    assert LogitCache(tmp_path, KEY).filled().any()


@pytest.mark.parametrize(("name", "value"), [("teacher_sha256", "ef" * 32), ("crop_padding", 2), ("precision", "bf16")])
def test_cache_of_another_key_is_refused_with_the_reason(name: str, value: object, tmp_path: Path) -> None:
    path = LogitCache(tmp_path, KEY).folder / "cache.json"
    write_checked_json(path, read_checked_json(path) | {name: value})
    message = f"has {name} = {value}, but this run requires {name} = {getattr(KEY, name)}; remove"
    with pytest.raises(ConfigError, match=message):
        LogitCache(tmp_path, KEY)


@pytest.mark.parametrize("name", ["logits.f16", "filled.bits"])
def test_cache_that_was_cut_short_is_refused(name: str, tmp_path: Path) -> None:
    path = LogitCache(tmp_path, KEY).folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"{name}' is not \d+ bytes long; remove"):
        LogitCache(tmp_path, KEY)


def test_cache_interrupted_before_its_record_was_written_is_completed(tmp_path: Path) -> None:
    cache = LogitCache(tmp_path, KEY)
    (cache.folder / "cache.json").unlink()
    assert not LogitCache.exists(tmp_path, KEY)
    LogitCache(tmp_path, KEY).write(0, some(20), all_of(20))
    assert LogitCache.exists(tmp_path, KEY) and LogitCache(tmp_path, KEY).filled().all()


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_visited_views_are_those_that_the_loader_shows(sampling: Sampling) -> None:
    run = run_of("distilled", seeds=(3,))
    images, labels = digits().train.images, digits().train.labels
    rows, _ = train_val_indices(run.data, labels)
    shown = torch.zeros(len(labels), run.data.views.count, dtype=torch.bool)
    loader = TrainLoader(images, labels, rows, run.data.views, batch_size=20, seed=3, device=CPU, sampling=sampling)
    assert len(rows) % 20 == 0, "every image is shown in every epoch"
    for epoch in range(4):
        for batch in loader.epoch(epoch):
            shown[batch.index, batch.view] = True
    sampler = Balanced(rows, labels) if sampling == "balanced" else None
    assert torch.equal(visited_views(run.data.views, rows, len(labels), {3: 4}, sampler), shown)


def test_visited_views_of_several_seeds_are_the_union_of_each() -> None:
    views, rows = Views(2, True), torch.arange(1, 40, 3)
    both = visited_views(views, rows, 40, {0: 5, 1: 7})
    assert torch.equal(both, visited_views(views, rows, 40, {0: 5}) | visited_views(views, rows, 40, {1: 7}))
    assert not both[0].any() and both[1].any()


def test_cache_keeps_the_precision_that_it_was_created_with(tmp_path: Path) -> None:
    key = replace(KEY, precision="auto")
    assert LogitCache(tmp_path, key, "bf16").precision == "bf16"
    assert LogitCache(tmp_path, key, "fp32").precision == "bf16", "filling resumes in the earlier precision"
    assert LogitCache(tmp_path, key).precision == "bf16"


def test_lock_that_another_process_never_releases_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.training.teacher.cache.LOCK_WAIT_S", 0.05)
    cache = LogitCache(tmp_path, KEY)
    with lock_at(cache.folder / ".lock").acquire(), pytest.raises(RunFailed, match=r"\.lock' was locked by another"):
        cache.write(0, some(1), all_of(1))


def _filled_cache(tmp_path: Path) -> LogitCache:
    cache = LogitCache(tmp_path, KEY)
    half = all_of(20)
    half[10:, ::2] = False
    cache.write(0, some(20), half)
    return cache


DAMAGE: dict[str, tuple[str, Callable[[bytearray], object]]] = {
    "a flipped bit in a row": ("logits.f16", lambda raw: raw.__setitem__(200, raw[200] ^ 8)),
    "rows of zeros": ("logits.f16", lambda raw: raw.__setitem__(slice(0, 700), bytes(700))),
    "shuffled images": ("logits.f16", lambda raw: raw.__setitem__(slice(0, 216), raw[108:216] + raw[:108])),
    "NaN rows": ("logits.f16", lambda raw: raw.__setitem__(slice(108, 112), b"\x00\x7e\x00\x7e")),
    "infinite rows": ("logits.f16", lambda raw: raw.__setitem__(slice(108, 112), b"\x00\x7c\x00\x7c")),
    "a bit of a view that is not there": ("filled.bits", lambda raw: raw.__setitem__(7 * 15, raw[7 * 15] ^ 128)),
    "a bit lost": ("filled.bits", lambda raw: raw.__setitem__(7 * 3, raw[7 * 3] ^ 128)),
    "a checksum of zeros": ("filled.bits", lambda raw: raw.__setitem__(slice(7 * 3 + 3, 7 * 4), bytes(4))),
    "shuffled bits and checksums": ("filled.bits", lambda raw: raw.__setitem__(slice(0, 14), raw[7:14] + raw[:7])),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_images_count_as_not_filled_and_are_filled_again(name: str, tmp_path: Path) -> None:
    cache = _filled_cache(tmp_path)
    before, rows = cache.filled(), cache.logits().view(20, VIEWS, 3).clone()
    file, damage = DAMAGE[name]
    raw = bytearray((cache.folder / file).read_bytes())
    damage(raw)
    (cache.folder / file).write_bytes(raw)
    filled, damaged = LogitCache(tmp_path, KEY).check()
    assert 1 <= damaged.sum() <= 7 and not filled[damaged].any()
    assert torch.equal(filled[~damaged], before[~damaged]), "an intact image was given up"
    cache.write(0, some(20), before)
    again = LogitCache(tmp_path, KEY)
    assert torch.equal(again.filled(), before) and not again.check()[1].any()
    assert torch.equal(again.logits().view(20, VIEWS, 3)[before], rows[before])


def test_rows_and_bits_of_another_cache_are_noticed(tmp_path: Path) -> None:
    """Both files, which agree with each other: the checksum covers the key too."""
    cache, other = _filled_cache(tmp_path), LogitCache(tmp_path, replace(KEY, teacher_sha256="ef" * 32))
    other.write(0, some(20, seed=7), all_of(20))
    for file in ("logits.f16", "filled.bits"):
        (cache.folder / file).write_bytes((other.folder / file).read_bytes())
    assert LogitCache(tmp_path, KEY).check()[1].all()


def test_zeroed_bits_are_images_to_fill_and_no_damage(tmp_path: Path) -> None:
    cache = _filled_cache(tmp_path)
    path = cache.folder / "filled.bits"
    path.write_bytes(path.read_bytes()[:70] + bytes(70))
    filled, damaged = cache.check()
    assert filled[:10].all() and not filled[10:].any() and not damaged.any()


def test_rows_of_a_writer_that_was_killed_before_its_bits_are_no_damage(tmp_path: Path) -> None:
    cache = _filled_cache(tmp_path)
    before = cache.filled()
    with (cache.folder / "logits.f16").open("r+b") as file:
        file.seek(15 * VIEWS * 6)  # image 15 has no view 0
        file.write(b"\x12\x34" * 3)
    filled, damaged = cache.check()
    assert torch.equal(filled, before) and not damaged.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_never_kept(value: float, tmp_path: Path) -> None:
    rows = some(2)
    rows[1, 3, 1] = value
    cache = LogitCache(tmp_path, KEY)
    with pytest.raises(RunFailed, match="check the teacher's weights"):
        cache.write(0, rows, all_of(2))
    assert not cache.filled().any()
