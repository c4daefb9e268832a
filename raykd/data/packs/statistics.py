"""Mean and standard deviation of a data set on disk, as `load_dataset` computes them for the same images in memory.

A pack records the statistics of squares of at most 64 pixels. A run normalizes its images by mean and std, so a run
with images on disk would differ in its last bits from one with images in memory. The exact statistics are computed
once, by decoding all training images, and stored in the cache of decoded images:

    <cache>/statistics-<16 digits of the identity>.json
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from raykd.config.codec import read_record, write_record
from raykd.data.types import Channels, Dataset, channel_statistics, constant_channels

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatisticsRecord:
    """The file: mean and std by channel, as fractions of 255, of the data set `identity`."""

    identity: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def problem(self) -> str:
        return "" if len(self.mean) == len(self.std) == 3 else "mean and std must have three numbers each"


def with_exact_statistics(dataset: Dataset, cache: Path) -> Dataset:
    """Return `dataset`, whose images are on disk, with the mean and std of its squares at image_size.

    cache: the folder of decoded images.
    """
    path = cache / f"statistics-{dataset.identity[:16]}.json"
    record = read_record(StatisticsRecord, path)
    if record is None or record.identity != dataset.identity:
        _log.info("%s: computing the mean and standard deviation of %d images", dataset.name, len(dataset.train))
        mean, std = channel_statistics(dataset.name, dataset.train)
        record = StatisticsRecord(dataset.identity, mean, std)
        write_record(path, record)
    mean, std = _channels(record.mean), _channels(record.std)
    before = constant_channels(dataset.mean, dataset.std)
    notes = tuple(note for note in dataset.notes if note not in before)
    return replace(dataset, mean=mean, std=std, notes=(*notes, *constant_channels(mean, std)))


def _channels(values: tuple[float, ...]) -> Channels:
    red, green, blue = values
    return red, green, blue
