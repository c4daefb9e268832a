"""Every range that the description of a field states is enforced: the limit and what lies beyond it."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from typing import Any, NamedTuple

import pytest

import raykd.methods
import raykd.spec.experiment  # noqa: F401 - defines the kinds
from raykd.config import Config
from raykd.config.field_text import field_texts
from raykd.config.typed import kinds, options_of, type_hints
from raykd.errors import ConfigError
from raykd.spec.optimizers import NamedOptimizer
from raykd.spec.search import Search

NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
AT_LEAST = re.compile(rf"\b{NUMBER} or more\b|\bat least {NUMBER}\b")
ABOVE = re.compile(rf"\babove {NUMBER}\b")
INTERVAL = re.compile(rf"\bin ([\[(]){NUMBER}, {NUMBER}([\])])")
FROM_TO = re.compile(rf", {NUMBER} to {NUMBER}(?:;|$)")
TINY = 1e-3


class Limit(NamedTuple):
    """A value at the end of a field's range. is_allowed: whether the range includes it."""

    cls: type[Config]
    field: str
    value: float
    is_allowed: bool


def limits_in(text: str, number: type, step: float) -> Iterator[tuple[float, bool]]:
    """Yield values at the ends of the ranges in a description and one `step` beyond, and whether each is allowed."""
    for match in AT_LEAST.finditer(text):
        low = number(match[1] or match[2])
        yield from ((low, True), (low - step, False))
    for match in ABOVE.finditer(text):
        yield from ((number(match[1]), False), (number(match[1]) + step, True))
    intervals = [match.groups() for match in INTERVAL.finditer(text)]
    intervals += [("[", match[1], match[2], "]") for match in FROM_TO.finditer(text)]
    for opening, low, high, closing in intervals:
        yield from ((number(low), opening == "["), (number(low) - step, False))
        yield from ((number(high), closing == "]"), (number(high) + step, False))


def limits() -> Iterator[Limit]:
    """Yield the limits of all fields that are numbers, of every kind that has a default for each field."""
    for cls in kinds(Config).values():
        has_defaults = all(item.default is not MISSING or item.default_factory is not MISSING for item in fields(cls))
        # The subclasses of NamedOptimizer are made for each optimizer of torch and timm. A search requires a space.
        if cls in (NamedOptimizer, Search) or not (cls.__module__.startswith("raykd.") and has_defaults):
            continue
        texts = field_texts(cls)
        for item in fields(cls):
            options, text = options_of(type_hints(cls)[item.name]), texts.get(item.name, "")
            for number, step in ((float, TINY), (int, 1)):
                if number in options:
                    yield from (Limit(cls, item.name, *limit) for limit in limits_in(text, number, step))


LIMITS = list(limits())


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.cls.kind}.{limit.field}={limit.value:g}")
def test_the_range_in_a_fields_description_is_the_one_that_is_accepted(limit: Limit) -> None:
    change: dict[str, Any] = {limit.field: limit.value}
    if limit.is_allowed:
        replace(limit.cls(), **change)
        return
    with pytest.raises(ConfigError, match=rf"^{limit.field} = "):
        replace(limit.cls(), **change)


def test_most_numbers_of_methods_state_their_range() -> None:
    """Otherwise the test above would compare nothing."""
    assert len({(limit.cls, limit.field) for limit in LIMITS}) > 40
