"""A trained classifier of transformers as the teacher: its weights, classes, normalization, size and check."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hugging_face import CONFIGS, MEAN, PREPROCESSOR, SIZE, STD, save_classifier
from safetensors.torch import load_file
from small_runs import NO_WEIGHTS, digits, experiment, recipe, train

from raykd.models.hf_model import HuggingFace
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import SGD
from raykd.store.run_folder import RunFolder
from raykd.training.model_file import load_model, read_header
from raykd.training.teacher.imported import load_imported_teacher, read_import_check


def importing(folder: Path) -> Experiment:
    return experiment(teacher=recipe(model=f"hf:{folder}"), teacher_checkpoint=f"hf:{folder}")


def imported_run(folder: Path) -> Run:
    return next(run for run in make_plan(importing(folder), digits(), NO_WEIGHTS).runs if run.stage == "teacher")


def test_a_folder_is_imported_with_its_weights_normalization_and_size(tmp_path: Path) -> None:
    network = save_classifier(tmp_path / "vit")
    teacher = load_imported_teacher(imported_run(tmp_path / "vit"), digits())
    images, normalized = digits().test.images[:3], torch.zeros(3, 3, SIZE, SIZE)
    for channel in range(3):
        normalized[:, channel] = torch.nn.functional.interpolate(
            (images[:, channel : channel + 1] / 255 - MEAN[channel]) / STD[channel], size=(SIZE, SIZE), mode="bicubic"
        )[:, 0]
    model = teacher.image_model.eval()
    with torch.no_grad():
        assert torch.allclose(model(images).logits, network(normalized).logits, atol=1e-5)
    assert teacher.header.images.mean == tuple(MEAN) and teacher.warnings == ()


def test_names_that_cannot_be_compared_are_a_warning(tmp_path: Path) -> None:
    save_classifier(tmp_path / "vit", classes=tuple("abcdefghij"))
    (warning,) = load_imported_teacher(imported_run(tmp_path / "vit"), digits()).warnings
    assert "its first is 'a', that of the data is '0'" in warning


@pytest.mark.nightly
def test_a_network_that_left_raykd_for_transformers_returns_with_its_accuracy(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageClassification

    content = {"config": CONFIGS["resnet"], "preprocessing": PREPROCESSOR}
    teacher = recipe(
        model=HuggingFace(json.dumps(content), mean=MEAN, std=STD), epochs=8, optimizer=SGD(lr=0.1), batch_size=25
    )
    data = Data("digits", val_images=200, image_size=8, crop_padding=0, flip=False)
    run = make_plan(experiment(data=data, teacher=teacher), digits(), NO_WEIGHTS, ["teacher"]).runs[0]
    trained = RunFolder(tmp_path / "trained")
    train(run, trained)
    network = AutoModelForImageClassification.from_config(AutoConfig.for_model(**CONFIGS["resnet"], num_labels=10))
    network.load_state_dict(load_file(trained.best))
    network.save_pretrained(tmp_path / "left")
    (tmp_path / "left" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))

    back = replace(imported_run(tmp_path / "left"), data=data)
    folder = RunFolder(tmp_path / "back")
    train(back, folder)
    check, best = read_import_check(folder), trained.require_record().best
    assert check is not None and best is not None and not check.refused
    assert check.val_top1 == pytest.approx(best.val_top1) and check.val_top1 > 60
    images = digits().test.images[:5]
    with torch.no_grad():
        logits = [load_model(file).eval()(images).logits for file in (trained.best, folder.best)]
    assert torch.allclose(*logits, atol=1e-5)
    header = read_header(folder.best)  # with the folder's name, and no path
    assert header is not None and isinstance(header.model, HuggingFace) and header.model.name == "left"
