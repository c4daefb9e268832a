"""CIFAR-10 from each layout, and the errors for missing and damaged files."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from small_cifar10 import IMAGES_PER_BATCH, random_pixels
from torchvision.datasets import CIFAR10, CIFAR100

from raykd.data import cifar
from raykd.data.load import load_dataset
from raykd.errors import DataError

NAMES = [*cifar.VARIANTS["cifar10"].class_names]

pytestmark = pytest.mark.usefixtures("no_network")


def name_classes(folder: Path, part: str, names: Sequence[str] | None) -> None:
    """Store `names` as the classes of <part>.parquet, in the Hub's metadata; None for metadata without classes."""
    file = folder / f"{part}.parquet"
    features = {} if names is None else {"label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pq.read_table(file).replace_schema_metadata(metadata), file)


def expected_images(*seeds: int) -> torch.Tensor:
    batches = [torch.from_numpy(random_pixels(IMAGES_PER_BATCH, seed=seed)) for seed in seeds]
    return torch.cat(batches).permute(0, 3, 1, 2)


def test_unpacked_batches_are_read_in_order(python_batches: Path) -> None:
    data = load_dataset("cifar10", python_batches)
    assert data.train.images.equal(expected_images(1, 2, 3, 4, 5))
    assert data.test.images.equal(expected_images(6))
    assert data.train.labels[:5].tolist() == [1, 2, 3, 4, 2]
    assert data.train.images.is_contiguous(memory_format=torch.channels_last)


def test_archive_equals_the_unpacked_batches_and_shares_their_identity(
    python_archive: Path, python_batches: Path
) -> None:
    packed, unpacked = load_dataset("cifar10", python_archive), load_dataset("cifar10", python_batches)
    assert packed.identity == unpacked.identity
    assert packed.train.images.equal(unpacked.train.images)
    assert packed.test.labels.equal(unpacked.test.labels)


def test_reading_the_archive_creates_no_file_beside_it_even_for_a_moment(python_archive: Path) -> None:
    """The time stamp of a folder changes with each entry that is created or removed."""
    before = python_archive.stat().st_mtime_ns
    load_dataset("cifar10", python_archive)
    assert python_archive.stat().st_mtime_ns == before


def test_identity_of_the_python_archive_is_a_constant() -> None:
    assert cifar.published_identity(cifar.VARIANTS["cifar10"]) == (
        "95b604f2fa7444f542651cc139afb5012196814d586410b1f0cd58bc7f452add"
    )


def test_batches_and_archive_have_the_names_of_torchvision() -> None:
    for name, dataset_class in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        names = (cifar.VARIANTS[name].batches, cifar.VARIANTS[name].archive)
        assert names == (dataset_class.base_folder, dataset_class.filename)


def test_parquet_is_read(parquet_folder: Path) -> None:
    data = load_dataset("cifar10", parquet_folder)
    assert data.train.images.equal(torch.from_numpy(random_pixels(20)).permute(0, 3, 1, 2))
    assert data.test.labels.tolist() == [*range(10)]
    assert data.class_names[3] == "cat"


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (NAMES, None, r"names the classes of 'label' in its metadata, and .*test\.parquet does not"),
        (
            NAMES,
            [*NAMES[1:], NAMES[0]],
            r"label 0 is 'automobile' in .*test\.parquet, and 'airplane' in .*train\.parquet",
        ),
        (
            sorted(NAMES)[::-1],
            sorted(NAMES)[::-1],
            r"train\.parquet: label 0 is 'truck', which is number 9 of this data",
        ),
    ],
    ids=["names in one file only", "two orders", "an order that is not the published one"],
)
def test_parquet_with_another_order_of_classes_is_refused(
    parquet_folder: Path, train: Sequence[str], test: Sequence[str] | None, message: str
) -> None:
    name_classes(parquet_folder, "train", train)
    name_classes(parquet_folder, "test", test)
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10", parquet_folder)


def test_parquet_with_one_misspelled_class_is_read(parquet_folder: Path) -> None:
    for part in ("train", "test"):
        name_classes(parquet_folder, part, ["air plane", *NAMES[1:]])
    assert load_dataset("cifar10", parquet_folder).class_names == tuple(NAMES)


@pytest.mark.parametrize("layout", ["python_batches", "python_archive", "parquet_folder"])
def test_layouts_are_also_found_in_the_folder_cifar10(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(layout)
    expected = load_dataset("cifar10", folder).identity
    (tmp_path / "data").mkdir()
    folder.rename(tmp_path / "data" / "cifar10")
    assert load_dataset("cifar10", tmp_path / "data").identity == expected


def test_error_for_a_missing_folder_has_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; give --data-dir or RAYKD_DATA"):
        load_dataset("cifar10", tmp_path / "nowhere")


def test_error_for_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for cifar-10-batches-py/, cifar-10-python.tar.gz, .*parquet"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_error_names_the_missing_split(parquet_folder: Path, missing: str) -> None:
    (parquet_folder / f"{missing}.parquet").unlink()
    with pytest.raises(DataError, match=f"as Parquet but not {missing}; put {missing}.parquet beside it"):
        load_dataset("cifar10", parquet_folder)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_damaged_batch_is_refused_and_not_unpickled(
    python_batches: Path, damage: Callable[[Path, int], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled a file with a wrong checksum"))
    damage(python_batches / CIFAR10.base_folder / name, -1)
    with pytest.raises(DataError, match=f"{name}: truncated or changed"):
        load_dataset("cifar10", python_batches)


def test_error_names_the_missing_batch(python_batches: Path) -> None:
    (python_batches / CIFAR10.base_folder / "data_batch_5").unlink()
    with pytest.raises(DataError, match="data_batch_5: missing from the unpacked batches"):
        load_dataset("cifar10", python_batches)


def test_truncated_archive_is_refused(python_archive: Path) -> None:
    archive = python_archive / CIFAR10.filename
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: truncated or changed"):
        load_dataset("cifar10", python_archive)


def test_batch_that_changes_after_its_check_is_refused_and_not_unpickled(
    python_batches: Path, damage: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = cifar.find("cifar10", python_batches)
    damage(python_batches / CIFAR10.base_folder / "data_batch_3", -1)
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled a file with a wrong checksum"))
    with pytest.raises(DataError, match="data_batch_3: changed while it was read"):
        stored.decode()


def test_archive_that_changes_after_its_check_is_refused_and_not_unpickled(
    python_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, archive = cifar.find("cifar10", python_archive), python_archive / CIFAR10.filename
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled a file with a wrong checksum"))
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: cannot be read .*; delete it and run"):
        stored.decode()
    with tarfile.open(archive, "w:gz") as tar:  # an intact archive of other batches
        batch = tarfile.TarInfo(f"{CIFAR10.base_folder}/data_batch_1")
        batch.size = 3
        tar.addfile(batch, io.BytesIO(b"abc"))
    with pytest.raises(DataError, match="data_batch_1: changed while it was read"):
        stored.decode()


@pytest.mark.nightly
def test_real_cifar10_has_its_sizes_and_equal_classes(real_folder: Path, tmp_path: Path) -> None:
    data = load_dataset("cifar10", real_folder, cache=tmp_path)
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert data.train.labels.bincount().tolist() == [5_000] * 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    pixels = data.train.images[::7].float() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=5e-3)
    assert pixels.std((0, 2, 3)).tolist() == pytest.approx(data.std, abs=5e-3)
    mapped = load_dataset("cifar10", real_folder, cache=tmp_path)
    assert mapped.train.images.equal(data.train.images)
    assert mapped.test.labels.equal(data.test.labels)
