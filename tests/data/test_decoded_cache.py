"""The cache of decoded images equals decoding, is rebuilt if damaged, and is complete at any time."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from raykd.data import cifar, decoded_cache
from raykd.data.load import load_dataset
from raykd.data.types import Dataset, Split


def assert_equal(left: Dataset, right: Dataset) -> None:
    assert left.identity == right.identity
    for one, other in ((left.train, right.train), (left.test, right.test)):
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)
        assert one.images.stride() == other.images.stride()


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that grows by one with each decoding."""
    folders: list[Path] = []
    decode = cifar._read_parquet
    monkeypatch.setattr(
        cifar, "_read_parquet", lambda train, *arguments: (folders.append(train), decode(train, *arguments))[1]
    )
    return folders


@pytest.mark.parametrize("image_size", [None, 16])
def test_cached_load_equals_decoding_and_does_not_decode(
    parquet_folder: Path, tmp_path: Path, decodings: list, image_size: int | None
) -> None:
    decoded = load_dataset("cifar10", parquet_folder, image_size, tmp_path / "cache")
    cached = load_dataset("cifar10", parquet_folder, image_size, tmp_path / "cache")
    assert_equal(decoded, cached)
    assert len(decodings) == 1


def test_changed_data_and_other_sizes_have_other_files(parquet_folder: Path, tmp_path: Path, decodings: list) -> None:
    load_dataset("cifar10", parquet_folder, None, tmp_path / "cache")
    load_dataset("cifar10", parquet_folder, 16, tmp_path / "cache")
    (parquet_folder / "train.parquet").write_bytes((parquet_folder / "test.parquet").read_bytes())
    assert len(load_dataset("cifar10", parquet_folder, None, tmp_path / "cache").train) == 10
    assert len(decodings) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("position", [0, 20, 400, -1, -3_000])
def test_damaged_file_is_rebuilt(
    parquet_folder: Path,
    tmp_path: Path,
    damage: Callable[[Path, int], None],
    decodings: list,
    position: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = load_dataset("cifar10", parquet_folder, None, tmp_path / "cache")
    damage(only_file(tmp_path / "cache"), position)
    assert_equal(load_dataset("cifar10", parquet_folder, None, tmp_path / "cache"), expected)
    assert "damaged" in caplog.text
    assert_equal(load_dataset("cifar10", parquet_folder, None, tmp_path / "cache"), expected)
    assert len(decodings) == 2


def test_every_changed_byte_is_detected(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(pixels, torch.arange(6) % 2)
    path, identity = tmp_path / "cache.safetensors", "ab" * 32
    decoded_cache.write(path, identity, (split, Split(split.images.clone(), split.labels.clone())))
    whole = path.read_bytes()
    assert decoded_cache.read(path, identity) is not None
    draw = random.Random(0)
    for position in [*range(len(whole)), *(draw.randrange(len(whole)) for _ in range(300))]:
        content = bytearray(whole)
        content[position] ^= draw.randrange(1, 256)
        for _ in range(draw.choice((0, 0, 3))):
            content[draw.randrange(len(whole))] ^= draw.randrange(256)
        path.write_bytes(content)
        parts = decoded_cache.read(path, identity)
        unharmed = parts is not None and all(
            part.images.equal(split.images) and part.labels.equal(split.labels) for part in parts
        )
        assert parts is None or unharmed, position


def test_swapped_and_zeroed_images_and_labels_are_detected(tmp_path: Path) -> None:
    split = Split(torch.arange(6 * 3 * 16, dtype=torch.uint8).view(6, 3, 4, 4), torch.arange(6))
    other = Split(split.images.flip(0), split.labels.flip(0))
    path, identity = tmp_path / "cache.safetensors", "ab" * 32
    decoded_cache.write(path, identity, (split, Split(split.images.clone(), split.labels.clone())))
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    images, labels = decoded_cache._to_stored(other)
    for change in ({"train.images": images}, {"test.labels": labels}, {"train.labels": torch.zeros(6).long()}):
        save_file(tensors | change, path, metadata)
        assert decoded_cache.read(path, identity) is None
    save_file(tensors, path, metadata)
    assert decoded_cache.read(path, identity) is not None


@pytest.mark.parametrize("kept", [0, 5, 1_000, -1])
def test_truncated_file_is_rebuilt(parquet_folder: Path, tmp_path: Path, kept: int) -> None:
    expected = load_dataset("cifar10", parquet_folder, None, tmp_path / "cache")
    file = only_file(tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:kept])
    assert_equal(load_dataset("cifar10", parquet_folder, None, tmp_path / "cache"), expected)
    assert decoded_cache.read(file, expected.identity) is not None


def test_file_of_another_identity_is_not_read(parquet_folder: Path, tmp_path: Path) -> None:
    data = load_dataset("cifar10", parquet_folder, None, tmp_path / "cache")
    file = only_file(tmp_path / "cache")
    assert decoded_cache.read(file, data.identity) is not None
    assert decoded_cache.read(file, data.identity[:16] + "0" * 48) is None


def test_changing_loaded_images_does_not_change_the_file(parquet_folder: Path, tmp_path: Path) -> None:
    load_dataset("cifar10", parquet_folder, None, tmp_path / "cache")
    before = only_file(tmp_path / "cache").read_bytes()
    load_dataset("cifar10", parquet_folder, None, tmp_path / "cache").train.images.zero_()
    assert only_file(tmp_path / "cache").read_bytes() == before


def test_other_users_can_read_the_file(parquet_folder: Path, tmp_path: Path) -> None:
    load_dataset("cifar10", parquet_folder, None, tmp_path / "cache")
    (tmp_path / "plain").touch()  # with the mode of the umask
    assert only_file(tmp_path / "cache").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "pathlib.Path.mkdir"])
def test_data_are_loaded_if_the_cache_cannot_be_written(
    parquet_folder: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    expected = load_dataset("cifar10", parquet_folder)
    with monkeypatch.context() as patched:
        patched.setattr(step, full)
        assert_equal(load_dataset("cifar10", parquet_folder, None, tmp_path / "cache"), expected)
    assert "No space left" in caplog.text
    assert not list(tmp_path.glob("cache/*"))


def test_concurrent_readers_see_complete_files_only(tmp_path: Path) -> None:
    train = Split(torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8), torch.arange(200))
    test = Split(train.images.clone(), train.labels.clone())
    path, identity = tmp_path / "cache.safetensors", "ab" * 32
    written = threading.Event()

    def write() -> None:
        for _ in range(10):
            decoded_cache.write(path, identity, (train, test))
            time.sleep(0.005)
            path.unlink(missing_ok=True)  # so that the next write does not find it

    def read() -> int:
        num_whole = 0
        while not written.is_set():
            parts = decoded_cache.read(path, identity)
            assert parts is None or parts[0].images.equal(train.images)
            num_whole += parts is not None
        return num_whole

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        writers = [pool.submit(write) for _ in range(4)]
        wait(writers)
        written.set()
        assert [writer.exception() for writer in writers] == [None] * 4
        assert sum(reader.result() for reader in readers) > 0
    assert not list(tmp_path.glob("*.partial"))
