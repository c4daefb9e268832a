"""Runs one command as a node's part of the job, and when it ends ends all that it has started.

    python -m raykd.cluster.step ray start --head --block ...      (under srun)

Without it Ray leaves processes behind: its agents outlive a head that died by more than a minute, and a raylet
that gets SIGTERM together with its control store (scancel sends it to every process) waits for it until Slurm
kills. Nothing of Ray's is worth waiting for by then: its files go with the job's folder.
Exit code: the command's, 128 + number when a signal killed it, 143 on SIGTERM.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans among our descendants become our children

END_SIGNAL = signal.SIGUSR1  # srun hands it on to the task; of SIGTERM it makes SIGKILL
_ENDING = (signal.SIGTERM, END_SIGNAL)


def exit_on_signals() -> None:
    """Let both end this process by an exit that cleans up, with 128 + number."""
    for number in _ENDING:
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main(command: Sequence[str]) -> int:
    """Run it and return its exit code; SIGTERM or END_SIGNAL ends it at once. For a process of its own."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    exit_on_signals()
    try:
        started = os.posix_spawnp(command[0], list(command), os.environ)
        while True:
            ended, status = os.wait()
            if ended == started:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        _kill_descendants()


def _kill_descendants() -> None:
    """Generation after generation: the children of those killed become ours."""
    own_children = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        while True:
            for process in own_children.read_text().split():
                os.kill(int(process), signal.SIGKILL)
            os.wait()
    except ChildProcessError:  # none is left
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
