"""What the type of a configuration's field admits: bool, int, float, str, Literal, tuples, mappings, unions.

A limit is part of the type: `epochs: Annotated[int, AtMost(100_000)]`. Numbers without one are held to MAX_INT, and to
a magnitude of MIN_FLOAT to MAX_FLOAT or 0, so that their squares are neither infinite nor 0 in float32.
"""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated, Any, Literal, Union, get_args, get_origin

MAX_INT = 2**53  # above, JSON readers and float64 lose digits
MIN_FLOAT, MAX_FLOAT = 1e-12, 1e12
MAX_TEXT = 4096  # characters; the longest path that Linux opens


@dataclass(frozen=True)
class AtMost:
    """The limit of a field: of each number in it, or of the characters of a text."""

    value: int


@dataclass(frozen=True)
class MaxLength:
    """The limit of how many values a field of type tuple has."""

    value: int


Seed = Annotated[int, AtMost(2**32 - 1)]  # what every library's random generator takes
Seeds = Annotated[tuple[Seed, ...], MaxLength(1000)]


def out_of_bounds(value: Any, hint: Any) -> str:
    """What is required of a value of type `hint` that is beyond the field's limits; '' for one within them.

    hint: with its Annotated parts, as get_type_hints(include_extras=True) returns it.
    """
    limits = list(_limits(hint))
    most = next((limit.value for limit in limits if isinstance(limit, AtMost)), None)
    length = next((limit.value for limit in limits if isinstance(limit, MaxLength)), None)
    if length is not None and isinstance(value, tuple) and len(value) > length:
        return f"must be at most {length:,} values"
    found = (_beyond(item, most) for item in (value if isinstance(value, tuple) else (value,)))
    return next((required for required in found if required), "")


def _limits(hint: Any) -> Iterator[AtMost | MaxLength]:
    """Every limit in the metadata of `hint` or of the types within it."""
    if get_origin(hint) is Annotated:
        yield from (item for item in hint.__metadata__ if isinstance(item, AtMost | MaxLength))
    if get_origin(hint) in (Annotated, Union, types.UnionType, tuple):
        for inner in get_args(hint):
            yield from _limits(inner)


def _beyond(value: Any, most: int | None) -> str:
    if isinstance(value, str):
        limit = MAX_TEXT if most is None else most
        return f"must have at most {limit:,} characters" if len(value) > limit else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    limit = most if most is not None else MAX_INT if isinstance(value, int) else MAX_FLOAT
    if abs(value) > limit:
        largest = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
        return f"must be at most {largest}" if value > 0 else f"must be at least -{largest}"
    tiny = isinstance(value, float) and 0 < abs(value) < MIN_FLOAT
    return f"must be 0, or at least {MIN_FLOAT:g} away from it" if tiny else ""


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one. `hint` has no Annotated parts, here and below."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def tidy(value: Any, hint: Any) -> Any:
    """Lists become tuples, whole numbers floats where the type says so, and -0.0 becomes 0.0; nothing else changes."""
    options = options_of(hint)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, tuple | list):
            return tuple(tidy(item, get_args(option)[0]) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and float in options and int not in options:
        return _as_float(value)
    return value + 0.0 if isinstance(value, float) and float in options else value  # -0.0 becomes 0.0


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is one of type `hint`, NaN and infinity left out."""
    for option in options_of(hint):
        origin = get_origin(option)
        if origin is Literal and value in get_args(option):
            return True
        if origin is tuple and isinstance(value, tuple) and all(fits(item, get_args(option)[0]) for item in value):
            return True
        if origin is Mapping and isinstance(value, Mapping):
            name, item = get_args(option)
            return all(fits(key, name) and fits(value[key], item) for key in value)
        is_one = origin is None and isinstance(option, type) and isinstance(value, option)
        if is_one and (option not in (int, float) or _is_number(value)):
            return True
    return False


def _is_number(value: Any) -> bool:
    """true is none, and neither are NaN and infinity: JSON, and so a fingerprint, has no word for them."""
    return not isinstance(value, bool) and (isinstance(value, int) or isfinite(value))


def describe(hint: Any) -> str:
    """A type in words: 'a whole number', 'one of mse, cosine', 'a number or none'."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}

    def one(option: Any) -> str:
        if get_origin(option) is Literal:
            return f"one of {', '.join(map(str, get_args(option)))}"
        if get_origin(option) is tuple:
            return f"values separated by commas, each {describe(get_args(option)[0])}"
        if get_origin(option) is Mapping:
            return f"names with a {get_args(option)[1].title().lower()} each"
        return words.get(option) or getattr(option, "__name__", str(option))

    return " or ".join(one(option) for option in options_of(hint))
