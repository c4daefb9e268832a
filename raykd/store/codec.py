"""JSON files as dataclasses: one declaration of each file's fields, for those that write it and those that read it.

    @dataclass(frozen=True)
    class Score:
        top1: Annotated[float, Between(0, 100)]
        nll: Annotated[float, Between(0)]
        top5: float | None = None

    write_dataclass(path, score)
    read_dataclass(Score, path)        # None where there is no file

A field's type decides what the file may hold: `int` is a count from 0, `float` a finite number, `X | None` may be null
or absent, `tuple[X, ...]` is a list, `Mapping[str, X]` an object, and a dataclass is an object of its fields. A field
with a default may be absent. Whatever else a file holds is an error that names the file and the field. Where values
must agree with each other, the dataclass has a method `problem()`, which returns what is wrong, or ''.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raykd.json_fields import Fields, is_count, is_number, write_record

Record = TypeVar("Record")


@dataclass(frozen=True)
class Between:
    """The limits of a number, both ends included."""

    low: float = -inf
    high: float = inf


def write_dataclass(path: Path, record: Any) -> None:
    """Replace the file `path` by the fields of `record` and their checksum."""
    write_record(path, asdict(record))


def read_dataclass(kind: type[Record], path: Path) -> Record | None:
    """Return the content of `path`; None where there is no file.

    Raises DamagedFile for a file that does not hold a `kind`.
    """
    found = Fields.read_if_there(path)
    return None if found is None else decode(kind, found)


def decode(kind: type[Record], source: Fields) -> Record:
    """Return `kind` made from the fields of a JSON object. Raises DamagedFile that names file and field."""
    hints, values = _hints(kind), {}
    for field in fields(kind):  # type: ignore[arg-type]
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        if field.name in source.values:
            values[field.name] = _decoded(source.values[field.name], hints[field.name], source, field.name)
        elif not has_default:
            source.refuse(f"field '{_dotted(source, field.name)}' is missing")
    record = kind(**values)
    if problem := getattr(record, "problem", str)():
        source.refuse(problem)
    return record


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _decoded(value: Any, hint: Any, source: Fields, name: str) -> Any:
    """Return `value` as `hint` requires it."""
    limits = Between()
    if get_origin(hint) is Annotated:
        hint, limits = get_args(hint)[:2]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (option for option in get_args(hint) if option is not type(None))
        return None if value is None else _decoded(value, hint, source, name)
    if is_dataclass(hint):
        return decode(hint, source.part(name))  # type: ignore[arg-type]
    if get_origin(hint) is tuple and isinstance(value, list):
        inside = Fields(source.path, {f"{n}": item for n, item in enumerate(value)}, _dotted(source, name))
        return tuple(_decoded(item, get_args(hint)[0], inside, n) for n, item in inside.values.items())
    if get_origin(hint) is Mapping and isinstance(value, dict):
        inside = Fields(source.path, value, _dotted(source, name))
        return {key: _decoded(item, get_args(hint)[1], inside, key) for key, item in value.items()}
    return _scalar(value, hint, limits, source, name)


def _scalar(value: Any, hint: Any, limits: Between, source: Fields, name: str) -> Any:
    if hint is Any or (get_origin(hint) is Literal and value in get_args(hint)):
        return value
    if hint is float and is_number(value) and limits.low <= value <= limits.high:
        return float(value)
    if hint is int and is_count(value):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair, UTF-8 may not
    return source.refuse(f"field '{_dotted(source, name)}' is {value!r:.80}, not {_in_words(hint, limits)}")


def _in_words(hint: Any, limits: Between) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is float and limits != Between():
        return f"a finite number in [{limits.low:g}, {limits.high:g}]"
    names = {float: "a finite number", int: "a whole number from 0", str: "a text", bool: "true or false"}
    return names.get(hint) or ("a list" if get_origin(hint) is tuple else "an object")


def _dotted(source: Fields, name: str) -> str:
    return f"{source.section}.{name}" if source.section else name
