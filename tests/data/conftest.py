"""Fixtures: a small CIFAR-10 in every layout that raykd.data reads."""

import hashlib
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from small_cifar10 import IMAGES_PER_BATCH, png, random_pixels, write_parquet
from torchvision.datasets import CIFAR10

from raykd.data import sources


@pytest.fixture
def parquet_folder(tmp_path: Path) -> Path:
    """train.parquet with 20 rows, test.parquet with 10."""
    folder = tmp_path / "parquet"
    write_parquet(folder / "train.parquet", [png(image) for image in random_pixels(20)], [*range(10)] * 2)
    write_parquet(folder / "test.parquet", [png(image) for image in random_pixels(10, seed=1)], range(10))
    return folder


@pytest.fixture
def python_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cifar-10-batches-py of six small batches, whose checksums torchvision is patched to expect."""
    root = tmp_path / "batches"
    (root / CIFAR10.base_folder).mkdir(parents=True)

    def checksum_of(name: str, content: dict) -> str:
        stored = pickle.dumps(content)
        (root / CIFAR10.base_folder / name).write_bytes(stored)
        return hashlib.md5(stored).hexdigest()

    def batch(name: str, seed: int) -> list[str]:
        planes = random_pixels(IMAGES_PER_BATCH, seed=seed).transpose(0, 3, 1, 2).reshape(IMAGES_PER_BATCH, -1)
        labels = [(seed + row) % 10 for row in range(IMAGES_PER_BATCH)]
        return [name, checksum_of(name, {"data": planes, "labels": labels})]

    train = [batch(f"data_batch_{number}", number) for number in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 6)])
    meta = checksum_of("batches.meta", {"label_names": ["airplane"]})
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    return root


@pytest.fixture
def python_archive(python_batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cifar-10-python.tar.gz of the same batches."""
    root = tmp_path / "archive"
    root.mkdir()
    with tarfile.open(root / CIFAR10.filename, "w:gz") as tar:
        tar.add(python_batches / CIFAR10.base_folder, CIFAR10.base_folder)
    stored = (root / CIFAR10.filename).read_bytes()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(stored).hexdigest())
    return root


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_UNIT_IMAGES", 4)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture
def real_folder() -> Path:
    folder = Path(os.environ.get("RAYKD_DATA") or "nowhere")
    if not folder.is_dir():
        pytest.skip("RAYKD_DATA names no folder with the real CIFAR-10")
    return folder


@pytest.fixture
def damage() -> Callable[[Path, int], None]:
    """Return a function that changes one byte of a file, counted from its end if negative."""

    def change(path: Path, position: int) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 0xFF
        path.write_bytes(content)

    return change
