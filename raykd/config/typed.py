"""Typed, frozen configuration objects: checked fields, conversion to and from JSON, and a fingerprint.

    to_dict(experiment), from_dict(Method, payload)     to JSON and back
    fingerprint(payload)                                64 hex digits, equal only for equal payloads

A `Config` is a frozen dataclass. Whenever one is created, it checks the types and limits of its fields, and then
calls its `check()`: no invalid object exists. The training loop must run where only torch is installed, so these are
plain dataclasses and not pydantic models. spec/overrides.py sets fields by dotted path.

Types of fields: bool, int, float, str, Literal, tuple[T, ...], Mapping[str, T], another Config, and unions of these.
Limits are part of the type, see limits.py.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import Field, dataclass, field, fields
from functools import cache
from math import inf, isfinite
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from raykd.config.limits import limits_of, options_of
from raykd.errors import ConfigError, did_you_mean, shown

_NOT_FINGERPRINTED = "excluded from fingerprints"  # keys of a field's metadata
_SKIPPED_DEFAULT = "excluded from fingerprints at its default"
LOOK_UP = "function from a name to its Config"
_Value = TypeVar("_Value")
_suspends_checks: ContextVar[bool] = ContextVar("_suspends_checks", default=False)


def not_fingerprinted(default: Any) -> Any:
    """A field that does not affect the result (paths, resources). It is excluded from the run's fingerprint."""
    return field(default=default, metadata={_NOT_FINGERPRINTED: True})


def skip_if_default(default: Any) -> Any:
    """A field that is excluded from the fingerprint while it has its default value.

    Adding such a field keeps existing fingerprints.
    """
    return field(default=default, metadata={_SKIPPED_DEFAULT: True})


def by_name(default: Any, look_up: Callable[[Any], Any], affects_result: bool = True) -> Any:
    """A field that accepts a Config or its name; or a name that stands for other text.

    `look_up` returns the value for the name, and any other value unchanged. affects_result: see `not_fingerprinted`.
    """
    return field(default=default, metadata={LOOK_UP: look_up, _NOT_FINGERPRINTED: not affects_result})


@cache
def type_hints(cls: type, include_limits: bool = False) -> dict[str, Any]:
    """Return the type of each field of a dataclass; include_limits: with the Annotated parts."""
    return get_type_hints(cls, include_extras=include_limits)


if TYPE_CHECKING:
    _NamesChecked = type  # so that type checkers see the __init__ of the dataclass
else:

    class _NamesChecked(type):
        """Raise ConfigError instead of TypeError for an unknown field: the mistake is the user's."""

        def __call__(cls, *values, **named):
            known = [item.name for item in fields(cls)]
            for name in named:
                if name not in known:
                    if why := cls.why_no_field(name):
                        raise ConfigError(f"{name} is no field of {cls.title()}: {why}")
                    fields_text = f"{cls.title()} has {', '.join(known)}"
                    raise ConfigError(f"unknown field '{name}': {fields_text}{did_you_mean(name, known)}")
            return super().__call__(*values, **named)


@contextmanager
def without_checks() -> Iterator[None]:
    """Create objects in the block without `check`, to set further fields by `replace`, which then checks all."""
    token = _suspends_checks.set(True)
    try:
        yield
    finally:
        _suspends_checks.reset(token)


@dataclass(frozen=True)
class Config(metaclass=_NamesChecked):
    """Base of everything that a user configures. Subclasses are frozen dataclasses; `kind` names them in JSON."""

    kind: ClassVar[str] = "config"

    def __post_init__(self) -> None:
        hints, limits = type_hints(type(self)), limits_of(type(self))
        for item in fields(self):
            value = converted(getattr(self, item.name), hints[item.name])
            if look_up := item.metadata.get(LOOK_UP):
                value = look_up(value)
            object.__setattr__(self, item.name, value)
            if not has_type(value, hints[item.name]):
                is_finite = not isinstance(value, float) or isfinite(value)
                type_text = describe(hints[item.name]) + _tuple_of_one(value, hints[item.name])
                self._refuse(item.name, f"must be {type_text}" if is_finite else "must be a finite number")
            if requirement := limits[item.name].exceeded_by(value):
                self._refuse(item.name, requirement)
        if not _suspends_checks.get():
            self.check()

    def check(self) -> None:
        """Raise ConfigError if a value, or a combination of values, cannot work."""

    @classmethod
    def why_no_field(cls, name: str) -> str:
        """Return the remedy for a name that users set as if it were a field; '' for any other name."""
        return ""

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Return the entries for `to_dict`. Subclasses may add entries, or hide those that do not affect results."""
        names = [item.name for item in fields(self) if not (results_only and self._is_hidden(item))]
        return {"kind": self.kind} | {name: to_dict(getattr(self, name), results_only) for name in names}

    def _is_hidden(self, item: Field[Any]) -> bool:
        """Return whether the fingerprint excludes a field."""
        is_default = item.metadata.get(_SKIPPED_DEFAULT) and getattr(self, item.name) == item.default
        return bool(is_default or item.metadata.get(_NOT_FINGERPRINTED))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the default instance of the subclass whose kind or class name is `text`, for `--set method=kd`."""
        known = kinds(cls)
        if [*known] == [cls.kind]:  # the one class needs no name, and its defaults would discard what was set before
            names = ", ".join(item.name for item in fields(cls))
            raise ConfigError(
                f"'{text}' cannot stand for {cls.title()}, which has the fields {names}; set these instead"
            )
        by_class_name = {member.__name__.lower(): member for member in known.values()}
        member = known.get(text.lower()) or by_class_name.get(text.lower())
        if member is None:
            raise ConfigError(
                f"unknown {cls.__name__.lower()} '{text}': known are {', '.join(known)}{did_you_mean(text, known)}"
            )
        return member()

    @classmethod
    def unpacked(cls, payload: Mapping[str, Any]) -> "tuple[type[Config], Mapping[str, Any]]":
        """Return the class and the fields that an entry of this kind stands for."""
        return cls, payload

    @classmethod
    def title(cls) -> str:
        """Return the class's name in messages."""
        return cls.__name__

    def require(self, is_valid: bool, name: str, requirement: str) -> None:
        """Raise ConfigError 'NAME = VALUE in CLASS: REQUIREMENT' unless `is_valid`."""
        if not is_valid:
            self._refuse(name, requirement)

    def _refuse(self, name: str, requirement: str) -> NoReturn:
        raise ConfigError(f"{name} = {shown(getattr(self, name))} in {self.title()}: {requirement}")


def kinds(base: type[Config]) -> dict[str, type[Any]]:
    """Return every concrete class at or below `base` by its kind. If two share a kind, the earlier (built-in) wins."""
    by_kind = {base.kind: base} if base.kind != "config" else {}
    for child in base.__subclasses__():
        by_kind = kinds(child) | by_kind
    return by_kind


class FrozenDict(dict[str, _Value]):
    """A dict that refuses changes and has a hash, for fields that map names to plain values."""

    def __hash__(self) -> int:  # type: ignore[override] - a dict has none
        return hash(frozenset(self.items()))

    def __reduce_ex__(self, protocol: Any) -> Any:  # pickle and deepcopy would set one item after another
        return type(self), (dict(self),)

    if not TYPE_CHECKING:

        def _refuse(self, *values: Any, **named: Any) -> NoReturn:
            raise TypeError("a FrozenDict cannot be changed; create another one")

        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse


# ---- JSON ----


def to_dict(value: Any, results_only: bool = False) -> Any:
    """Return the JSON-ready form of `value`. results_only: without the fields that are `not_fingerprinted`."""
    if isinstance(value, Config):
        return value.stored(results_only)
    if isinstance(value, tuple | list):
        return [to_dict(item, results_only) for item in value]
    if isinstance(value, Mapping):
        return {name: to_dict(item, results_only) for name, item in value.items()}
    return value


def from_dict(base: type[Any], payload: Mapping[str, Any]) -> Any:
    """Return the Config that `to_dict` wrote. Raises ConfigError for a kind or field unknown to this version.

    It looks up no names: `to_dict` writes none in place of a Config, and a name such as 'net.py:Net' would execute the
    file that a stranger's JSON names.
    """
    known = kinds(base)
    cls = known.get(payload.get("kind", ""))
    if cls is None:
        raise ConfigError(f"kind {payload.get('kind')!r} is not one of {', '.join(known)}: written by another version?")
    cls, payload = cls.unpacked(payload)
    hints, names = type_hints(cls), {item.name for item in fields(cls)}
    if unknown := set(payload) - names - {"kind"}:
        raise ConfigError(f"{cls.title()} has no field {', '.join(sorted(unknown))}: written by another version?")
    values = {name: _from_value(payload[name], hints[name]) for name in names & set(payload)}
    for item in fields(cls):
        if item.metadata.get(LOOK_UP) and _names_a_config(values.get(item.name), hints[item.name]):
            raise ConfigError(
                f"{item.name} = {shown(values[item.name])} in {cls.title()}: must be an object, not a name"
            )
    return cls(**values)


def _names_a_config(value: Any, hint: Any) -> bool:
    """Return whether `value` is or has a text, where a field of this type has objects of a Config."""
    types_of_items = [item for option in options_of(hint) for item in (option, *get_args(option))]
    has_configs = any(isinstance(item, type) and issubclass(item, Config) for item in types_of_items)
    return has_configs and any(isinstance(item, str) for item in (value if isinstance(value, list) else [value]))


def _from_value(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Mapping:
        return {name: _from_value(item, get_args(hint)[1]) for name, item in value.items()}
    if isinstance(value, list):
        item_hint = next((get_args(option)[0] for option in options_of(hint) if get_origin(option) is tuple), None)
        return [_from_value(item, item_hint) for item in value]
    if isinstance(value, Mapping):
        bases = [option for option in options_of(hint) if isinstance(option, type) and issubclass(option, Config)]
        base = next((option for option in bases if value.get("kind") in kinds(option)), bases[0])
        return from_dict(base, value)
    return value


def dotted(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for each value of nested mappings. An empty mapping counts as a value."""
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def fingerprint(payload: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `payload`: sorted keys, shortest floats, no spaces."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# ---- Types of fields. `hint` has no Annotated parts. ----


def converted(value: Any, hint: Any) -> Any:
    """Return `value` with lists as tuples, integers as floats where the type is float, and 0.0 for -0.0."""
    options = options_of(hint)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, tuple | list):
            return tuple(converted(item, get_args(option)[0]) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and float in options and int not in options:
        try:
            return float(value)
        except OverflowError:
            return inf if value > 0 else -inf
    return value + 0.0 if isinstance(value, float) and float in options else value  # -0.0 becomes 0.0


def has_type(value: Any, hint: Any) -> bool:
    """Return whether `value` has the type `hint`. NaN and infinity have none, because JSON does not have them."""
    for option in options_of(hint):
        origin = get_origin(option)
        if origin is Literal and value in get_args(option):
            return True
        if origin is tuple and isinstance(value, tuple) and all(has_type(item, get_args(option)[0]) for item in value):
            return True
        if origin is Mapping and isinstance(value, Mapping):
            name_hint, item_hint = get_args(option)
            return all(has_type(name, name_hint) and has_type(item, item_hint) for name, item in value.items())
        is_instance = origin is None and isinstance(option, type) and isinstance(value, option)
        if is_instance and (option not in (int, float) or _is_finite_number(value)):
            return True
    return False


def _is_finite_number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or isfinite(value))


def _tuple_of_one(value: Any, hint: Any) -> str:
    """Return how to write a number as the only value of a tuple field, for messages; '' for other values or fields."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    has_tuple = any(get_origin(option) is tuple for option in options_of(hint))
    return f"; write ({value!r},) for a single one" if is_number and has_tuple else ""


def describe(hint: Any) -> str:
    """Return the text of a type in messages: 'an integer', 'one of mse, cosine', 'a number or none'."""
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "none"}

    def describe_option(option: Any) -> str:
        if get_origin(option) is Literal:
            return f"one of {', '.join(map(str, get_args(option)))}"
        if get_origin(option) is tuple:
            return f"values separated by commas, each {describe(get_args(option)[0])}"
        if get_origin(option) is Mapping:
            return f"a mapping of names to {get_args(option)[1].title()}"
        return names.get(option) or getattr(option, "__name__", str(option))

    return " or ".join(describe_option(option) for option in options_of(hint))
