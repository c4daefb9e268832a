"""One Ray for all tests of this folder that request `cluster`. A test that breaks it fails, and no other test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from search_runs import Ended, run_search
from shared_ray import SharedRay


@pytest.fixture(scope="package")
def shared_ray() -> Iterator[SharedRay]:
    """The Ray cluster that all tests share. It runs once a test has requested `cluster`."""
    made = SharedRay()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def cluster(shared_ray: SharedRay) -> str:
    """The address of the shared Ray cluster, HOST:PORT. This imports Ray, which nothing may do before."""
    return shared_ray.start()


@pytest.fixture(autouse=True)
def shared_ray_outlives_the_test(shared_ray: SharedRay) -> Iterator[None]:
    """Fail the test that breaks the shared Ray cluster, and start a new one for those after it."""
    yield
    if damage := shared_ray.damage():
        shared_ray.restart()
        pytest.fail(f"this test broke the Ray cluster that all tests share: {damage}")


@pytest.fixture(scope="package")
def searched(shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Run an undisturbed search; return its results folder and how it ended."""
    shared_ray.start()
    results = tmp_path_factory.mktemp("search")
    return results, run_search(results)


@pytest.fixture
def results(searched: tuple[Path, Ended]) -> Path:
    """Return the results folder of the undisturbed search."""
    return searched[0]
