"""CIFAR-10 from the folder that the user has: the Python archive, its unpacked batches, or Parquet.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images": 50,000 + 10,000 colour images of
32x32 pixels in 10 classes. In a folder F, or in F/cifar10, the first of these that is there is read:

    cifar-10-batches-py/                                   unpacked batches
    cifar-10-python.tar.gz                                 the archive
    train.parquet, test.parquet                            and the hub's names, see parquet.find_files

Batches and archive are read by torchvision once their checksums match, never before: they are pickles.
Nothing here but download() uses the network.
"""

import hashlib
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from raykd.data import parquet
from raykd.data.dataset import Split
from raykd.errors import DataError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SIZE = 32
MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images, as fractions of 255
STD = (0.2470, 0.2435, 0.2616)
_BATCHES = "cifar-10-batches-py"  # torchvision's names; importing it, for names alone, takes 3 s
_ARCHIVE = "cifar-10-python.tar.gz"
_ANEW = "delete it and run: python -m raykd prefetch"


@dataclass(frozen=True)
class Source:
    """What find found. identity: hex, the same for every copy of the same bytes; known without decoding."""

    identity: str
    batches_root: Path | None = None  # the folder with cifar-10-batches-py
    archive: Path | None = None
    train_files: tuple[Path, ...] = ()  # Parquet
    test_files: tuple[Path, ...] = ()


def find(folder: Path) -> Source:
    """The data in folder, checked by checksum where one is known (a second for the archive).

    identity is one constant for batches and archive, which hold the same images; for Parquet it is the
    sha256 of the files. PNG decodes to the same pixels everywhere, JPEG to what Pillow's library makes of it.
    Raises: DataError when folder holds none of the layouts, or when a checksum does not match.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give --data-dir or RAYKD_DATA the folder with CIFAR-10, "
            "or run: python -m raykd prefetch"
        )
    roots = (folder, folder / "cifar10")
    for root in roots:
        if (root / _BATCHES).is_dir():
            return Source(_checked_batches(root / _BATCHES), batches_root=root)
    for root in roots:
        if (root / _ARCHIVE).is_file():
            return Source(_checked_archive(root / _ARCHIVE), archive=root / _ARCHIVE)
    for root in roots:
        train, test = parquet.find_files(root, "train"), parquet.find_files(root, "test")
        if train and test:
            return Source(parquet.identity(train, test), train_files=train, test_files=test)
        if train or test:
            there, missing = ("train", "test") if train else ("test", "train")
            raise DataError(f"{root}: has {there} as Parquet but not {missing}; put {missing}.parquet beside it")
    wanted = ", ".join((f"{_BATCHES}/", _ARCHIVE, *parquet.LAYOUTS))
    raise DataError(
        f"{folder}: no CIFAR-10 here or in cifar10/ below; looked for {wanted} "
        "(train and test); run: python -m raykd prefetch"
    )


def decode(source: Source) -> tuple[Split, Split]:
    """(train, test), uint8 [N, 3, 32, 32]: 50,000 and 10,000 images, or as many as the Parquet files hold.

    Raises: DataError, with file, row and remedy, for files that do not hold what they should.
    """
    if source.batches_root:
        return _read_batches(source.batches_root)
    if source.archive:
        return _read_archive(source.archive)
    num_classes = len(CLASS_NAMES)
    return (
        parquet.read(source.train_files, IMAGE_SIZE, num_classes),
        parquet.read(source.test_files, IMAGE_SIZE, num_classes),
    )


def download(folder: Path) -> Path:
    """Fetches and unpacks the archive into folder unless it is there and whole; returns the batches' folder.

    The only function of this room that touches the network: 163 MiB from the University of Toronto.
    Raises: DataError when it cannot be fetched or does not match its checksum.
    """
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(folder, train=False, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{folder}: could not fetch {CIFAR10.url} ({error}); copy {CIFAR10.filename} there from a machine that can"
        ) from error
    return folder / _BATCHES


def _checked_batches(batches: Path) -> str:
    """The identity, once every file is there with its checksum."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta):
        file = batches / name
        if not file.is_file():
            raise DataError(f"{file}: missing from the unpacked batches; {_ANEW}")
        if not check_integrity(file, md5):
            raise DataError(f"{file}: cut short or changed (checksum is not {md5}); {_ANEW}")
    return _python_identity()


def _checked_archive(archive: Path) -> str:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(archive, CIFAR10.tgz_md5):
        raise DataError(f"{archive}: cut short or changed (checksum is not {CIFAR10.tgz_md5}); {_ANEW}")
    return _python_identity()


def _python_identity() -> str:
    """A constant: the batches' published checksums, so that archive and batches share it."""
    from torchvision.datasets import CIFAR10

    checksums = [md5 for _, md5 in (*CIFAR10.train_list, *CIFAR10.test_list)]
    return hashlib.sha256(" ".join(["cifar10 python", *checksums]).encode()).hexdigest()


def _read_archive(archive: Path) -> tuple[Split, Split]:
    """Unpacked into a temporary folder: the archive's own may be read-only, and shared by other jobs.

    torchvision reads files, not streams; reading the tar directly would mean unpickling it ourselves.
    """
    from torchvision.datasets import CIFAR10

    names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)] + [CIFAR10.meta["filename"]]
    try:
        with tempfile.TemporaryDirectory(prefix="raykd-cifar10-") as unpacked:
            (Path(unpacked) / _BATCHES).mkdir()
            with tarfile.open(archive, "r:gz") as tar:
                for member in (f"{_BATCHES}/{name}" for name in names):
                    stored = tar.extractfile(member)
                    assert stored is not None  # a file, or the archive's checksum would not match
                    with (Path(unpacked) / member).open("wb") as file:
                        shutil.copyfileobj(stored, file)
            return _read_batches(Path(unpacked))
    except OSError as error:
        raise DataError(
            f"{archive}: could not unpack it into {tempfile.gettempdir()} ({error}); "
            "set TMPDIR to a folder with 200 MB free"
        ) from error


def _read_batches(root: Path) -> tuple[Split, Split]:
    from torchvision.datasets import CIFAR10

    splits = []
    for train in (True, False):
        stored = CIFAR10(root, train=train, download=False)
        images = torch.from_numpy(stored.data)  # [N, 32, 32, 3], made from planes: not contiguous
        images = images.contiguous().permute(0, 3, 1, 2)
        splits.append(Split(images, torch.tensor(stored.targets, dtype=torch.int64)))
    return splits[0], splits[1]
