"""A cached teacher equals a live one: the same loss, to float16's rounding, over a whole run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nightly import nightly_except
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, run_of, teacher_of, train

from raykd.errors import Interrupted, RunFailed
from raykd.methods import KD, FeatureKD
from raykd.models.vit_cifar import ViT
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import AdamW
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import choose_teacher
from raykd.training.teacher.fill import Filler
from raykd.training.teacher.load import load_cached_teacher
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher

EPOCHS = 12
VIT = recipe(model=ViT(depth=2, width=24, heads=2, patch=2), optimizer=AdamW(lr=3e-3), epochs=EPOCHS)


def cached(run: Run, caches: Path) -> CachedTeacher:
    """Return the teacher of `run` with a logit cache of its live outputs."""
    teacher = teacher_of(run)
    assert isinstance(teacher, LiveTeacher)
    made = experiment(student=run.recipe, method=run.method, teacher_source="cache")
    plan = make_plan(made, digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), caches, [RunFolder(caches)])
    assert found is not None and found.cache is not None
    cache = LogitCache(caches, found.cache.key(digits(), ""))
    Filler(found.cache, digits(), cache, teacher.model, choose_compute(CPU, run.recipe.precision)).fill(0)
    return load_cached_teacher(run, digits(), cache, CPU)


@pytest.mark.parametrize(
    ("student", "rounding"),
    # float16 keeps 11 bits, and training carries what it drops along, most where batch norm divides. A bf16 teacher's
    # logits have 8 bits and lose none.
    [
        pytest.param(VIT, 2e-3, marks=pytest.mark.nightly),
        (recipe(epochs=EPOCHS), 1e-2),
        pytest.param(replace(VIT, precision="bf16"), 1e-4, marks=pytest.mark.nightly),
    ],
    ids=["vit", "resnet", "vit, bf16"],
)
def test_cached_teacher_equals_live_teacher_over_a_whole_run(student, rounding: float, tmp_path: Path) -> None:
    run = run_of("distilled", student=student, method=KD(alpha=0.1, temperature=4.0))
    live = train(run, RunFolder(tmp_path / "live"))
    cache = train(run, RunFolder(tmp_path / "cache"), cached(run, tmp_path))
    assert len(live) == EPOCHS and live[-1].terms["kd"] < 0.8 * live[0].terms["kd"], "it learned"
    for one, other in zip(live, cache, strict=True):
        assert other.terms == pytest.approx(one.terms, rel=rounding)


@pytest.mark.nightly
def test_first_epoch_is_equal_to_a_part_in_ten_thousand(tmp_path: Path) -> None:
    run = run_of("distilled")
    (live, *_), (cache, *_) = (
        train(run, RunFolder(tmp_path / "a")),
        train(run, RunFolder(tmp_path / "b"), cached(run, tmp_path)),
    )
    assert cache.terms == pytest.approx(live.terms, rel=1e-4)


@pytest.mark.parametrize("distance", nightly_except(["cosine"], ["mse", "cosine"]))
def test_cached_embeddings_equal_live_ones_over_a_whole_run(distance: Any, tmp_path: Path) -> None:
    run = run_of("distilled", student=VIT, method=FeatureKD(alpha=0.1, feature_weight=0.5, distance=distance))
    live = train(run, RunFolder(tmp_path / "live"))
    cache = train(run, RunFolder(tmp_path / "cache"), cached(run, tmp_path))
    assert live[-1].terms["feature"] < 0.8 * live[0].terms["feature"], "it learned"
    assert cache[0].terms["feature"] == pytest.approx(live[0].terms["feature"], rel=1e-4)
    for one, other in zip(live, cache, strict=True):
        assert other.terms == pytest.approx(one.terms, rel=1e-2)


def test_run_interrupted_with_a_cache_of_embeddings_ends_with_the_same_bits(tmp_path: Path) -> None:
    run, folders = run_of("distilled", method=FeatureKD()), [RunFolder(tmp_path / name) for name in "ab"]
    train(run, folders[0], cached(run, tmp_path))
    steps = iter(range(6))
    with pytest.raises(Interrupted):
        train(run, folders[1], cached(run, tmp_path), should_stop=lambda: next(steps, None) is None)
    train(run, folders[1], cached(run, tmp_path))
    assert folders[0].best.read_bytes() == folders[1].best.read_bytes()


def test_record_has_the_teacher_source(tmp_path: Path) -> None:
    run, folder = run_of("distilled"), RunFolder(tmp_path / "run")
    reports = train(run, folder, cached(run, tmp_path))
    assert folder.require_record().compute.teacher == "cache" and reports[0].compute.endswith("cached teacher")


@pytest.mark.parametrize("began", ["live", "cache"])
def test_partly_trained_run_keeps_its_teacher_source(began: str, tmp_path: Path) -> None:
    run, folder = run_of("distilled"), RunFolder(tmp_path / "run")
    teachers = {"live": teacher_of(run), "cache": cached(run, tmp_path)}
    first, other = teachers.pop(began), teachers.popitem()[1]
    with pytest.raises(Interrupted):
        train(run, folder, first, should_stop=lambda: True)
    setting = {"live": "live", "cache": "auto"}[began]
    with pytest.raises(
        RunFailed, match=rf"= {began}, and cannot resume with {other.source}; rerun with .*={setting} to"
    ):
        train(run, folder, other)
    assert len(train(run, folder, first)) == 3
