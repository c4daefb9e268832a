"""Where a command reads and writes. Trials import it too, and would wait for what an experiment needs besides.

The images that a process trains and tests on: loaded once, however many runs, trials or parts of a logit cache it does.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.spec.experiment import Data
from raykd.spec.stages import STAGES, Stage


@dataclass(frozen=True)
class Options:
    """Where a command reads and writes. Data and weights: see `--data-dir`."""

    results: Path
    data_folder: Path
    stages: tuple[Stage, ...] = STAGES

    @property
    def weights_folder(self) -> Path:
        """Where `prefetch` leaves pretrained weights."""
        return self.data_folder / "weights"

    @property
    def decoded(self) -> Path:
        """Where decoded images are kept between commands."""
        return self.results / ".data"


def dataset_of(data: Data, options: Options) -> Dataset:
    """As `load_dataset` says, with what it raises; decoded images are kept in `options.decoded`."""
    return _loaded(data.name, options.data_folder, data.image_size, options.decoded)


@cache
def _loaded(name: str, folder: Path, image_size: int | None, decoded: Path) -> Dataset:
    """By these alone: data that differ in another field are the same images."""
    return load_dataset(name, folder, image_size, cache=decoded)
