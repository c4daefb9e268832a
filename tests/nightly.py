"""Choose which cases of a parametrized test run at each change, and which run in `make test-nightly` only."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

# One of each kind: logits, embeddings, an adapter that stores embeddings, feature maps, and a student of two heads.
QUICK_METHODS = ("kd", "rkd", "crd", "fitnets", "deit")


def nightly_unless(is_quick: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """Return `cases`, each a value or a tuple of values, with the mark `nightly` if `is_quick` is false for it."""

    def marked(case: Any) -> Any:
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.nightly)

    return [case if is_quick(case) else marked(case) for case in cases]


def nightly_except(quick: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Return `cases` with the mark `nightly` on all but those in `quick`, each of which must be a case."""
    quick, cases = list(quick), list(cases)
    assert all(case in cases for case in quick), "a quick case that does not exist"
    return nightly_unless(lambda case: case in quick, cases)
