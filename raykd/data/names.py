"""What `data.name` may be, and where the images of a name lie.

    cifar10   cifar100   cifar100-coarse   digits      see cifar.py and digits.py
    folder:PLACE                                       images by class, see image_folder.py
    parquet:PLACE                                      Parquet in the hub's layout, see own_parquet.py

PLACE is a folder below the data folder (--data-dir, RAYKD_DATA), or an absolute path.
"""

from pathlib import Path

from raykd.errors import ConfigError, DataError, did_you_mean

NAMES = ("cifar10", "cifar100", "cifar100-coarse", "digits")
OWN = ("folder", "parquet")


def require_known(name: str) -> None:
    """Raise ConfigError, with what there is, for a name that stands for nothing."""
    kind, colon, place = name.partition(":")
    if name in NAMES or (kind in OWN and place.strip("/ ")):
        return
    if kind in OWN:
        raise ConfigError(f"dataset name '{name}' names no folder: give {kind}:PLACE, such as {kind}:flowers")
    near = did_you_mean(kind, OWN) if colon else did_you_mean(name, NAMES, numbered=True)
    raise ConfigError(
        f"unknown dataset name '{name}': raykd has {', '.join(NAMES)}, folder:PLACE and parquet:PLACE{near}"
    )


def kind_of(name: str) -> str:
    """'folder' for 'folder:flowers': what decides a result, beside the bytes that lie there; else the name."""
    return name.partition(":")[0]


def without_path(name: str) -> str:
    """'folder:flowers' for 'folder:/mine/flowers', for others' eyes; the kind alone where PLACE ends in no name."""
    kind, _, place = name.partition(":")
    last = Path(place).name
    return f"{kind}:{last}" if last and last != ".." and not last.startswith("~") else kind


def place_of(name: str, folder: Path | None) -> Path:
    """The folder to look in for the images of `name`: of what raykd knows, the data folder itself.

    Raises DataError when that is below a data folder and none was given.
    """
    place = Path(name.partition(":")[2]).expanduser()
    if place.is_absolute():
        return place
    if folder is None:
        raise DataError(f"{name} is read from a folder: give --data-dir, or set RAYKD_DATA")
    return folder / place
