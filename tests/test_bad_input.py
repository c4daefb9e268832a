"""Data and weights that cannot be used: one line with file, reason and remedy, exit 2, before Ray starts.

Settings, flags, experiment files, search spaces and custom methods are in bad_inputs/settings.py.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_inputs.case import EXPERIMENT
from PIL import Image

from raykd.cli import parser
from raykd.models import ImageSpec, build, find
from raykd.models.weights import save_weights


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

    monkeypatch.setattr("raykd.orchestration.run_experiments.ray_session", no_ray)
    results = tmp_path / "results"

    def call(*words: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        code = parser.entry([*map(str, words), "--results", str(results)])
        said = capsys.readouterr()
        assert code == 2, said.err
        assert said.err.startswith("raykd: ") and said.err.count("\n") == 1, said.err
        assert "Traceback" not in said.err
        assert sorted(tmp_path.rglob("*")) == before
        return said.err

    return call


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
    assert parser.entry([*words, "--results", str(tmp_path / "taken" / "results")]) == 2
    assert "--results" in capsys.readouterr().err


DIGITS = ImageSpec(num_classes=10, size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _truncated(path: Path) -> None:
    save_weights(path, build(find("resnet8"), DIGITS, 0).network.state_dict())
    path.write_bytes(path.read_bytes()[:-100])


def _other_architecture(path: Path) -> None:
    save_weights(path, build(find("resnet8"), DIGITS, 0).network.state_dict())


def _other_classes(path: Path) -> None:
    other = ImageSpec(num_classes=100, size=16, mean=DIGITS.mean, std=DIGITS.std)
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
    assert parser.entry(["report", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_models_folder_without_models_is_named(tmp_path, capsys):
    assert parser.entry(["report", "--models-dir", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
