"""Ray on one node of the job: its process (an srun for nodes other than the head's), its log, and why it ended."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from raykd.cluster.descendants import children_of
from raykd.cluster.subreaper import END_SIGNAL, NOTICE
from raykd.disk.lookup import is_there

STOP_TIMEOUT_S = 10
LOG_LINES = 15
TERMINAL_COLORS = re.compile(r"\x1b\[[0-9;]*m")
STEP_ID = re.compile(r"^step=(\d+)$", re.MULTILINE)  # worker_node.py prints it
RAY_LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \S+\s+[A-Z]+ \S+ -- *")


def stop(process: subprocess.Popen, timeout_s: float) -> None:
    """Send SIGTERM to a process, and SIGKILL if it still runs `timeout_s` later."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_gracefully(process: subprocess.Popen, timeout_s: float) -> None:
    """Send END_SIGNAL to a process, and stop it if it still runs `timeout_s` later."""
    if process.poll() is None:
        process.send_signal(END_SIGNAL)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        stop(process, STOP_TIMEOUT_S)


class RayProcess:
    """The process that runs Ray on a node. name: for messages, such as "Ray's head" or "Ray on cn2"."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path, secret: str = ""
    ) -> None:
        """secret: written to the command's standard input, because others can read command lines and environments."""
        self.name = name
        self._log_path = log_path
        self._started = time.monotonic()
        self._num_notices = len(self._notices()) if is_there(log_path) else 0  # notices of an earlier Ray of this job
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
            )
        assert self._process.stdin is not None
        # BrokenPipeError: the process has ended already, and `failure` returns the reason.
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(secret)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def failure(self, when: str) -> str:
        """Return why the process ended (exit code, likely reason, end of the log), or '' while it runs."""
        if not self.has_ended():
            return ""
        code = self._process.returncode
        return f"{self.name} ended with exit code {code} after {self.age_s:.0f} s, {when}{self.log_tail()}"

    def log_tail(self) -> str:
        """Return ': reason' and the log's last lines."""
        text = TERMINAL_COLORS.sub("", self._log_path.read_text(errors="replace"))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return "\n    ".join([f": {likely_reason(lines)}", *lines[-LOG_LINES:]])

    def notices(self) -> list[str]:
        """Return the lines that subreaper.py has printed for the job's output since the last call."""
        notices = self._notices()
        new = notices[self._num_notices :]
        self._num_notices = len(notices)
        return new

    def _notices(self) -> list[str]:
        lines = self._log_path.read_text(errors="replace").split("\n")[:-1]  # the last may be incomplete
        return [line.removeprefix(NOTICE) for line in lines if line.startswith(NOTICE)]

    def detach(self) -> str:
        """Kill srun, which leaves its step running. Return the step's number, or '' if it is unknown.

        At scancel, requeue and the time limit Slurm sends SIGTERM to srun, which would then kill its step immediately,
        before the training is saved. srun's child must be killed first: it ends the step if its parent is killed.
        """
        step_ids = STEP_ID.findall(self._log_path.read_text(errors="replace"))
        if not step_ids or self.has_ended():
            return ""
        for process in [*children_of(self._process.pid), self._process.pid]:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        return step_ids[-1]

    def request_end(self) -> None:
        """Send END_SIGNAL without waiting, so that several nodes end concurrently."""
        if not self.has_ended():
            self._process.send_signal(END_SIGNAL)

    def stop(self) -> None:
        """End the process and everything that Ray started there. A detached step ends when the head does."""
        stop_gracefully(self._process, STOP_TIMEOUT_S)


def likely_reason(lines: Sequence[str]) -> str:
    """Return the line of a log that most likely has the reason: one of Ray's if there is any, not one of Slurm's."""
    for line, following in pairwise(lines):
        if "exited unexpectedly" in line:  # Ray then prints the process, and many lines of its log
            return RAY_LOG_PREFIX.sub("", f"{line} {RAY_LOG_PREFIX.sub('', following)}")
    candidates = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))] or lines
    return RAY_LOG_PREFIX.sub("", candidates[-1].strip()) if candidates else "the log is empty"
