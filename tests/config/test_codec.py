"""Tests of the codec of raykd's JSON files, for values that take many numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raykd.config import codec
from raykd.config.codec import read_record, write_record
from raykd.disk.damage import DamagedFile

CLASSES = 1_000


@dataclass(frozen=True)
class Counts:
    confusion: tuple[tuple[int, ...], ...]


@pytest.mark.parametrize("rows", [((),), ((0, 2**63 - 1), (3,)), ((0,), ())])
def test_integers_from_0_are_read_as_they_were_written(rows: tuple[tuple[int, ...], ...], tmp_path: Path) -> None:
    write_record(tmp_path / "counts.json", Counts(rows))
    assert read_record(Counts, tmp_path / "counts.json") == Counts(rows)


@pytest.mark.parametrize("value", [-1, 2**63, 1.0, True, "1", None, [1]])
def test_a_list_of_integers_with_another_value_names_that_value(value: Any, tmp_path: Path) -> None:
    write_record(tmp_path / "counts.json", Counts(((0, 1), (2, value))))
    with pytest.raises(DamagedFile, match=r"field 'confusion\.1\.1' is .*, not an integer from 0"):
        read_record(Counts, tmp_path / "counts.json")


def test_a_matrix_of_a_thousand_classes_is_not_decoded_number_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`raykd runs` reads one for each run, and a million calls take seconds."""
    write_record(tmp_path / "counts.json", Counts(((0,) * CLASSES,) * CLASSES))
    decode, depth, calls = codec._decode, codec._depth, []
    monkeypatch.setattr(codec, "_decode", lambda *arguments: (calls.append("decode"), decode(*arguments))[1])
    monkeypatch.setattr(codec, "_depth", lambda value: (calls.append("depth"), depth(value))[1])
    read_record(Counts, tmp_path / "counts.json")
    assert CLASSES < len(calls) < 3 * CLASSES
