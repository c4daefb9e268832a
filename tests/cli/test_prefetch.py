"""The remedies that name `python -m raykd prefetch` download the data set that is missing."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from raykd.cli import parser
from raykd.data import cifar
from raykd.errors import DataError

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
    python, *arguments = shlex.split(command)
    assert python == "python" and arguments[:2] == ["-m", "raykd"]
    assert parser.entry(arguments[2:]) == 0
    assert downloads == [(variant.dataset_class, folder)]
