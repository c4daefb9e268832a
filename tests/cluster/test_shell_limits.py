"""The limits of the shell. Each test sets them in a child process, because a hard limit cannot be raised again."""

import subprocess
import sys

SHOW = """
import os, resource
from raykd.cluster.limits import low_limits, set_limits
set_limits(os.environ)
print(*(resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)))
print(*low_limits(), sep="; ")
print(resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


def run_after(limits: str) -> list[str]:
    """Raise the limits in a shell that has set `limits`. Return its soft limits, and what remains too low."""
    command = ["bash", "-c", f'set -e; {limits}; exec "$0" -c "$1"', sys.executable, SHOW]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()


def test_soft_limits_of_the_login_node_are_raised_to_the_hard_ones() -> None:
    login = "ulimit -Su 200; ulimit -Hu 5000; ulimit -St 600; ulimit -Ht 9000; ulimit -Sn 300; ulimit -Hn 6000"
    soft, low, _ = run_after(login)
    assert (soft, low) == ("5000 9000 6000", "")


def test_hard_limits_that_are_too_low_are_named() -> None:
    _, low, _ = run_after("ulimit -u 512; ulimit -n 1024; ulimit -v 8000000")
    assert low == (
        "ulimit -u is 512, below 4,096; ulimit -n is 1,024, below 4,096; ulimit -v is 8,000,000, and must be unlimited "
        "for GPUs"
    )


def test_a_process_that_crashes_writes_no_core_dump_unless_the_user_requests_it() -> None:
    assert run_after("ulimit -c unlimited")[2] == "0"
    assert run_after("ulimit -c unlimited; export RAYKD_CORE=1")[2] == "-1"
