"""Which datasets lie in a data folder, by the names that `data.name` takes."""

from pathlib import Path

from raykd.data import cifar, image_folder, parquet_files
from raykd.data.cifar_classes import CIFARS
from raykd.data.parts import has_both


def inventory(folder: Path) -> tuple[str, ...]:
    """Names of what is there. CIFAR is checked by its checksums; of a person's own only the layout is looked at.

    Raises: DataError when there is nothing, or a CIFAR that is damaged.
    """
    own = _own(folder)
    known = tuple(name for name in ("cifar10", "cifar100") if cifar.is_there(name, folder))
    for name in known if known or own else ("cifar10",):  # whose absence names all that was looked for
        cifar.find(name, folder)
    return known + own


def _own(folder: Path) -> tuple[str, ...]:
    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not place.is_dir() or place.name in {kind.folder for kind in CIFARS.values()}:
            continue
        if has_both(list(parquet_files.find(place))):
            found.append(f"parquet:{place.name}")
        elif image_folder.is_there(place):
            found.append(f"folder:{place.name}")
    return tuple(found)
