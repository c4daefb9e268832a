"""`report --models-dir`: test accuracies of model files named by role, of raykd's and of other files."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from small_images import encoded, write_folder
from small_runs import IMAGE_SIZE, digits, experiment, recipe
from torch import Tensor

from raykd import models
from raykd.data.types import Split
from raykd.errors import ConfigError
from raykd.models import ImageModel
from raykd.models.four_stage_resnet import ResNet
from raykd.models.vit_cifar import ViT
from raykd.models.weights import save_weights
from raykd.orchestration.command import Command
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.models_dir import report_models
from raykd.orchestration.options import Options, dataset_of
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Run
from raykd.training.compute import choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.model_file import header_of, images_of, read_header, save_model

CPU = torch.device("cpu")
NO_DATA = Path("no-data-here")
OTHER = replace(experiment(), family="other")


def network(model: ResNet | ViT, seed: int) -> ImageModel:
    return models.build(model, images_of(digits()), seed)


def student(seed: int = 0) -> ImageModel:
    model = experiment().student.model
    assert isinstance(model, ResNet)
    return network(model, seed)


def accuracy(model: ImageModel) -> float:
    return evaluate(model, digits().test, choose_compute(CPU, "fp32")).top1 / 100


def accuracies(folder: Path, *experiments: Experiment) -> dict[str, dict[str, float | None]]:
    report_models(experiments or (experiment(),), Command(Options(folder, NO_DATA), Console(file=io.StringIO())))
    return json.loads((folder / "report.json").read_text())


def test_each_role_has_its_key_and_a_role_without_a_file_is_null(tmp_path: Path) -> None:
    save_weights(tmp_path / "small_student_baseline.safetensors", student(1).network.state_dict())
    save_weights(tmp_path / "small_student_kd.safetensors", student(2).network.state_dict())
    assert accuracies(tmp_path, experiment(), OTHER) == {
        "small": {
            "teacher_accuracy": None,
            "student_accuracy_without_kd": accuracy(student(1)),
            "student_accuracy_with_kd": accuracy(student(2)),
        }
    }


@pytest.mark.parametrize("suffix", ["pth", "pt"])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_pth_of_a_state_dict_is_read_bare_wrapped_and_from_ddp(tmp_path: Path, suffix: str, wrapper: str) -> None:
    state = {f"module.{name}" if wrapper else name: tensor for name, tensor in student().network.state_dict().items()}
    torch.save({wrapper: state} if wrapper else state, tmp_path / f"small_student_kd.{suffix}")
    assert accuracies(tmp_path)["small"]["student_accuracy_with_kd"] == accuracy(student())


def test_model_recorded_in_raykds_file_takes_precedence_over_the_experiments(tmp_path: Path) -> None:
    vit = ViT(depth=1, width=24, heads=2, patch=2)
    model = network(vit, seed=3)
    data = experiment().data
    run = Run("small", "distilled", recipe(model=vit), data=data, data_identity=digits().identity)
    save_model(tmp_path / "small_student_kd.safetensors", model.network.state_dict(), header_of(run, digits()))
    assert images_of(digits()).size == IMAGE_SIZE
    assert accuracies(tmp_path)["small"]["student_accuracy_with_kd"] == accuracy(model)


@pytest.mark.parametrize("center_crop", [0.5, 1.0, None])
def test_a_file_is_evaluated_on_the_center_crop_of_its_header(tmp_path: Path, center_crop: float | None) -> None:
    place, data_folder = write_folder(tmp_path / "data/insects", 4, 4), tmp_path / "data"
    for number, file in enumerate(place.rglob("*.png")):
        file.write_bytes(encoded(number, (40, 30)))
    crops = Data("folder:insects", val_images=3, image_size=8, crop_padding=0, min_crop_area=0.5, center_crop=0.5)
    of_experiment = crops if center_crop is None else replace(crops, center_crop=0.8)  # the header takes precedence
    saved = replace(crops, min_crop_area=None, center_crop=1.0) if center_crop == 1 else crops
    options = with_packs([saved], Options(tmp_path / "results", data_folder), print, Console(file=io.StringIO()))
    dataset, model = dataset_of(saved, options), recipe().model
    run = Run("small", "distilled", recipe(), data=saved, data_identity=dataset.identity)
    built, header = models.build(models.find(model), images_of(dataset), 5), header_of(run, dataset)
    assert header.center_crop == saved.center_crop
    header = header if center_crop else replace(header, center_crop=None)  # of an earlier version
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models/small_student_kd.safetensors", built.network.state_dict(), header)
    assert read_header(tmp_path / "models/small_student_kd.safetensors") == header
    evaluated: list[Tensor] = []

    def keep(model: ImageModel, split: Split, compute: object) -> SimpleNamespace:
        evaluated.append(split.images[0:12])
        return SimpleNamespace(top1=0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raykd.orchestration.models_dir.evaluate", keep)
        command = Command(Options(tmp_path / "models", data_folder), Console(file=io.StringIO()))
        report_models([experiment(data=of_experiment)], command)
    assert evaluated[0].equal(dataset.test.images[0:12])


def test_safetensors_takes_precedence_over_pth(tmp_path: Path) -> None:
    torch.save(student(1).network.state_dict(), tmp_path / "small_student_kd.pth")
    save_weights(tmp_path / "small_student_kd.safetensors", student(2).network.state_dict())
    assert accuracies(tmp_path)["small"]["student_accuracy_with_kd"] == accuracy(student(2))


def test_weights_of_another_architecture_are_refused_with_the_first_tensor(tmp_path: Path) -> None:
    wider = network(ResNet(blocks=(1, 1, 1, 1), width=12), seed=0)
    torch.save(wider.network.state_dict(), tmp_path / "small_student_kd.pth")
    with pytest.raises(ConfigError, match=r"small_student_kd\.pth' has another architecture.*conv1\.weight"):
        accuracies(tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_teacher_file_must_hold_the_teachers_model(tmp_path: Path) -> None:
    torch.save(student().network.state_dict(), tmp_path / "small_teacher.pth")
    with pytest.raises(ConfigError, match="another architecture"):
        accuracies(tmp_path)


def test_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    torch.save(student().network, tmp_path / "small_student_kd.pth")
    with pytest.raises(ConfigError, match="is a whole pickled model"):
        accuracies(tmp_path)


def test_folder_without_models_is_refused_with_the_expected_names(tmp_path: Path) -> None:
    (tmp_path / "resnet8.pth").write_bytes(b"")
    with pytest.raises(
        ConfigError, match=r"families are small, other; roles are teacher, student_baseline, student_kd"
    ):
        accuracies(tmp_path, experiment(), OTHER)
    with pytest.raises(ConfigError, match="holds no <family>_<role>"):
        accuracies(tmp_path / "missing")
