"""Four TCP ports for each job, so that two jobs on one node do not collide.

Ray's workers use ports 10002-19999, and Linux assigns ports from 32768 up. The job's ports lie between these ranges.
"""

import socket
from dataclasses import dataclass

from raykd.errors import RayNotStarted

FIRST_PORT = 20_000
LAST_PORT = 31_999
PORTS_PER_JOB = 4
NUM_BLOCKS = (LAST_PORT - FIRST_PORT + 1) // PORTS_PER_JOB
MAX_TRIES = 50


@dataclass(frozen=True)
class Ports:
    """The ports that would otherwise be the same in every job on a node (6379, 8265, 10001, 52365)."""

    gcs: int  # Ray's GCS, to which drivers and other nodes connect
    dashboard: int
    client_server: int
    agent: int


def find_ports(job_id: int) -> Ports:
    """Return the job's block of ports, or the next one that is free on this node. Raises RayNotStarted if none is."""
    for attempt in range(MAX_TRIES):
        first = FIRST_PORT + (job_id + attempt) % NUM_BLOCKS * PORTS_PER_JOB
        block = range(first, first + PORTS_PER_JOB)
        if all(_is_free(port) for port in block):
            return Ports(*block)
    raise RayNotStarted(
        f"no {PORTS_PER_JOB} free ports next to each other in {FIRST_PORT}-{LAST_PORT} on this node "
        f"({MAX_TRIES} blocks tried for job {job_id}); 'ss -ltnp' lists the processes that hold them"
    )


def accepts_connections(address: str, timeout_s: float) -> bool:
    """Return whether a process accepts TCP connections at `address`, HOST:PORT."""
    return not connection_error(address, timeout_s)


def connection_error(address: str, timeout_s: float) -> str:
    """Return why a TCP connection to `address`, HOST:PORT, fails, or '' if it succeeds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_free(port: int) -> bool:
    """Return whether the port can be bound on all interfaces, as Ray's GCS binds it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
