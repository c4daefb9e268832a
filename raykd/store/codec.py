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

The JSON files below a results folder: written with a checksum, read with every field checked for its kind.

    {"name": "baseline-resnet8-s0-...", ..., "checksum": "sha256:..."}

The checksum covers the values of all other fields. A file without one was written by hand, and is taken as it is.
"""

import json
import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    Self,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from raykd.atomic import write_json
from raykd.provenance import json_checksum
from raykd.store.damage import damaged

Value = TypeVar("Value")
CHECKSUM = "checksum"
MAX_DEPTH = 100  # of nested lists and objects: raykd writes about 10, and Python's own limit is near 1,000


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file `path` by `content` with its checksum. Raises ValueError for NaN and infinity."""
    values = json.loads(json.dumps({name: value for name, value in content.items() if name != CHECKSUM}))
    write_json(path, {**values, CHECKSUM: json_checksum(values)})


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`, or {} where there is no file. Raises DamagedFile."""
    fields = Fields.read_if_exists(path)
    return dict(fields.values) if fields is not None else {}


@dataclass(frozen=True)
class Fields:
    """The JSON object in the file `path`. Every getter raises DamagedFile, with file and field, for another kind.

    section: dotted path of this object in the file; '' for the whole.
    """

    path: Path
    values: Mapping[str, Any]
    section: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the object in `path`. Raises DamagedFile when the file is missing or holds no such object."""
        fields = cls.read_if_exists(path)
        if fields is None:
            raise damaged(path, "it is missing")
        return fields

    @classmethod
    def read_if_exists(cls, path: Path) -> Self | None:
        """Read the object in `path`; None when there is no such file."""
        content = _text(path)
        if content is None:
            return None
        try:
            values = json.loads(content)
        except RecursionError:
            raise damaged(path, f"its lists or objects are nested more than {MAX_DEPTH} deep") from None
        except ValueError as error:
            raise damaged(path, str(error)) from None
        if not isinstance(values, dict):
            raise damaged(path, "it holds no JSON object")
        if _is_too_deep(values):
            raise damaged(path, f"its lists or objects are nested more than {MAX_DEPTH} deep")
        _require_checksum(path, values)
        return cls(path, {name: value for name, value in values.items() if name != CHECKSUM})

    def refuse(self, why: str) -> NoReturn:
        """Raise DamagedFile with the reason `why`."""
        raise damaged(self.path, why)

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._value(name)
        if not isinstance(value, str):
            self._refuse_kind(name, "a text")
        return value.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair, UTF-8 not

    def count(self, name: str) -> int:
        """Return a whole number from 0."""
        value = self._value(name)
        return value if is_count(value) else self._refuse_kind(name, "a whole number from 0")

    def counts(self, name: str) -> list[int]:
        """Return a list of whole numbers from 0."""
        value = self._value(name)
        if isinstance(value, list) and all(is_count(item) for item in value):
            return value
        return self._refuse_kind(name, "a list of whole numbers")

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number from low to high, both ends included."""
        value = self._value(name)
        if is_number(value) and low <= value <= high:
            return float(value)
        return self._refuse_kind(name, f"a finite number in [{low:g}, {high:g}]")

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return a JSON object."""
        value = self._value(name)
        return value if isinstance(value, dict) else self._refuse_kind(name, "an object")

    def part(self, name: str) -> "Fields":
        """Return the fields of the JSON object called `name`."""
        return Fields(self.path, self.mapping(name), self._dotted(name))

    def optional_part(self, name: str) -> "Fields":
        """Return the fields of the JSON object called `name`; no fields where it is null or absent."""
        return Fields(self.path, self.optional(name, self.mapping) or {}, self._dotted(name))

    def parts(self, name: str) -> list["Fields"]:
        """Return the fields of each JSON object in the list called `name`."""
        value = self._value(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._refuse_kind(name, "a list of objects")
        return [Fields(self.path, item, f"{self._dotted(name)}[{n}]") for n, item in enumerate(value)]

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        value = self._value(name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        return self._refuse_kind(name, "a list of texts")

    def optional(self, name: str, getter: Callable[[str], Value]) -> Value | None:
        """Return what `getter` returns for the field, None where the field is null or absent."""
        return None if self.values.get(name) is None else getter(name)

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None where the field is null or absent."""
        return self.optional(name, self.text)

    def _value(self, name: str) -> Any:
        return self.values[name] if name in self.values else self.refuse(f"field '{self._dotted(name)}' is missing")

    def _dotted(self, name: str) -> str:
        return f"{self.section}.{name}" if self.section else name

    def _refuse_kind(self, name: str, expected: str) -> NoReturn:
        return self.refuse(f"field '{self._dotted(name)}' is {self.values[name]!r:.80}, not {expected}")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is a finite number that a float holds; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def is_count(value: object) -> TypeGuard[int]:
    """Return whether `value` is a whole number from 0 that 63 bits hold; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _text(path: Path) -> str | None:
    """Return the text of a regular file; None without a file. A folder or a pipe is refused and not read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise damaged(path, "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is not UTF-8 ({error})") from None
    except OSError as error:  # its rights, its disk, or a link that points to itself
        raise damaged(path, f"it cannot be read ({error.strerror})") from None


def _is_too_deep(values: Any) -> bool:
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [part.values() if isinstance(part, dict) else part for part in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _require_checksum(path: Path, values: Mapping[str, Any]) -> None:
    """Compare the checksum, also where its own field's name was damaged: its value still shows what it is."""
    is_one = {name: isinstance(value, str) and value.startswith("sha256:") for name, value in values.items()}
    found = {name: value for name, value in values.items() if name == CHECKSUM or is_one[name]}
    if not found:
        return
    rest = {name: value for name, value in values.items() if name not in found}
    if found != {CHECKSUM: json_checksum(rest)}:
        raise damaged(path, "its checksum does not match its content (changed by hand? then remove the checksum too)")


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
    found = Fields.read_if_exists(path)
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
