"""Hashes of files are kept between processes, and never trusted for a file that may have changed."""

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_images import encoded, write_folder, write_parquet

from raykd.config.codec import read_checked_json, write_checked_json
from raykd.data import file_hashes
from raykd.data.file_hashes import read_hashes, sha256_of, write_hashes
from raykd.data.load import keep_decoded, load_dataset
from raykd.errors import DataError
from raykd.provenance import known_digests


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be 10 s ahead, so that the files of a test are at rest."""
    now = time.time_ns
    monkeypatch.setattr("raykd.provenance.time.time_ns", lambda: now() + 10**10)


@pytest.fixture
def forget() -> Callable[[], None]:
    """Forget what this process has hashed, as in another process, and return the function that does so."""

    def clear() -> None:
        known_digests.clear()
        file_hashes._stored.clear()

    clear()
    return clear


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []
    original = hashlib.file_digest

    def file_digest(stream, kind):
        names.append(Path(stream.name).name)
        return original(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    return names


def make_parquet(place: Path) -> str:
    for seed, part in enumerate(("train", "test")):
        images = [encoded(10 * seed + row) for row in range(4)]
        write_parquet(place / f"{part}.parquet", images, {"label": [0, 1] * 2})
    return f"parquet:{place}"


def make_folder(place: Path) -> str:
    return f"folder:{write_folder(place)}"


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("make", [make_folder, make_parquet])
def test_a_second_start_reads_no_image_bytes(make, tmp_path, forget, hashed, monkeypatch) -> None:
    name = make(tmp_path / "images")
    first = load_dataset(name, None, 16, tmp_path / "cache")
    assert hashed
    hashed.clear()
    forget()
    monkeypatch.setattr(Path, "read_bytes", _refuse_images(Path.read_bytes))
    second = load_dataset(name, None, 16, tmp_path / "cache")
    assert second.identity == first.identity and hashed == []


@pytest.mark.usefixtures("later", "no_network")
@pytest.mark.parametrize("layout", ["python_archive", "python_batches"])
def test_published_checksums_of_cifar_are_computed_once_for_each_version_of_a_file(
    layout: str, tmp_path, forget, hashed, damage, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(layout)
    first = load_dataset("cifar10", folder, cache=tmp_path / "cache")
    assert len(hashed) == (1 if layout == "python_archive" else 7)
    hashed.clear()
    forget()
    assert load_dataset("cifar10", folder, cache=tmp_path / "cache").identity == first.identity and hashed == []
    damage(next(path for path in sorted(folder.rglob("*")) if path.is_file()), -20)
    forget()
    with pytest.raises(DataError, match="truncated or changed"):
        load_dataset("cifar10", folder, cache=tmp_path / "cache")


def _refuse_images(read_bytes: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    def read(path: Path) -> bytes:
        assert path.suffix not in (".png", ".parquet")
        return read_bytes(path)

    return read


@pytest.mark.usefixtures("later")
def test_only_changed_files_are_hashed_again(tmp_path, forget, hashed) -> None:
    place = write_folder(tmp_path / "images")
    before = load_dataset(f"folder:{place}", None, 16, tmp_path / "cache").identity
    hashed.clear()
    forget()
    changed = place / "train/bee/003.png"
    status = changed.stat()
    changed.write_bytes(encoded(4_000))
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))  # as tools that keep the time of change
    after = load_dataset(f"folder:{place}", None, 16, tmp_path / "cache").identity
    assert hashed == ["003.png"] and after != before


def test_a_file_that_changed_just_now_is_not_trusted(tmp_path, forget, hashed) -> None:
    place = write_folder(tmp_path / "images", 1, 1)
    for _ in range(2):
        load_dataset(f"folder:{place}", None, 16, tmp_path / "cache")
        assert len(hashed) == 6
        hashed.clear()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", [lambda c: c[:40], lambda c: b"", lambda c: c[:99] + b"\xff" + c[100:]])
def test_a_damaged_cache_is_logged_and_hashed_again(damage, tmp_path, forget, hashed, caplog) -> None:
    name = make_folder(tmp_path / "images")
    first = load_dataset(name, None, 16, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*-hashes.json")
    path.write_bytes(damage(path.read_bytes()))
    hashed.clear()
    forget()
    with caplog.at_level(logging.WARNING):
        assert load_dataset(name, None, 16, tmp_path / "cache").identity == first.identity
    assert len(hashed) == 24 and f"{path}: damaged" in caplog.text
    forget()
    hashed.clear()
    load_dataset(name, None, 16, tmp_path / "cache")
    assert hashed == []


FORGED = "0" * 64  # a digest that no file has


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("forged", ["another place", "other states", "other parts", "of another version"])
def test_a_cache_of_other_files_never_yields_a_digest(forged, tmp_path, forget, hashed, caplog) -> None:
    name = make_folder(tmp_path / "images")
    first = load_dataset(name, None, 16, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*-hashes.json")
    content = read_checked_json(path)
    assert content is not None
    states = {key: known.rpartition(" ")[0] for key, known in content["hashes"].items()}
    content["hashes"] = {
        "another place": {key: f"{state} {FORGED}" for key, state in states.items()},
        "other states": {key: f"1{state} {FORGED}" for key, state in states.items()},
        "other parts": {key: f"{state} no digits" for key, state in states.items()},
        "of another version": {key: [state, FORGED] for key, state in states.items()},
    }[forged]
    if forged == "another place":
        content["place"] = str(tmp_path / "elsewhere")
    write_checked_json(path, content)
    hashed.clear()
    forget()
    assert load_dataset(name, None, 16, tmp_path / "cache").identity == first.identity
    assert len(hashed) == 24 and ("damaged" in caplog.text) == (forged in ("other parts", "of another version"))


@pytest.mark.usefixtures("later", "forget")
def test_a_cache_that_cannot_be_written_is_logged_and_skipped(tmp_path, monkeypatch, caplog) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.png").write_bytes(b"a")
    read_hashes(tmp_path, None)
    sha256_of(tmp_path / "a.png")
    monkeypatch.setattr("os.replace", full_disk)
    with caplog.at_level(logging.WARNING):
        write_hashes(tmp_path / "cache")
    assert "could not be written" in caplog.text and list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("later")
def test_hashes_from_before_the_cache_folder_existed_are_kept_with_the_decoded_images(tmp_path, forget, hashed) -> None:
    name = make_folder(tmp_path / "images")
    keep_decoded(load_dataset(name, None, 16), tmp_path / "cache")
    hashed.clear()
    forget()
    load_dataset(name, None, 16, tmp_path / "cache")
    assert hashed == []


def test_a_missing_file_is_an_error_with_its_path(tmp_path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        sha256_of(tmp_path / "gone.png")
