"""One Ray for all tests of this folder that ask for `cluster`; two CPUs and no GPU on any machine."""

import os
from collections.abc import Iterator

import pytest
from lab_runs import environment

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
