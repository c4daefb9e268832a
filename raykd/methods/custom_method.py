"""Check a user-defined method: a class that cannot name its runs, or whose fields cannot be set, is refused."""

import re
from dataclasses import fields
from typing import Any

from raykd.config.custom_file import error_of_class_without_file, require_dataclass, source_of
from raykd.errors import ConfigError, did_you_mean, shown

EXAMPLE = "my_method.py:MyMethod"
_RESERVED_FIELDS = ("kind", "source")  # keys of run.json beside a method's fields
_validated: set[type] = set()


def require_valid_class(cls: Any, methods: list[Any], needs: tuple[str, ...]) -> None:
    """Raise ConfigError for a user-defined class that cannot name runs.

    methods: all methods, whose kinds are reserved. needs: the values that the class attributes `needs` and
    `student_needs` may contain.
    """
    if cls.__module__.partition(".")[0] == "raykd" or cls in _validated:
        return
    source, title = source_of(cls), cls.__name__
    if source is None:
        raise error_of_class_without_file(cls, "method", EXAMPLE)
    where = f"{title} in '{source.path}'"
    is_valid = isinstance(kind := vars(cls).get("kind"), str) and re.fullmatch(r"[a-z][a-z0-9_]{0,99}", kind)
    if not is_valid:
        remedy = 'add kind: ClassVar[str] = "my_method" with a-z, 0-9 and _, at most 100 characters'
        raise ConfigError(f"{where} defines no valid kind, which names its runs; {remedy}")
    require_dataclass(cls, where)
    if reserved := [item.name for item in fields(cls) if item.name in _RESERVED_FIELDS]:
        raise ConfigError(f"{where} has a field '{reserved[0]}', a name that run.json reserves; rename it")
    _require_known_needs(cls.needs, f"{where}: needs", needs)
    if cls.student_needs is not None:
        _require_known_needs(cls.student_needs, f"{where}: student_needs", needs)
    for other in methods:
        other_source = source_of(other)
        is_earlier_version = other_source and (other_source.path, other_source.name) == (source.path, source.name)
        if other is not cls and vars(other).get("kind") == kind and not is_earlier_version:
            place = f"'{other_source.path}'" if other_source else "raykd"
            raise ConfigError(f"{where} has the kind '{kind}' of {other.__name__} in {place}; choose another")
    _validated.add(cls)


def _require_known_needs(needs: Any, where: str, known: tuple[str, ...]) -> None:
    subject = f"{where} = {shown(needs)}"
    if not isinstance(needs, set | frozenset):
        raise ConfigError(f'{subject}: must be a frozenset, such as frozenset({{"logits"}})')
    for name in needs:
        if name not in known:
            nearest = did_you_mean(str(name), known)
            raise ConfigError(f"{subject}: '{name}' is not one of {', '.join(known)}{nearest}")
