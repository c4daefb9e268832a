"""A folder of Parquet files as a data set: the files of each split, and the classes.

The files of a split ('train', 'test', 'validation' and its short forms) are named as on the Hugging Face Hub. They are
in the folder itself, or in one folder below it, which the Hub names after the configuration (default/, plain_text/,
data/):

    train.parquet
    train-00000-of-00002.parquet ...     or with a hash: train-00000-of-00002-b42a6d1f21f14bd7.parquet
    train/0000.parquet ...               any names; numbered ones must be complete

Names are checked for completeness. Files that could be read in two ways are refused, because a wrong choice would
remain unnoticed.

The Hub's metadata of the label column names the classes; without metadata, their numbers do. If labels are text, the
classes are the sorted texts.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from math import ceil
from pathlib import Path

import numpy as np
import torch

from raykd.data import image_decoding, memory, parquet
from raykd.data.regular_files import FileVersion, list_folder, require_regular_file
from raykd.data.sources import (
    EncodedImage,
    ImageSource,
    content_identity,
    hash_files,
    identity_at_size,
    key_of,
    name_with_index,
    notes_on_shared_files,
    split_by_size,
)
from raykd.data.splits import DATA_NAME_REMEDY, SPLIT_NAMES, TRAIN, choose_test_split
from raykd.data.types import Channels, Split, StoredDataset
from raykd.data.undecoded import sample_of
from raykd.disk.lookup import is_folder
from raykd.errors import DataError, plural

LAYOUT = "train.parquet and test.parquet, or several files each: train-00000-of-00002.parquet"
FILE_NAMES = ("train.parquet", "train-00000-of-00002.parquet", "train/0000.parquet", "each in data/ too")
_SPLIT = "|".join(SPLIT_NAMES)
_SINGLE = re.compile(rf"({_SPLIT})\.parquet")
_SHARD = re.compile(rf"({_SPLIT})-\d+-of-\d+.*\.parquet")
_SIMILAR = re.compile(rf"({_SPLIT})[^a-z].*\.parquet", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<head>(?:.*?[-_.])?)(?P<index>\d+)(?:-of-(?P<total>\d+))?(?P<tail>[-_. ].*)?\.parquet")
_MAX_LISTED = 3  # missing files

Files = tuple[Path, ...]
Versions = tuple[FileVersion, ...]


@dataclass(frozen=True)
class ParquetUnit:
    """Consecutive row groups of one file.

    first_row: the number of their first row in the file. file: the file if first_row is 0, else None.
    """

    place: Path
    version: FileVersion
    expected: parquet.ExpectedRows
    row_groups: tuple[int, ...]
    first_row: int
    num_images: int
    num_bytes: int

    @property
    def file(self) -> Path | None:
        return None if self.first_row else self.version.path

    @property
    def key(self) -> str:
        return key_of([self.version], self.place, self.row_groups, self.expected.text_labels)

    def images(self) -> Iterator[EncodedImage]:
        yield from parquet.read_encoded(self.version.path, self.expected, self.row_groups, self.first_row)
        self.version.require_unchanged()

    def first_images(self, n: int) -> Iterator[EncodedImage]:
        """Yield the first of `n` equal parts of the images: only the pages of these rows are read."""
        rows = parquet.read_encoded(self.version.path, self.expected, self.row_groups, self.first_row, reads_few=True)
        yield from islice(rows, ceil(self.num_images / n))


@dataclass(frozen=True)
class ParquetSource(ImageSource):
    """A folder of Parquet files whose names, columns and training labels were checked."""

    train: Versions
    test: Versions
    expected: parquet.ExpectedRows

    @property
    def num_images(self) -> tuple[int, int]:
        train, test = (sum(parquet.num_rows(file.path) for file in files) for files in (self.train, self.test))
        return train, test

    def first_image(self) -> tuple[str, bytes]:
        return parquet.read_first_image(
            self.train[0].path, self.expected.label_column, self.expected.text_labels is not None
        )

    def labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        train, test = (
            torch.cat([parquet.read_label_indices(file.path, self.expected) for file in files])
            for files in (self.train, self.test)
        )
        return train, test

    def every_nth(self, n: int) -> tuple[Iterator[EncodedImage], Iterator[EncodedImage]]:
        train, test = (chain.from_iterable(unit.first_images(n) for unit in units) for units in self.units())
        return train, test

    def units(self) -> tuple[list[ParquetUnit], list[ParquetUnit]]:
        train, test = ([unit for file in files for unit in self._units_of(file)] for files in (self.train, self.test))
        return train, test

    def _units_of(self, file: FileVersion) -> Iterator[ParquetUnit]:
        parquet.num_rows(file.path)  # refuses a file without rows
        sizes, first_row = parquet.row_group_sizes(file.path), 0
        for part in split_by_size([num_bytes for _, num_bytes in sizes], [num_rows for num_rows, _ in sizes]):
            num_rows, num_bytes = (sum(column) for column in zip(*sizes[part], strict=True))
            groups = tuple(range(len(sizes))[part])
            yield ParquetUnit(self.place, file, self.expected, groups, first_row, num_rows, num_bytes)
            first_row += num_rows

    def stored_dataset(self, image_size: int | None, checks_images: bool = False) -> StoredDataset:
        train, test = ([file.path for file in files] for files in (self.train, self.test))
        target = image_decoding.target_size(image_size, self.first_image)

        def decode() -> tuple[Split, Split]:
            memory.require_memory(self.place, sum(self.num_images), target.image_size)
            return parquet.read(train, self.expected, target), parquet.read(test, self.expected, target)

        digests = [hash_files(files) for files in (self.train, self.test)]
        identity = identity_at_size(content_identity("parquet", *digests), target.image_size)
        notes = (*self.notes, *notes_on_shared_files(test, *digests))
        sample = partial(sample_of, self, target)
        return StoredDataset(identity, target.image_size, self.class_names, decode, sample, self.statistics, notes)


def find(
    place: Path, ignored: Collection[str] = (), statistics: tuple[Channels, Channels] | None = None
) -> ParquetSource:
    """Find the images below `place`. All labels of train are read, but no image.

    ignored: names of splits that are not read, such as one without labels. statistics: published mean and std.
    Raises DataError, with file and remedy, for anything that differs from the layout.
    """
    if not is_folder(place):
        raise DataError(f"{place}: no such folder; {DATA_NAME_REMEDY}, with {LAYOUT}")
    files = {split: files for split, files in find_files(place).items() if split not in ignored}
    test_name, notes = choose_test_split(place, files, LAYOUT, "Parquet of", list(files) or _list_entries(place))
    train, test = files[TRAIN], files[test_name]
    schemas = [parquet.read_schema(file) for file in (*train, *test)]
    column = parquet.find_label_column(train[0], schemas[0])
    is_text = column in schemas[0].names and parquet.is_text(schemas[0].field(column).type)
    for file, schema in zip((*train, *test), schemas, strict=True):
        parquet.require_columns(file, schema, column, is_text)
    parquet.require_same_class_names((*train, *test), schemas, column)
    names = _class_names(train, column, is_text, parquet.class_names(schemas[0], column))
    valid = f"{names[0]} to {names[-1]}" if is_text else f"0 to {len(names) - 1}"
    valid_labels = f"train's are {valid}: leave the row out, or correct its label"
    expected = parquet.ExpectedRows(len(names), valid_labels, column, names if is_text else None)
    train_versions, test_versions = (tuple(map(require_regular_file, files)) for files in (train, test))
    return ParquetSource("parquet", place, names, notes, statistics, train_versions, test_versions, expected)


def find_files(folder: Path, configurations: Collection[str] | None = None) -> dict[str, Files]:
    """Return the files of each split below `folder`, in order; {} if there are none.

    configurations: the folders below `folder` that are searched; None for all.

    Raises DataError if files are missing or redundant, or if there are several data sets to choose from.
    """
    if not is_folder(folder):
        return {}
    subfolders = [entry for entry in list_folder(folder) if is_folder(entry) and entry.name not in SPLIT_NAMES]
    places = [folder, *(entry for entry in subfolders if configurations is None or entry.name in configurations)]
    splits_by_place = {place: splits for place in places if (splits := _splits_in(place))}
    if len(splits_by_place) > 1:
        raise DataError(f"{folder}: {_describe_ambiguity(folder, splits_by_place)}")
    return next(iter(splits_by_place.values()), {})


def _describe_ambiguity(folder: Path, splits_by_place: dict[Path, dict[str, Files]]) -> str:
    """Return the end of the error for several data sets in and below `folder`, with the remedy."""
    if folder in splits_by_place:
        paths = [files[0].relative_to(folder) for splits in splits_by_place.values() for files in splits.values()]
        return f"has Parquet in several places, {', '.join(map(str, paths[:4]))}; keep those of one place"
    names = [place.name for place in splits_by_place]
    remedy = f"keep one, or name it as part of the place: data.name=parquet:PLACE/{names[0]}"
    return f"has {len(names)} configurations, {', '.join(names)}; {remedy}"


def _splits_in(place: Path) -> dict[str, Files]:
    """Return the files of each split that are in `place` itself."""
    layouts: dict[str, dict[str, list[Path]]] = {}
    for entry in list_folder(place):
        if match := _SINGLE.fullmatch(entry.name):
            layouts.setdefault(match[1], {}).setdefault(entry.name, []).append(entry)
        elif match := _SHARD.fullmatch(entry.name):
            layouts.setdefault(match[1], {}).setdefault(f"{match[1]}-*-of-*.parquet", []).append(entry)
        elif is_folder(entry) and entry.name in SPLIT_NAMES:
            if files := [file for file in list_folder(entry) if file.suffix == ".parquet"]:
                layouts.setdefault(entry.name, {})[f"{entry.name}/"] = files
        elif _SIMILAR.fullmatch(entry.name):
            expected = "train.parquet, train-00000-of-00002.parquet or train/0000.parquet"
            raise DataError(f"{entry}: a name that is not read; rename it ({expected}), or remove it")
    return {split: _checked_files(place, split, files) for split, files in layouts.items()}


def _checked_files(place: Path, split: str, layouts: dict[str, list[Path]]) -> Files:
    """Return the files of one split, after checking that they are complete and of one layout."""
    if len(layouts) > 1:
        raise DataError(f"{place}: has '{split}' twice, as {' and as '.join(layouts)}; keep one of them")
    (files,) = layouts.values()
    for file in files:
        require_regular_file(file)
    if len(files) > 1 or "-of-" in files[0].name or files[0].parent.name in SPLIT_NAMES:
        _require_complete(files)
    return tuple(files)


def _require_complete(files: Sequence[Path]) -> None:
    """Raise DataError unless each index occurs once, if the names have indices."""
    numbered = [match for file in files if (match := _NUMBERED.fullmatch(file.name))]
    _require_one_upload(files, numbered)
    shards = [match for match in numbered if match["total"] or not (match["head"] or match["tail"])]
    if not shards:
        return
    if len(shards) < len(files) or len({match["total"] for match in shards}) > 1:
        other = next((file.name for file in files if file.name not in {m.string for m in shards}), files[-1].name)
        raise DataError(
            f"{files[0].parent}: {other} does not follow the numbering of {shards[0].string}; keep one kind"
        )
    indices = {int(match["index"]) for match in shards}
    total = int(shards[0]["total"] or max(indices) + 1)
    if num_missing := total - len([index for index in indices if index < total]):
        missing = islice((index for index in count() if index not in indices), min(num_missing, _MAX_LISTED))
        names = ", ".join(name_with_index(shards[0], index) for index in missing)
        more = ", ..." if num_missing > _MAX_LISTED else ""
        raise DataError(
            f"{files[0]}: by its name one of {total} files, but there is no {names}{more}; copy or download them too"
        )
    if max(indices) >= total:
        extra = next(match.string for match in shards if int(match["index"]) >= total)
        raise DataError(f"{files[0].parent / extra}: is beyond the {total} files that the names promise; remove it")


def _require_one_upload(files: Sequence[Path], numbered: Iterable[re.Match[str]]) -> None:
    """Raise DataError if files are from two uploads: they differ in total or hash, or share an index."""
    uploads: dict[tuple[str, str, str], str] = {}
    names: dict[tuple[str, int], str] = {}
    for match in numbered:
        head, name = match["head"], match.string
        if match["total"]:
            uploads.setdefault((head, match["total"], match["tail"] or ""), name)
        other = names.setdefault((head, int(match["index"])), name)
        if other != name:
            raise DataError(f"{files[0].parent}: {other} and {name} are from two uploads; keep the files of one")
    if len(uploads) > 1:
        one, other, *_ = uploads.values()
        raise DataError(f"{files[0].parent}: {one} and {other} are from two uploads; keep the files of one")


def _class_names(files: Files, column: str, is_text: bool, metadata_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class names by label. Raises DataError if a label has no training image."""
    names = metadata_names
    stored = [parquet.read_labels(file, column, is_text).drop_null() for file in files]
    if is_text:
        names = tuple(sorted({text for labels in stored for text in labels.unique().to_pylist()}))
        present = set(range(len(names)))
    else:
        labels = np.unique(np.concatenate([labels.to_numpy().astype(np.int64) for labels in stored]))
        present = {label for label in labels.tolist() if label >= 0}  # `read` refuses negative labels with their row
    num_classes = len(names) if names else max(present, default=-1) + 1
    if len(present) < num_classes:
        absent = next(label for label in range(num_classes) if label not in present)
        quoted = f" ('{names[absent]}')" if names else ""
        raise DataError(
            f"{files[0]}: no training image has label {absent}{quoted}, of {num_classes} classes; "
            "number the existing classes from 0, without a gap"
        )
    if num_classes < 2:
        raise DataError(
            f"{files[0]}: its labels name {plural(num_classes, 'class', 'classes')}, and at least two are required"
        )
    if names and len(set(names)) < len(names):
        duplicate = next(name for label, name in enumerate(names) if name in names[:label])
        raise DataError(f"{files[0]}: two of its classes are called '{duplicate}'; rename one in the ClassLabel")
    return names or tuple(str(label) for label in range(num_classes))


def _list_entries(place: Path) -> list[str]:
    """Return the Parquet files at and below `place`, or all its entries if there are none."""
    files = [str(file.relative_to(place)) for file in sorted(place.rglob("*.parquet"))]
    return files or [entry.name for entry in list_folder(place)]
