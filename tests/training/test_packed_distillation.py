"""Students learn from a logit cache of crops of images on disk: filled once, resumed to the same bits."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import children
import pytest
import torch
from packed_runs import CASES, in_memory, make_pack, on_disk
from resume_cases import outcome
from small_runs import CPU, NO_WEIGHTS, experiment, recipe

from raykd import models
from raykd.data.packs.reader import PackedSplit
from raykd.data.renderers import make_renderer
from raykd.data.types import Dataset
from raykd.errors import DataError, Interrupted
from raykd.methods import KD
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.plan import Plan, Run, make_plan, train_val_indices
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.model_file import images_of
from raykd.training.teacher import fill
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache, choose_teacher
from raykd.training.teacher.fill import Filler
from raykd.training.teacher.load import load_cached_teacher
from raykd.training.teacher.sources import LiveTeacher, Teacher

CROPS = "three crops of each image"
EPOCHS = 8
SHA = "5a" * 32
NUM_VIEWS, NUM_IMAGES = 3, 48


@dataclass(frozen=True)
class Filling:
    """A planned cache of the crops of a pack, its files, and a teacher with random weights."""

    plan: Plan
    planned: PlannedCache
    dataset: Dataset
    cache: LogitCache
    teacher: LiveTeacher

    @property
    def filler(self) -> Filler:
        return Filler(self.planned, self.dataset, self.cache, self.teacher.model, choose_compute(CPU, "fp32"))

    @property
    def run(self) -> Run:
        return self.plan.runs[-1]

    def cached_teacher(self) -> Teacher:
        return load_cached_teacher(self.run, self.dataset, self.cache, CPU)


def filling_of(dataset: Dataset, caches: Path, case: str = CROPS, **changes: Any) -> Filling:
    fields = {"teacher": recipe(batch_size=12), "student": recipe(batch_size=12, epochs=EPOCHS), **CASES[case]}
    fields |= {"method": KD(alpha=0.1, temperature=1.0), "teacher_source": "cache", "cached_classes": 1}
    plan = make_plan(experiment(**(fields | changes)), dataset, NO_WEIGHTS)
    found = choose_teacher(plan, dataset, (), caches, [RunFolder(caches)])
    assert found is not None and found.cache is not None
    network = models.build(ResNet(blocks=(1, 1, 1, 1), width=16), images_of(dataset), seed=9)
    teacher = LiveTeacher(network, SHA)
    return Filling(plan, found.cache, dataset, LogitCache(caches, found.cache.key(dataset, SHA)), teacher)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture
def filling(pack: Path, tmp_path: Path) -> Filling:
    return filling_of(on_disk(pack, CROPS), tmp_path)


def train(run: Run, dataset: Dataset, folder: Path, teacher: Teacher, **hooks: Any) -> list[EpochReport]:
    reports: list[EpochReport] = []
    torch.set_num_threads(1)
    fit(run, dataset, RunFolder(folder), CPU, teacher, Hooks(reports.append, **hooks))
    return reports


def test_filled_rows_are_those_of_the_teacher_on_the_crops_that_training_shows(filling: Filling) -> None:
    assert filling.filler.fill(0) == NUM_IMAGES * NUM_VIEWS
    index, view = filling.cache.filled().nonzero().unbind(1)
    indices, _ = train_val_indices(filling.run.data, filling.dataset.train.labels)
    assert torch.equal(index.unique(), indices) and filling.cache.key.num_views == NUM_VIEWS
    crops = make_renderer(filling.dataset.train.images, filling.run.data.views, CPU).render(index, view)
    with torch.no_grad():
        live = filling.teacher.model(crops).logits
    found = filling.cache.key.layout.decode(filling.cache.rows()[index * NUM_VIEWS + view]).logits
    top = live.topk(1, dim=1).indices
    torch.testing.assert_close(found.gather(1, top), live.gather(1, top), rtol=2**-10, atol=1e-5)


@pytest.mark.parametrize("batch_size", [5, 7, 256])
def test_each_image_is_decoded_once_for_all_of_its_crops(
    batch_size: int, filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fill.BATCH_SIZE, "cpu", batch_size)
    counts: Counter[int] = Counter()
    read = PackedSplit.read
    monkeypatch.setattr(PackedSplit, "read", lambda split, row: (counts.update([row]), read(split, row))[1])
    assert filling.filler.fill(0) == NUM_IMAGES * NUM_VIEWS
    assert set(counts.values()) == {1} and len(counts) == NUM_IMAGES


def test_student_of_the_top_classes_of_crops_follows_that_of_a_live_teacher(filling: Filling, tmp_path: Path) -> None:
    """Within the error that the cache records, for a student whose other classes differ by up to a factor of e."""
    filling.filler.fill(0)
    cached = filling.cached_teacher()
    top = cached.top_classes
    assert top is not None and (top.kept, top.num_classes) == (1, 3) and top.kl is not None
    live, sparse = (
        train(filling.run, filling.dataset, tmp_path / name, teacher)
        for name, teacher in (("live", filling.teacher), ("sparse", cached))
    )
    assert live[-1].terms["kd"] < live[0].terms["kd"], "it learned"
    differences = [abs(one.terms["kd"] - other.terms["kd"]) for one, other in zip(live, sparse, strict=True)]
    assert 0 < max(differences) <= top.kl + (top.kl / 2) ** 0.5


def test_student_of_cached_crops_stopped_at_any_step_ends_with_the_same_bits(
    pack: Path, filling: Filling, tmp_path: Path
) -> None:
    filling.filler.fill(0)
    train(filling.run, filling.dataset, tmp_path / "whole", filling.cached_teacher())
    for loaders, steps in ((1, 2), (5, 7), (2, 1)):
        left = iter([False] * (steps - 1) + [True])
        with pytest.raises(Interrupted):
            dataset = on_disk(pack, CROPS, loaders)
            train(filling.run, dataset, tmp_path / "parts", filling.cached_teacher(), should_stop=lambda: next(left))  # noqa: B023
    train(filling.run, filling.dataset, tmp_path / "parts", filling.cached_teacher())
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_padded_views_of_a_pack_fill_the_cache_of_the_same_images_in_memory(pack: Path, tmp_path: Path) -> None:
    """It has the same name, so either can fill it, and rows that differ by no more than the batch's rounding."""
    caches = [filling_of(on_disk(pack, "padded squares"), tmp_path / "disk", "padded squares")]
    caches += [filling_of(in_memory(pack), tmp_path / "memory", "padded squares")]
    disk, memory = ((each.filler.fill(0), each.cache)[1] for each in caches)
    assert disk.key == memory.key and torch.equal(disk.filled(), memory.filled()) and disk.filled().any()
    rows, expected = (
        cache.key.layout.decode(cache.rows()[cache.filled().flatten()]).logits for cache in (disk, memory)
    )
    torch.testing.assert_close(rows, expected, rtol=2**-10, atol=1e-4)


def test_stopped_filling_of_crops_resumes_with_what_is_missing(
    filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fill.BATCH_SIZE, "cpu", 12)
    left = iter([False, False, True])
    with pytest.raises(Interrupted, match="rerun the same command to resume"):
        filling.filler.fill(0, should_stop=lambda: next(left))
    kept = int(filling.cache.filled().sum())
    assert 0 < kept < NUM_IMAGES * NUM_VIEWS and kept % NUM_VIEWS == 0
    assert filling.filler.fill(0) == NUM_IMAGES * NUM_VIEWS - kept
    assert int(filling.cache.filled().sum()) == NUM_IMAGES * NUM_VIEWS


def test_damaged_image_of_a_pack_is_named_while_a_cache_is_filled(
    filling: Filling, monkeypatch: pytest.MonkeyPatch
) -> None:
    indices, _ = train_val_indices(filling.run.data, filling.dataset.train.labels)
    damaged, read = int(indices[20]), PackedSplit.read

    def broken(split: PackedSplit, row: int) -> Any:
        if row == damaged:
            raise DataError(f"image {row} is damaged")
        return read(split, row)

    monkeypatch.setattr(PackedSplit, "read", broken)
    with pytest.raises(DataError, match=f"image {damaged} is damaged"):
        filling.filler.fill(0)
    monkeypatch.setattr(PackedSplit, "read", read)
    filling.filler.fill(0)
    assert int(filling.cache.filled().sum()) == NUM_IMAGES * NUM_VIEWS


def fill_slowly(pack: Path, caches: Path) -> None:
    """Fill the cache in a child process: pieces of one batch of 4 images, with a pause after each piece."""
    fill.PIECE_S, fill.BATCH_SIZE["cpu"] = 0.0, 12
    filling = filling_of(on_disk(pack, CROPS), caches)
    write = filling.cache.write

    def slowly(*arguments: Any) -> None:
        write(*arguments)
        time.sleep(0.05)

    filling.cache.write = slowly  # type: ignore[method-assign]
    filling.filler.fill(0)


@pytest.mark.nightly
def test_killed_filling_of_crops_equals_an_uninterrupted_one(pack: Path, tmp_path: Path) -> None:
    whole, killed = (filling_of(on_disk(pack, CROPS), tmp_path / name) for name in ("whole", "killed"))
    assert children.wait(children.start(fill_slowly, pack, tmp_path / "whole")) == 0
    for minimum in (3, 60):
        child = children.start(fill_slowly, pack, tmp_path / "killed")
        while child.is_alive() and int(killed.cache.filled().sum()) < minimum:
            time.sleep(0.002)
        child.kill()
        child.join()
        assert child.exitcode == -9, "it was filled before it was killed"
    assert children.wait(children.start(fill_slowly, pack, tmp_path / "killed")) == 0
    assert torch.equal(killed.cache.filled(), whole.cache.filled())
    torch.testing.assert_close(killed.cache.rows(), whole.cache.rows(), rtol=0, atol=0)


def test_two_fillers_side_by_side_fill_one_cache(pack: Path, tmp_path: Path) -> None:
    """Both add what they measured to one file."""
    first, second = (filling_of(on_disk(pack, CROPS), tmp_path) for _ in range(2))
    planned = replace(first.planned, num_parts=2)
    fillers = [
        Filler(planned, each.dataset, each.cache, each.teacher.model, choose_compute(CPU, "fp32"))
        for each in (first, second)
    ]
    assert [filler.fill(part) for part, filler in enumerate(fillers)] == [72, 72]
    sampled = first.cache.sampled()
    assert first.cache.filled().sum() == 144 and sampled is not None and sampled.probability.num_rows == 4
