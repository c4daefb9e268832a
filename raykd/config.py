"""Typed, frozen configuration: checked fields, JSON and back, a fingerprint. Overrides by path: see overrides.py.

    to_dict(experiment), from_dict(Method, payload) to JSON and back
    fingerprint(payload)                            64 hex digits; equal only for equal payloads

A `Config` is a frozen dataclass. Its fields are type-checked when it is made and then by its own `check`, so
a wrong value never travels. Plain dataclasses rather than pydantic: the loop must run where only torch is.

What the type of a configuration's field admits: bool, int, float, str, Literal, tuples, mappings, unions.

A limit is part of the type: `epochs: Annotated[int, AtMost(100_000)]`. Numbers without one are held to MAX_INT, and to
a magnitude of MIN_FLOAT to MAX_FLOAT or 0, so that their squares are neither infinite nor 0 in float32.
"""

import hashlib
import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from math import inf, isfinite
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from raykd.errors import ConfigError, did_you_mean, shown

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


_LEFT_OUT = "of values that decide no result"
FIND = "finds the object that a name stands for"


def not_fingerprinted(default: Any) -> Any:
    """A field that says where or how fast, not what: it stays out of fingerprints (a folder, a number of CPUs)."""
    return field(default=default, metadata={_LEFT_OUT: True})


def by_name(default: Any, find: Callable[[Any], Any]) -> Any:
    """A field that may be given as a name; `find` returns the Config of that name, and a Config as it is."""
    return field(default=default, metadata={FIND: find})


@cache
def type_hints(cls: type, include_limits: bool = False) -> dict[str, Any]:
    """The types of a Config's fields by name; include_limits: with their Annotated parts."""
    return get_type_hints(cls, include_extras=include_limits)


if TYPE_CHECKING:
    _NamesChecked = type  # a type checker reads the dataclass's own __init__
else:

    class _NamesChecked(type):
        """A field that a class has not is the user's mistake, and no TypeError."""

        def __call__(cls, *values, **named):
            known = [item.name for item in fields(cls)]
            for name in named:
                if name not in known:
                    has = f"{cls.title()} has {', '.join(known)}"
                    raise ConfigError(f"unknown field '{name}': {has}{did_you_mean(name, known)}")
            return super().__call__(*values, **named)


@dataclass(frozen=True)
class Config(metaclass=_NamesChecked):
    """Base of everything a person fills in. Subclasses are frozen dataclasses; `kind` names them in JSON."""

    kind: ClassVar[str] = "config"

    def __post_init__(self) -> None:
        hints, limits = type_hints(type(self)), type_hints(type(self), include_limits=True)
        for item in fields(self):
            value = tidy(getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)
            if not fits(value, hints[item.name]):
                finite = not isinstance(value, float) or isfinite(value)
                self._refuse(item.name, f"wants {describe(hints[item.name])}" if finite else "must be a finite number")
            if required := out_of_bounds(value, limits[item.name]):
                self._refuse(item.name, required)
            if find := item.metadata.get(FIND):
                object.__setattr__(self, item.name, find(value))
        self.check()

    def check(self) -> None:
        """Raise ConfigError where a value, or two together, cannot work."""

    def stored(self, results_only: bool) -> dict[str, Any]:
        """As `to_dict` has it; a subclass may say more than its fields, or of a place only what decides the result."""
        stored = [item.name for item in fields(self) if not (results_only and item.metadata.get(_LEFT_OUT))]
        return {"kind": self.kind} | {name: to_dict(getattr(self, name), results_only) for name in stored}

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The default instance of the subclass whose kind or name is `text`, for `--set method=kd`."""
        known = kinds(cls)
        if [*known] == [cls.kind]:  # a name would stand for the defaults of every field, and replace those set before
            named = ", ".join(item.name for item in fields(cls))
            raise ConfigError(
                f"'{text}' cannot stand for {cls.title()}, which has the fields {named}; set these instead"
            )
        names = {member.__name__.lower(): member for member in known.values()}
        found = known.get(text.lower()) or names.get(text.lower())
        if found is None:
            raise ConfigError(
                f"unknown {cls.__name__.lower()} '{text}': known are {', '.join(known)}{did_you_mean(text, known)}"
            )
        return found()

    @classmethod
    def title(cls) -> str:
        return cls.__name__

    def require(self, holds: bool, name: str, wanted: str) -> None:
        """One line with field, value and remedy unless `holds`."""
        if not holds:
            self._refuse(name, wanted)

    def _refuse(self, name: str, required: str) -> NoReturn:
        raise ConfigError(f"{name} = {shown(getattr(self, name))} in {self.title()}: {required}")


def kinds(base: type[Config]) -> dict[str, type[Any]]:
    """Every concrete class at or under `base` by its kind; of two with one kind the earlier, which raykd's own are."""
    found = {base.kind: base} if base.kind != "config" else {}
    for child in base.__subclasses__():
        found = kinds(child) | found
    return found


def to_dict(value: Any, results_only: bool = False) -> Any:
    """JSON-ready form. `results_only`: what decides the result, so no field that is `not_fingerprinted`."""
    if isinstance(value, Config):
        return value.stored(results_only)
    if isinstance(value, tuple | list):
        return [to_dict(item, results_only) for item in value]
    if isinstance(value, Mapping):
        return {name: to_dict(item, results_only) for name, item in value.items()}
    return value


def dotted(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested mappings by its dotted path, as `override` takes it; an empty mapping is a value."""
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def from_dict(base: type[Any], payload: Mapping[str, Any]) -> Any:
    """The inverse of `to_dict`. Raises ConfigError for a kind or a field that this version does not know."""
    known = kinds(base)
    cls = known.get(payload.get("kind", ""))
    if cls is None:
        raise ConfigError(f"kind {payload.get('kind')!r} is not one of {', '.join(known)}: written by another version?")
    hints, names = type_hints(cls), {item.name for item in fields(cls)}
    if unknown := set(payload) - names - {"kind"}:
        raise ConfigError(f"{cls.title()} has no field {', '.join(sorted(unknown))}: written by another version?")
    return cls(**{name: _from_value(payload[name], hints[name]) for name in names & set(payload)})


def _from_value(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Mapping:
        return {name: _from_value(item, get_args(hint)[1]) for name, item in value.items()}
    if isinstance(value, list):
        item = next((get_args(option)[0] for option in options_of(hint) if get_origin(option) is tuple), None)
        return [_from_value(each, item) for each in value]
    if isinstance(value, Mapping):
        bases = [option for option in options_of(hint) if isinstance(option, type) and issubclass(option, Config)]
        base = next((option for option in bases if value.get("kind") in kinds(option)), bases[0])
        return from_dict(base, value)
    return value


def fingerprint(payload: Any) -> str:
    """SHA-256 of the canonical JSON of `payload`: sorted keys, shortest floats, no spaces."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
