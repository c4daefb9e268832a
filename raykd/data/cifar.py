"""CIFAR-10 and CIFAR-100 from the folder that the user has: the Python archive, its unpacked batches, or Parquet.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images": 50,000 + 10,000 colour images of
32x32 pixels in 10 classes, or in 100 that belong to 20 coarse ones. In a folder F, or in F/cifar10 (F/cifar100),
the first of these that is there is read:

    cifar-10-batches-py/         cifar-100-python/         unpacked batches
    cifar-10-python.tar.gz       cifar-100-python.tar.gz   the archive
    train.parquet, test.parquet                            and the hub's names, see parquet_files.py

Batches and archive are read by torchvision once their checksums match, never before: they are pickles.
Nothing here but download() uses the network.
"""

import hashlib
import pickle
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from raykd.data import parquet, parquet_files, parquet_labels, pictures
from raykd.data.cifar_classes import CIFARS, IMAGE_SIZE, Cifar
from raykd.data.types import Split
from raykd.errors import DataError

_CONFIGURATIONS = ("plain_text", "data")  # in the data folder itself, where other data sets lie beside
_ANEW = "delete it and run: python -m raykd prefetch"


@dataclass(frozen=True)
class Source:
    """What find found. identity: hex, the same for every copy of the same bytes; known without decoding."""

    cifar: Cifar
    identity: str
    batches_root: Path | None = None  # the folder with cifar-10-batches-py
    archive: Path | None = None
    train_files: tuple[Path, ...] = ()  # Parquet
    test_files: tuple[Path, ...] = ()


def find(name: str, folder: Path) -> Source:
    """The data called name ('cifar10') in folder, checked by checksum where one is known (a second for the archive).

    identity is one constant for batches and archive, which hold the same images; for Parquet it is the
    sha256 of the files. PNG decodes to the same pixels everywhere, JPEG to what Pillow's library makes of it.
    Raises: DataError when folder holds none of the layouts, or when a checksum does not match.
    """
    cifar = CIFARS[name]
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give --data-dir or RAYKD_DATA the folder with {cifar.title}, "
            "or run: python -m raykd prefetch"
        )
    roots = (folder, folder / cifar.folder)
    for root in roots:
        if (root / cifar.batches).is_dir():
            return Source(cifar, _checked_batches(cifar, root / cifar.batches), batches_root=root)
    for root in roots:
        if (root / cifar.archive).is_file():
            return Source(cifar, _checked_archive(cifar, root / cifar.archive), archive=root / cifar.archive)
    for root in reversed(roots):  # what lies in the folder itself may be another dataset's
        files = parquet_files.find(root, _CONFIGURATIONS if root == folder else None)
        train, test = files.get("train", ()), files.get("test", ())
        if train and test:
            _require_known_classes(cifar, (*train, *test))
            identity = _labelled(cifar, parquet.identity(train, test))
            return Source(cifar, identity, train_files=train, test_files=test)
        if train or test:
            there, missing = ("train", "test") if train else ("test", "train")
            raise DataError(f"{root}: has {there} as Parquet but not {missing}; put {missing}.parquet beside it")
    wanted = ", ".join((f"{cifar.batches}/", cifar.archive, *parquet_files.LAYOUTS))
    raise DataError(
        f"{folder}: no {cifar.title} here or in {cifar.folder}/ below; looked for {wanted} "
        "(train and test); run: python -m raykd prefetch"
    )


def _require_known_classes(cifar: Cifar, files: tuple[Path, ...]) -> None:
    """Raise DataError where a file's metadata numbers the classes otherwise than the others or than the archive."""
    schemas = [parquet_labels.schema_of(file) for file in files]
    parquet_labels.require_same_names(files, schemas, cifar.label_column)
    parquet_labels.require_known_order(files[0], schemas[0], cifar.label_column, cifar.class_names)


def is_there(name: str, folder: Path) -> bool:
    """Whether anything of it is in folder, or in its own below; `find` says what is wrong with it."""
    cifar = CIFARS[name]
    return (
        (folder / cifar.folder).is_dir()
        or any((folder / there).exists() for there in (cifar.batches, cifar.archive))
        or (name == "cifar10" and "train" in parquet_files.find(folder, _CONFIGURATIONS))
    )


def decode(source: Source) -> tuple[Split, Split]:
    """(train, test), uint8 [N, 3, 32, 32]: 50,000 and 10,000 images, or as many as the Parquet files hold.

    Raises: DataError, with file, row and remedy, for files that do not hold what they should.
    """
    cifar = source.cifar
    if source.batches_root:
        return _read_batches(cifar, source.batches_root)
    if source.archive:
        return _read_archive(cifar, source.archive)
    size = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
    refusal = f"{cifar.title}'s are {size}: resize the pictures before storing them"
    labels = f"{cifar.title}'s go from 0 to {len(cifar.class_names) - 1}{cifar.mistaken}"
    wanted = parquet.Wanted(pictures.Wanted(IMAGE_SIZE, refusal), len(cifar.class_names), labels, cifar.label_column)
    return parquet.read(source.train_files, wanted), parquet.read(source.test_files, wanted)


def download(name: str, folder: Path) -> Path:
    """Fetches and unpacks the archive into folder unless it is there and whole; returns the batches' folder.

    The only function of this room that touches the network: 163 MiB from the University of Toronto.
    Raises: DataError when it cannot be fetched or does not match its checksum.
    """
    cifar = CIFARS[name]
    reader = _reader(cifar)
    try:
        reader(folder, train=False, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{folder}: could not fetch {reader.url} ({error}); copy {cifar.archive} there from a machine that can"
        ) from error
    return folder / cifar.batches


def _reader(cifar: Cifar) -> Any:
    """torchvision's class; importing it takes 3 s."""
    from torchvision import datasets

    return getattr(datasets, cifar.reader)


def _checked_batches(cifar: Cifar, batches: Path) -> str:
    """The identity, once every file is there with its checksum."""
    from torchvision.datasets.utils import check_integrity

    reader = _reader(cifar)
    for name, md5 in (*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])):
        file = batches / name
        if not file.is_file():
            raise DataError(f"{file}: missing from the unpacked batches; {_ANEW}")
        if not check_integrity(file, md5):
            raise DataError(f"{file}: cut short or changed (checksum is not {md5}); {_ANEW}")
    return python_identity(cifar)


def _checked_archive(cifar: Cifar, archive: Path) -> str:
    from torchvision.datasets.utils import check_integrity

    md5 = _reader(cifar).tgz_md5
    if not check_integrity(archive, md5):
        raise DataError(f"{archive}: cut short or changed (checksum is not {md5}); {_ANEW}")
    return python_identity(cifar)


def python_identity(cifar: Cifar) -> str:
    """A constant: the batches' published checksums, so that archive and batches share it."""
    reader = _reader(cifar)
    checksums = [md5 for _, md5 in (*reader.train_list, *reader.test_list)]
    published = hashlib.sha256(" ".join([f"{cifar.folder} python", *checksums]).encode()).hexdigest()
    return _labelled(cifar, published)


def _labelled(cifar: Cifar, identity: str) -> str:
    """With other labels the same pictures are other data."""
    if cifar.labels != "coarse_labels":
        return identity
    return hashlib.sha256(f"{identity} {cifar.labels}".encode()).hexdigest()


def _read_archive(cifar: Cifar, archive: Path) -> tuple[Split, Split]:
    """Unpacked into a temporary folder: the archive's own may be read-only, and shared by other jobs.

    torchvision reads files, not streams; reading the tar directly would mean unpickling it ourselves.
    """
    reader = _reader(cifar)
    names = [name for name, _ in (*reader.train_list, *reader.test_list)] + [reader.meta["filename"]]
    try:
        with tempfile.TemporaryDirectory(prefix=f"raykd-{cifar.folder}-") as unpacked:
            (Path(unpacked) / cifar.batches).mkdir()
            with tarfile.open(archive, "r:gz") as tar:
                for member in (f"{cifar.batches}/{name}" for name in names):
                    stored = tar.extractfile(member)
                    assert stored is not None  # a file, or the archive's checksum would not match
                    with (Path(unpacked) / member).open("wb") as file:
                        shutil.copyfileobj(stored, file)
            return _read_batches(cifar, Path(unpacked))
    except OSError as error:
        raise DataError(
            f"{archive}: could not unpack it into {tempfile.gettempdir()} ({error}); "
            "set TMPDIR to a folder with 200 MB free"
        ) from error


def _read_batches(cifar: Cifar, root: Path) -> tuple[Split, Split]:
    """Of files whose checksums are right."""
    reader, splits = _reader(cifar), []
    for train in (True, False):
        stored = reader(root, train=train, download=False)
        labels = stored.targets
        if cifar.labels == "coarse_labels":  # which torchvision passes over
            names = [name for name, _ in (reader.train_list if train else reader.test_list)]
            labels = [label for name in names for label in _coarse_labels(root / cifar.batches / name)]
        images = torch.from_numpy(stored.data)  # [N, 32, 32, 3], made from planes: not contiguous
        images = images.contiguous().permute(0, 3, 1, 2)
        splits.append(Split(images, torch.tensor(labels, dtype=torch.int64)))
    return splits[0], splits[1]


def _coarse_labels(batch: Path) -> list[int]:
    with batch.open("rb") as file:
        return pickle.load(file, encoding="latin1")["coarse_labels"]  # noqa: S301 - the checksum is published
