"""The recorded configuration of a run or an experiment, as far as readers without torch need it, with its types.

run.json and plan.json have whole configurations, which `spec` defines, and `spec` loads torch. A value of another type,
and a field that an earlier version did not record, is None here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

Value = TypeVar("Value", int, str)


@dataclass(frozen=True)
class _Section:
    """An object of a recorded configuration. values: its fields as recorded; {} if it is missing."""

    values: Mapping[str, Any]

    def _read(self, name: str, kind: type[Value]) -> Value | None:
        value = self.values.get(name)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    def _section(self, name: str) -> Mapping[str, Any]:
        value = self.values.get(name)
        return value if isinstance(value, Mapping) else {}


class RecordedData(_Section):
    """The fields of `Data`."""

    @property
    def name(self) -> str | None:
        return self._read("name", str)

    @property
    def image_size(self) -> int | None:
        return self._read("image_size", int)

    @property
    def val_images(self) -> int | None:
        return self._read("val_images", int)

    @property
    def train_images(self) -> int | None:
        return self._read("train_images", int)

    @property
    def student_images(self) -> int | None:
        return self._read("student_images", int)


class RecordedRecipe(_Section):
    """The fields of a `Recipe`."""

    @property
    def epochs(self) -> int | None:
        return self._read("epochs", int)

    @property
    def keep(self) -> str | None:
        """'best' or 'last': the epoch whose weights are kept."""
        return self._read("keep", str)


class RecordedMethod(_Section):
    """The fields of a `Method`."""

    @property
    def kind(self) -> str | None:
        return self._read("kind", str)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Its fields without the kind, by name."""
        return {name: value for name, value in self.values.items() if name != "kind"}


class RecordedRun(_Section):
    """The fields of a `Run`."""

    @cached_property
    def data(self) -> RecordedData:
        return RecordedData(self._section("data"))

    @cached_property
    def recipe(self) -> RecordedRecipe:
        return RecordedRecipe(self._section("recipe"))

    @cached_property
    def method(self) -> RecordedMethod:
        return RecordedMethod(self._section("method"))

    @property
    def is_imported(self) -> bool:
        """Whether its weights were trained elsewhere."""
        return self.values.get("imported") is not None

    @property
    def data_identity(self) -> str | None:
        return self._read("data_identity", str)


class RecordedExperiment(_Section):
    """The fields of an `Experiment`."""

    @cached_property
    def data(self) -> RecordedData:
        return RecordedData(self._section("data"))

    @cached_property
    def teacher(self) -> RecordedRecipe:
        return RecordedRecipe(self._section("teacher"))

    @cached_property
    def student(self) -> RecordedRecipe:
        return RecordedRecipe(self._section("student"))

    @cached_property
    def method(self) -> RecordedMethod:
        return RecordedMethod(self._section("method"))

    @property
    def published(self) -> str | None:
        return self._read("published", str)
