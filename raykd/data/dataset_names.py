"""The values of `data.name` and the folders that they stand for.

    cifar10   cifar100   cifar100-coarse   digits      see cifar.py and digits.py
    folder:PLACE                                       one folder of images per class, see image_folder.py
    parquet:PLACE                                      Parquet in the hub's layout, see parquet_folder.py

PLACE is a folder below the data folder (--data-dir, RAYKD_DATA), or an absolute path.
"""

from pathlib import Path

from raykd.errors import ConfigError, DataError, did_you_mean

BUILT_IN = ("cifar10", "cifar100", "cifar100-coarse", "digits")
CUSTOM_KINDS = ("folder", "parquet")


def require_known(name: str) -> None:
    """Raise ConfigError, listing the known names, unless `name` is the name of a data set."""
    kind, colon, place = name.partition(":")
    if name in BUILT_IN or (kind in CUSTOM_KINDS and place.strip("/ ")):
        return
    if kind in CUSTOM_KINDS:
        raise ConfigError(f"dataset name '{name}' names no folder: give {kind}:PLACE, such as {kind}:flowers")
    nearest = did_you_mean(kind, CUSTOM_KINDS) if colon else did_you_mean(name, BUILT_IN, numbered=True)
    raise ConfigError(
        f"unknown dataset name '{name}': raykd has {', '.join(BUILT_IN)}, folder:PLACE and parquet:PLACE{nearest}"
    )


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


def folder_of(name: str, data_folder: Path | None) -> Path:
    """Return the folder that holds the images of `name`; for built-in names, the data folder itself.

    Raises: DataError if that depends on the data folder and `data_folder` is None.
    """
    place = Path(name.partition(":")[2]).expanduser()
    if place.is_absolute():
        return place
    if data_folder is None:
        raise DataError(f"{name} is read from a folder: give --data-dir, or set RAYKD_DATA")
    return data_folder / place
