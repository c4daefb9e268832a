"""Four TCP ports of the job's own, so that two jobs on one node do not meet.

Ray's workers take 10002-19999 and Linux hands out 32768 and up by itself; what lies between is ours.
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
    """What Ray would otherwise give the same number (6379, 8265, 10001, 52365) in every job of a node."""

    control_store: int  # Ray's GCS: what drivers and other nodes connect to
    dashboard: int
    client_server: int
    agent: int


def find_ports(job_id: int) -> Ports:
    """The job's block of four, or the next one of which all are free on this node at this moment.

    Raises: RayNotStarted when none of 50 blocks is free.
    """
    for attempt in range(MAX_TRIES):
        first = FIRST_PORT + (job_id + attempt) % NUM_BLOCKS * PORTS_PER_JOB
        block = range(first, first + PORTS_PER_JOB)
        if all(_is_free(port) for port in block):
            return Ports(*block)
    raise RayNotStarted(
        f"no {PORTS_PER_JOB} free ports next to each other in {FIRST_PORT}-{LAST_PORT} on this node "
        f"({MAX_TRIES} blocks tried from job {job_id}'s own); 'ss -ltnp' shows who holds them"
    )


def _is_free(port: int) -> bool:
    """By binding on every interface, as Ray's control store does."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
