"""The job's block of ports: its own, within Ray's and the kernel's bounds, and another when taken."""

import socket

import pytest

from raykd.cluster import ports
from raykd.cluster.ports import FIRST_PORT, LAST_PORT, NUM_BLOCKS, PORTS_PER_JOB, find_ports
from raykd.errors import RaykdError


def numbers(found: ports.Ports) -> list[int]:
    return [found.control_store, found.dashboard, found.client_server, found.agent]


def test_neighbouring_jobs_get_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda port: True)
    blocks = [numbers(find_ports(job_id)) for job_id in range(1, NUM_BLOCKS + 1)]
    assert len({port for block in blocks for port in block}) == NUM_BLOCKS * PORTS_PER_JOB
    assert min(map(min, blocks)) == FIRST_PORT
    assert max(map(max, blocks)) == LAST_PORT


def test_block_with_a_taken_port_is_passed_over() -> None:
    own = find_ports(job_id=77)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", own.client_server))
        taken.listen()
        other = find_ports(job_id=77)
    assert not set(numbers(other)) & set(numbers(own))


def test_no_free_block_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda port: False)
    with pytest.raises(RaykdError, match=r"no 4 free ports .* in 20000-31999"):
        find_ports(1)
