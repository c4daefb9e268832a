"""Published accuracies of distillation on CIFAR-100, for 13 pairs of networks, to show beside those of the report.

published_cifar100.json has the numbers, the hyperparameters of the methods, and the sources of both. Methods are named
by their kinds here, such as 'fitnets'; a few that raykd does not have are in the file too. Imports no torch: the report
reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

_PUBLISHED = "published numbers are test accuracies of the last or best epoch after training on all 50,000 images"


@dataclass(frozen=True)
class PublishedPair:
    """A pair 'resnet32x4:resnet8x4' by its published names, raykd's names of both networks, and the accuracies.

    top1: test top-1 in percent, by method, 'teacher' and 'baseline'. settings: the hyperparameters of these results, by
    method and field, without unpublished ones. pair_settings: those that the authors set for this pair alone, such as
    DKD's beta.
    """

    name: str
    teacher_model: str
    student_model: str
    top1: Mapping[str, float]
    settings: Mapping[str, Mapping[str, float]]
    pair_settings: Mapping[str, Mapping[str, float]]

    @property
    def family(self) -> str:
        """The name of the pair's results folder: 'resnet32x4_resnet8x4'."""
        return self.name.lower().replace(":", "_")


def protocol(has_all_images: bool, keeps_last: bool) -> str:
    """Return the sentence that compares the published protocol with that of an experiment.

    has_all_images: whether no training image is for validation. keeps_last: whether the last epoch's weights are kept.
    """
    images = "all of them" if has_all_images else "those outside the validation split"
    epoch = "the last epoch counts" if keeps_last else "the epoch with the highest validation accuracy counts"
    return f"{_PUBLISHED}; here, training has {images}, and {epoch}"


@cache
def published_pairs() -> dict[str, PublishedPair]:
    """Return all pairs by their names."""
    content = json.loads(Path(__file__).with_name("published_cifar100.json").read_text(encoding="utf-8"))
    return {name: _pair(name, content["settings"], **pair) for name, pair in content["pairs"].items()}


@cache
def fields_set_per_pair(kind: str) -> frozenset[str]:
    """Return the hyperparameters of a method that its authors set for some pair alone, such as DKD's beta."""
    return frozenset(field for pair in published_pairs().values() for field in pair.pair_settings.get(kind, {}))


def _pair(
    name: str,
    common: Mapping[str, Mapping[str, float]],
    settings: Mapping[str, Mapping[str, float | None]] = MappingProxyType({}),
    **pair: Any,
) -> PublishedPair:
    """Return a pair. common, settings: hyperparameters by method and field, of all pairs and of this one.

    A hyperparameter that is not published for this pair is None in `settings`.
    """
    every = {method: _published({**fields, **settings.get(method, {})}) for method, fields in common.items()}
    of_pair = {method: _published(fields) for method, fields in settings.items()}
    return PublishedPair(name, settings=every, pair_settings=of_pair, **pair)


def _published(fields: Mapping[str, float | None]) -> dict[str, float]:
    return {field: value for field, value in fields.items() if value is not None}
