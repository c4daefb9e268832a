"""A JSON object's fields by name and kind, with one kind of complaint: the file, the field, what is wrong."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TypeGuard, TypeVar

from raykd.errors import RaykdError
from raykd.report.records import one_line

Value = TypeVar("Value")


@dataclass(frozen=True)
class Fields:
    """The object in the file `path`. Every getter raises RaykdError naming the file when it is not so."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The object in `path`. Raises: RaykdError when the file is absent, unreadable or holds no JSON object."""
        fields = cls.read_if_there(path)
        if fields is None:
            raise corrupt(path, "it is gone")
        return fields

    @classmethod
    def read_if_there(cls, path: Path) -> Self | None:
        """The same, None when there is no such file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise corrupt(path, str(error)) from error
        if not isinstance(values, dict):
            raise corrupt(path, "it holds no JSON object")
        return cls(path, values)

    def refuse(self, why: str) -> NoReturn:
        """Ends the report with one line."""
        raise corrupt(self.path, why)

    def text(self, name: str) -> str:
        """A string."""
        value = self._value(name)
        if not isinstance(value, str):
            self._refuse_kind(name, "a text")
        return value.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair, UTF-8 not

    def count(self, name: str) -> int:
        """A whole number from 0."""
        value = self._value(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
            return value
        return self._refuse_kind(name, "a whole number from 0")

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from low to high, both ends included."""
        value = self._value(name)
        if is_number(value) and low <= value <= high:
            return float(value)
        return self._refuse_kind(name, f"a finite number in [{low:g}, {high:g}]")

    def other_numbers(self, known: Collection[str]) -> dict[str, float]:
        """Every field outside `known` that is a finite number; what else the writer added is left out."""
        others = {one_line(name): value for name, value in self.values.items() if name not in known}
        return {name: float(value) for name, value in others.items() if is_number(value)}

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A JSON object."""
        value = self._value(name)
        return value if isinstance(value, dict) else self._refuse_kind(name, "an object")

    def optional(self, name: str, getter: Callable[[str], Value]) -> Value | None:
        """What `getter` says of the field, None where the field is null or absent."""
        return None if self.values.get(name) is None else getter(name)

    def optional_text(self, name: str) -> str | None:
        """A string, or None where the field is null or absent."""
        return self.optional(name, self.text)

    def _value(self, name: str) -> Any:
        return self.values[name] if name in self.values else self.refuse(f"field '{name}' is missing")

    def _refuse_kind(self, name: str, expected: str) -> NoReturn:
        return self.refuse(f"field '{name}' is {self.values[name]!r:.80}, not {expected}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number that a float holds; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def corrupt(path: Path, why: str) -> RaykdError:
    """The one complaint about a file that cannot be what it should be: always one line."""
    return RaykdError(f"corrupt file '{path}': {one_line(why)}")
