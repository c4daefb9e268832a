"""Tests of imported teachers: read with their header, evaluated, and refused if they do not fit."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from imported_teachers import DATA, MODEL, good_file, good_state, importing, permuted_head, pooled_state
from safetensors.torch import load_file, save_file
from small_runs import CPU, NO_WEIGHTS, digits, recipe, train
from torch import Tensor

from raykd import models
from raykd.cli.plan_text import print_plan
from raykd.config.codec import read_checked_json, write_checked_json
from raykd.data.types import Dataset
from raykd.disk.damage import DamagedFile
from raykd.errors import ConfigError, RunFailed
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.orchestration.options import Options
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.loop import fit
from raykd.training.model_file import header_of, images_of, load_model, read_header, save_model
from raykd.training.teacher.imported import (
    header_warnings,
    load_imported_teacher,
    read_import_check,
    require_import_fits,
)


def teacher(experiment: Experiment, dataset: Dataset | None = None) -> Run:
    return make_plan(experiment, dataset or digits(), NO_WEIGHTS, ("teacher",)).runs[0]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    path.write_bytes(good_file())
    return path


def bare(state: Mapping[str, Tensor], folder: Path) -> Path:
    """A file without a header."""
    save_file(dict(state), folder / "bare.safetensors")
    return folder / "bare.safetensors"


def changed(good: Path, **fields: Any) -> Path:
    """The good teacher under a header with other fields."""
    header = read_header(good)
    assert header is not None
    save_model(good, load_file(good), replace(header, **fields))
    return good


def refused(file: Path, folder: Path, **changes: Any) -> str:
    """Why the teacher in `file` is refused by its evaluation; nothing is left of it but the reason."""
    run, folder = teacher(importing(file, **changes)), folder / "run"
    with pytest.raises(ConfigError) as caught:
        train(run, RunFolder(folder))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"teacher_checkpoint = {file}: ")
    found = RunFolder(folder)
    assert found.status() == "failed" and not found.best.exists()
    with pytest.raises(ConfigError) as again:
        require_import_fits(run, found)
    assert str(again.value) == message
    return message


def imported(experiment: Experiment, folder: Path) -> RunFolder:
    run = teacher(experiment)
    train(run, RunFolder(folder / "run"))
    require_import_fits(run, RunFolder(folder / "run"))
    return RunFolder(folder / "run")


def test_a_good_teacher_is_accepted_with_its_accuracy(good: Path, tmp_path: Path) -> None:
    found = read_import_check(imported(importing(good), tmp_path))
    assert found is not None and found.val_top1 > 90 and found.num_images == 200
    assert found.refused == "" and found.warnings == ()


@pytest.mark.nightly
def test_a_teacher_trained_with_a_max_pool_is_refused(tmp_path: Path) -> None:
    message = refused(bare(pooled_state(), tmp_path), tmp_path)
    assert "not clearly above chance" in message
    for reason in (
        "max-pool",
        "normalized differently",
        "teacher.model.mean",
        "classes are in another order",
        "teacher.model.input_size",
    ):
        assert reason in message


def test_untrained_weights_and_constant_ones_are_refused(tmp_path: Path) -> None:
    fresh = models.build(MODEL, images_of(digits()), 3).network.state_dict()
    assert "not clearly above chance" in refused(bare(fresh, tmp_path), tmp_path)
    zero = {name: torch.zeros_like(tensor) for name, tensor in fresh.items()}
    (tmp_path / "zero").mkdir()
    assert "not clearly above chance" in refused(bare(zero, tmp_path), tmp_path / "zero")


@pytest.mark.parametrize("order", [{2: 5, 5: 2}, {index: 9 - index for index in range(10)}, {0: 1, 1: 2, 2: 0}])
def test_a_teacher_with_other_class_order_is_refused_even_where_most_of_it_is_right(order, tmp_path: Path) -> None:
    message = refused(bare(permuted_head(order), tmp_path), tmp_path)
    assert "its classes are in another order" in message and "reorder the rows of its head" in message


def test_few_validation_images_do_not_refuse_a_good_teacher(good: Path, tmp_path: Path) -> None:
    found = read_import_check(imported(importing(good, data=replace(DATA, val_images=10)), tmp_path))
    assert found is not None and found.num_images == 10 and found.refused == ""


def test_an_average_beside_weights_that_do_not_fit_is_named(tmp_path: Path) -> None:
    zero = {name: torch.zeros_like(tensor) for name, tensor in good_state().items()}
    file = tmp_path / "a.pth.tar"
    torch.save({"state_dict": zero, "state_dict_ema": good_state()}, file)
    assert f"name them with '{file}#state_dict_ema'" in refused(file, tmp_path)
    (tmp_path / "ema").mkdir()
    found = read_import_check(imported(importing(f"{file}#state_dict_ema"), tmp_path / "ema"))
    assert found is not None and found.val_top1 > 90


def test_a_file_that_changed_since_it_was_planned_is_not_imported(good: Path, tmp_path: Path) -> None:
    run = teacher(importing(good))
    bare(good_state(), tmp_path).replace(good)
    with pytest.raises(RunFailed, match="has changed since"):
        train(run, RunFolder(tmp_path / "run"))


OTHER_MEAN, OTHER_STD = (0.9, 0.1, 0.4), (0.1, 0.9, 0.5)


def otherwise_normalized() -> Dataset:
    return replace(digits(), mean=OTHER_MEAN, std=OTHER_STD)


def test_the_normalization_in_the_header_is_used_and_kept(good: Path, tmp_path: Path) -> None:
    """A teacher of these images under other statistics: its accuracy is what it was."""
    before = load_model(good)
    run = teacher(importing(good), otherwise_normalized())
    folder = RunFolder(tmp_path / "run")
    fit(run, otherwise_normalized(), folder, CPU)
    after = load_model(folder.best)
    assert torch.equal(after.mean, before.mean) and torch.equal(after.std, before.std)
    assert folder.require_record().best.val_top1 > 90


def test_the_user_can_say_how_a_bare_file_was_normalized(tmp_path: Path) -> None:
    file, data = bare(good_state(), tmp_path), digits()
    set_by_user = importing(file, teacher=recipe(model=replace(MODEL, mean=data.mean, std=data.std)))
    for planned, above in ((set_by_user, True), (importing(file), False)):
        model = load_imported_teacher(teacher(planned, otherwise_normalized()), otherwise_normalized()).image_model
        assert torch.equal(model.mean, load_imported_teacher(teacher(importing(file)), data).image_model.mean) is above
    assert teacher(set_by_user).fingerprint != teacher(importing(file)).fingerprint


@pytest.mark.parametrize(("name", "mean"), [("test_vit", 0.5), ("deit_tiny_distilled_patch16_224", 0.485)])
def test_an_imported_timm_teacher_keeps_its_normalization(name: str, mean: float, tmp_path: Path) -> None:
    size = {"img_size": 32}
    file = bare(timm.create_model(name, num_classes=10, **size).state_dict(), tmp_path)
    run = teacher(importing(file, teacher=recipe(model=Timm(name, input_size=32))))
    found = load_imported_teacher(run, digits())
    assert found.image_model.mean.flatten()[0].item() == pytest.approx(255 * mean)
    save_model(tmp_path / "again.safetensors", found.image_model.network.state_dict(), found.header)
    assert torch.equal(load_model(tmp_path / "again.safetensors").mean, found.image_model.mean)
    model = Timm(name, input_size=32, mean=OTHER_MEAN, std=OTHER_STD)
    chosen = importing(file, teacher=recipe(model=model))
    assert load_imported_teacher(teacher(chosen), digits()).image_model.mean.flatten().tolist() == pytest.approx(
        [255 * value for value in OTHER_MEAN]
    )


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (tuple("0123456798"), "classes in another order: its class 8 is '9', and that of digits is '8'"),
        (tuple("012345678"), "another number of classes: it was trained on 9, and digits has 10"),
    ],
)
def test_other_classes_in_the_header_are_refused(classes, words: str, good: Path) -> None:
    changed(good, classes=classes)
    with pytest.raises(ConfigError, match=words):
        load_imported_teacher(teacher(importing(good)), digits())


ANIMALS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")


@pytest.mark.parametrize(
    ("theirs", "is_refused"),
    [
        (ANIMALS, False),
        (tuple(name.upper() for name in ANIMALS), False),
        (("bee", "ant", *ANIMALS[2:]), True),
        (("ass", *ANIMALS[1:]), True),
    ],
)
def test_names_of_classes_are_compared_but_for_their_spelling(theirs, is_refused: bool, good: Path) -> None:
    named = replace(digits(), class_names=ANIMALS)
    changed(good, classes=theirs)
    run = teacher(importing(good), named)
    if is_refused:
        with pytest.raises(ConfigError, match=r"use a teacher of the same classes in the same order"):
            load_imported_teacher(run, named)
    else:
        assert load_imported_teacher(run, named).warnings == ()


def test_classes_whose_names_differ_only_in_punctuation_are_distinguished(good: Path) -> None:
    ours, swapped = ("C", "C++", *ANIMALS[2:]), ("C++", "C", *ANIMALS[2:])
    named = replace(digits(), class_names=ours)
    run = teacher(importing(changed(good, classes=ours)), named)
    assert load_imported_teacher(run, named).warnings == ()
    run = teacher(importing(changed(good, classes=swapped)), named)
    with pytest.raises(
        ConfigError, match="classes in another order: its class 0 is 'C\\+\\+', and that of digits is 'C'"
    ):
        load_imported_teacher(run, named)


def test_names_that_are_numbers_cannot_be_compared_and_are_warned_of(good: Path) -> None:
    changed(good, classes=ANIMALS)
    (warning,) = load_imported_teacher(teacher(importing(good)), digits()).warnings
    assert "its first is 'ant', that of the data is '0'" in warning


@pytest.mark.parametrize(("changes", "overlap"), [({}, 0), ({"split_seed": 1}, None), ({"val_images": 400}, 200)])
def test_training_images_of_the_teacher_that_validate_now_are_counted(changes, overlap, good: Path) -> None:
    found = header_warnings(teacher(importing(good, data=replace(DATA, **changes))), digits())
    assert bool(found) is (overlap != 0)
    for warning in found:
        assert "data.val_images=200 data.split_seed=0" in warning and "of the" in warning
        assert overlap is None or f"trained on {overlap} of the 400 validation images" in warning


@pytest.mark.parametrize(
    ("size", "origin"), [(8, "from other files"), (16, "at another size and perhaps from other files")]
)
def test_built_in_data_of_another_identity_may_overlap_since_the_order_of_the_images_is_unknown(
    size: int, origin: str, good: Path
) -> None:
    """CIFAR-10 as Parquet has its images in another order than the Python batches: equal indices are other images."""
    header = read_header(good)
    assert header is not None and header.trained_on is not None
    trained_on = replace(header.trained_on, data_identity="ab" * 32, split_seed=1)
    changed(good, trained_on=trained_on, images=replace(header.images, size=size))
    warning = header_warnings(teacher(importing(good)), digits())[0]
    assert f"was trained on digits {origin}, where" in warning
    assert "may have been trained on images" in warning and "of the 200 validation images" not in warning


def test_the_header_is_read_once(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        "raykd.training.teacher.imported.read_header", lambda path: read.append(path) or read_header(path)
    )
    load_imported_teacher(teacher(importing(good)), digits())
    assert read == [good]


@pytest.mark.parametrize(
    ("field", "value"), [("warnings", "text"), ("val_top1", "98"), ("num_images", -1), ("refused", None)]
)
def test_findings_of_another_kind_are_a_damaged_record(field: str, value: object, good: Path, tmp_path: Path) -> None:
    folder = imported(importing(good), tmp_path)
    content = read_checked_json(folder.record_path)
    write_checked_json(folder.record_path, {**content, "imported": {**content["imported"], field: value}})
    with pytest.raises(DamagedFile, match=rf"run\.json' is damaged: field 'imported\.{field}'"):
        read_import_check(folder)


def test_the_split_of_the_first_training_is_passed_on_when_a_teacher_is_imported_again(good: Path, tmp_path) -> None:
    other = replace(DATA, split_seed=1)
    first = imported(importing(good, data=other), tmp_path)
    again = teacher(importing(first.best, data=other))
    assert header_warnings(again, digits()) == header_warnings(teacher(importing(good, data=other)), digits()) != ()
    found = read_import_check(first)
    assert found is not None and found.warnings == header_warnings(again, digits())


def test_equal_shapes_of_another_model_are_refused_by_the_header(tmp_path: Path) -> None:
    """A ViT with 2 heads and one with 4 have the same tensors and compute something else."""
    trained, ours = ViT(1, 24, 2, 2), ViT(1, 24, 4, 2)
    source = RunFolder(tmp_path / "source")
    train(teacher(replace(importing("x"), teacher_checkpoint=None, teacher=recipe(model=trained, epochs=1))), source)
    run = teacher(importing(source.best, teacher=recipe(model=ours)))
    with pytest.raises(ConfigError, match=r"heads = 2, not 4; use --set teacher.model.heads=2"):
        load_imported_teacher(run, digits())
    with pytest.raises(ConfigError, match=r"it was trained as vit1-w24-p2, and teacher.model is resnet8-w16"):
        load_imported_teacher(teacher(importing(source.best)), digits())
    other = ViT(1, 24, 2, 2, dropout=0.5)
    assert load_imported_teacher(teacher(importing(source.best, teacher=recipe(model=other))), digits()).warnings == ()


def test_arguments_of_another_network_are_refused_by_the_header_and_stochastic_depth_is_not(tmp_path: Path) -> None:
    """Networks with 2 heads and with 4 have the same tensors, and the file with the default has no argument."""

    def of(**arguments: Any) -> Any:
        return recipe(model=Timm("test_vit", input_size=32, arguments=arguments), epochs=1)

    files = {}
    for heads, arguments in (("default", {"drop_path_rate": 0.1}), ("4", {"num_heads": 4})):
        run = teacher(replace(importing("x"), teacher_checkpoint=None, teacher=of(**arguments)))
        network = models.build(run.model, images_of(digits()), 0).network
        files[heads] = tmp_path / f"{heads}.safetensors"
        save_model(files[heads], network.state_dict(), header_of(run, digits()))
    for heads, planned, words in (
        ("4", {}, "arguments.num_heads = 4, not none; use --set teacher.model.arguments.num_heads=4"),
        ("default", {"num_heads": 4}, "num_heads = none, not 4; use --set teacher.model.arguments.num_heads=none"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            load_imported_teacher(teacher(importing(files[heads], teacher=of(**planned))), digits())
    assert load_imported_teacher(teacher(importing(files["default"], teacher=of(drop_rate=0.2))), digits())


def test_a_teacher_no_better_than_the_classes_mean_images_is_warned_of(tmp_path: Path) -> None:
    """Noise on its stem leaves it clearly above chance, and below what no network needs to reach."""
    state, generator = good_state(), torch.Generator().manual_seed(0)
    state["conv1.weight"] += 1.0 * torch.randn(state["conv1.weight"].shape, generator=generator)
    found = read_import_check(imported(importing(bare(state, tmp_path)), tmp_path))
    assert found is not None and found.val_top1 < 80
    assert "nearest class mean of raw pixels" in found.warnings[0]


def test_the_plan_lists_an_imported_teacher_with_its_file_accuracy_and_warnings(good: Path, tmp_path, capsys) -> None:
    experiment = importing(good, data=replace(DATA, split_seed=1))
    options = Options(tmp_path / "results", tmp_path)
    print_plan([experiment], options)
    before = capsys.readouterr().out
    assert f"imported from {good}, evaluated before any student starts" in before
    assert "warning: the imported teacher was trained on " in before
    run = teacher(experiment)
    train(run, RunStore(options.results).folder(run))
    print_plan([experiment], options)
    after = capsys.readouterr().out
    assert f"imported from {good}, validation top-1 9" in after and after.count("was trained on") == 1
    assert not [
        line for line in (before + after).splitlines() if line.startswith("  teacher") and "not started" in line
    ]


def test_the_header_of_a_trained_file_has_its_data_and_split(good: Path) -> None:
    from safetensors import safe_open

    with safe_open(good, framework="pt") as file:
        written = json.loads(file.metadata()["raykd"])
    assert written["trained_on"] == {
        "data_identity": digits().identity,
        "num_images": 1200,
        "val_images": 200,
        "train_images": None,
        "student_images": None,
        "split_seed": 0,
    }
