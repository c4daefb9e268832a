"""The remedies that name `raykd prefetch` download the data set that is missing."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_inputs.case import experiment_file
from hugging_face import into_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file

from raykd.cli import parser
from raykd.data import cifar
from raykd.errors import COMMAND, DataError
from raykd.models.torchvision_model import Torchvision

ROOT = Path(__file__).parents[2]


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """The (data set, folder) of each download, which is not made. The commands run in the checkout."""
    made: list[tuple[str, Path]] = []
    monkeypatch.setattr(
        cifar, "download", lambda name, folder: made.append((cifar.VARIANTS[name].dataset_class, folder))
    )
    monkeypatch.setattr("raykd.cli.prefetch._fetch_weights", lambda *_: None)
    monkeypatch.chdir(ROOT)
    return made


def no_folder(folder: Path, variant: cifar.Cifar) -> None:
    """Leave the data folder missing."""


def empty_folder(folder: Path, variant: cifar.Cifar) -> None:
    folder.mkdir()


def damaged_archive(folder: Path, variant: cifar.Cifar) -> None:
    folder.mkdir()
    (folder / variant.archive).write_bytes(b"half an archive")


def empty_batches(folder: Path, variant: cifar.Cifar) -> None:
    (folder / variant.batches).mkdir(parents=True)


@pytest.mark.parametrize("make", [no_folder, empty_folder, damaged_archive, empty_batches])
@pytest.mark.parametrize("name", cifar.VARIANTS)
def test_the_remedy_for_a_missing_data_set_downloads_it_into_the_same_folder(
    name: str, make: Callable[[Path, cifar.Cifar], None], tmp_path: Path, downloads: list[tuple[str, Path]]
) -> None:
    folder, variant = tmp_path / "my data", cifar.VARIANTS[name]
    make(folder, variant)
    with pytest.raises(DataError) as raised:
        cifar.find(name, folder)
    _, _, command = str(raised.value).rpartition("run: ")
    assert command.startswith(f"{COMMAND} prefetch ")
    assert parser.entry(shlex.split(command.removeprefix(COMMAND))) == 0
    assert downloads == [(variant.dataset_class, folder)]


# ---- repositories of transformers ----


def test_a_repository_is_downloaded_into_the_cache_once(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fake Hub has config.json and pytorch_model.bin of the repository."""
    snapshot, downloaded = hub_cache / "models--me--tiny" / "snapshots" / "abc", []

    def download(name: str, file: str) -> None:
        if file not in ("config.json", "pytorch_model.bin"):
            raise EntryNotFoundError(f"{name} has no {file}")
        downloaded.append((name, file))
        into_cache(hub_cache, name)
        (snapshot / "preprocessor_config.json").unlink()
        (snapshot / file).touch()

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    command = ["prefetch", str(experiment_file(tmp_path)), "--set", "student.model=hf:me/tiny"]
    assert parser.entry(command) == parser.entry(command) == 0
    assert downloaded == [("me/tiny", "config.json"), ("me/tiny", "pytorch_model.bin")]
    lines = capsys.readouterr().out.replace("\n", "")
    assert (
        "downloading hf:me/tiny to the local cache of the Hugging Face Hub" in lines
        and f"hf:me/tiny is in {snapshot}" in lines
    )


def test_a_repository_that_cannot_be_downloaded_is_one_line(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, file: str) -> None:
        raise OSError("no network\nsecond line")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert parser.entry(["prefetch", str(experiment_file(tmp_path)), "--set", "student.model=hf:me/tiny"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("raykd: 'hf:me/tiny' cannot be downloaded (no network); run this on a machine with internet")
    assert line.count("\n") == 1 and "hf:FOLDER" in line


def test_the_weights_of_an_imported_library_teacher_are_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Torchvision, "download", lambda self: torch.nn.Linear(2, 3))
    command = ["prefetch", str(experiment_file(tmp_path)), "--data-dir", str(tmp_path)]
    command += ["--set", "teacher_checkpoint=pretrained", "--set", "teacher.model=torchvision:resnet18"]
    assert parser.entry(command) == parser.entry(command) == 0
    assert parser.entry([*command, "--set", "teacher.model.arguments.groups=1"]) == 0, "they do not depend on arguments"
    file = tmp_path / "weights" / "torchvision-resnet18.safetensors"
    assert sorted(load_file(file)) == ["bias", "weight"]
    lines = capsys.readouterr().out.replace("\n", "")
    assert lines.count("downloading weights of torchvision-resnet18") == 1
