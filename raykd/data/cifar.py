"""CIFAR-10 and CIFAR-100 from the user's data folder: the Python archive, its unpacked batches, or Parquet.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images": 50,000 + 10,000 color images of
32x32 pixels in 10 classes, or in 100 fine and 20 coarse classes. raykd reads the first of these layouts that exists in
the data folder F, or in F/cifar10 (F/cifar100):

    cifar-10-batches-py/         cifar-100-python/         unpacked batches
    cifar-10-python.tar.gz       cifar-100-python.tar.gz   the archive
    train.parquet, test.parquet                            or with the Hub's names, see parquet_folder.py

Batches are pickles, which can execute code. They are read only if their MD5 is the published one.
Only `download` accesses the internet.
"""

import hashlib
import pickle
import shlex
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.data import parquet, parquet_folder
from raykd.data.file_hashes import md5_of, read_hashes
from raykd.data.image_decoding import TargetSize
from raykd.data.parquet_folder import ParquetSource
from raykd.data.regular_files import require_regular_file
from raykd.data.sources import content_identity, hash_files
from raykd.data.types import Channels, Split, StoredDataset, UndecodedSplits
from raykd.data.undecoded import FirstImages, sample_of
from raykd.disk.lookup import is_file, is_folder
from raykd.errors import COMMAND, DataError

IMAGE_SIZE = 32  # pixels per side
_NUM_SAMPLED = 64  # images of a batch that a plan keeps
_CONFIGURATIONS = ("plain_text", "data")  # searched in the data folder itself, where there may be other data sets


@dataclass(frozen=True)
class Cifar:
    """The differences between CIFAR-10, CIFAR-100 and CIFAR-100 with coarse labels.

    folder: the name of the folder below the data folder. dataset_class: the name of the class in torchvision.datasets.
    batches, archive: torchvision's names of the folder and the file. label_key: the key of the labels in the batches.
    label_column: the column of the labels in Parquet. label_hint: the end of the error for a label out of range.
    mean, std: by channel over the 50,000 training images, in [0, 1].
    """

    title: str
    folder: str
    dataset_class: str
    batches: str
    archive: str
    label_key: str
    label_column: str
    class_names: tuple[str, ...]
    mean: Channels
    std: Channels
    label_hint: str = ""


_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_COARSE_CLASSES = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""


def _cifar100(label_key: str, label_column: str, class_names: str) -> Cifar:
    return Cifar(
        title="CIFAR-100",
        folder="cifar100",
        dataset_class="CIFAR100",
        batches="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        label_key=label_key,
        label_column=label_column,
        class_names=tuple(class_names.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    )


VARIANTS = {
    "cifar10": Cifar(
        title="CIFAR-10",
        folder="cifar10",
        dataset_class="CIFAR10",
        batches="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        label_key="labels",
        label_column="label",
        class_names=tuple(_CIFAR10_CLASSES.split()),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        label_hint=" (CIFAR-100 is another data set)",
    ),
    "cifar100": _cifar100("fine_labels", "fine_label", _CIFAR100_CLASSES),
    "cifar100-coarse": _cifar100("coarse_labels", "coarse_label", _COARSE_CLASSES),
}


def find(name: str, folder: Path, cache: Path | None = None) -> StoredDataset:
    """Find the files of a data set of VARIANTS and compare published checksums, once for each version of a file.

    There are 50,000 and 10,000 images, or as many as the Parquet files hold. The identity is one constant for batches
    and archive, which hold the same images; for Parquet it is the SHA-256 of the files. PNG decodes to the same pixels
    on every machine; JPEG depends on Pillow's JPEG library. cache: the folder of file_hashes.py.

    Raises DataError if the folder holds none of the layouts, or if a checksum does not match.
    """
    variant = VARIANTS[name]
    if not is_folder(folder):
        raise DataError(
            f"{folder}: no such folder; give --data-dir or RAYKD_DATA the folder with {variant.title}, "
            f"or run: {prefetch_command(name, folder)}"
        )
    prefetch = prefetch_command(name, folder)
    if batches := _find_batches(variant, folder):
        read_hashes(batches, cache)
        _verify_batches(variant, batches, prefetch)
        contents = partial(_batches_in_folder, variant, batches)
        return _stored(variant, published_identity(variant), contents, prefetch)
    if archive := _find_archive(variant, folder):
        read_hashes(archive.parent, cache)
        _verify(archive, _dataset_class(variant).tgz_md5, prefetch)
        contents = partial(_batches_in_archive, variant, archive, prefetch)
        return _stored(variant, published_identity(variant), contents, prefetch)
    if parquet_files := _find_parquet(variant, folder):
        return _stored_parquet(variant, *parquet_files, cache)
    layouts = ", ".join((f"{variant.batches}/", variant.archive, *parquet_folder.FILE_NAMES))
    raise DataError(
        f"{folder}: no {variant.title} here or in {variant.folder}/ below; looked for {layouts} "
        f"(train and test); run: {prefetch_command(name, folder)}"
    )


def exists(name: str, folder: Path) -> bool:
    """Return whether `find` would read files of this data set. It may still refuse them, if they are damaged.

    Parquet in the data folder itself counts only with the data set's column of labels, because it has no other name.
    Raises DataError for Parquet files whose names or schemas cannot be read.
    """
    variant = VARIANTS[name]
    if _find_batches(variant, folder) or _find_archive(variant, folder):
        return True
    if not (parquet_files := _find_parquet(variant, folder)):
        return False
    root, files = parquet_files
    return root != folder or any(
        variant.label_column in parquet.read_schema(file).names for split in files.values() for file in split
    )


def prefetch_command(name: str, folder: Path) -> str:
    """Return the command that downloads the data set `name` into the data folder `folder`."""
    experiment = "" if name == "cifar10" else f" experiments/distill_cnn.py --set data.name={name}"
    return f"{COMMAND} prefetch{experiment} --data-dir {shlex.quote(str(folder))}"


def download(name: str, folder: Path) -> Path:
    """Download and unpack the archive into `folder`, unless it is there and intact. Return the batches' folder.

    This is the only function of the package that accesses the internet: 163 MiB from the University of Toronto.

    Raises DataError if the download fails or does not match its checksum.
    """
    variant = VARIANTS[name]
    dataset_class = _dataset_class(variant)
    try:
        dataset_class(folder, train=False, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{folder}: could not download {dataset_class.url} ({error}); copy {variant.archive} there from a machine "
            "with internet access"
        ) from error
    return folder / variant.batches


def published_identity(variant: Cifar) -> str:
    """Return the identity of archive and batches: a constant, computed from the published checksums of the batches."""
    dataset_class = _dataset_class(variant)
    checksums = [md5 for _, md5 in (*dataset_class.train_list, *dataset_class.test_list)]
    published = hashlib.sha256(" ".join([f"{variant.folder} python", *checksums]).encode()).hexdigest()
    return _identity_with_labels(variant, published)


def _dataset_class(variant: Cifar) -> Any:
    """Return torchvision's class, whose import takes 3 s."""
    from torchvision import datasets

    return getattr(datasets, variant.dataset_class)


def _identity_with_labels(variant: Cifar, identity: str) -> str:
    """Return an identity that differs between fine and coarse labels of the same images."""
    if variant.label_key != "coarse_labels":
        return identity
    return hashlib.sha256(f"{identity} {variant.label_key}".encode()).hexdigest()


def _find_batches(variant: Cifar, folder: Path) -> Path | None:
    """Return the folder of the unpacked batches, or None."""
    batches = (root / variant.batches for root in (folder, folder / variant.folder))
    return next((path for path in batches if is_folder(path)), None)


def _find_archive(variant: Cifar, folder: Path) -> Path | None:
    archives = (root / variant.archive for root in (folder, folder / variant.folder))
    return next((path for path in archives if is_file(path)), None)


def _find_parquet(variant: Cifar, folder: Path) -> tuple[Path, dict[str, parquet_folder.Files]] | None:
    """Return the folder with Parquet and the files of each split, or None. One of train and test may be missing.

    The data set's folder comes first, because Parquet in the data folder itself may belong to another data set.
    """
    for root, configurations in ((folder / variant.folder, None), (folder, _CONFIGURATIONS)):
        files = parquet_folder.find_files(root, configurations)
        if files.get("train") or files.get("test"):
            return root, files
    return None


def _verify_batches(variant: Cifar, batches: Path, prefetch: str) -> None:
    """Raise DataError if a file is missing or does not match its checksum. prefetch: the remedy's command."""
    dataset_class = _dataset_class(variant)
    meta = (dataset_class.meta["filename"], dataset_class.meta["md5"])
    for name, published in (*dataset_class.train_list, *dataset_class.test_list, meta):
        if not is_file(batches / name):
            raise DataError(f"{batches / name}: missing from the unpacked batches; run: {prefetch}")
        _verify(batches / name, published, prefetch)


def _verify(file: Path, published: str, prefetch: str) -> None:
    if md5_of(file) != published:
        raise DataError(f"{file}: truncated or changed (checksum is not {published}); delete it and run: {prefetch}")


def _stored(
    variant: Cifar, identity: str, contents: Callable[[], Iterable[tuple[str, bytes]]], prefetch: str
) -> StoredDataset:
    """Return the data set in batches. contents: yields the name of each batch, and its bytes."""

    def decode() -> tuple[Split, Split]:
        return _read_batches(variant, dict(contents()), prefetch)

    def sample() -> UndecodedSplits:
        return _sample_batches(variant, contents(), prefetch, decode)

    statistics = (variant.mean, variant.std)
    return StoredDataset(identity, IMAGE_SIZE, variant.class_names, decode, sample, statistics)


def _stored_parquet(
    variant: Cifar, root: Path, files: dict[str, parquet_folder.Files], cache: Path | None
) -> StoredDataset:
    """Return the data set in Parquet files after checking the order of their classes."""
    train, test = files.get("train", ()), files.get("test", ())
    if not (train and test):
        present, missing = ("train", "test") if train else ("test", "train")
        raise DataError(f"{root}: has {present} as Parquet but not {missing}; put {missing}.parquet beside it")
    schemas = [parquet.read_schema(file) for file in (*train, *test)]
    parquet.require_same_class_names((*train, *test), schemas, variant.label_column)
    parquet.require_published_labels(train[0], schemas[0], variant.label_column, variant.class_names)
    read_hashes(root, cache)
    digests = [hash_files([require_regular_file(file) for file in split]) for split in (train, test)]
    identity = _identity_with_labels(variant, content_identity("parquet", *digests))
    kind = variant.label_key.replace("_", " ")  # labels, fine labels or coarse labels
    valid_labels = f"the {kind} of {variant.title} go from 0 to {len(variant.class_names) - 1}{variant.label_hint}"
    expected = parquet.ExpectedRows(len(variant.class_names), valid_labels, variant.label_column)
    refusal = f"{variant.title}'s are {IMAGE_SIZE}x{IMAGE_SIZE}: resize the images before storing them"
    target, statistics = TargetSize(IMAGE_SIZE, refusal), (variant.mean, variant.std)
    train_files, test_files = (tuple(map(require_regular_file, split)) for split in (train, test))
    source = ParquetSource("parquet", root, variant.class_names, (), statistics, train_files, test_files, expected)
    decode, sample = partial(_read_parquet, train, test, expected, target), partial(sample_of, source, target)
    return StoredDataset(identity, IMAGE_SIZE, variant.class_names, decode, sample, statistics)


def _read_parquet(
    train: Sequence[Path], test: Sequence[Path], expected: parquet.ExpectedRows, target: TargetSize
) -> tuple[Split, Split]:
    return parquet.read(train, expected, target), parquet.read(test, expected, target)


def _batches_in_folder(variant: Cifar, batches: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each train and test batch in the folder `batches`."""
    for name in _md5_of_batches(variant):
        yield name, (batches / name).read_bytes()


def _batches_in_archive(variant: Cifar, archive: Path, prefetch: str) -> Iterator[tuple[str, bytes]]:
    """Yield the same from the archive. Nothing is unpacked, so the folder may be read-only."""
    names = _md5_of_batches(variant)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:  # in the archive's order, because going back would decompress it again
                folder, _, name = member.name.partition("/")
                if folder == variant.batches and name in names and (file := tar.extractfile(member)):
                    yield name, file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be read ({error}); delete it and run: {prefetch}") from error


def _md5_of_batches(variant: Cifar) -> dict[str, str]:
    """Return the published MD5, hex, of each train batch, then of each test batch."""
    dataset_class = _dataset_class(variant)
    return dict([*dataset_class.train_list, *dataset_class.test_list])


def _read_batches(variant: Cifar, contents: Mapping[str, bytes], prefetch: str) -> tuple[Split, Split]:
    """Return train and test from the content of each batch."""
    for name in _md5_of_batches(variant):
        _require_published(variant, name, contents.get(name, b""), prefetch)
    dataset_class, splits = _dataset_class(variant), []
    for names in (dataset_class.train_list, dataset_class.test_list):
        batches = [_unpickled(variant, name, contents[name], prefetch) for name, _ in names]
        labels = torch.tensor([label for batch in batches for label in batch[variant.label_key]], dtype=torch.int64)
        splits.append(Split(_images_of(np.vstack([batch["data"] for batch in batches])), labels))
    return splits[0], splits[1]


def _sample_batches(
    variant: Cifar, contents: Iterable[tuple[str, bytes]], prefetch: str, decode: Callable[[], tuple[Split, Split]]
) -> UndecodedSplits:
    """Return the splits with the images of one batch at a time in memory, and the first ones of train as the sample."""
    labels: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    for name, content in contents:
        batch = _unpickled(variant, name, content, prefetch)
        labels[name] = torch.tensor(batch[variant.label_key], dtype=torch.int64)
        first[name] = _images_of(batch["data"][:_NUM_SAMPLED])
    dataset_class, splits = _dataset_class(variant), []
    for part, names in enumerate((dataset_class.train_list, dataset_class.test_list)):
        for name, _ in names:
            if name not in labels:
                _require_published(variant, name, b"", prefetch)
        shown, all_labels = first[names[0][0]], torch.cat([labels[name] for name, _ in names])

        def read(count: int, part: int = part, shown: Tensor = shown) -> Tensor:
            return shown[:count] if count <= len(shown) else decode()[part].pixels[:count]

        splits.append(Split(FirstImages(len(all_labels), IMAGE_SIZE, read), all_labels))
    sample = first[dataset_class.train_list[0][0]]
    return UndecodedSplits(splits[0], splits[1], Split(sample, splits[0].labels[: len(sample)]))


def _require_published(variant: Cifar, name: str, content: bytes, prefetch: str) -> None:
    """Raise DataError unless the content of a batch has the published MD5."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _md5_of_batches(variant)[name]:
        raise DataError(f"{variant.batches}/{name}: changed while it was read; delete it and run: {prefetch}")


def _unpickled(variant: Cifar, name: str, content: bytes, prefetch: str) -> Any:
    """Return a batch. Its MD5 is compared again, because a file could change between two reads."""
    _require_published(variant, name, content, prefetch)
    return pickle.loads(content, encoding="latin1")  # noqa: S301 - MD5 is compared


def _images_of(planes: np.ndarray) -> Tensor:
    """Return uint8 [N, 3, 32, 32], channels-last strides."""
    images = torch.from_numpy(planes).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
    return images.contiguous(memory_format=torch.channels_last)
