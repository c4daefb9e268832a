"""One Ray for all tests of this folder that ask for `cluster`; two CPUs and no GPU on any machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_runs import environment
from search_runs import Ended, run_search

from raykd.orchestration.session import ray_session


@pytest.fixture(scope="package")
def cluster() -> Iterator[str]:
    """A private Ray as a laptop gets one; gives its address. Ray is imported here, and not before."""
    before, wanted = dict(os.environ), environment(cpus=2)
    os.environ.clear()
    os.environ.update(wanted)
    with ray_session():
        import ray

        yield ray.get_runtime_context().gcs_address
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="package")
def searched(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The results of a search that nothing disturbed, and how it ended."""
    results = tmp_path_factory.mktemp("search")
    return results, run_search(results)


@pytest.fixture
def results(searched: tuple[Path, Ended]) -> Path:
    """Of the search that nothing disturbed."""
    return searched[0]
