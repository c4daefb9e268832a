"""The limits of fields, as parts of their types. Each range is written once, where its field is declared.

    alpha: Annotated[float, Interval("[0, 1]")] = 0.5
    temperature: Positive = 4.0
    epochs: Annotated[int, Interval(f"[1, {MAX_EPOCHS}]")] = 200
    name: Annotated[str, MaxLength(64)] = "search"

Config checks values against them (typed.py), the codec checks files (codec.py), and `raykd fields` shows them. In a
tuple they apply to each number. A subclass that repeats a field without limits keeps those of its base class.

Beyond that, every number has a magnitude of up to MAX_INT, or 0 and MIN_FLOAT to MAX_FLOAT, so that squares neither
overflow nor underflow in float32.
"""

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from functools import cache, cached_property
from math import inf
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from raykd.errors import ConfigError

MAX_INT = 2**53  # above it, float64 and many JSON readers lose digits
MIN_FLOAT, MAX_FLOAT = 1e-12, 1e12
MAX_TEXT = 4096  # characters: the longest path that Linux opens


@dataclass(frozen=True)
class Interval:
    """The numbers of a field: Interval("[0, 1)"), Interval("(0, inf)", "1 to 8 are usual").

    A square bracket includes the end, a round one excludes it. hint: why, or which values are usual, for messages.
    """

    interval: str
    hint: str = ""

    def __post_init__(self) -> None:
        _ = self.ends  # raises for another text

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval, infinite where there is none."""
        match = re.fullmatch(r"[\[(]([-+._\deinf]+), ([-+._\deinf]+)[\])]", self.interval)
        if match is None:
            raise ConfigError(f"'{self.interval}' is no interval; write Interval('[0, 1)') or Interval('(0, inf)')")
        low, high = (int(end) if re.fullmatch(r"-?[\d_]+", end) else float(end) for end in match.groups())
        return low, high

    def __contains__(self, value: float) -> bool:
        low, high = self.ends
        is_above = value >= low if self.interval.startswith("[") else value > low
        return is_above and (value <= high if self.interval.endswith("]") else value < high)

    def __str__(self) -> str:
        return f"in {self.interval}" if self.ends[1] < inf else self._low

    @property
    def _low(self) -> str:
        return f"{'at least' if self.interval.startswith('[') else 'greater than'} {self.ends[0]:,}"

    def requirement(self, value: float) -> str:
        """Return the requirement that `value` does not meet: for an integer the end that it exceeds."""
        if isinstance(value, int) and value > self.ends[0]:
            return f"must be {'at most' if self.interval.endswith(']') else 'below'} {self.ends[1]:,}"
        return f"must be {self._low}" if isinstance(value, int) or self.ends[1] == inf else f"must lie {self}"


@dataclass(frozen=True)
class MaxLength:
    """The most values of a field of type tuple, or the most characters of a text."""

    value: int


@dataclass(frozen=True)
class Tiny:
    """Allows magnitudes below MIN_FLOAT, down to `value`, for numbers that are only added to others."""

    value: float


Limit = Interval | MaxLength | Tiny
NonNegative = Annotated[float, Interval("[0, inf)")]
Positive = Annotated[float, Interval("(0, inf)")]
NonNegativeInt = Annotated[int, Interval("[0, inf)")]
PositiveInt = Annotated[int, Interval("[1, inf)")]
Seed = Annotated[int, Interval(f"[0, {2**32 - 1}]")]  # the range that every library's random generator accepts
Seeds = Annotated[tuple[Seed, ...], MaxLength(1000)]


@dataclass(frozen=True)
class Limits:
    """All limits of one field. instead: what the field accepts beside numbers, such as ', or none', for messages."""

    interval: Interval | None = None
    max_length: int | None = None
    min_magnitude: float = MIN_FLOAT
    instead: str = ""

    @classmethod
    def of(cls, hint: Any, inherited: Self) -> Self:
        """Return the limits in a type with its Annotated parts, or if it has none, the inherited ones."""
        declared: dict[type, Any] = {type(item): item for item in declared_in(hint)}
        options = options_of(get_args(hint)[0] if get_origin(hint) is Annotated else hint)
        words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
        words += ["none"] if type(None) in options else []
        instead = "".join(f", {word}" for word in words[:-1]) + "".join(f", or {word}" for word in words[-1:])
        if not declared:
            return replace(inherited, instead=instead)
        length, tiny = declared.get(MaxLength), declared.get(Tiny)
        return cls(declared.get(Interval), length and length.value, tiny.value if tiny else MIN_FLOAT, instead)

    def __str__(self) -> str:
        """Return the range for the field's description: 'greater than 0; 1 to 8 are usual', or ''."""
        return "; ".join(filter(None, (str(self.interval), self.interval.hint))) if self.interval else ""

    def exceeded_by(self, value: Any) -> str:
        """Return the requirement that `value` does not meet, such as 'must be at most 100, or none', or ''."""
        if isinstance(value, tuple):
            if self.max_length is not None and len(value) > self.max_length:
                return f"must have at most {self.max_length:,} values"
            of_item = replace(self, max_length=None, instead="")
            return next(filter(None, map(of_item.exceeded_by, value)), "")
        if isinstance(value, str):
            most = MAX_TEXT if self.max_length is None else self.max_length
            return f"must have at most {most:,} characters" if len(value) > most else ""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        if self.interval and value not in self.interval:
            hint = f"; {self.interval.hint}" if self.interval.hint else ""
            return f"{self.interval.requirement(value)}{self.instead}{hint}"
        return self._magnitude_exceeded_by(value)

    def _magnitude_exceeded_by(self, value: float) -> str:
        largest = MAX_INT if isinstance(value, int) else MAX_FLOAT
        if abs(value) > largest:
            text = f"{largest:,}" if isinstance(value, int) else f"{largest:g}"
            return f"must be at most {text}" if value > 0 else f"must be at least -{text}"
        is_tiny = isinstance(value, float) and 0 < abs(value) < self.min_magnitude
        return f"must be 0, or have a magnitude of at least {self.min_magnitude:g}" if is_tiny else ""


@cache
def limits_of(cls: type) -> dict[str, Limits]:
    """Return the limits of each field of a dataclass."""
    limits: dict[str, Limits] = {}
    for owner in reversed(cls.__mro__):
        if is_dataclass(owner):
            hints = get_type_hints(owner, include_extras=True)
            limits = {name: Limits.of(hint, limits.get(name, Limits())) for name, hint in hints.items()}
    return limits


def declared_in(hint: Any) -> Iterator[Limit]:
    """Yield every limit in the metadata of `hint` and of the types within it."""
    if isinstance(hint, Limit):
        yield hint
    elif get_origin(hint) in (Annotated, Union, types.UnionType, tuple):
        for inner in (*get_args(hint), *getattr(hint, "__metadata__", ())):
            yield from declared_in(inner)


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself in a tuple."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
