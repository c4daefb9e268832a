"""The codec of raykd's JSON files: a dataclass declares the fields of each file for its writer and its readers.

    @dataclass(frozen=True)
    class Score:
        top1: Annotated[float, Interval("[0, 100]")]
        nll: NonNegative
        top5: float | None = None

    write_record(path, score)
    read_record(Score, path)        # None if there is no file

The type of a field decides which values the file may hold: `int` is an integer from 0, `float` a finite number,
`tuple[X, ...]` a list, `Mapping[str, X]` an object, a dataclass an object with its fields. `X | None` may be null. A
field with a default may be missing. A file with any other value raises DamagedFile, which names the file and the field.
If values have to agree with each other, the dataclass has a method `problem()` that returns why they do not, or ''.

raykd writes into every file a checksum over the values of all other fields: {"top1": 91.2, ..., "checksum":
"sha256:..."}. A file without a checksum is accepted, so that a file can be edited by hand.
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

from raykd.config import Interval, type_hints
from raykd.disk.atomic import write_json
from raykd.disk.damage import DamagedFile, damaged

Record = TypeVar("Record")
CHECKSUM = "checksum"
MAX_DEPTH = 100  # limit of nested lists and objects: raykd writes about 10, and Python's own limit is near 1,000


def write_record(path: Path, record: Any) -> None:
    """Replace the file `path` with the fields of the dataclass `record` and their checksum."""
    write_checked_json(path, asdict(record))


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Return the content of `path`, or None if there is no such file.

    Raises DamagedFile if the file cannot be read or does not match the dataclass `kind`.
    """
    values = read_checked_json(path)
    return None if values is None else _decode_object(kind, values, path)


def read_if_valid(kind: type[Record], path: Path) -> Record | None:
    """Return the content of `path`, or None if there is no such file, or a damaged one that others report."""
    try:
        return read_record(kind, path)
    except DamagedFile:
        return None


def require_record(kind: type[Record], path: Path) -> Record:
    """Return the content of `path`.

    Raises DamagedFile if the file is missing, cannot be read or does not match the dataclass `kind`.
    """
    record = read_record(kind, path)
    if record is None:
        raise damaged(path, "it is missing")
    return record


def is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is an int or float, but no bool, with a magnitude below 1e300."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


# JSON with a checksum.


def write_checked_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file `path` with `content` and its checksum. Raises ValueError for NaN and infinity."""
    values = json.loads(json.dumps(content))
    write_json(path, {**values, CHECKSUM: json_checksum(values)})


def read_checked_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path` without its checksum, or None if there is no such file.

    Raises DamagedFile if the file is not such an object or its checksum does not match.
    """
    text = _read_text(path)
    if text is None:
        return None
    try:
        values = json.loads(text)
        if _depth(values) > MAX_DEPTH:
            raise RecursionError
    except RecursionError:
        raise damaged(path, f"lists or objects are nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if not isinstance(values, dict):
        raise damaged(path, "it does not hold a JSON object")
    _require_checksum(path, values)
    return {name: value for name, value in values.items() if name != CHECKSUM}


def json_checksum(content: Mapping[str, Any]) -> str:
    """Return a checksum of a JSON object's values, whatever the order of its fields and the white space of its file."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()[:32]}"


def _read_text(path: Path) -> str | None:
    """Return the text of the file `path`, or None if there is no file.

    Raises DamagedFile if it is not a regular, readable UTF-8 file.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise damaged(path, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is not UTF-8 ({error})") from None
    except OSError as error:  # no permission, a failing disk, or a link that points to itself
        raise damaged(path, f"it cannot be read ({error.strerror})") from None


def _depth(value: Any) -> int:
    """Return how deep lists and objects are nested in `value`: 0 for a number, 1 for a list of numbers."""
    if not isinstance(value, dict | list):
        return 0
    items = value.values() if isinstance(value, dict) else value
    if {dict, list}.isdisjoint(map(type, items)):  # such as the rows of a confusion matrix
        return 1
    return 1 + max(map(_depth, items))


def _require_checksum(path: Path, values: Mapping[str, Any]) -> None:
    """Raise DamagedFile if the checksum does not match.

    A checksum whose field name is damaged is recognized by its value, which begins with 'sha256:'.
    """
    checksums = {
        name: value
        for name, value in values.items()
        if name == CHECKSUM or (isinstance(value, str) and value.startswith("sha256:"))
    }
    rest = {name: value for name, value in values.items() if name not in checksums}
    if checksums and checksums != {CHECKSUM: json_checksum(rest)}:
        raise damaged(path, "its checksum does not match its content (if you edited it, remove its checksum field too)")


# Decoding by the type of the field. `name` is the field's dotted path in the file.


def _decode_object(kind: type[Record], values: Mapping[str, Any], path: Path, section: str = "") -> Record:
    """Return the `kind` with the fields in `values`. Raises DamagedFile.

    section: dotted path of this object in the file, '' for the whole file.
    """
    hints, decoded = type_hints(kind, include_limits=True), {}
    for field in fields(kind):  # type: ignore[arg-type]
        name = f"{section}.{field.name}" if section else field.name
        if field.name in values:
            decoded[field.name] = _decode(values[field.name], hints[field.name], path, name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise damaged(path, f"field '{name}' is missing")
    record = kind(**decoded)
    if problem := getattr(record, "problem", str)():
        raise damaged(path, problem)
    return record


def _decode(value: Any, hint: Any, path: Path, name: str) -> Any:
    """Return `value` converted to the type `hint`. Raises DamagedFile if it does not have that type."""
    interval: Interval | None = None
    if get_origin(hint) is Annotated:
        hint, interval = get_args(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (option,) = (part for part in parts if part is not type(None))
        return None if value is None else _decode(value, option, path, name)
    if is_dataclass(hint) and isinstance(value, dict):
        return _decode_object(hint, value, path, name)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        if parts[0] is int and _are_counts(value):
            return tuple(value)
        return tuple(_decode(item, parts[0], path, f"{name}.{number}") for number, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {
            _decode(key, parts[0], path, f"{name}.{key}"): _decode(item, parts[1], path, f"{name}.{key}")
            for key, item in value.items()
        }
    if hint is Any or (origin is Literal and value in parts) or (hint is bool and isinstance(value, bool)):
        return value
    if hint is float and is_number(value) and (interval is None or value in interval):
        return float(value)
    if hint is int and is_number(value) and isinstance(value, int) and 0 <= value < 2**63:
        return value
    if hint is str and isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON allows a lone surrogate, UTF-8 does not
    raise damaged(path, f"field '{name}' is {value!r:.80}, not {_describe(hint, interval)}")


def _are_counts(values: list[Any]) -> bool:
    """Return whether `values` are integers from 0: a confusion matrix of 1,000 classes has a million."""
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 2**63


def _describe(hint: Any, interval: Interval | None) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is float and interval is not None:
        return f"a finite number in {interval.interval}"
    names = {float: "a finite number", int: "an integer from 0", str: "a string", bool: "true or false"}
    return names.get(hint) or ("a list" if get_origin(hint) is tuple else "an object")
