"""The limits of a shell (`ulimit`), which Slurm passes from the login node to the job.

Sites keep the soft limits of login nodes low, and often forget to exclude them (PropagateResourceLimits in slurm.conf).
A job that keeps them fails in many ways: a thread that cannot start, a full table of files, a process that is killed
after an hour on the CPU.
"""

import resource
from collections.abc import Iterator, Mapping

# The limits that are raised, and the largest useful value. Programs that close all possible files take long with more.
_NO_LIMIT = resource.RLIM_INFINITY
RAISED = {
    resource.RLIMIT_NPROC: _NO_LIMIT,  # processes and threads of the user on the node
    resource.RLIMIT_NOFILE: 65_536,
    resource.RLIMIT_AS: _NO_LIMIT,  # address space in bytes, of which CUDA reserves more than the machine has memory
    resource.RLIMIT_CPU: _NO_LIMIT,  # seconds
    resource.RLIMIT_MEMLOCK: _NO_LIMIT,  # bytes, for InfiniBand
}
# Ray's processes have 450 threads on a node of two CPUs, each worker has 20, and there are more with more CPUs.
MIN_PROCESSES = 4096
MIN_FILES = 4096


CORE = "RAYKD_CORE"


def set_limits(environ: Mapping[str, str]) -> None:
    """Raise the soft limits of this process, and of those that it starts, to the hard ones.

    Core dumps, of tens of GB beside the job's log, are disabled unless RAYKD_CORE = 1.
    """
    if environ.get(CORE) != "1":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for kind, largest in RAISED.items():
        soft, hard = resource.getrlimit(kind)
        new = hard if largest == _NO_LIMIT else largest if hard == _NO_LIMIT else min(hard, largest)
        if soft != _NO_LIMIT and (new == _NO_LIMIT or new > soft):
            resource.setrlimit(kind, (new, hard))


def low_limits() -> Iterator[str]:
    """Yield each hard limit that is too low for Ray or a GPU, such as 'ulimit -u is 512, below 4,096'."""
    for option, kind, least in (("u", resource.RLIMIT_NPROC, MIN_PROCESSES), ("n", resource.RLIMIT_NOFILE, MIN_FILES)):
        hard = resource.getrlimit(kind)[1]
        if hard != _NO_LIMIT and hard < least:
            yield f"ulimit -{option} is {hard:,}, below {least:,}"
    if (space := resource.getrlimit(resource.RLIMIT_AS)[1]) != _NO_LIMIT:
        yield f"ulimit -v is {space // 1024:,}, and must be unlimited for GPUs"
