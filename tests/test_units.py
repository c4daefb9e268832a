"""Bytes and seconds in words."""

import pytest

from raykd.units import age, capacity, clock, disk_size, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.2, "0.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3_599.6, "1 h 00 min"),
        (11_100, "3 h 05 min"),
    ],
)
def test_duration_is_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (2**20, "1.0 MiB"),
        (10 * 2**20, "10 MiB"),
        (1.4 * 2**30, "1.4 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_sizes_of_files_have_binary_units(num_bytes: float, text: str) -> None:
    assert disk_size(num_bytes) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999.7, "1 kB"),
        (1.5e6, "1.5 MB"),
        (999e6, "999 MB"),
        (1e9, "1 GB"),
        (45.25e9, "45.2 GB"),
        (12_345e9, "12,345 GB"),
    ],
)
def test_memory_and_disks_have_decimal_units(num_bytes: float, text: str) -> None:
    assert capacity(num_bytes) == text


def test_an_age_is_one_whole_number() -> None:
    assert [age(seconds) for seconds in (0, 3599, 3600, 172_799, 172_800)] == ["0 min", "59 min", "1 h", "47 h", "2 d"]


def test_a_clock_has_hours_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0, 725.9, 360_000)] == ["0:00:00", "0:12:05", "100:00:00"]
