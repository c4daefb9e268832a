"""Typed, frozen configuration: checked fields, JSON and back, a fingerprint. Overrides by path: see overrides.py.

    to_dict(experiment), from_dict(Method, payload) to JSON and back
    fingerprint(payload)                            64 hex digits; equal only for equal payloads

A `Config` is a frozen dataclass. Its fields are type-checked when it is made and then by its own `check`, so
a wrong value never travels. Plain dataclasses rather than pydantic: the loop must run where only torch is.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, get_args, get_origin, get_type_hints

from raykd.errors import ConfigError, did_you_mean
from raykd.field_types import describe, fits, options_of, out_of_bounds, tidy
from raykd.messages import shown

_LEFT_OUT = "of values that decide no result"
FIND = "finds the object that a name stands for"


def place(default: Any) -> Any:
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
    """JSON-ready form. `results_only`: what decides the result, so no `place`."""
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
