"""`raykd fields`: every field of an experiment that --set takes, with its type, value, default and description."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.table import Table

from raykd.config import Config, FrozenDict, kinds, limits_of, options_of, to_dict, type_hints
from raykd.config.field_text import field_texts
from raykd.errors import shortened
from raykd.methods import Method
from raykd.models import Model
from raykd.spec.experiment import Experiment
from raykd.spec.optimizers import NamedOptimizer
from raykd.spec.overrides import member_names
from raykd.spec.search import SEARCHABLE

MAX_VALUE = 40  # characters
PIPED_WIDTH = 10_000  # columns of an output that is no terminal: each field stays in one line
_NAMES = {int: "integer", float: "number", str: "text", bool: "true|false", type(None): "none"}


@dataclass(frozen=True)
class FieldLine:
    """A field that --set takes. value, default: JSON values, of an object its kind; no default: the value again."""

    field: str  # dotted path
    type: str
    value: Any
    default: Any
    searchable: bool  # whether a search can vary it
    text: str

    @property
    def value_text(self) -> str:
        """The value as --set takes it, and the default if it differs."""
        value, default = _setting(self.value), _setting(self.default)
        return shortened(value, MAX_VALUE) if value == default else f"{shortened(value, MAX_VALUE)} (default {default})"


def field_lines(experiment: Experiment, prefix: str = "") -> list[FieldLine]:
    """Return the fields of `experiment` in the order of its classes. prefix: the family and a dot, or ''."""
    return list(_lines(experiment, prefix, prefix))


def _lines(config: Config, path: str, prefix: str) -> Iterator[FieldLine]:
    """Yield the fields of `config`, whose dotted path is `path`, and of the objects in it."""
    texts, hints, limits = field_texts(type(config)), type_hints(type(config)), limits_of(type(config))
    for item in fields(config):
        name, value = f"{path}{item.name}", getattr(config, item.name)
        is_searchable = name.removeprefix(prefix).split(".")[0] in SEARCHABLE
        if type_text := _type_text(hints[item.name], value):
            default = value if item.default is MISSING else item.default
            text = texts.get(item.name) or f"argument of {config.title()}"
            text += _known_methods() if hints[item.name] is Method else ""
            if limit := str(limits[item.name]):
                limit = f"each {limit}" if get_origin(hints[item.name]) is tuple else limit
                text += f" {limit[0].upper()}{limit[1:]}." if text.endswith(".") else f"; {limit}"
            yield FieldLine(name, type_text, _json(value), _json(default), is_searchable, text)
        if isinstance(value, FrozenDict):
            yield from _entry_lines(name, value, is_searchable, texts[item.name])
        for member_path, member in _members(name, value):
            yield from _lines(member, f"{member_path}.", prefix)


def _entry_lines(path: str, entries: FrozenDict[Any], is_searchable: bool, text: str) -> Iterator[FieldLine]:
    """Yield the entries of the field at `path`, which maps names to values, and a line for all other names."""
    for name, value in entries.items():
        kind = _NAMES.get(type(value), "values,...")
        yield FieldLine(f"{path}.{name}", kind, _json(value), None, is_searchable, text)
    yield FieldLine(f"{path}.NAME", "none|integer|number|text|true|false|values,...", None, None, is_searchable, text)


def _members(path: str, value: Any) -> Iterator[tuple[str, Config]]:
    """Yield the objects in the field at `path` with their paths; none of those that share a kind."""
    if isinstance(value, Config):
        yield path, value
    elif isinstance(value, tuple) and (names := member_names(value)):
        for name, member in zip(names, value, strict=True):
            if names.count(name) == 1:
                yield f"{path}.{name}", member


def _known_methods() -> str:
    """Return what the field `method` accepts, as the end of its description."""
    known = sorted(kind for kind, cls in kinds(Method).items() if cls.__module__.startswith("raykd.") and cls.needs)
    return f": {', '.join(known)}, or FILE.py:CLASS"


def _type_text(hint: Any, value: Any) -> str:
    """Return the type of a field; '' if --set takes no value for the field, but only for those in its object."""
    options = options_of(hint)
    bases = [option for option in options if isinstance(option, type) and issubclass(option, Config)]
    if not bases:
        return "|".join(map(_plain_type, options))
    known = [kind for base in bases for kind in kinds(base)]
    if value is None or len(known) == 1:  # no text stands for an object of the only class
        return "none" if value is not None and type(None) in options else ""
    return bases[0].__name__.lower() if len(bases) == 1 else "|".join(known)


def _plain_type(option: Any) -> str:
    if get_origin(option) is Literal:
        return "|".join(map(str, get_args(option)))
    if get_origin(option) is tuple:
        item = get_args(option)[0]
        return f"{_type_text(item, item) if isinstance(item, type) else _plain_type(item)},..."
    return _NAMES.get(option, "")


def _json(value: Any) -> Any:
    """Return `value` for JSON; an object as its kind, or as the name by which users know it."""
    if isinstance(value, Model):
        return value.label
    if isinstance(value, NamedOptimizer):
        return value.name
    if isinstance(value, Config):
        return value.kind
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return to_dict(value)


def _setting(value: Any) -> str:
    """Return a JSON value as --set takes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_setting, value)) or "()"
    return str(value) if value != "" else "(empty)"


def print_fields(lines: Sequence[FieldLine]) -> None:
    """Print a table of the fields, whose cells are wrapped in a terminal. In a pipe, each field is one line."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("FIELD", "TYPE", "VALUE", "SEARCH", "DESCRIPTION"):
        table.add_column(title, overflow="fold")
    for line in lines:
        table.add_row(line.field, line.type, line.value_text, "yes" if line.searchable else "", line.text)
    with console.capture() as capture:
        console.print(table, highlight=False)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))
