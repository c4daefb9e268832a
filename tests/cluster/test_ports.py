"""The job's block of ports: within the bounds, different for each job, and another if one is used."""

import socket

import pytest

from raykd.cluster import ports
from raykd.cluster.ports import FIRST_PORT, LAST_PORT, NUM_BLOCKS, PORTS_PER_JOB, find_ports
from raykd.errors import RaykdError


def numbers(block: ports.Ports) -> list[int]:
    return [block.gcs, block.dashboard, block.client_server, block.agent]


def test_consecutive_jobs_get_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda port: True)
    blocks = [numbers(find_ports(job_id)) for job_id in range(1, NUM_BLOCKS + 1)]
    assert len({port for block in blocks for port in block}) == NUM_BLOCKS * PORTS_PER_JOB
    assert min(map(min, blocks)) == FIRST_PORT
    assert max(map(max, blocks)) == LAST_PORT


def test_a_block_with_a_used_port_is_skipped() -> None:
    first = find_ports(job_id=77)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first.client_server))
        taken.listen()
        second = find_ports(job_id=77)
    assert not set(numbers(second)) & set(numbers(first))


def test_an_error_reports_that_no_block_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda port: False)
    with pytest.raises(RaykdError, match=r"no 4 free ports .* in 20000-31999"):
        find_ports(1)
