"""Tiny ImageNet: 100,000 training and 10,000 validation images of 64x64 pixels and 200 classes, as published.

Le and Yang 2015, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N; http://cs231n.stanford.edu/
tiny-imagenet-200.zip unpacks to the folder tiny-imagenet-200/ of the data folder:

    train/<wnid>/images/<wnid>_0.JPEG ...     500 images of each class; boxes are not read
    val/images/val_0.JPEG ...                 and val/val_annotations.txt: file, wnid and box, tab-separated
    words.txt                                 wnid and names of a synset, tab-separated: the names of the classes

The labels of test/ are not published, so the validation split is the test split. Classes are numbered by their sorted
wnids. A val/ that was sorted into folders of classes is read too.
"""

from collections.abc import Sequence
from pathlib import Path

from raykd.data import image_folder
from raykd.data.image_folder import FolderSource, LabeledFiles
from raykd.data.regular_files import FileVersion, list_folder, require_regular_file
from raykd.disk.lookup import is_file, is_folder, is_there
from raykd.errors import DataError, plural

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_ANNOTATIONS, _WORDS, _IMAGES = "val_annotations.txt", "words.txt", "images"
_NOTE = "'val' is the test split, because the labels of 'test' are not published"


def exists(place: Path) -> bool:
    """Return whether `place` looks like this layout. `find` then checks the files."""
    return is_folder(place / "train") and is_folder(place / "val")


def find(place: Path) -> FolderSource:
    """List the images below `place`. Raises DataError, with the file and the remedy, if something is missing."""
    if not is_folder(place):
        raise DataError(f"{place}: no such folder; download {URL} and unpack it there")
    for name in ("train", "val", _WORDS):
        if not is_there(place / name):
            raise DataError(f"{place}: has no {name}; download {URL} again and unpack it there")
    folders = image_folder.class_folders(place / "train")
    wnids = tuple(sorted(folders))
    if len(wnids) < 2:
        raise DataError(f"{place / 'train'}: has {plural(len(wnids), 'folder')} of classes; at least two are required")
    files = [image_folder.list_class(_images_of(folders[wnid])) for wnid in wnids]
    labels = [label for label, class_files in enumerate(files) for _ in class_files]
    train = LabeledFiles(tuple(file for class_files in files for file in class_files), tuple(labels))
    test = _list_val(place / "val", wnids)
    return FolderSource("folder", place, _class_names(place / _WORDS, wnids), (_NOTE,), None, train, test)


def _images_of(folder: Path) -> Path:
    return folder / _IMAGES if is_folder(folder / _IMAGES) else folder


def _list_val(val: Path, wnids: Sequence[str]) -> LabeledFiles:
    """Return the images of the validation split by class, and in the order of their names in each class."""
    by_label: list[list[FileVersion]] = [[] for _ in wnids]
    if is_file(val / _ANNOTATIONS):
        for name, label in _read_annotations(val / _ANNOTATIONS, wnids).items():
            by_label[label].append(require_regular_file(val / _IMAGES / name))
        listed = {file.path.name for files in by_label for file in files}
        if unlisted := [entry for entry in list_folder(val / _IMAGES) if entry.name not in listed]:
            raise DataError(f"{unlisted[0]}: is not in {_ANNOTATIONS}, so it has no label; remove it, or add its line")
    else:
        for wnid, folder in image_folder.class_folders(val).items():
            if wnid not in wnids:
                raise DataError(f"{folder}: a class that train lacks, and there is no {_ANNOTATIONS}; unpack it again")
            by_label[wnids.index(wnid)] = image_folder.list_class(_images_of(folder))
    files = [sorted(class_files, key=lambda file: file.path.name) for class_files in by_label]
    labels = [label for label, class_files in enumerate(files) for _ in class_files]
    if not labels:
        raise DataError(f"{val}: has no images; download {URL} again and unpack it there")
    return LabeledFiles(tuple(file for class_files in files for file in class_files), tuple(labels))


def _read_annotations(path: Path, wnids: Sequence[str]) -> dict[str, int]:
    """Return the label of each validation image by the name of its file."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    for number, fields in enumerate(_read_lines(path), 1):
        if len(fields) < 2 or fields[1] not in label_of or "/" in fields[0]:
            raise DataError(f"{path}: line {number} must have a file name and a wnid of train; download {URL} again")
        labels[fields[0]] = label_of[fields[1]]
    return labels


def _class_names(path: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes; a wnid that words.txt lacks, or a repeated name, stands for itself."""
    names = {fields[0]: fields[1] for fields in _read_lines(path) if len(fields) > 1}
    found = [names.get(wnid, wnid) for wnid in wnids]
    return tuple(name if found.count(name) == 1 else wnid for name, wnid in zip(found, wnids, strict=True))


def _read_lines(path: Path) -> list[list[str]]:
    """Return the tab-separated fields of each line."""
    try:
        return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); download {URL} again and unpack it there") from error
