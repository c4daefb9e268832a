"""The scales of a search's figures: each searched field, and each metric, on an axis from 0 to 1.

Numbers are placed linearly, or by their logarithm. Values that are not all numbers are evenly spaced, in the order of
the search space.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log10
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raykd.errors import flattened
from raykd.spec.search import Choice, Integer, Space

LOG_RATIO = 20  # a list of numbers that spans a greater ratio is drawn on a log scale
MARGIN = 0.04  # of an axis, on both sides
NUMBER_LETTERS = 8  # characters of a tick's number, with space around it
CATEGORY_LETTERS = 6  # the least characters of a value that is not a number


@dataclass(frozen=True)
class Scale:
    """Places values from `low` to `high` between 0 and 1.

    listed: all values, if they are a list of numbers. categories: the texts of evenly spaced values, if they are not.
    """

    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    is_integer: bool = False
    listed: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    def position(self, value: Any) -> float:
        """Return the place of `value`, 0 to 1."""
        if self.categories:
            return (self.categories.index(str(value)) + 0.5) / len(self.categories)
        low, high, number = (log(x) if self.is_log else float(x) for x in (self.low, self.high, value))
        return (number - low) / (high - low) if high > low else 0.5

    def ticks(self, letters: int) -> list[tuple[float, str]]:
        """Return places with their texts, which fit side by side on an axis as long as `letters` characters."""
        if self.categories:
            step = ceil(len(self.categories) / max(1, letters // CATEGORY_LETTERS))
            shown = self.categories[::step]
            most = max(CATEGORY_LETTERS, letters // len(shown)) - 1
            return [(self.position(text), flattened(text, most)) for text in shown]
        most = max(2, letters // NUMBER_LETTERS)
        inside = [tick for tick in self.listed or self._round_numbers(most) if self.low <= tick <= self.high]
        numbers = inside if len(inside) > 1 else sorted({self.low, self.high})
        return _without_overlap([(self.position(number), f"{number:g}") for number in numbers], letters)

    def _round_numbers(self, most: int) -> list[float]:
        """Return at most about `most` round numbers around the scale's range."""
        if not self.is_log:
            locator = MaxNLocator(nbins=most, integer=self.is_integer, steps=[1, 2, 2.5, 5, 10])
            return [float(tick) for tick in locator.tick_values(self.low, self.high)]
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) <= most:
                return inside
        return inside[:: ceil(len(inside) / most)]


def _without_overlap(ticks: Sequence[tuple[float, str]], letters: int) -> list[tuple[float, str]]:
    """Return the ticks, in ascending order, without those whose text would overlap the one before."""
    kept = list(ticks[:1])
    for place, text in ticks[1:]:
        before, text_before = kept[-1]
        if (place - before) * letters > (len(text) + len(text_before)) / 2 + 1:
            kept.append((place, text))
    return kept


def scale_of(space: Space) -> Scale:
    """Return the scale that shows the whole search space of a field."""
    if not is_numeric(space):
        return Scale(categories=tuple(str(value) for value in space.probe_values))
    numbers = [float(value) for value in space.probe_values]
    low, high = min(numbers), max(numbers)
    is_wide = isinstance(space, Choice) and low > 0 and high > LOG_RATIO * low
    listed = tuple(sorted(numbers)) if isinstance(space, Choice) else ()
    return Scale(low, high, is_wide or getattr(space, "log", False), isinstance(space, Integer), listed)


def is_numeric(space: Space) -> bool:
    """Return whether every value of a field is a number."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in space.probe_values)


def set_scale(axes: Axes, axis: Literal["x", "y"], scale: Scale, label: str, letters: int) -> None:
    """Show `scale` on an axis as long as `letters` characters, with its label."""
    places, texts = zip(*scale.ticks(letters), strict=True)
    if axis == "x":
        axes.set_xlim(-MARGIN, 1 + MARGIN)
        axes.set_xticks(places, texts)
        axes.set_xlabel(label)
    else:
        axes.set_ylim(-MARGIN, 1 + MARGIN)
        axes.set_yticks(places, texts)
        axes.set_ylabel(label)


def wrapped(path: str, letters: int) -> str:
    """Return a field's name in lines of at most `letters` characters, broken after dots and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[._])", path):
        if lines[-1] and len(lines[-1]) + len(part) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(flattened(line, letters) for line in lines)
