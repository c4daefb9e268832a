"""Which column of a Parquet file has the labels, and the classes' names that the Hugging Face hub's metadata gives.

The hub's library writes its types into the schema: a column of labels is a ClassLabel with the names of its classes.
Labels are numbers into those names, so files whose names differ must not be read as one data set.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from raykd.data.parquet import opened
from raykd.errors import DataError

_COLUMNS = ("label", "labels")


def schema_of(file: Path) -> pa.Schema:
    """The columns of a file and its metadata."""
    with opened(file) as stored:
        schema = stored.schema_arrow
    if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise DataError(f"{file}: has two columns called '{twice}'; rename or remove one of them")
    return schema


def label_column(file: Path, schema: pa.Schema) -> str:
    """Return the column that has the labels: `label`, else the only one of `labels` and the ClassLabels.

    Raises: DataError where there are several. Where there is none, `label` is returned, which the reader misses.
    """
    if _COLUMNS[0] in schema.names:
        return _COLUMNS[0]
    found = [name for name in schema.names if name in _COLUMNS or class_names(schema, name) is not None]
    if len(found) > 1:
        named = ", ".join(f"'{name}'" for name in found)
        raise DataError(f"{file}: has several columns of labels, {named}; rename the one to learn to '{_COLUMNS[0]}'")
    return found[0] if found else _COLUMNS[0]


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """What the hub's library writes of a ClassLabel; None where it has not."""
    names = _features(schema).get(column, {})
    names = names.get("names") if isinstance(names, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list) else None


def require_same_names(files: Sequence[Path], schemas: Sequence[pa.Schema], column: str) -> None:
    """Raise DataError where a label means another class in one of the files than in the first."""
    first = class_names(schemas[0], column)
    for file, schema in zip(files, schemas, strict=True):
        names = class_names(schema, column)
        if names == first:
            continue
        if names is None or first is None:
            with_names, without = (files[0], file) if first else (file, files[0])
            difference = f"{with_names} names the classes of '{column}' in its metadata, and {without} does not"
        elif len(names) != len(first):
            difference = f"{file} has {len(names)} classes in its metadata, and {files[0]} has {len(first)}"
        else:
            label = next(row for row, pair in enumerate(zip(names, first, strict=True)) if pair[0] != pair[1])
            difference = f"label {label} is '{names[label]}' in {file}, and '{first[label]}' in {files[0]}"
        raise DataError(f"{difference}; write all files with the same ClassLabel")


def require_known_order(file: Path, schema: pa.Schema, column: str, known: Sequence[str]) -> None:
    """Raise DataError where the metadata gives one of the `known` names to another label."""
    for label, name in enumerate(class_names(schema, column) or ()):
        if name in known and known.index(name) != label:
            raise DataError(
                f"{file}: label {label} is '{name}', which is number {known.index(name)} of this data set; "
                "number the labels as published, or read the files as parquet:PLACE"
            )


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
