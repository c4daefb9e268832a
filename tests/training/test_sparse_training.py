"""Students learn from a logit cache of the top classes as from a live teacher, within the error that it records."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, train

from raykd import models
from raykd.data.loader import Batch
from raykd.data.renderers import make_renderer
from raykd.errors import Interrupted, RunFailed
from raykd.methods import KD, FeatureKD
from raykd.methods.kd import kd_loss
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.store.records import TopClasses
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.model_file import images_of
from raykd.training.teacher import fill
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import choose_teacher
from raykd.training.teacher.fill import Filler
from raykd.training.teacher.load import load_cached_teacher, load_live_teacher
from raykd.training.teacher.sources import LiveTeacher

KEPT = 3
TEACHER = recipe(epochs=6, model=ResNet(blocks=(1, 1, 1, 1), width=16))


def changed(**changes: Any) -> Experiment:
    fields = {"teacher": TEACHER, "student": recipe(epochs=12), "method": KD(alpha=0.1, temperature=1.0)}
    return experiment(**(fields | {"cached_classes": KEPT, "teacher_source": "cache"} | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """With a trained teacher."""
    made = RunStore(tmp_path_factory.mktemp("results"))
    (run, *_) = make_plan(changed(), digits(), NO_WEIGHTS).runs
    train(run, made.folder(run))
    return made


def teachers_of(store: RunStore, caches: Path, **changes: Any) -> tuple[Run, LiveTeacher, LogitCache]:
    """Return a distilled run, its live teacher, and a cache of it that was just filled."""
    plan = make_plan(changed(**changes), digits(), NO_WEIGHTS)
    folders = [store.folder(plan.runs[0])]
    live = load_live_teacher(folders, CPU)
    found = choose_teacher(plan, digits(), (), caches, folders)
    assert found is not None and found.cache is not None
    cache = LogitCache(caches, found.cache.key(digits(), live.identity))
    live.model.request({"embedding"})  # type: ignore[operator]
    filler = Filler(found.cache, digits(), cache, live.model, choose_compute(CPU, "fp32"))
    for part in range(found.cache.num_parts):
        filler.fill(part)
    return plan.runs[-1], live, cache


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_from_top_classes_differs_from_live_kd_by_no_more_than_the_recorded_error_allows(
    temperature: float, store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """|KL(p || s) - KL(r || s)| <= KL(p || r) + sqrt(KL(p || r) / 2) * (max - min of log s), by Pinsker's inequality.

    p is the teacher, r restored and s any student. With every row sampled, both sides are means over the same views.
    """
    monkeypatch.setattr(fill, "SAMPLE_EVERY", 1)
    run, live, cache = teachers_of(store, tmp_path, method=KD(alpha=0.1, temperature=temperature))
    index, view = cache.filled().nonzero().unbind(1)
    images = make_renderer(digits().train.images, run.data.views, CPU).render(index, view)
    batch = Batch(images, digits().train.labels[index], index, view)
    student = models.build(run.model, images_of(digits()), seed=3).eval()
    with torch.no_grad():
        logits = student(images).logits
    cached = load_cached_teacher(run, digits(), cache, CPU)
    assert cached.top_classes is not None and cached.top_classes.kl is not None
    kl = cached.top_classes.kl
    losses = [kd_loss(logits, teacher(batch).logits, temperature).item() for teacher in (live, cached)]
    log_s = (logits / temperature).log_softmax(1)
    allowed = kl + (kl / 2) ** 0.5 * float(log_s.max() - log_s.min())
    assert 0 < abs(losses[0] - losses[1]) <= temperature**2 * allowed
    direct = kd_loss(cached(batch).logits, live(batch).logits, temperature).item() / temperature**2
    assert kl == pytest.approx(direct, rel=1e-3), "the recorded error is that of the rows"


def test_training_from_top_classes_follows_training_from_a_live_teacher(store: RunStore, tmp_path: Path) -> None:
    """To the recorded error, for a student whose probabilities of the other classes differ by up to a factor of e."""
    run, live, logit_cache = teachers_of(store, tmp_path)
    cached = load_cached_teacher(run, digits(), logit_cache, CPU)
    first, second = (
        train(run, RunFolder(tmp_path / name), teacher) for name, teacher in (("live", live), ("cached", cached))
    )
    assert cached.top_classes is not None and cached.top_classes.kl is not None
    assert first[-1].terms["kd"] < 0.5 * first[0].terms["kd"], "it learned"
    differences = [abs(one.terms["kd"] - other.terms["kd"]) for one, other in zip(first, second, strict=True)]
    kl = cached.top_classes.kl
    assert 0 < max(differences) <= kl + (kl / 2) ** 0.5
    assert second[0].compute.endswith(f"cached teacher, top {KEPT} of 10 classes")


def test_run_interrupted_with_top_classes_ends_with_the_same_bits(store: RunStore, tmp_path: Path) -> None:
    run, _, logit_cache = teachers_of(store, tmp_path, method=FeatureKD(), student=recipe())
    folders = [RunFolder(tmp_path / name) for name in "ab"]
    cached = load_cached_teacher(run, digits(), logit_cache, CPU)
    train(run, folders[0], cached)
    steps = iter(range(6))
    with pytest.raises(Interrupted):
        train(run, folders[1], cached, should_stop=lambda: next(steps, None) is None)
    train(run, folders[1], load_cached_teacher(run, digits(), logit_cache, CPU))
    assert folders[0].best.read_bytes() == folders[1].best.read_bytes()


def test_record_has_the_top_classes_and_their_error(store: RunStore, tmp_path: Path) -> None:
    run, _, logit_cache = teachers_of(store, tmp_path, student=recipe(), method=KD(temperature=4.0))
    folder = RunFolder(tmp_path / "run")
    train(run, folder, load_cached_teacher(run, digits(), logit_cache, CPU))
    compute, sampled = folder.require_record().compute, logit_cache.sampled()
    assert sampled is not None and compute.teacher == "cache"
    assert compute.top_classes == TopClasses(KEPT, 10, sampled.probability.mean, sampled.kl["4"].mean, 4.0)
    assert 0.5 < sampled.probability.mean < 1 and 0 < sampled.kl["4"].mean < 0.5


def test_partly_trained_run_keeps_its_number_of_classes(store: RunStore, tmp_path: Path) -> None:
    run, _, logit_cache = teachers_of(store, tmp_path, student=recipe())
    _, _, larger = teachers_of(store, tmp_path, student=recipe(), cached_classes=5)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, folder, load_cached_teacher(run, digits(), logit_cache, CPU), should_stop=lambda: True)
    message = r"cached logits of the top 3 classes, and cannot resume with those of the top 5 classes; remove .*/run to"
    with pytest.raises(RunFailed, match=message):
        train(run, folder, load_cached_teacher(run, digits(), larger, CPU))


def test_damaged_top_classes_are_refused_by_readers(store: RunStore, tmp_path: Path) -> None:
    run, _, logit_cache = teachers_of(store, tmp_path, student=recipe())
    index = int(logit_cache.filled().any(1).nonzero()[3])
    path = logit_cache.folder / "top_logits.u16"
    raw = bytearray(path.read_bytes())
    view = int(logit_cache.filled()[index].nonzero()[0])
    raw[(index * 18 + view) * 14] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RunFailed, match=r"logit cache '.*' is damaged: 1 images do not .*; rerun the same command"):
        load_cached_teacher(run, digits(), logit_cache, CPU)


def test_second_start_shows_the_error_that_was_measured(store: RunStore, tmp_path: Path) -> None:
    _, _, logit_cache = teachers_of(store, tmp_path)
    plan = make_plan(changed(), digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), tmp_path, [store.folder(plan.runs[0])])
    assert found is not None and found.reason.endswith(f"top 3 of 10 classes); {logit_cache.describe_error()}")
    assert "of the teacher's probability, and KL(teacher || restored) is" in found.reason
