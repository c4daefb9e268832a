"""Typed, frozen configuration: checked fields, overrides by dotted path, a fingerprint.

    override(experiment, "method.alpha", "0.3")     one field, from text, checked like any other
    to_dict(experiment), from_dict(Method, payload) to JSON and back
    fingerprint(payload)                            64 hex digits; equal only for equal payloads

A `Config` is a frozen dataclass. Its fields are type-checked when it is made and then by its own `check`, so
a wrong value never travels. Plain dataclasses rather than pydantic: the loop must run where only torch is.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from raykd.errors import ConfigError, did_you_mean
from raykd.field_types import describe, fits, options_of, tidy

_LEFT_OUT = "of values that decide no result"


def place(default: Any) -> Any:
    """A field that says where or how fast, not what: it stays out of fingerprints (a folder, a number of CPUs)."""
    return field(default=default, metadata={_LEFT_OUT: lambda value: True})


def later(default: Any) -> Any:
    """A field that came when people had trained runs: at its default, what was before, no fingerprint has it."""
    return field(default=default, metadata={_LEFT_OUT: lambda value: value == default})


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
        hints = get_type_hints(type(self))
        for item in fields(self):
            value = tidy(getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)
            if not fits(value, hints[item.name]):
                raise ConfigError(f"{item.name} = {value!r} in {self.title()}: wants {describe(hints[item.name])}")
        self.check()

    def check(self) -> None:
        """Raise ConfigError where a value, or two together, cannot work."""

    def stored(self, results_only: bool) -> dict[str, Any]:
        """As `to_dict` has it; a subclass may say more than its fields, or of a place only what decides the result."""
        named = [(item.name, getattr(self, item.name), item.metadata.get(_LEFT_OUT)) for item in fields(self)]
        kept = {name: own for name, own, left_out in named if not (results_only and left_out and left_out(own))}
        return {"kind": self.kind} | {name: to_dict(own, results_only) for name, own in kept.items()}

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The default instance of the subclass whose kind or name is `text`, for `--set method=kd`."""
        known = kinds(cls)
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
            raise ConfigError(f"{name} = {getattr(self, name)!r} in {self.title()}: {wanted}")


def kinds(base: type[Config]) -> dict[str, type[Any]]:
    """Every concrete class at or under `base` by its kind; of two with one kind the earlier, which raykd's own are."""
    found = {base.kind: base} if base.kind != "config" else {}
    for child in base.__subclasses__():
        found = kinds(child) | found
    return found


def override(config: Any, path: str, text: str) -> Any:
    """A copy of `config` with the field at dotted `path` read from `text` by its type.

    Raises ConfigError for an unknown field (nearest name suggested) or a value that does not fit.
    """
    try:
        return _override(config, path.split("."), text, path)
    except ConfigError as error:
        raise ConfigError(str(error) if path in str(error) else f"{path}={text}: {error}") from None


def _override(config: Any, names: list[str], text: str, path: str) -> Any:
    name, rest = names[0], names[1:]
    known = [item.name for item in fields(config)] if is_dataclass(config) else []
    if name not in known:
        kind = config.title() if isinstance(config, Config) else type(config).__name__
        has = f"{kind} has {', '.join(known)}" if known else f"{kind} has no fields"
        raise ConfigError(f"unknown config field '{path}': {has}{did_you_mean(name, known)}")
    hint = get_type_hints(type(config))[name]
    value = _override(getattr(config, name), rest, text, path) if rest else parse(text, hint)
    return replace(config, **{name: value})  # pyright: ignore[reportArgumentType]


def parse(text: str, hint: Any) -> Any:
    """`text` as a value of type `hint`: bool, int, float, str, Literal, tuple[T, ...], a Config by name, T | None."""
    options = options_of(hint)
    if type(None) in options and text.lower() in ("none", "null", ""):
        return None
    for option in options:
        if isinstance(option, type) and issubclass(option, Config):
            return _config_from_text(text, [o for o in options if isinstance(o, type) and issubclass(o, Config)])
        if (value := _scalar(text, option)) is not None:
            return value
    raise ConfigError(f"'{text}' is not {describe(hint)}")


def _config_from_text(text: str, options: list[type[Config]]) -> Config:
    known = {kind: member for option in options for kind, member in kinds(option).items()}
    if len(options) == 1:
        return options[0].from_text(text)
    if text.lower() not in known:
        raise ConfigError(f"'{text}' is not one of {', '.join(known)}{did_you_mean(text, known)}")
    return known[text.lower()]()


def _scalar(text: str, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        parts, item = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()], get_args(hint)[0]
        is_config = isinstance(item, type) and issubclass(item, Config)
        values = [item.from_text(part) if is_config else _scalar(part, item) for part in parts]
        return None if None in values else tuple(values)
    if get_origin(hint) is Literal:
        return next((choice for choice in get_args(hint) if str(choice) == text), None)
    if hint is bool:
        return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}.get(text.lower())
    if hint in (int, float):
        try:
            return hint(text.replace("_", ""))
        except ValueError:
            return None
    return text if hint is str else None


def to_dict(value: Any, results_only: bool = False) -> Any:
    """JSON-ready form. `results_only`: what decides the result, so no `place`, nor `later` at its default."""
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
    hints, names = get_type_hints(cls), {item.name for item in fields(cls)}
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
