"""The folders of a command, and the data sets in them, which a process loads once each.

Trials import this module. It is separate so that they need not wait for the imports of run_experiments.
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
    """The folders and stages of a command. data_folder: see `--data-dir`. loaders: see `Workers.loaders`."""

    results: Path
    data_folder: Path
    stages: tuple[Stage, ...] = STAGES
    loaders: int | None = None

    @property
    def weights_folder(self) -> Path:
        """The folder of the pretrained weights that `prefetch` downloads."""
        return self.data_folder / "weights"

    @property
    def decoded(self) -> Path:
        """The folder of decoded images, kept between commands."""
        return self.results / ".data"


def dataset_of(data: Data, options: Options) -> Dataset:
    """Return the data set of `data`, loaded once per process: `load_dataset` with the folders of `options`.

    Decoded images are read from `options.decoded`, and kept there if the folder exists: it is created only after all
    checks of an experiment.
    """
    return _load_once(data.name, options.data_folder, data.image_size, options.decoded)


@cache
def _load_once(name: str, folder: Path, image_size: int | None, decoded: Path) -> Dataset:
    """Load the images, which depend on these fields of `Data` only."""
    return load_dataset(name, folder, image_size, cache=decoded if decoded.is_dir() else None)
