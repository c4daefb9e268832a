"""The images that a process trains and tests on: loaded once, however many runs, trials or parts of a table it does."""

from functools import cache
from pathlib import Path

from raykd.data.dataset import Dataset, load
from raykd.experiment import Data
from raykd.orchestration.options import Options


def dataset_of(data: Data, options: Options) -> Dataset:
    """As `load` says, with what it raises; decoded images are kept in `options.decoded`."""
    return _loaded(data.name, options.data_folder, data.image_size, options.decoded)


@cache
def _loaded(name: str, folder: Path, image_size: int | None, decoded: Path) -> Dataset:
    """By these alone: data that differ in another field are the same images."""
    return load(name, folder, image_size, cache=decoded)
