"""CIFAR-100 from each layout, with its 100 fine labels or its 20 coarse ones."""

import hashlib
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from small_cifar10 import random_pixels
from small_images import encoded, write_parquet
from torchvision.datasets import CIFAR100

from raykd.data.load import list_datasets, load_dataset
from raykd.errors import DataError

pytestmark = pytest.mark.usefixtures("no_network")
FINE, COARSE = [99, 0, 42, 7], [19, 4, 0, 7]


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cifar-100-python of two small batches, whose checksums torchvision is patched to expect."""
    root = tmp_path / "data"
    (root / "cifar-100-python").mkdir(parents=True)

    def stored(name: str, content: Mapping[str, object]) -> str:
        kept = pickle.dumps(content)
        (root / "cifar-100-python" / name).write_bytes(kept)
        return hashlib.md5(kept).hexdigest()

    def batch(name: str, seed: int) -> list[str]:
        planes = random_pixels(4, seed=seed).transpose(0, 3, 1, 2).reshape(4, -1)
        return [name, stored(name, {"data": planes, "fine_labels": FINE, "coarse_labels": COARSE})]

    monkeypatch.setattr(CIFAR100, "train_list", [batch("train", 1)])
    monkeypatch.setattr(CIFAR100, "test_list", [batch("test", 2)])
    meta = stored("meta", {"fine_label_names": ["apple"]})
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": meta})
    return root


@pytest.mark.parametrize(("name", "labels", "classes"), [("cifar100", FINE, 100), ("cifar100-coarse", COARSE, 20)])
def test_batches_are_read_with_fine_or_coarse_labels(batches: Path, name: str, labels: list[int], classes: int) -> None:
    data = load_dataset(name, batches)
    assert data.train.images.equal(torch.from_numpy(random_pixels(4, seed=1)).permute(0, 3, 1, 2))
    assert (data.train.labels.tolist(), data.test.labels.tolist(), data.num_classes) == (labels, labels, classes)


def test_archive_equals_the_batches_and_coarse_labels_change_the_identity(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / CIFAR100.filename, "w:gz") as tar:
        tar.add(batches / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5((packed / CIFAR100.filename).read_bytes()).hexdigest())
    for name in ("cifar100", "cifar100-coarse"):
        one, other = load_dataset(name, packed), load_dataset(name, batches)
        assert one.identity == other.identity and one.train.labels.equal(other.train.labels)
    assert load_dataset("cifar100", packed).identity != load_dataset("cifar100-coarse", packed).identity


def test_parquet_is_read_with_fine_or_coarse_labels(tmp_path: Path) -> None:
    images = [encoded(row, (32, 32)) for row in range(4)]
    for part in ("train", "test"):
        path = tmp_path / "cifar100" / f"{part}-00000-of-00001.parquet"
        write_parquet(path, images, {"fine_label": FINE, "coarse_label": COARSE})
    fine, coarse = load_dataset("cifar100", tmp_path), load_dataset("cifar100-coarse", tmp_path)
    assert (fine.train.labels.tolist(), coarse.train.labels.tolist()) == (FINE, COARSE)
    assert fine.identity != coarse.identity and fine.class_names[42] == "leopard"
    assert list_datasets(tmp_path) == ("cifar100",)


def test_labels_and_columns_of_another_data_set_are_refused(tmp_path: Path) -> None:
    images = [encoded(row, (32, 32)) for row in range(4)]
    for part in ("train", "test"):
        write_parquet(
            tmp_path / f"{part}.parquet", images, {"fine_label": [0, 1, 100, 2], "coarse_label": [0, 20, 1, 2]}
        )
    message = r"train\.parquet: row 2 has label 100; the fine labels of CIFAR-100 go from 0 to 99"
    with pytest.raises(DataError, match=message):
        load_dataset("cifar100", tmp_path)
    message = r"train\.parquet: row 1 has label 20; the coarse labels of CIFAR-100 go from 0 to 19"
    with pytest.raises(DataError, match=message):
        load_dataset("cifar100-coarse", tmp_path)
    with pytest.raises(
        DataError, match=r"has the columns 'image'.*, 'fine_label': int64.*; requires .* 'label': int64"
    ):
        load_dataset("cifar10", tmp_path)
    with pytest.raises(DataError, match=r"no CIFAR-100 here or in cifar100/ below; looked for cifar-100-python/, .*"):
        load_dataset("cifar100", tmp_path / "..")
