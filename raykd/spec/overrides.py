"""Set fields of a configuration by dotted path and text, for --set and for searches.

    override(experiment, "method.alpha", "0.3")
    override_all(experiment, [("method.temperature", "2"), ("method", "dkd")])      DKD at temperature 2
    override(experiment, "compare.dkd.beta", "2")                                   of DKD among several methods

Whole objects are set before the fields in them, and the last setting of a path counts. Each object is checked once,
with all its fields set. So the order of settings with different paths does not matter.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

from raykd.config import LOOK_UP, Config, describe, kinds, options_of, type_hints, without_checks
from raykd.errors import ConfigError, did_you_mean, shortened

Setting = tuple[str, Any]  # a dotted path, and a value as text or of the field's type


def override(config: Any, path: str, value: Any) -> Any:
    """Apply `override_all` to one setting."""
    return override_all(config, [(path, value)])


def override_all(config: Any, settings: Iterable[Setting]) -> Any:
    """Return a copy of `config` with each setting applied. Text is parsed by the type of its field.

    Raises ConfigError, which names the settings to blame, for an unknown field or invalid values.
    """
    last = dict(settings)
    try:
        return _changed(config, last)
    except _Unreadable as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        blamed = [path for path in last if not _fails_alike(config, last, path, str(error))] or list(last)
        named = [f"{path}={shortened(str(last[path]))}" for path in blamed if path not in str(error)]
        raise ConfigError(": ".join((*([", ".join(named)] if named else []), str(error)))) from None


class _Unreadable(ConfigError):
    """A setting is invalid on its own, and the message names it."""


class _NoValue(ConfigError):
    """A text is no value of the field's type."""


def _changed(config: Any, settings: Mapping[str, Any], above: str = "") -> Any:
    """Return a copy of `config`, whose path is `above`, with `settings` by their paths relative to it."""
    if isinstance(config, tuple):
        return _changed_members(config, settings, above)
    known = {item.name: item for item in fields(config)} if is_dataclass(config) else {}
    changes: dict[str, Any] = {}
    for name, deeper in _by_first_name(settings).items():
        if name not in known:
            if isinstance(config, Config) and (why := config.why_no_field(name)):
                raise _Unreadable(f"{above}{name} is no field of {config.title()}: {why}")
            kind = config.title() if isinstance(config, Config) else "none" if config is None else type(config).__name__
            raise _unknown(name, settings, above, kind, known)
        hint = type_hints(type(config))[name]
        look_up = known[name].metadata.get(LOOK_UP, lambda config: config)
        if name not in settings:
            value = look_up(getattr(config, name)) if deeper else getattr(config, name)
        elif deeper:
            value = _read_object(settings[name], hint, f"{above}{name}", look_up)
        else:
            value = _read(settings[name], hint, f"{above}{name}")
        if deeper and _has_entries(hint):
            value = _changed_entries(value, deeper, get_args(hint)[1], f"{above}{name}.")
        elif deeper:
            value = _changed(value, deeper, f"{above}{name}.")
        changes[name] = value
    return replace(config, **changes)  # pyright: ignore[reportArgumentType]


def _changed_members(members: tuple[Any, ...], settings: Mapping[str, Any], above: str) -> tuple[Any, ...]:
    """Return several methods or callbacks with `settings`, whose paths begin with the name of one of them.

    Other values, such as seeds, have no names, so any path is unknown.
    """
    names = member_names(members)
    for name, deeper in _by_first_name(settings).items():
        if name not in names:
            raise _unknown(name, settings, above, above[:-1], names)
        if name in settings:
            raise _Unreadable(f"config field '{above}{name}' takes no value; set its fields, or all of {above[:-1]}")
        if names.count(name) > 1:
            several = f"{above[:-1]} has {names.count(name)} of {name}; change their fields in the experiment file"
            raise _Unreadable(f"config field '{above}{name}.{next(iter(deeper))}': {several}")
        changed = _changed(members[names.index(name)], deeper, f"{above}{name}.")
        members = tuple(changed if known == name else member for known, member in zip(names, members, strict=True))
    return members


def _has_entries(hint: Any) -> bool:
    """Return whether a field of this type maps names to plain values."""
    if get_origin(hint) is not Mapping:
        return False
    return not any(isinstance(option, type) and issubclass(option, Config) for option in options_of(get_args(hint)[1]))


def _changed_entries(entries: Any, settings: Mapping[str, Any], hint: Any, above: str) -> Any:
    """Return a mapping of names to values of type `hint` with `settings`. 'none' removes a name."""
    changed = dict(entries)
    for name, value in settings.items():
        if "." in name:
            raise _unknown(name, {name: value}, above, name.partition(".")[0], ())
        changed.pop(name, None)
        if value is not None and str(value).lower() not in ("none", "null"):
            changed[name] = _read(value, _without_tuples(hint) if "," not in str(value) else hint, f"{above}{name}")
    return changed


def _without_tuples(hint: Any) -> Any:
    """Return a type whose options are those of `hint` except tuples, so that a single word is text."""
    return Union[tuple(option for option in options_of(hint) if get_origin(option) is not tuple)]  # noqa: UP007


def value_at(config: Any, path: str) -> Any:
    """Return the value at a dotted path. Raises KeyError for a name that a mapping does not have."""
    for name in path.split("."):
        config = config[name] if isinstance(config, Mapping) else getattr(config, name)
    return config


def member_names(members: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names of methods or callbacks in paths: the kind, or the class where it has no kind of its own."""
    objects = [member for member in members if isinstance(member, Config)]
    return tuple(member.kind if "kind" in vars(type(member)) else member.title() for member in objects)


def _by_first_name(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of deeper fields by the first name of their paths; {} for a name without any."""
    grouped: dict[str, dict[str, Any]] = {}
    for path, value in settings.items():
        name, dot, rest = path.partition(".")
        grouped.setdefault(name, {}).update({rest: value} if dot else {})
    return grouped


def _unknown(name: str, settings: Mapping[str, Any], above: str, owner: str, known: Iterable[str]) -> _Unreadable:
    """Return the error for the first path that begins with `name`. owner: what has only the `known` names."""
    path = name if name in settings else next(path for path in settings if path.startswith(f"{name}."))
    known_text = f"{', '.join(known) or 'no fields'}{did_you_mean(name, known)}"
    return _Unreadable(f"unknown config field '{above}{path}': {owner} has {known_text}")


def _read(value: Any, hint: Any, path: str) -> Any:
    if not isinstance(value, str):
        return value  # the Config checks its type
    try:
        return parse(value, hint)
    except ConfigError as error:
        reason = str(error)
        raise _Unreadable(reason if path in reason else f"{path}={shortened(value)}: {reason}") from None


def _read_object(value: Any, hint: Any, path: str, look_up: Callable[[Any], Any]) -> Any:
    """Return the object that a setting names. Its fields are set next, and only then need its values fit each other.

    The first attempt has all checks, so that a user's file is loaded with them.
    """
    try:
        return look_up(_read(value, hint, path))
    except ConfigError:
        with without_checks():
            return look_up(_read(value, hint, path))


def _fails_alike(config: Any, settings: Mapping[str, Any], left_out: str, message: str) -> bool:
    """Return whether the same error occurs without the setting `left_out`, which is then not to blame."""
    try:
        _changed(config, {path: value for path, value in settings.items() if path != left_out})
    except ConfigError as error:
        return str(error) == message
    return False


def parse(text: str, hint: Any) -> Any:
    """Return `text` as a value of type `hint`. A Config is read by its name, None from 'none' or 'null'."""
    options = options_of(hint)
    if _has_entries(hint):
        raise _NoValue("it has no value as a whole; set a single one by its name, such as arguments.NAME=VALUE")
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    if type(None) in options and not text:  # such as that of a shell's variable which is not set
        raise _NoValue("the value is empty; write none for no value")
    for option in options:
        if isinstance(option, type) and issubclass(option, Config):
            return _config_from_text(text, [o for o in options if isinstance(o, type) and issubclass(o, Config)])
        if (value := _scalar(text, option)) is not None:
            return value
    raise _NoValue(f"'{shortened(text)}' is not {describe(hint)}")


def _config_from_text(text: str, options: list[type[Config]]) -> Config:
    known = {kind: member for option in options for kind, member in kinds(option).items()}
    if len(options) == 1:
        return options[0].from_text(text)
    if text.lower() not in known:
        raise ConfigError(f"'{text}' is not one of {', '.join(known)}{did_you_mean(text, known)}")
    return known[text.lower()]()


def _scalar(text: str, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        item, listed = get_args(hint)[0], text.strip("()[] ").removesuffix(",")
        parts = [part.strip() for part in listed.split(",")] if listed else []
        is_config = isinstance(item, type) and issubclass(item, Config)
        try:
            return tuple(item.from_text(part) if is_config else parse(part, item) for part in parts)
        except _NoValue:
            return None
    if get_origin(hint) is Literal:
        return next((choice for choice in get_args(hint) if str(choice) == text), None)
    if hint is bool:
        return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}.get(text.lower())
    if hint in (int, float):
        try:
            return hint(text) if text.isascii() else None
        except ValueError:
            return None
    return text if hint is str else None
