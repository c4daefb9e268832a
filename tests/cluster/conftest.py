"""Fixtures: a Slurm of three nodes for all tests, or of two for one test; skipped if the machine cannot run one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import Testbed, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Submit with slurm.sbatch([...], cwd=repository), wait with slurm.wait(job_id, timeout_s)."""
    if reason := missing():
        pytest.skip(reason)
    with Testbed.start(tmp_path_factory.mktemp("slurm")) as bed:
        yield bed


@pytest.fixture
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A Slurm of two nodes for a single test, which may break a node."""
    if reason := missing():
        pytest.skip(reason)
    with Testbed.start(tmp_path_factory.mktemp("two"), num_nodes=2) as bed:
        yield bed


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root, from which sbatch is called."""
    return Path(__file__).parents[2]
