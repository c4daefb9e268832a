"""The data sets in a data folder, as `doctor` lists them and `prefetch` checks them."""

from pathlib import Path

import pytest
from small_images import encoded, write_folder, write_parquet

from raykd.cli import parser
from raykd.data.load import list_datasets
from raykd.errors import DataError

DIGITS = Path(__file__).parents[2] / "experiments" / "digits.py"


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Return a data folder with insects and trees, and entries that are no data sets."""
    write_folder(tmp_path / "insects")
    for part in ("train", "test"):
        write_parquet(tmp_path / "trees" / f"{part}.parquet", [encoded(row) for row in range(4)], {"label": [0, 1] * 2})
    (tmp_path / "weights").mkdir()
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_custom_data_sets_are_listed_by_name(data_folder: Path) -> None:
    assert list_datasets(data_folder) == ("folder:insects", "parquet:trees")


def test_cifar10_is_listed_and_a_damaged_one_is_an_error(data_folder: Path, parquet_folder: Path) -> None:
    parquet_folder.rename(data_folder / "cifar10")
    assert list_datasets(data_folder) == ("cifar10", "folder:insects", "parquet:trees")
    (data_folder / "cifar10" / "test.parquet").unlink()
    with pytest.raises(DataError, match="has train as Parquet but not test"):
        list_datasets(data_folder)


def test_an_empty_folder_cifar10_is_no_data_set(data_folder: Path) -> None:
    (data_folder / "cifar10").mkdir()
    assert list_datasets(data_folder) == ("folder:insects", "parquet:trees")


@pytest.mark.parametrize(("column", "name"), [("label", "cifar10"), ("fine_label", "cifar100")])
def test_parquet_in_the_data_folder_itself_is_listed_by_its_column_of_labels(
    tmp_path: Path, column: str, name: str
) -> None:
    images = [encoded(row, (32, 32)) for row in range(4)]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", images, {column: [0, 1] * 2})
    assert list_datasets(tmp_path) == (name,)


def test_test_without_train_in_the_data_folder_itself_is_an_error(data_folder: Path) -> None:
    write_parquet(data_folder / "test.parquet", [encoded(row, (32, 32)) for row in range(4)], {"label": [0, 1] * 2})
    with pytest.raises(DataError, match="has test as Parquet but not train"):
        list_datasets(data_folder)


def test_error_for_an_empty_folder_lists_the_expected_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CIFAR-10 here or in cifar10/ below; looked for"):
        list_datasets(tmp_path)


@pytest.mark.usefixtures("no_network")
def test_prefetch_checks_custom_data_and_downloads_nothing(data_folder: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["prefetch", str(DIGITS), "--data-dir", str(data_folder), "--set"]
    assert parser.entry([*arguments, "data.name=folder:insects"]) == 0
    assert f"folder:insects is in {data_folder}/insects" in capsys.readouterr().out.replace("\n", "")
    assert parser.entry([*arguments, "data.name=folder:birds"]) == 2
    assert "birds: no such folder" in capsys.readouterr().err
