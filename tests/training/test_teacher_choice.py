"""The teacher source is chosen by the number of teacher passes, with a reason in one line."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import NO_WEIGHTS, digits, experiment, recipe, run_of

from raykd.data.augmentation import Augmentation
from raykd.data.types import Dataset, Split
from raykd.errors import ConfigError
from raykd.methods import DKD, KD, VID, FeatureKD, HardLabels
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import make_plan, train_val_indices
from raykd.spec.search import Search, choice, uniform
from raykd.spec.stages import STAGES
from raykd.store.run_folder import RunFolder
from raykd.training.teacher import choose
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import TeacherChoice, choose_teacher
from raykd.training.teacher.fill import views_to_fill

# 8x8 digits: 18 views, 200 of them trained on.
NEW = RunFolder(Path("not-there"))


def decided(
    caches: Path, trained: tuple[str, ...] = (), teacher: RunFolder = NEW, **changes: Any
) -> TeacherChoice | None:
    plan = make_plan(experiment(**changes), digits(), NO_WEIGHTS, STAGES)
    names = [run.name for run in plan.runs if run.stage in trained]
    return choose_teacher(plan, digits(), names, caches, [teacher])


def test_runs_that_visit_nearly_all_views_get_them_all(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=60), seeds=(0, 1, 2))
    assert found is not None and found.cache is not None
    assert found.cache.holds_all_views and found.cache.epochs == () and found.cache.num_parts == 1
    assert found.reason == "logit cache with all 18 views per image instead of 180 teacher passes (422 KiB)"


def test_runs_that_visit_a_part_of_the_views_get_that_part(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=10), seeds=(0, 7))
    assert found is not None and found.cache is not None
    assert not found.cache.holds_all_views and found.cache.epochs == ((0, 10), (7, 10))
    assert found.reason == "logit cache with 12 of 18 views per image instead of 20 teacher passes (422 KiB)"


def test_balanced_epochs_count_by_how_often_they_show_each_image(tmp_path: Path) -> None:
    """Compare the expected number of distinct views with a count, on classes of different size."""
    train = digits().train
    kept = (train.labels < 5) | (torch.arange(len(train)) % 8 == 0)
    few = replace(digits(), train=Split(train.images[kept], train.labels[kept]))
    changed = experiment(student=recipe(epochs=12, sampling="balanced"), seeds=(0, 7))
    plan = make_plan(changed, few, NO_WEIGHTS, STAGES)
    found = choose_teacher(plan, few, [], tmp_path, [NEW])
    assert found is not None and found.cache is not None
    assert found.cache.is_balanced and found.cache.epochs == ((0, 12), (7, 12))
    shown = views_to_fill(found.cache, few)
    indices, _ = train_val_indices(changed.data, few.train.labels)
    mean = shown[indices].sum(1).double().mean().item()
    assert choose._num_shown(changed, few, 24) == pytest.approx(mean, rel=0.03)
    assert f"logit cache with {mean:.0f} of 18 views" in found.reason


def test_cache_of_trials_with_different_samplings_holds_all_views(tmp_path: Path) -> None:
    search = Search({"student.sampling": choice("shuffle", "balanced")}, trials=40)
    found = decided(tmp_path, student=recipe(epochs=3), search=search)
    assert found is not None and found.cache is not None and found.cache.holds_all_views


def test_cache_that_saves_almost_nothing_is_not_chosen(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=3))
    assert found == TeacherChoice(None, "live, 3 teacher passes per image: a logit cache would still need 95% of them")


def test_reason_has_the_passes_of_several_teachers(tmp_path: Path) -> None:
    plan = make_plan(experiment(teacher_seeds=(0, 1, 2), student=recipe(epochs=60)), digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), tmp_path, 3 * [NEW])
    assert found is not None and found.cache is not None and found.cache.teachers == plan.runs[:3]
    assert found.reason.startswith(
        "logit cache with all 18 views per image instead of 60 teacher passes for each of 3 teachers"
    )
    live = replace(plan, experiment=replace(plan.experiment, teacher_source="live"))
    assert choose_teacher(live, digits(), (), tmp_path, 3 * [NEW]) == TeacherChoice(
        None, "live, 60 teacher passes per image for each of 3 teachers: teacher_source = live"
    )


def test_work_of_several_teachers_is_shared_out_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "PASSES_PER_PART", 200 * 18)
    plan = make_plan(experiment(teacher_seeds=(0, 1, 2), student=recipe(epochs=60)), digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), tmp_path, 3 * [NEW])
    assert found is not None and found.cache is not None and found.cache.num_parts == 3


@pytest.mark.parametrize(
    ("parts", "gpus", "num_slots", "expected"),
    [
        (146, 0.0, 2, 146),  # a CPU's parts stay as they are
        (146, 1.0, 1, 3),  # 7.3 million passes in parts of at most 2.5 million
        (146, 1.0, 4, 4),  # four GPUs have one part each, and none two
        (146, 0.5, 8, 8),
        (500, 1.0, 4, 12),  # equally many for each
        (3, 1.0, 4, 3),  # too small for a part for each
        (1, 1.0, 1, 1),
        (0, 1.0, 4, 0),  # it is filled
    ],
)
def test_parts_are_sized_for_the_device_and_shared_equally(
    parts: int, gpus: float, num_slots: int, expected: int, tmp_path: Path
) -> None:
    found = decided(tmp_path, student=recipe(epochs=60), seeds=(0, 1, 2))
    assert found is not None and found.cache is not None
    cache = replace(found.cache, num_parts=parts)
    sized = choose.split_for_slots(cache, gpus, num_slots)
    assert sized == replace(cache, num_parts=expected)


def test_trials_of_a_search_share_their_views(tmp_path: Path) -> None:
    search = Search({"method.alpha": uniform(0, 1)}, trials=16, trial_seed=7, confirm=0)
    found = decided(tmp_path, student=recipe(epochs=3), search=search)
    assert found is not None and found.cache is not None and found.cache.epochs == ((7, 3),)
    assert "3 of 18 views per image instead of 48 teacher passes" in found.reason


def test_runs_that_confirm_a_search_count_with_their_seeds(tmp_path: Path) -> None:
    search = Search({"method.alpha": uniform(0, 1)}, trials=16, trial_seed=7, confirm=2)
    found = decided(tmp_path, student=recipe(epochs=3), search=search, seeds=(0, 1))
    assert found is not None and found.cache is not None and found.cache.epochs == ((0, 3), (1, 3), (7, 3))
    assert "66 teacher passes" in found.reason, "16 trials of 3 epochs, and 3 configurations of 2 seeds"


def test_what_is_trained_counts_no_more(tmp_path: Path) -> None:
    assert decided(tmp_path, trained=("distilled",), student=recipe(epochs=60)) is None
    assert decided(tmp_path, trained=("baseline",), student=recipe(epochs=60)) is not None


def test_methods_that_need_the_embedding_get_it_from_a_cache_of_its_width(tmp_path: Path) -> None:
    found = decided(tmp_path, method=FeatureKD(), student=recipe(epochs=60))
    assert found is not None and found.cache is not None and found.cache.embedding_width == 8 * 16
    assert found.reason.endswith("instead of 60 teacher passes (5.7 MiB, embeddings included)")
    assert found.cache.key(digits(), "").size_bytes == 1_200 * 18 * (10 + 128) * 2
    plain = decided(tmp_path, student=recipe(epochs=60))
    assert plain is not None and plain.cache is not None and plain.cache.embedding_width == 0


def test_embeddings_that_take_too_much_are_had_live_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "MAX_CACHE_BYTES", 1 << 20)
    found = decided(tmp_path, method=FeatureKD(), student=recipe(epochs=60))
    assert found == TeacherChoice(
        None, "live, 60 teacher passes per image: a logit cache with embeddings would need 5.7 MiB"
    )
    assert (plain := decided(tmp_path, student=recipe(epochs=60))) is not None and plain.cache is not None
    monkeypatch.setattr(choose, "MAX_CACHE_BYTES", 1 << 30)
    monkeypatch.setattr(choose, "_free_bytes", lambda folder: 1 << 20)
    found = decided(tmp_path, method=FeatureKD(), student=recipe(epochs=60))
    assert found is not None and found.reason.endswith(
        "a logit cache with embeddings of 5.7 MiB does not fit on the disk of the results"
    )


def test_methods_that_need_features_have_a_live_teacher(tmp_path: Path) -> None:
    found = decided(tmp_path, method=VID(), student=recipe(epochs=60))
    assert found is not None and found.cache is None
    assert found.reason.endswith("needs the teacher's features, and a logit cache holds only logits and embeddings")


def test_cache_holds_what_any_trial_of_a_search_over_methods_needs(tmp_path: Path) -> None:
    search = Search({"method": choice("kd", "feature_kd")}, trials=16, trial_seed=7, confirm=0)
    found = decided(tmp_path, student=recipe(epochs=3), search=search)
    assert found is not None and found.cache is not None and found.cache.embedding_width == 128
    search = Search({"method": choice("kd", VID.kind)}, trials=16, trial_seed=7, confirm=0)
    found = decided(tmp_path, student=recipe(epochs=3), search=search)
    assert found is not None and found.cache is None and "needs the teacher's features" in found.reason


AUGMENTED = recipe(epochs=60, augmentation=Augmentation(crop_area=0.3, mixup=1.0))


def test_augmented_students_have_a_live_teacher(tmp_path: Path) -> None:
    found = decided(tmp_path, student=AUGMENTED)
    assert found is not None and found.cache is None
    assert found.reason.endswith(
        "60 teacher passes per image: a logit cache holds plain views, and students train with crop_area, mixup"
    )


def test_augmentation_of_the_teacher_alone_leaves_the_cache(tmp_path: Path) -> None:
    made = experiment(student=recipe(epochs=60), teacher=recipe(augmentation=Augmentation(mixup=0.2)))
    found = choose_teacher(make_plan(made, digits(), NO_WEIGHTS), digits(), (), tmp_path, [NEW])
    assert found is not None and found.cache is not None


@pytest.mark.parametrize("base", [Augmentation(), Augmentation(cutout=2)])
def test_all_trials_have_a_live_teacher_if_augmentation_is_searched(base: Augmentation, tmp_path: Path) -> None:
    search = Search({"student.augmentation.mixup": uniform(0, 1)}, trials=16, trial_seed=7)
    student = recipe(epochs=60, augmentation=base)
    found = decided(tmp_path, student=student, search=search)
    assert found is not None and found.cache is None
    assert found.reason.endswith("students train with " + ", ".join((*base.techniques, "mixup")))
    with pytest.raises(ConfigError, match=r"teacher_source = 'cache' in Experiment: student\.augmentation has .*mixup"):
        decided(tmp_path, student=student, search=search, teacher_source="cache")


def test_cache_of_augmented_students_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        decided(tmp_path, student=AUGMENTED, teacher_source="cache")
    assert str(caught.value) == (
        "teacher_source = 'cache' in Experiment: student.augmentation has crop_area, mixup, and a logit cache holds "
        "only plain views; use live or auto"
    )


def test_cache_that_is_too_large_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "MAX_CACHE_BYTES", 1000)
    found = decided(tmp_path, student=recipe(epochs=60))
    assert found is not None and found.cache is None and "a logit cache would need 422 KiB" in found.reason


def test_cache_that_does_not_fit_on_the_disk_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_free_bytes", lambda folder: 1000)
    found = decided(tmp_path / "not" / "there", student=recipe(epochs=60))
    assert found is not None and found.cache is None and "does not fit on the disk of the results" in found.reason


def test_explicit_teacher_source_is_used(tmp_path: Path) -> None:
    live = decided(tmp_path, student=recipe(epochs=60), teacher_source="live")
    assert live == TeacherChoice(None, "live, 60 teacher passes per image: teacher_source = live")
    cache = decided(tmp_path, student=recipe(epochs=3), teacher_source="cache")
    assert cache is not None and cache.cache is not None


def test_impossible_cache_is_refused_if_it_is_requested(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="teacher_source = 'cache' in Experiment: the method needs the teacher's features"
    ):
        decided(tmp_path, method=VID(), teacher_source="cache")


def test_existing_cache_is_chosen_however_little_it_saves(tmp_path: Path) -> None:
    class Trained(RunFolder):
        def status(self) -> Any:
            return "done"

    teacher = Trained(tmp_path / "teacher")
    teacher.path.mkdir()
    teacher.best.write_bytes(b"weights")
    few = experiment(student=recipe(epochs=3))
    assert (found := decided(tmp_path, teacher=teacher, student=few.student)) and found.cache is None
    planned = choose.PlannedCache((run_of("teacher"),), few.data, "fp32", (), True, 1)
    LogitCache(tmp_path, planned.key(digits(), choose.teacher_identity([teacher])))
    assert (found := decided(tmp_path, teacher=teacher, student=few.student)) and found.cache is not None


def test_cifar10_experiment_saves_as_many_passes_as_the_docs_state(tmp_path: Path) -> None:
    """3 seeds of 200 epochs: 600 passes become all 162; of 150 epochs, 450 become 152."""
    train = digits().train
    many = replace(digits(), train=replace(train, images=train.images[:1].expand(50_000, -1, -1, -1),
                   labels=torch.arange(50_000) % 10))  # fmt: skip
    asked = Experiment(
        family="cnn", data=Data("digits"), student=recipe(epochs=200, batch_size=128), teacher=recipe(), method=KD()
    )
    for epochs, words, parts in (
        (200, "all 162 views per image instead of 600 ", 146),
        (150, "152 of 162 views per image instead of 450 ", 137),
    ):
        plan = make_plan(replace(asked, student=recipe(epochs=epochs)), many, NO_WEIGHTS)
        found = choose_teacher(plan, many, (), tmp_path, [NEW])
        assert found is not None and found.cache is not None
        assert words in found.reason and "(154 MiB)" in found.reason
        assert found.cache.num_parts == parts


# ---- Crop views, and caches of the top classes. ----

CROPS = Data("digits", val_images=100, train_images=200, image_size=8, crop_padding=0, min_crop_area=0.3)


@cache
def many_classes() -> Dataset:
    """Return the digits with labels of 200 classes."""
    train = replace(digits().train, labels=torch.arange(1200) % 200)
    return replace(digits(), class_names=tuple(f"class {number}" for number in range(200)), train=train)


def decided_on_many_classes(caches: Path, **changes: Any) -> TeacherChoice:
    changes = {"data": replace(experiment().data, val_images=200), "student": recipe(epochs=60)} | changes
    found = choose_teacher(
        make_plan(experiment(**changes), many_classes(), NO_WEIGHTS), many_classes(), (), caches, [NEW]
    )
    assert found is not None
    return found


def test_crops_of_every_epoch_are_new_so_that_the_teacher_is_live_with_the_remedy(tmp_path: Path) -> None:
    found = decided(tmp_path, data=CROPS, student=recipe(epochs=60))
    assert found == TeacherChoice(
        None,
        "live, 60 teacher passes per image: every epoch shows new crops; set data.views_per_image=30 to store their "
        "logits",
    )


def test_cache_of_crops_without_a_number_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(data=CROPS, teacher_source="cache")
    assert str(caught.value) == (
        "teacher_source = 'cache' in Experiment: every epoch shows new crops; set data.views_per_image=30 to store "
        "their logits, or use live or auto"
    )


def test_cache_of_crops_counts_the_views_per_image(tmp_path: Path) -> None:
    data = replace(CROPS, views_per_image=30)
    found = decided(tmp_path, data=data, student=recipe(epochs=300))
    assert found is not None and found.cache is not None and found.cache.holds_all_views
    assert found.reason == "logit cache with all 30 views per image instead of 300 teacher passes (703 KiB)"
    key = found.cache.key(digits(), "")
    assert (key.min_crop_area, key.views_per_image, key.num_views) == (0.3, 30, 30)
    nearly = decided(tmp_path, data=replace(CROPS, views_per_image=5), student=recipe(epochs=12))
    assert nearly is not None and "with 4.7 of 5 views per image instead of 12" in nearly.reason, "not 5 of 5"
    few = decided(tmp_path, data=data, student=recipe(epochs=20), seeds=(0, 7))
    assert few is not None and few.cache is not None and few.cache.epochs == ((0, 20), (7, 20))
    assert few.reason.startswith("logit cache with 22 of 30 views per image instead of 40 teacher passes")
    assert int(views_to_fill(few.cache, digits()).sum()) / 200 == pytest.approx(22, abs=1)


def test_more_than_128_classes_are_stored_as_their_top_16(tmp_path: Path) -> None:
    found = decided_on_many_classes(tmp_path)
    assert found.cache is not None and found.cache.cached_classes == 16
    size = 1200 * 18 * (4 * 16 + 2)
    assert found.cache.key(many_classes(), "").size_bytes == size
    assert found.reason == (
        f"logit cache with all 18 views per image instead of 60 teacher passes ({size / 2**20:.1f} MiB, top 16 of 200 "
        "classes); at temperature 4 the classes that are not kept get too much probability in total"
    )
    exact = decided_on_many_classes(tmp_path, method=KD(temperature=1.0))
    assert exact.reason.endswith("top 16 of 200 classes)")


def test_up_to_128_classes_are_all_stored(tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=60))
    assert found is not None and found.cache is not None and found.cache.cached_classes is None


@pytest.mark.parametrize(("value", "kept"), [(3, 3), ("all", None), (10, None), (None, None)])
def test_number_of_cached_classes_can_be_chosen(value: Any, kept: int | None, tmp_path: Path) -> None:
    found = decided(tmp_path, student=recipe(epochs=60), cached_classes=value)
    assert found is not None and found.cache is not None and found.cache.cached_classes == kept


def test_method_of_all_classes_gets_all_of_them_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = decided_on_many_classes(tmp_path, method=DKD())
    assert found.cache is not None and found.cache.cached_classes is None
    monkeypatch.setattr(choose, "MAX_CACHE_BYTES", 1 << 20)
    found = decided_on_many_classes(tmp_path, method=DKD())
    assert found.cache is None
    assert found.reason.endswith("a logit cache of all 200 classes, which DKD reads, would need 8.2 MiB")
    assert decided_on_many_classes(tmp_path).reason.endswith("a logit cache of the top 16 classes would need 1.4 MiB")


def test_method_of_all_classes_is_live_beside_a_number_of_classes_with_the_remedy(tmp_path: Path) -> None:
    found = decided(tmp_path, method=DKD(), student=recipe(epochs=60), cached_classes=3)
    assert found == TeacherChoice(
        None,
        "live, 60 teacher passes per image: method DKD reads the logits of all classes, and cached_classes = 3; --set "
        "cached_classes=all",
    )
    with pytest.raises(ConfigError) as caught:
        experiment(method=DKD(), cached_classes=3, teacher_source="cache")
    assert str(caught.value) == (
        "cached_classes = 3 in Experiment: method DKD reads the logits of all classes; set it to all, or "
        "teacher_source to live"
    )


def test_comparison_reads_the_top_classes_where_its_methods_work_with_them(tmp_path: Path) -> None:
    made = experiment(compare=(DKD(), HardLabels()), student=recipe(epochs=60), cached_classes=3)
    plan = make_plan(made, digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), tmp_path, [NEW])
    assert found is not None and found.cache is not None and found.cache.cached_classes == 3
    served = {run.method.kind: found.cache.serves(run) for run in plan.runs if run.stage == "distilled"}
    assert served == {"kd": True, "dkd": False, "hard_labels": True}
    assert "instead of 120 teacher passes" in found.reason
    assert found.reason.endswith("; live for 1 run whose methods need more")


def test_comparison_with_a_method_of_all_classes_stores_all_by_default(tmp_path: Path) -> None:
    """So that no difference between its methods is one between their teachers."""
    found = decided_on_many_classes(tmp_path, compare=(DKD(),))
    assert found.cache is not None and found.cache.cached_classes is None and "120 teacher passes" in found.reason


def test_search_over_methods_stores_what_each_trial_reads(tmp_path: Path) -> None:
    search = Search({"method": choice("kd", "dkd")}, trials=16, trial_seed=7, confirm=0)
    data = replace(experiment().data, val_images=200)
    made = experiment(data=data, student=recipe(epochs=3), search=search)
    found = choose_teacher(make_plan(made, many_classes(), NO_WEIGHTS), many_classes(), (), tmp_path, [NEW])
    assert found is not None and found.cache is not None and found.cache.cached_classes is None
    trial = made.with_configuration({"method": "kd"})
    plan = make_plan(trial, many_classes(), NO_WEIGHTS)
    assert trial.cached_classes == "all" and plan.cached_classes is None
    kept = decided(tmp_path, student=recipe(epochs=3), search=search, cached_classes=3)
    assert kept is not None and kept.cache is None and "method DKD reads the logits of all classes" in kept.reason


def test_error_is_measured_at_the_temperatures_of_all_trials(tmp_path: Path) -> None:
    search = Search({"method.temperature": choice(3.0, 20.0)}, trials=16, trial_seed=7, confirm=0)
    found = decided(tmp_path, student=recipe(epochs=3), search=search, cached_classes=3)
    assert found is not None and found.cache is not None and found.cache.temperatures == (1, 2, 3, 4, 8, 20)
