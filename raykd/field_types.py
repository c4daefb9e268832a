"""What the type of a configuration's field admits: bool, int, float, str, Literal, tuples, mappings, unions."""

import types
from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal, Union, get_args, get_origin


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def tidy(value: Any, hint: Any) -> Any:
    """Lists become tuples and whole numbers floats where the type says so; nothing else is converted."""
    options = options_of(hint)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, tuple | list):
            return tuple(tidy(item, get_args(option)[0]) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and float in options and int not in options:
        return float(value)
    return value


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
    """A type in a person's words: 'a whole number', 'one of mse, cosine', 'a number or none'."""
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
