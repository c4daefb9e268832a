"""A person's mistake: one line that names field, value and remedy, exit 2, before Ray starts, nothing written."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raykd import cli
from raykd.models import Images, build, find
from raykd.models.weights import save_weights

EXPERIMENT = """
from raykd import KD, SGD, Cosine, Data, Experiment, Recipe, ResNet
experiment = Experiment(
    family="tiny", seeds=(0,), data=Data("digits", val_images=200, crop_padding=1, flip=False),
    teacher=Recipe(ResNet(width=8), epochs=1, optimizer=SGD(lr=0.1), schedule=Cosine()),
    student=Recipe(ResNet(blocks=(1, 1, 1, 1), width=8), epochs=1, optimizer=SGD(lr=0.1), schedule=Cosine()),
)
"""

SETTINGS = {
    "teacher.model=resnet19": ["unknown model 'resnet19'", "did you mean 'resnet18'?"],
    "student.model=timm:vit_tinny_patch16_224": ["unknown timm model", "did you mean 'vit_tiny_patch16_224'?"],
    "method=kdd": ["unknown method 'kdd'", "did you mean 'kd'?"],
    "method=ce": ["method", "nothing would be distilled"],
    "method.temprature=2": ["unknown config field 'method.temprature'", "did you mean 'temperature'?"],
    "student.optimiser.lr=1": ["unknown config field 'student.optimiser.lr'", "did you mean 'optimizer'?"],
    "method.alpha=1.5": ["alpha = 1.5", "must lie in [0, 1]"],
    "method.alpha=nan": ["alpha = nan", "a number"],
    "method.alpha=half": ["method.alpha=half", "a number"],
    "method.temperature=0": ["temperature = 0", "must be greater than 0"],
    "method.temperature=-4": ["temperature = -4", "must be greater than 0"],
    "student.model.width=4": ["width = 4", "at least 8"],
    "student.model=timm:edgenext_xx_small": ["'edgenext_xx_small' cannot take images of 16x16", "data.image_size"],
    "student.epochs=0": ["epochs = 0", "must be at least 1"],
    "student.epochs=2.5": ["student.epochs=2.5", "a whole number"],
    "seeds=0,0": ["seeds", "twice"],
    "seeds=": ["seeds", "at least one"],
    "student.batch_size=1001": ["student.batch_size = 1001", "1000 images", "--set student.batch_size=1000"],
    "teacher.batch_size=5000": ["teacher.batch_size = 5000", "1000 images"],
    "data.val_images=1200": ["data.val_images = 1200", "1200 training images", "--set data.val_images=120"],
    "data.student_images=1001": ["data.student_images = 1001", "1000 images are left"],
    "data.image_size=7": ["image_size", "7", "1, 2, 4, 8, 16"],
    "data.name=mnist": [
        "data.name=mnist",
        "cifar10, cifar100, cifar100-coarse, digits, folder:PLACE and parquet:PLACE",
    ],
    "data.name=floder:flowers": ["unknown dataset name 'floder:flowers'", "did you mean 'folder'?"],
    "data.name=folder:": ["dataset name 'folder:' names no folder", "folder:flowers"],
    "data.name=folder:nowhere": ["data/nowhere: no such folder", "train/<class>/*.png"],
    "data.name=parquet:/nowhere": ["/nowhere: no such folder", "train.parquet"],
    "method=gone.py:Mine": ["method file 'gone.py' cannot be read", "check the path"],
    "method=mine.py": ["'mine.py' names no class", "my_method.py:MyMethod"],
    "workers.gpus=1.5": ["gpus = 1.5", "fraction below 1, or whole"],
    "workers.count=0": ["count = 0", "must be at least 1"],
    "workers.count=7": ["count = 7", "cannot share teacher.batch_size", "equally"],
    "workers.min_count=2": ["min_count = 2", "must lie in [1, count = 1]"],
    "nonsense": ["--set nonsense", "FIELD=VALUE"],
    "method=deit": ["method", "distillation token", "--set student.model=vit6"],
    "teacher_seeds=1,1": ["teacher_seeds = (1, 1)", "twice"],
    "teacher_seeds=0,-1": ["teacher_seeds = (0, -1)", "0 or more"],
    "teacher_seeds=one": ["teacher_seeds=one", "a whole number"],
    "teacher_checkpoint=no/such.pth": ["'no/such.pth' does not exist"],
}


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture
def fails(tmp_path: Path, monkeypatch, capsys):
    """Call the command line; it must exit 2 with one line, start no Ray and write nothing."""

    def no_ray():
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raykd.orchestration.lab.ray_session", no_ray)
    results = tmp_path / "results"

    def call(*words: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        code = cli.entry([*map(str, words), "--results", str(results)])
        said = capsys.readouterr()
        assert code == 2, said.err
        assert said.err.startswith("raykd: ") and said.err.count("\n") == 1, said.err
        assert "Traceback" not in said.err
        assert sorted(tmp_path.rglob("*")) == before
        return said.err

    return call


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_cannot_work_is_one_line_and_exit_2(setting, experiment_file, fails):
    line = fails("distill", "--experiment", experiment_file, "--teacher", "resnet18", "--student", "resnet8",
                 "--set", "data.val_images=200", "--set", setting)  # fmt: skip
    for part in SETTINGS[setting]:
        assert part in line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train-teacher", "--model", "resnet81"], ["unknown model 'resnet81'"]),
        (["train-teacher", "--epochs", "0"], ["epochs", "must be at least 1"]),
        (["distill", "--alpha", "2"], ["alpha", "must lie in [0, 1]"]),
        (["distill", "--temperature", "0"], ["temperature", "greater than 0"]),
        (["distill", "--teacher-checkpoint", "gone.safetensors"], ["'gone.safetensors' does not exist"]),
    ],
)
def test_a_flag_that_cannot_work_is_one_line_and_exit_2(words, parts, experiment_file, fails):
    line = fails(*words, "--experiment", experiment_file)
    for part in parts:
        assert part in line


def test_an_experiment_file_that_is_missing_is_named(fails):
    assert "'no/such.py' does not exist" in fails("plan", "no/such.py")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = 1\n", "defines no experiment"),
        ("experiment = 3\n", "defines no experiment"),
        ("import no_such_module\n", "fails with ModuleNotFoundError"),
        ("experiment = (\n", "fails with SyntaxError"),
        ("from raykd import Recipe\nRecipe('resnet81')\n", "unknown model 'resnet81'"),
        ("from raykd import KD\nKD(alpha=2)\n", "alpha = 2"),
        (
            "from raykd import KD\nKD(alhpa=2)\n",
            "unknown field 'alhpa': KD has alpha, temperature; did you mean 'alpha'?",
        ),
    ],
)
def test_an_experiment_file_that_defines_none_is_named(text, part, tmp_path, fails):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert part in fails("plan", path)


def test_a_data_folder_that_is_missing_is_named(experiment_file, tmp_path, fails):
    line = fails("plan", experiment_file, "--set", "data.name=cifar10", "--data-dir", tmp_path / "gone")
    assert str(tmp_path / "gone") in line and "prefetch" in line


def test_a_data_file_that_is_cut_short_is_named(experiment_file, tmp_path, fails):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 cut short")
    shutil.copy(tmp_path / "train.parquet", tmp_path / "test.parquet")
    assert "train.parquet" in fails("plan", experiment_file, "--set", "data.name=cifar10", "--data-dir", tmp_path)


def test_a_data_file_of_another_schema_is_named(experiment_file, tmp_path, fails):
    for part in ("train", "test"):
        pq.write_table(pa.table({"text": ["a"], "target": [1]}), tmp_path / f"{part}.parquet")
    line = fails("plan", experiment_file, "--set", "data.name=cifar10", "--data-dir", tmp_path)
    assert "train.parquet" in line and "label" in line


def test_a_picture_that_cannot_be_decoded_is_named(experiment_file, tmp_path, fails):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16), (len(name), 9, 9)).save(tmp_path / "pets" / part / name / "0.png")
    bad = tmp_path / "pets" / "train" / "dog" / "1.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 cut short")
    line = fails("plan", experiment_file, "--set", "data.name=folder:pets", "--data-dir", tmp_path)
    assert str(bad) in line and "cannot be decoded" in line and "copy or download it again" in line


def test_a_results_folder_that_is_a_file_is_named(experiment_file, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    words = [
        "train-student",
        "--model",
        "resnet8",
        "--experiment",
        str(experiment_file),
        "--set",
        "student.batch_size=64",
    ]
    assert cli.entry([*words, "--results", str(tmp_path / "taken" / "results")]) == 2
    assert "--results" in capsys.readouterr().err


DIGITS = Images(num_classes=10, size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _truncated(path: Path) -> None:
    save_weights(path, build(find("resnet8"), DIGITS, 0).network.state_dict())
    path.write_bytes(path.read_bytes()[:-100])


def _other_architecture(path: Path) -> None:
    save_weights(path, build(find("resnet8"), DIGITS, 0).network.state_dict())


def _other_classes(path: Path) -> None:
    other = Images(num_classes=100, size=16, mean=DIGITS.mean, std=DIGITS.std)
    save_weights(path, build(find("resnet18"), other, 0).network.state_dict())


def _no_weights(path: Path) -> None:
    path.write_bytes(b"not weights at all, but long enough to have a header")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (_truncated, "cut short or damaged"),
        (_no_weights, "cut short or damaged"),
        (_other_architecture, "another architecture"),
        (_other_classes, "number of classes"),
    ],
)
def test_a_teacher_checkpoint_that_does_not_fit_is_named(make, part, experiment_file, tmp_path, fails):
    path = tmp_path / "teacher.safetensors"
    make(path)
    line = fails("distill", "--teacher", "resnet18", "--experiment", experiment_file, "--teacher-checkpoint", path)
    assert str(path) in line and part in line


def test_a_teacher_checkpoint_that_holds_code_is_refused(experiment_file, tmp_path, fails):
    path = tmp_path / "teacher.pth"
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, path)
    line = fails("distill", "--teacher", "resnet18", "--experiment", experiment_file, "--teacher-checkpoint", path)
    assert "more than tensors" in line


def test_pretrained_weights_that_are_not_there_name_prefetch(experiment_file, fails, tmp_path):
    line = fails("plan", experiment_file, "--set", "teacher.model=vit_tiny", "--data-dir", tmp_path)
    assert "python -m raykd prefetch" in line


def test_a_report_of_nothing_says_what_to_run(tmp_path, capsys):
    assert cli.entry(["report", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_models_folder_without_models_is_named(tmp_path, capsys):
    assert cli.entry(["report", "--models-dir", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
