"""Settings and figures of a search in words."""

from collections.abc import Iterable, Mapping
from typing import Any

from raykd.search import Search

UNITS = {"val_top1": "{:.2f} %", "val_loss": "{:.4f}", "parameters": "{:,.0f}", "latency_ms": "{:.2f} ms"}


def in_units(search: Search, values: Iterable[float]) -> list[str]:
    """['85.10 %', '1.20 ms'], one for each metric."""
    return [UNITS[metric].format(value) for metric, value in zip(search.metrics, values, strict=True)]


def words(setting: Mapping[str, Any]) -> str:
    """A setting in a line: 'alpha 0.412, temperature 6.03'."""
    return ", ".join(f"{short(path)} {number(value)}" for path, value in setting.items())


def short(path: str) -> str:
    """The field of a dotted path."""
    return path.rpartition(".")[2]


def number(value: Any) -> str:
    """Four digits of a fraction, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
