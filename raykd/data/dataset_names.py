"""The values of `data.name` and the folders that they stand for.

    cifar10   cifar100   cifar100-coarse   digits      see cifar.py and digits.py
    imagenet   tiny_imagenet                           see imagenet.py and tiny_imagenet.py
    folder:PLACE                                       one folder of images per class, see image_folder.py
    parquet:PLACE                                      Parquet in the Hub's layout, see parquet_folder.py
    webdataset:PLACE                                   tar files of images and labels, see webdataset.py
    packed:PLACE                                       a pack, which `raykd pack` has written, see pack.py

PLACE is a folder below the data folder (--data-dir, RAYKD_DATA), or an absolute path. Packs are in packed/ there.
"""

from collections.abc import Mapping
from pathlib import Path

from raykd.disk.lookup import is_folder
from raykd.errors import ConfigError, DataError, did_you_mean

FOLDERS = {"imagenet": ("imagenet", "imagenet-1k", "ILSVRC2012"), "tiny_imagenet": ("tiny-imagenet-200",)}
CIFAR = ("cifar10", "cifar100", "cifar100-coarse")
BUILT_IN = (*CIFAR, "digits", *FOLDERS)
CUSTOM_KINDS = ("folder", "parquet", "webdataset", "packed")
PACKED_FOLDER = "packed"


def find_folder(option: str | None, environ: Mapping[str, str]) -> Path:
    """Return the data folder: --data-dir, else RAYKD_DATA, else ./data. It is not required to exist."""
    return Path(option or environ.get("RAYKD_DATA") or "data").expanduser()


def require_known(name: str) -> None:
    """Raise ConfigError, listing the known names, unless `name` is the name of a data set."""
    kind, colon, place = name.partition(":")
    if name in BUILT_IN or (kind in CUSTOM_KINDS and place.strip("/ ")):
        return
    if kind in CUSTOM_KINDS:
        raise ConfigError(f"dataset name '{name}' names no folder: give {kind}:PLACE, such as {kind}:flowers")
    nearest = did_you_mean(kind, CUSTOM_KINDS) if colon else did_you_mean(name, BUILT_IN, numbered=True)
    *others, last = (*BUILT_IN, *(f"{kind}:PLACE" for kind in CUSTOM_KINDS))
    raise ConfigError(f"unknown dataset name '{name}': raykd has {', '.join(others)} and {last}{nearest}")


def is_cifar(name: str) -> bool:
    return name in CIFAR


def is_packable(name: str) -> bool:
    """Return whether the images of `name` can be read from disk in each step. Those of the small sets cannot."""
    return name != "digits" and not is_cifar(name)


def is_user_provided(name: str) -> bool:
    """Return whether raykd does not download the images of `name`, but reads them from a folder of the user."""
    return name in FOLDERS or kind_of(name) in CUSTOM_KINDS


def kind_of(name: str) -> str:
    """Return 'folder' for 'folder:flowers', and a built-in name as it is.

    The kind is fingerprinted instead of the name: a result depends on the data's bytes, not on where they lie.
    """
    return name.partition(":")[0]


def without_path(name: str) -> str:
    """Return `name` for publication: 'folder:flowers' for 'folder:/mine/flowers', the kind if no name is left."""
    kind, _, place = name.partition(":")
    last = Path(place).name
    return f"{kind}:{last}" if last and last != ".." and not last.startswith("~") else kind


def plain_name(name: str) -> str:
    """Return `name` as the name of a folder: 'flowers' for 'folder:/mine/flowers', and a built-in name as it is."""
    return without_path(name).rpartition(":")[2]


def folder_of(name: str, data_folder: Path | None) -> Path:
    """Return the folder that holds the images of `name`. For CIFAR and digits it is the data folder itself.

    If a data set has several folder names, return the first folder that exists, else the first one.

    Raises DataError if that depends on the data folder and `data_folder` is None.
    """
    place = Path(name.partition(":")[2]).expanduser()
    if place.is_absolute():
        return place
    if data_folder is None:
        raise DataError(f"{name} is read from a folder: give --data-dir, or set RAYKD_DATA")
    if name in FOLDERS:
        places = [data_folder / folder for folder in FOLDERS[name]]
        return next((folder for folder in places if is_folder(folder)), places[0])
    return (data_folder / PACKED_FOLDER if kind_of(name) == "packed" else data_folder) / place
