"""Every method of raykd, with fields that suit small data."""

from dataclasses import replace

from raykd.config import kinds
from raykd.methods import CRD, Method


def all_methods() -> list[Method]:
    """Return an instance of each."""
    found = [cls() for cls in kinds(Method).values() if cls.__module__.startswith("raykd.") and cls is not Method]
    return [replace(method, negatives=32, dimensions=8) if isinstance(method, CRD) else method for method in found]
